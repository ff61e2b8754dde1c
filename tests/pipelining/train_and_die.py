"""A training script for torchrun that ends one of its own processes in its first life.

    torchrun --nproc-per-node 2 --max-restarts 1 train_and_die.py FOLDER STEPS [RANK STEP MOMENT]

MOMENT is a number from 0 to 1 that says when in the step: in the forward or backward pass of a micro-batch, in the
optimiser's step, or while the checkpoint is saved.
"""

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import feedalign as fa
from feedalign import pipelining as fp
from pipelining.models import SYSTEMS

MICRO_BATCHES, COUNT = 4, 16


def main(folder: Path, steps: int, victim: int = -1, fatal: int = -1, moment: float = 0.0) -> None:
    torch.set_num_threads(1)
    fp.init_process_group("gloo", timeout=60)
    rank, world = distributed.get_rank(), distributed.get_world_size()
    life = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    system = SYSTEMS["transformer"]
    part = system.build(rank, world)
    own = fp.Stage(part, fa.DFA(seed=3), system.names(part), index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss, timeout=20)
    optimizer = torch.optim.AdamW(part.parameters(), 1e-2)
    done = fp.resume(folder / "checkpoints", part, optimizer)
    length = 0.0
    for step in range(done, steps):
        began = time.monotonic()
        if life == 0 and rank == victim and step == fatal:
            # Anywhere in a step as long as the one before, by a thread that does not care what is going on.
            threading.Timer(moment * length, os.kill, (os.getpid(), signal.SIGKILL)).start()
        x, y = system.batch(COUNT, step)
        schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
        optimizer.step()
        optimizer.zero_grad()
        fp.save(folder / "checkpoints", part, optimizer, step + 1)
        length = time.monotonic() - began
    state: dict[str, Any] = {name: value.detach() for name, value in part.state_dict().items()}
    torch.save({"life": life, "began": done, "state": state}, folder / f"end-{rank}.pt")
    distributed.barrier()
    time.sleep(0.2)  # let no process leave while another still listens
    os._exit(0)


if __name__ == "__main__":
    given = sys.argv[3:]
    main(Path(sys.argv[1]), int(sys.argv[2]), *map(int, given[:2]), *map(float, given[2:]))
