"""Training in memory that does not grow with depth: one pass for the error, one in which every block learns at once.

Direct feedback needs nothing from the blocks above to train a block, only the error. So a first forward pass, without
a graph, finds the error; and in a second one each point receives its signal as soon as it is reached, its block's
backward pass runs, and its activations are freed before the next block begins. The gradients are those of the
ordinary step. DRTP does not even need the error: from its second step on it takes one pass.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from feedalign.advice import around
from feedalign.attach import Attachment
from feedalign.checks import check_closure
from feedalign.errors import SignalError, listing
from feedalign.passes import HALF, Choice, First, Only, Second
from feedalign.recording import Recording
from feedalign.replay import again


def two_pass(
    handle: Attachment, closure: Callable[[], Tensor], optimizer: torch.optim.Optimizer | None = None
) -> Tensor:
    """Form one step's gradients with the activations of one block at a time in memory.

    Dropout masks, autocast and batch statistics are those of a single forward pass, and gradients add up as always,
    so accumulation works, and so does ``DistributedDataParallel`` (call the wrapper in the closure). With an optimiser
    each block's parameters are stepped and their gradients freed as soon as they are known, so that gradients take no
    memory either; without one, do as after ``loss.backward()``.

    Args:
        handle: The attachment of rules that broadcast: DFA, DRTP, DKP and the like.
        closure: Runs the model once and returns the loss, without a backward pass: ``lambda: loss_fn(model(x), y)``.
            A compiled model runs in eager mode here.
        optimizer: Steps each block's parameters, so its ``step`` is called several times, each time for parameters
            that it has not stepped yet. Its gradients must be empty and its parameters used once each; with loss
            scaling (fp16), clipping by a global norm, or ``DistributedDataParallel``, leave it out.

    Returns:
        The loss, without a graph.

    Raises:
        SignalError: The rule cannot be run this way (it transports through layers, or pushes tangents forward); the
            model's input needs a gradient; its forward pass goes another way or gives other values the second time;
            blocks share operations, so that one cannot be differentiated before the next; a parameter is used twice
            though an optimiser is given, or gradients are averaged; or they are averaged in a way that would miss them.

    Example:
        >>> loss = two_pass(handle, lambda: loss_fn(model(x), y))
        >>> optimizer.step()
    """
    check_closure("two_pass", closure)
    _check(handle, optimizer)
    with torch.compiler.set_stance("force_eager"):  # what happens at the points cannot be traced
        return Step(handle, optimizer).run(closure)


class Known(NamedTuple):
    """A forward pass that was run before: how it began, and what passed its points."""

    beginning: Any
    recording: Recording


def _kind(optimizer: torch.optim.Optimizer | None) -> str:
    return "plain" if optimizer is None else "stepping"  # what was checked is different


@dataclass
class Step:
    """One step on its way."""

    handle: Attachment
    optimizer: torch.optim.Optimizer | None
    _stepped: set[Tensor] = field(default_factory=set)

    def run(self, closure: Callable[[], Tensor]) -> Tensor:
        """Find the error in one pass and deliver it in another, or deliver targets in the only one."""
        first = First(self.handle, stepping=self.optimizer is not None)
        known, choice = self.handle.known.get(_kind(self.optimizer)), None
        if known is not None and all(planner.rule.targeted for planner in self.handle.planners):
            choice = Choice(first, Only(self, replace(known.recording), []), known.beginning)
        with self.handle.staged(choice or first), torch.enable_grad(), _used(self.handle.model) as uses:
            first.uses = uses
            loss = closure()
        if choice is not None and choice.taken is choice.only:
            self.backward([loss], [torch.ones_like(loss)])
        else:
            if self.optimizer is not None or first.averaged:
                _check_used_once(self.handle.model, uses, first.averaged)
            self._deliver(first, loss)
        return loss.detach()

    def _deliver(self, first: First, loss: Tensor) -> None:
        recording, inputs = first.recording, first.inputs
        if inputs is None or not recording.runs:
            raise SignalError(
                "The closure must run the model, with its output, once. Write lambda: loss_fn(model(x), y)."
            )
        recording.check()
        recording.outputs = self.handle.structure.outputs(recording, self.handle.error_width)
        recording.deliveries = [planner.plan(recording) for planner in self.handle.planners]
        if loss.requires_grad:
            self.backward([loss], [torch.ones_like(loss)])
        if all(leaf.grad is None for leaves in first.leaves for leaf in leaves):
            raise SignalError("The loss does not depend on the model's output, so there is no error to deliver.")
        second = Second(self, recording, first.leaves)
        with again(self.handle.model, inputs), self.handle.staged(second), torch.enable_grad():
            for name, buffer in self.handle.model.named_buffers(remove_duplicate=False):
                if (value := first.buffers.get(name)) is not None and value.shape == buffer.shape:
                    buffer.copy_(value)
            assert first.call is not None
            first.call(*inputs.args, **inputs.kwargs)
        second.finish()
        self.handle.known[_kind(self.optimizer)] = Known(first.beginning, recording)

    def backward(self, ends: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        """Let a block learn, and free it."""
        with ExitStack() as stack:
            for kind in {end.device.type for end in ends}:
                stack.enter_context(torch.autocast(kind, enabled=False))  # as in a backward pass after the forward pass
            try:
                torch.autograd.backward(ends, gradients)
            except RuntimeError as error:
                if "second time" not in str(error):
                    raise
                raise SignalError(
                    "Two blocks share operations, so the first cannot be differentiated and freed before the second "
                    "is run: points that are not in sequence, or a skip connection around them. "
                    f"{around(self.handle.model, map(str, self.handle.points))} Or take the ordinary step. {HALF}"
                ) from error
            if self.optimizer is not None:
                self._learn(self.optimizer)

    def _learn(self, optimizer: torch.optim.Optimizer) -> None:
        reached = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not self._stepped.isdisjoint(reached):
            names = {parameter: name for name, parameter in self.handle.model.named_parameters()}
            shared = [names.get(p, "a parameter outside of the model") for p in reached if p in self._stepped]
            raise SignalError(
                "two_pass with an optimiser has stepped these parameters before all of their gradient was there, since "
                f"blocks share them:\n{listing(shared)}\nLeave the optimiser out. {HALF}"
            )
        self._stepped.update(reached)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _check(handle: Attachment, optimizer: torch.optim.Optimizer | None) -> None:
    if handle.carriers or not handle.planners:
        raise SignalError(
            f"two_pass expected rules that broadcast the error to points, such as DFA, and found {handle.rule!r}: what "
            "goes from layer to layer has to wait for the layers above."
        )
    if len(handle._taps) > 1:
        raise SignalError(
            f"two_pass expected one output, found {handle.output}. Name one module, or fields of the return value."
        )
    unfit = [type(planner.rule).__name__ for planner in handle.planners if planner.rule.replays]
    if unfit:
        raise SignalError(
            f"two_pass cannot run {', '.join(unfit)}, which pushes tangents forward through all blocks. Take the "
            "ordinary step, or a rule that needs the error alone (DFA, DKP)."
        )
    if not handle._on:
        raise SignalError("The attachment is off or removed. Use two_pass while it is on.")
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SignalError(
            "two_pass expected an optimiser that steps each parameter by its own gradient, and found LBFGS, which "
            "needs all gradients at once. Leave the optimiser out."
        )
    if optimizer is not None and any(p.grad is not None for group in optimizer.param_groups for p in group["params"]):
        raise SignalError(
            "two_pass with an optimiser expected empty gradients, since it steps block by block: call "
            "optimizer.zero_grad(set_to_none=True) first, or leave the optimiser out to accumulate."
        )


@contextmanager
def _used(model: nn.Module) -> Iterator[Counter[nn.Module]]:
    """Count how often each module runs."""
    uses: Counter[nn.Module] = Counter()
    hooks = [each.register_forward_pre_hook(lambda module, args: uses.update([module])) for each in model.modules()]
    try:
        yield uses
    finally:
        for hook in hooks:
            hook.remove()


def _check_used_once(model: nn.Module, uses: Counter[nn.Module], averaged: bool) -> None:
    times: Counter[str] = Counter()
    names: dict[int, str] = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(prefix, recurse=False, remove_duplicate=False):
            times[names.setdefault(id(parameter), name)] += uses[module]
    twice = [name for name, count in times.items() if count > 1]
    if not twice:
        return
    if averaged:
        raise SignalError(
            "two_pass expected every parameter to be used once, since DistributedDataParallel averages its gradient "
            f"when it first comes, and found these used more often:\n{listing(twice)}\nTake the ordinary step."
        )
    raise SignalError(
        "two_pass with an optimiser would step these parameters before all of their gradient is there, since they "
        f"are used more than once in a forward pass:\n{listing(twice)}\nLeave the optimiser out."
    )
