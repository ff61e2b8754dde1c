"""A part of a model on one process, whose points receive what the last stage sends."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.pipelining import PipelineStage
from torch.nn.parallel import DistributedDataParallel

from feedalign.attach import attach
from feedalign.errors import PointsError, SignalError
from feedalign.layout import error_shape
from feedalign.pipelining.link import Link, Linked, check_rule
from feedalign.points import Points
from feedalign.rules import Rule
from feedalign.summary import table
from feedalign.tree import flatten, is_floating


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
        self.link = Link(check_rule(rule))
        for name, module in part.named_modules():
            if isinstance(module, DistributedDataParallel):
                raise SignalError(
                    f"{name or 'The part'!r} is wrapped in DistributedDataParallel, which averages gradients in every "
                    "backward pass, once per micro-batch. Replicate a stage by torch.distributed.fsdp.fully_shard, "
                    "with a mesh of two dimensions (HSDP)."
                )
        if device is None:
            device = next((parameter.device for parameter in part.parameters()), torch.device("cpu"))
        super().__init__(part, index, stages, device, group=group)
        if self.group_size != stages:
            raise ValueError(
                f"Expected one process per stage, found {stages} stages and a group of {self.group_size} processes."
            )
        self.ranks = tuple(distributed.get_process_group_ranks(group or distributed.group.WORLD))
        self.output_shapes: list[torch.Size] = []  # what the part returned last: floating-point tensors
        self.output_dtype = torch.float32
        self.port: Tensor | None = None  # what the forward pass that ran last spliced to the points
        self._open = False
        self._returned: Any = None
        last = index == stages - 1
        # Around the hooks of the attachment: they take the port for what the part returns.
        self._around = [] if last else [part.register_forward_hook(self._put_port)]
        linked = Linked(rule.seed, rule.feedback, self.link)  # type: ignore[attr-defined]
        try:
            self.handle = attach(part, linked, points)
        except BaseException:
            self._take_off()
            raise
        if not last:
            self._around.append(part.register_forward_hook(self._take_port))
        self._around.append(part.register_forward_hook(self._look))

    def run(self, forward: Callable[[], Any]) -> Any:
        """Run a forward pass of the part that its points shall learn from; afterwards :attr:`port` leads to them."""
        self._open, self.port = True, None
        try:
            return forward()
        finally:
            self._open, self._returned = False, None

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

    def remove(self) -> None:
        """Take the rule off the part, which is then what it was."""
        self.handle.remove()
        self._take_off()

    def _take_off(self) -> None:
        for hook in self._around:
            hook.remove()
        self._around = []

    def _put_port(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        if not self._open or self.link.agreed is None:
            raise SignalError(
                f"Stage {self.stage_index} ran with gradients outside of a step of the schedule, where no error can "
                "reach its points. Call schedule.step(...) to train, and write torch.no_grad() around anything else."
            )
        # One number per row: enough to match the rows of points, and to send the backward pass on its way.
        self._returned = (output,)
        return torch.zeros(*self.link.agreed.rows, 1, dtype=self.link.agreed.dtype, device=self.device)

    def _take_port(self, module: nn.Module, args: Any, output: Any) -> Any:
        if self._returned is None:
            return None
        (returned,), self._returned = self._returned, None
        self.port = output
        for tensor in (leaf for leaf in flatten(returned)[0] if is_floating(leaf)):
            if tensor.requires_grad:
                raise PointsError(
                    f"Stage {self.stage_index} returns a tensor of shape {tuple(tensor.shape)} that no point cuts, so "
                    "what lies above its last point would never learn: no gradient comes back from the next stage. "
                    "End the stage in a point, by points=..., found "
                    f"{', '.join(map(str, self.handle.points)) or 'none'}."
                )
        return returned

    def _look(self, module: nn.Module, args: Any, output: Any) -> None:
        tensors = [leaf for leaf in flatten(output)[0] if is_floating(leaf)]
        self.output_shapes = [tensor.shape for tensor in tensors]
        for tensor in tensors:
            self.output_dtype = (
                tensor.dtype if tensor is tensors[0] else torch.promote_types(self.output_dtype, tensor.dtype)
            )

    def error_shape(self) -> tuple[tuple[int, ...], int]:
        """Return the rows and the width ``C`` of the error at what the part returned last.

        Raises:
            SignalError: It returned no floating-point tensor, or several whose rows differ.
        """
        found = [error_shape(shape) for shape in self.output_shapes]
        if not found or any(not shape for shape in self.output_shapes) or len({rows for rows, _ in found}) > 1:
            raise SignalError(
                "The last stage expected to return floating-point tensors of the same rows, found shapes "
                f"{[tuple(shape) for shape in self.output_shapes]}. Return what the loss is computed from."
            )
        return found[0][0], sum(width for _, width in found)
