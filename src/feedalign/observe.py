"""One forward pass in which backpropagation and the rule can be told apart, for measuring.

The cuts become gates in one uncut graph: open, the gradient is backpropagation's; closed, nothing passes from a
block to the one below, as in training.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from feedalign.errors import SignalError
from feedalign.recording import Recording

if TYPE_CHECKING:
    from feedalign.attach import Attachment


class _Gate(torch.autograd.Function):
    """Identity; backward passes the gradient on only while the gates are open."""

    @staticmethod
    def forward(ctx: Any, gates: "Gates", number: int, tensor: Tensor) -> Tensor:
        # Weak: what the gates hold leads back to this operation, a cycle that the garbage collector cannot detect.
        ctx.gates, ctx.number = weakref.ref(gates), number
        return tensor.clone()  # not a view: what changes it in place behind the gate leaves the point as it is

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, Tensor | None]:
        gates, gradient = ctx.gates(), gradients[0]
        if gates is None:
            raise SignalError(
                "A backward pass went through the model, but no error reached its output, so its points would have "
                "learned nothing. Name the module whose output the loss is computed from, with output=."
            )
        gates.passing(ctx.number, gradient)
        if gates.open or ctx.number in gates.removed:
            return None, None, gradient
        # Zeros where the pass only asks: hooks of the user's on the point's tensor expect a gradient.
        return None, None, torch.zeros_like(gradient) if gates.nested and gradient is not None else None


@dataclass(eq=False)
class Gates:
    """What stands in for the cuts of one forward pass, so that its graph stays whole.

    Open, a gradient is backpropagation's. Closed, nothing passes from a block to the one below, as in training.
    """

    open: bool = True
    nested: bool = False
    """Whether a backward pass that only asks is under way."""
    removed: set[int] = field(default_factory=set)
    """The numbers of arrivals that turned out to be no points."""

    def gate(self, number: int, tensor: Tensor) -> Tensor:
        """Return what the next block reads instead of ``tensor.detach()``."""
        passed: Tensor = _Gate.apply(self, number, tensor)  # type: ignore[no-untyped-call]
        return passed

    def passing(self, number: int, gradient: Tensor | None) -> None:
        """Note the gradient that arrives at a gate."""


@dataclass(eq=False)
class Observation(Gates):
    """What was seen: the recording of the forward pass, the points' tensors, and the tensors of each output."""

    recording: Recording = field(default_factory=Recording)
    tensors: list[Tensor] = field(default_factory=list)
    """The uncut outputs of the points, one per arrival that trains."""
    outputs: list[list[Tensor]] = field(default_factory=list)
    """Per run of the output."""
    layers: list[tuple[str, Tensor]] = field(default_factory=list)
    """The outputs of the layers that a rule transports through, in the order of the forward pass."""

    def clear(self) -> None:
        """Drop references to the tensors.

        Their graph refers to this object through C++, a cycle that the garbage collector cannot detect.
        """
        self.recording, self.tensors, self.outputs, self.layers = Recording(), [], [], []


@contextmanager
def observe(handle: "Attachment", closure: Callable[[], Tensor]) -> Iterator[tuple[Observation, Tensor]]:
    """Run ``closure`` once with gates for cuts; yield what was seen and the loss.

    The random number generators and the model's buffers (batch statistics) are afterwards what they were, so that
    measuring does not change training.

    Raises:
        SignalError: The closure did not run the model, ran it more than once, or returned no differentiable scalar.
    """
    observation = Observation()
    handle._observation = observation
    try:
        with undisturbed(handle.model):
            with torch.enable_grad():
                loss = closure()
            handle._observation = None
            _check(handle.model, observation, loss)
            yield observation, loss
    finally:
        handle._observation = None
        observation.clear()


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Leave the model's buffers (batch statistics) and the random number generators as they were before the block."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng():
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)


def _check(model: nn.Module, observation: Observation, loss: object) -> None:
    recorded = len(observation.outputs)
    if recorded != max(1, len(observation.recording.runs)) and not (observation.layers and not recorded):
        times = "did not run it" if not recorded else "ran it several times"
        raise SignalError(
            f"The closure must run {type(model).__name__} once with gradients enabled, and {times}. "
            "Write lambda: loss_fn(model(x), y)."
        )
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
        found = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise SignalError(
            f"The closure must return the loss, a scalar tensor with a graph; found {found}. "
            "Write lambda: loss_fn(model(x), y)."
        )
