"""A part of a model whose points receive what the last stage sends, whatever schedule runs it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from feedalign.attach import attach
from feedalign.errors import PointsError, SignalError
from feedalign.feedback import Site
from feedalign.layout import row_dimensions
from feedalign.observe import undisturbed
from feedalign.pipelining.agreement import Card
from feedalign.pipelining.link import Link, Linked, check_rule
from feedalign.points import Points
from feedalign.rules import Rule
from feedalign.tree import flatten, is_floating

Weights = Literal["copy", "recompute", "current"]


@dataclass(frozen=True)
class Kept:
    """What a backward pass needs of the time of its forward pass, if weights change in between."""

    copies: dict[str, Tensor] | None = None
    """The weights, by name."""
    inputs: tuple[tuple[Any, ...], dict[str, Any]] | None = None
    """What the part was called with, to run it again."""
    random: Tensor | None = None
    """The state of the random number generator before it ran."""


class Part:
    """The layers of one stage, attached to a rule.

    A stage that is not the last has no output at which an error could arrive. In its place stands a port: a small
    tensor that the attachment takes for the output, spliced to the points. A backward pass that begins there is the
    stage's own.

    Args:
        module: The layers.
        rule: What flows backward.
        points: Where the part is cut.
        index: The number of the stage.
        last: Whether it is the last one, which returns what the loss is computed from.
        device: Where it computes.

    Attributes:
        link: What the stage knows of the whole model, and what has arrived.
        handle: The attachment.
        port: What the forward pass that ran last spliced to the points.

    Raises:
        PointsError: The rule cannot work on a part alone, or what ``attach`` raises.
        SignalError: ``module`` contains DistributedDataParallel.
    """

    def __init__(
        self, module: nn.Module, rule: Rule, points: Points, index: int, last: bool, device: torch.device
    ) -> None:
        checked = check_rule(rule)
        for name, inner in module.named_modules():
            if isinstance(inner, DistributedDataParallel):
                raise SignalError(
                    f"{name or 'The part'!r} is wrapped in DistributedDataParallel, which averages gradients in every "
                    "backward pass, once per micro-batch. Replicate a stage by torch.distributed.fsdp.fully_shard, "
                    "with a mesh of two dimensions (HSDP)."
                )
        self.module, self.index, self.device = module, index, device
        self.link = Link(checked)
        self.port: Tensor | None = None
        self.output_shapes: list[torch.Size] = []  # what the part returned last: floating-point tensors
        self.output_dtype = torch.float32
        self.weights: Weights | None = None
        self.kept: Kept | None = None  # by the forward pass that ran last
        self._copies: dict[str, Tensor] | None = None
        self._called: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})  # with what the part ran last
        self._open = False
        self._returned: Any = None
        # Around the hooks of the attachment: they take the port for what the part returns.
        self._around = [] if last else [module.register_forward_hook(self._put_port)]
        try:
            self.handle = attach(module, Linked(checked.seed, checked.feedback, self.link), points)
            self.handle.structure.trust_leading()
        except BaseException:
            self._take_off()
            raise
        if not last:
            self._around.append(module.register_forward_hook(self._take_port))
        self._around.append(module.register_forward_hook(self._look))

    def forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the part; with updates per micro-batch, keep what its backward pass will need."""
        self.kept, self._called = None, (args, kwargs)
        if not self._open or self.weights in (None, "current"):
            return self.module(*args, **kwargs)
        if self.weights == "recompute":
            self.kept = Kept(inputs=(args, kwargs), random=_random_state(self.device))
            return self.module(*args, **kwargs)
        if self._copies is None:
            self._copies = {
                name: parameter.detach().clone().requires_grad_(parameter.requires_grad)
                for name, parameter in self.module.named_parameters()
            }
        self.kept = Kept(copies=self._copies)
        return functional_call(self.module, self._copies, args, kwargs)

    def again(self, kept: "Kept") -> Any:
        """Run a forward pass again: weights as they are by now, the same inputs and random numbers."""
        assert kept.inputs is not None
        args, kwargs = kept.inputs
        with undisturbed(self.module):
            _set_random_state(self.device, kept.random)
            return self.run(lambda: self.module(*args, **kwargs))

    def updated(self) -> None:
        """Forget copies of weights that are no longer those of the part."""
        self._copies = None

    def run(self, forward: Callable[[], Any]) -> Any:
        """Run a forward pass of the part that its points shall learn from; afterwards :attr:`port` leads to them."""
        self._open, self.port = True, None
        try:
            return forward()
        finally:
            self._open, self._returned = False, None

    def backward(
        self, starts: Sequence[Tensor], gradients: Sequence[Tensor], arrived: Tensor | None, targets: object = None,
        kept: "Kept | None" = None,
    ) -> None:  # fmt: skip
        """Run the backward pass of one micro-batch.

        Args:
            starts: Where it begins: the port, or the output's tensors on the last stage.
            gradients: At these.
            arrived: What the last stage has sent: error or product; ``None`` if the rule sends targets.
            targets: Of the micro-batch, for rules that send targets.
            kept: What :meth:`forward` kept.
        """
        self.link.arrived, self.link.targets = arrived, targets
        try:
            torch.autograd.backward(list(starts), list(gradients))
        finally:
            self.link.arrived = None
        if kept is not None and kept.copies is not None:
            for name, parameter in self.module.named_parameters():
                copy = kept.copies[name]
                if copy.grad is not None:
                    parameter.grad = copy.grad if parameter.grad is None else parameter.grad + copy.grad
                    copy.grad = None

    def synchronise_gradients(self, now: bool) -> None:
        """Let fully sharded parameters reduce their gradients in the next backward pass, or not yet."""
        for module in self.module.modules():
            if isinstance(module, FSDPModule):
                module.set_is_last_backward(now)
                module.set_reshard_after_backward(now, recurse=False)
                module.set_requires_gradient_sync(now, recurse=False)

    def remove(self) -> None:
        """Take the rule off the part, which is then what it was."""
        self.handle.remove()
        self._take_off()

    def card(self, settings: dict[str, str], last: bool) -> Card:
        """Return what this part says of itself to the others, after a forward pass."""
        output = (*self.error_shape(), self.output_dtype) if last else None
        names = tuple(name for name, _ in self.module.named_parameters())
        return Card({**settings, "rule": repr(self.link.rule)}, names, tuple(map(str, self.handle.points)), output)

    def sites(self) -> tuple[Site, ...]:
        """Return the points as the last forward pass laid them out, those with nothing to train below included."""
        planner = self.handle.planner
        if planner is None or not self.handle.points:
            return ()
        if not planner.layouts:
            self._lay_out()
        return tuple(layout.site for layout in planner.layouts.values())

    def _lay_out(self) -> None:
        """Run the part once more as if it were trained: one that is frozen receives no signal, so none was laid out."""
        args, kwargs = self._called
        frozen = [parameter for parameter in self.module.parameters() if not parameter.requires_grad]
        for parameter in frozen:
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad(), undisturbed(self.module):
                self.run(lambda: self.module(*args, **kwargs))
        finally:
            self.port = None
            for parameter in frozen:
                parameter.requires_grad_(False)

    def _take_off(self) -> None:
        for hook in self._around:
            hook.remove()
        self._around = []

    def _put_port(self, module: nn.Module, args: Any, output: Any) -> Any:
        if not torch.is_grad_enabled():
            return None
        if not self._open or self.link.agreed is None:
            raise SignalError(
                f"Stage {self.index} ran with gradients outside of a step of the schedule, where no error can "
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
                    f"Stage {self.index} returns a tensor of shape {tuple(tensor.shape)} that no point cuts, so "
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
        found = [_rows_and_width(shape) for shape in self.output_shapes]
        if not found or any(not shape for shape in self.output_shapes) or len({rows for rows, _ in found}) > 1:
            raise SignalError(
                "The last stage expected to return floating-point tensors of the same rows, found shapes "
                f"{[tuple(shape) for shape in self.output_shapes]}. Return what the loss is computed from."
            )
        return found[0][0], sum(width for _, width in found)


def _rows_and_width(shape: torch.Size) -> tuple[tuple[int, ...], int]:
    dims = row_dimensions(shape)
    return tuple(shape[dim] for dim in dims), prod([size for dim, size in enumerate(shape) if dim not in dims])


def _random_state(device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.get_rng_state()
    state: Tensor = torch.get_device_module(device).get_rng_state(device)
    return state


def _set_random_state(device: torch.device, state: Tensor | None) -> None:
    assert state is not None
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.get_device_module(device).set_rng_state(state, device)
