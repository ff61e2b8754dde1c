"""A part of a model on one process, whose points receive what the last stage sends."""

from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.pipelining import PipelineStage

from feedalign.pipelining.part import Part
from feedalign.points import Points
from feedalign.rules import Rule
from feedalign.summary import table


class Stage(PipelineStage):
    """One part of a model, attached to a rule, as a stage of ``torch.distributed.pipelining``.

    Every process makes the layers that its stage owns, under the names that they have in the whole model: the feedback
    matrix of a point follows from its name. Every stage but the last must end in a point, since no gradient crosses to
    the next one.

    Args:
        part: The layers of this stage. A stage before the last returns what the next one takes as its positional
            arguments.
        rule: What flows backward, the same rule on every stage: DFA, SignDFA, TernaryDFA, DRTP, or a broadcast rule of
            your own that neither learns nor pushes tangents through the model.
        points: Where this part is cut: what :func:`feedalign.attach` takes, by name best, as ``"layers.*"``. ``()`` for
            a last stage that is the head alone.
        index: The number of this stage, from 0.
        stages: How many there are; one per process of the group.
        device: Where the part computes; by default where its parameters are.
        group: The processes of the pipeline; by default all.

    Attributes:
        handle: The attachment, as :func:`feedalign.attach` returns it.
        own: The part, with what surrounds it.

    Raises:
        PointsError: The rule cannot work on a part alone, or what ``attach`` raises.
        SignalError: ``part`` contains DistributedDataParallel.
        ValueError: The group has another number of processes than there are stages.

    Example:
        >>> stage = Stage(part, feedalign.DFA(seed=0), points="layers.*", index=rank, stages=world)
        >>> schedule = ScheduleDFA(stage, n_microbatches=8, loss_fn=loss_fn)
    """

    def __init__(
        self,
        part: nn.Module,
        rule: Rule,
        points: Points,
        *,
        index: int,
        stages: int,
        device: torch.device | None = None,
        group: distributed.ProcessGroup | None = None,
    ) -> None:
        if device is None:
            device = next((parameter.device for parameter in part.parameters()), torch.device("cpu"))
        super().__init__(part, index, stages, device, group=group)
        if self.group_size != stages:
            raise ValueError(
                f"Expected one process per stage, found {stages} stages and a group of {self.group_size} processes."
            )
        self.ranks = tuple(distributed.get_process_group_ranks(group or distributed.group.WORLD))
        self.own = Part(part, rule, points, index, index == stages - 1, device)
        self.handle, self.link = self.own.handle, self.own.link

    def __repr__(self) -> str:
        title = f"Stage {self.stage_index} of {self.num_stages}: {self.link.rule!r} on {type(self.submod).__name__}"
        agreed, planner = self.link.agreed, self.handle.planner
        if agreed is None or planner is None or not planner.layouts:
            return f"{title}, points {', '.join(map(str, self.handle.points)) or 'none'}"
        shape = f"[{agreed.shape[0]}, {agreed.shape[1]}]"
        said = {
            "error": f"the error {shape} of a micro-batch comes from the last stage",
            "product": f"the product {shape} of error and shared matrix comes from the last stage",
            "nothing": "it waits for no error",
        }
        feedback = self.link.rule.feedback
        rows: list[tuple[str, ...]] = [("point", "shape", "feedback")]
        for key, layout in planner.layouts.items():
            scale = feedback.factor(layout.site.width, agreed.widest.width)
            matrix = f"{type(feedback).__name__.lower()} [{agreed.width}, {layout.site.columns}] x {scale:.3g}"
            rows.append((key, str(list(layout.shape)), matrix + (", shared" if feedback.shared else "")))
        return f"{title}; {said[agreed.sent]}\n{table(rows)}"

    def forward_maybe_with_nosync(self, *args: Any, **kwargs: Any) -> Any:
        """Run the part: what torch's stages call in a forward pass."""
        return self.own.forward(args, kwargs)

    def remove(self) -> None:
        """Take the rule off the part, which is then what it was."""
        self.own.remove()
