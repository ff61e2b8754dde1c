"""Pipelines of stages that never wait for a gradient: Direct Feedback Alignment over processes and machines.

    import feedalign as fa
    from feedalign import pipelining as fp          # one process per stage, started by torchrun

    stage    = fp.Stage(part, fa.DFA(seed=0), points="layers.*", index=rank, stages=world)
    schedule = fp.ScheduleDFA(stage, n_microbatches=8, loss_fn=loss_fn)
    for x, y in loader:                             # the loop of torch.distributed.pipelining
        schedule.step(x) if stage.is_first else schedule.step(target=y) if stage.is_last else schedule.step()
        optimizer.step()
        optimizer.zero_grad()

Activations go forward from stage to stage. The last stage broadcasts the error, and every stage runs its own backward
pass when it arrives: no gradient travels from stage to stage. The gradients are bitwise those of one process.
"""

from feedalign.pipelining.carrier import Carried, carry
from feedalign.pipelining.checkpoint import resume, save
from feedalign.pipelining.clipping import clip_grad_norm_
from feedalign.pipelining.link import Send
from feedalign.pipelining.order import Action, Ahead
from feedalign.pipelining.rendezvous import init_process_group
from feedalign.pipelining.schedule import ScheduleDFA
from feedalign.pipelining.simulator import DeadlockError, Plan, Simulation, simulate
from feedalign.pipelining.stage import Stage
from feedalign.pipelining.waiting import StageError

__all__ = [
    "Action",
    "Ahead",
    "Carried",
    "DeadlockError",
    "Plan",
    "ScheduleDFA",
    "Send",
    "Simulation",
    "Stage",
    "StageError",
    "carry",
    "clip_grad_norm_",
    "init_process_group",
    "resume",
    "save",
    "simulate",
]
