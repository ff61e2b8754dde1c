"""What the first forward pass finds out, and the first backward pass checks: nothing may go wrong unsaid.

In it the cuts are gates in a graph that is still whole. So it shows which outputs a point leads to, where the loss is
computed if the model computes it itself, which parameters would be left without a gradient, and, in the backward pass,
whether any gradient passes a point that did not come through the named outputs.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.checkpoint import set_device_states

from feedalign.errors import SignalError, listing
from feedalign.graph import executes, leaves_below, nodes_below
from feedalign.observe import Gates
from feedalign.points import candidates
from feedalign.recording import Recording
from feedalign.replay import Inputs
from feedalign.taps import Tap
from feedalign.tree import flatten, is_floating

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-3}
"""How much of a gradient may differ between two backward passes through the same operations, by rounding."""


@dataclass(eq=False)
class CheckingGates(Gates):
    """Gates that are closed when the forward pass ends, and then check what arrives at them."""

    model: nn.Module | None = None
    outputs: Sequence[str] = ()
    """What the outputs are called in messages."""
    names: dict[int, str] = field(default_factory=dict)
    """By number of the arrival, the name of its point."""
    ends: dict[int, Tensor] = field(default_factory=dict)
    tapped: list[list[Tensor]] = field(default_factory=list)
    """Per run, the tensors of the output before the splice."""
    points: list[Tensor] = field(default_factory=list)
    """The uncut tensors of the points that train."""
    modules: list[tuple[str, Node]] = field(default_factory=list)
    """What the modules of the model returned, in the order of the forward pass."""
    checking: bool = False
    _expected: dict[int, Tensor] = field(default_factory=dict)
    _task: int = -1

    def reruns(self) -> bool:
        """Return whether a backward pass through this forward pass is under way: checkpointed blocks run again."""
        return self.nested or self._task == torch._C._current_graph_task_id() != -1

    def expect(self, tensors: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        """Form what arrives at the gates through tensors of the output, or of points, that have these gradients."""
        self._begin()
        if not self.checking:
            return
        sent = [
            (tensor, gradient)
            for tensor, gradient in zip(tensors, gradients, strict=True)
            if gradient is not None and tensor.requires_grad
        ]
        numbers = [number for number, end in self.ends.items() if end.requires_grad]
        if not sent or not numbers:
            return
        self.nested = True
        try:
            found = torch.autograd.grad(
                [tensor for tensor, _ in sent], [self.ends[n] for n in numbers], [gradient for _, gradient in sent],
                retain_graph=True, allow_unused=True,
            )  # fmt: skip
        finally:
            self.nested = False
        for number, gradient in zip(numbers, found, strict=True):
            if gradient is not None:
                old = self._expected.get(number)
                self._expected[number] = gradient.detach() if old is None else old + gradient.detach()

    def passing(self, number: int, gradient: Tensor | None) -> None:
        """Raise if a gradient arrives at a gate that has not come through the output.

        Raises:
            SignalError: It does.
        """
        if not self.checking or self.nested or gradient is None or number not in self.names:
            return
        self._begin()
        expected = self._expected.get(number)
        rest = gradient.detach() if expected is None else gradient.detach() - expected
        size = torch.linalg.vector_norm(gradient.detach()) + (
            0 if expected is None else torch.linalg.vector_norm(expected)
        )
        if torch.linalg.vector_norm(rest) > TOLERANCE.get(gradient.dtype, 0.05) * size:
            raise SignalError(self._elsewhere(self.names[number]))

    def _begin(self) -> None:
        task = torch._C._current_graph_task_id()
        if task != self._task:
            self._task, self._expected = task, {}

    def _elsewhere(self, point: str) -> str:
        known = set(nodes_below(tensor.grad_fn for tensors in self.tapped for tensor in tensors))
        used = [name for name, node in self.modules if name and node not in known and executes(node)]
        outer = [name for name in dict.fromkeys(used) if not any(name.startswith(f"{other}.") for other in used)]
        if not self._expected:
            names = " and ".join(self.outputs)
            return (
                f"A backward pass went through the model, but no error reached {names}, so its points would have "
                f"learned nothing. Name the module whose output the loss is computed from{_such_as(outer)}."
                + (f" {candidates(self.model)}" if self.model is not None else "")
            )
        where = f", from {' and '.join(map(repr, outer))}" if outer else ""
        return (
            f"A part of the loss reaches point {point!r}{where} by a way that passes no output whose error is sent to "
            f"the points, so nothing below it would learn from that part. The error is taken at: "
            f"{', '.join(self.outputs)}. Name every module that the loss is computed from{_such_as(outer)}, beside "
            "those, or fields of the return value, as in output=('.logits', '.boxes')."
        )


def _such_as(names: Sequence[str]) -> str:
    return f", such as {', '.join(map(repr, names))}" if names else ""


class FirstPass:
    """One forward pass whose graph is kept whole.

    Args:
        model: The model.
        args: What it was called with.
        kwargs: What it was called with by name.
    """

    def __init__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.model = model
        self.gates = CheckingGates(model=model)
        self.taps: list[Tap] = []
        """Where the error is to be taken, if that was found out."""
        self._call = (args, kwargs)
        self._inputs = Inputs.of(args, kwargs)
        self._buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
        self._names = {module: name for name, module in model.named_modules()}
        self._hook = torch.nn.modules.module.register_module_forward_hook(self._note)

    @property
    def probing(self) -> bool:
        """Whether a backward pass that only asks is under way; a checkpointed block runs again in it."""
        return torch._C._current_graph_task_id() != -1

    def _note(self, module: nn.Module, args: Any, output: Any) -> None:
        name = self._names.get(module)
        if name and not self.probing:
            for leaf in flatten(output)[0]:
                if is_floating(leaf) and leaf.grad_fn is not None and leaf.dim():
                    self.gates.modules.append((name, leaf.grad_fn))

    def discover(self, taps: Sequence[Tap], leaves: Sequence[Any], places: Sequence[int]) -> bool:
        """Find the modules that a loss is computed from, if the model returns a loss and no output is named.

        Args:
            taps: Where the error is taken today.
            leaves: What the model returns.
            places: Which of these carry the error.

        Returns:
            Whether they were found; then they are in ``taps``.
        """
        if list(taps) != [Tap(None)]:
            return False
        tensors = [leaves[place] for place in places if leaves[place].grad_fn is not None]
        losses = [tensor for tensor in tensors if tensor.dim() == 0]
        if not losses:
            return False
        made = {node: name for name, node in reversed(self.gates.modules)}  # the innermost of those that return one
        found = self._first_modules(losses, made)
        if found is None:
            return False
        below = set(nodes_below(found))
        for tensor in tensors:
            if tensor.dim() and tensor.grad_fn not in below and not self._covered(tensor, found):
                more = self._first_modules([tensor], made)
                if more is None:
                    return False
                found |= more
        order = list(dict.fromkeys(made[node] for node in found))
        numbers = {name: i for i, (name, _) in enumerate(self.model.named_modules())}
        self.taps = [Tap(name) for name in sorted(order, key=numbers.__getitem__)]
        return True

    def _first_modules(self, tensors: Sequence[Tensor], made: dict[Node, str]) -> set[Node] | None:
        """Return the last operations of the modules that the tensors are computed from; None if a point comes first."""
        stop = set(made)
        reached = list(nodes_below([tensor.grad_fn for tensor in tensors], stop))
        found = {node for node in reached if node in stop}
        gates = {end.grad_fn for end in self._ends()}
        return None if not found or any(node in gates for node in reached) else found

    def _covered(self, tensor: Tensor, found: set[Node]) -> bool:
        gates = {end.grad_fn for end in self._ends()}
        return not any(node in gates for node in nodes_below([tensor.grad_fn], found))

    def _ends(self) -> list[Tensor]:
        return list(self.gates.ends.values())

    @contextmanager
    def as_it_began(self) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Let the forward pass run once more with the random state and the buffers that it began with."""
        self.forget()
        with torch.no_grad():
            for buffer, value in self._buffers:
                buffer.copy_(value)
        torch.set_rng_state(self._inputs.rng)
        set_device_states(*self._inputs.devices)
        yield self._call

    def check_reached(self, recording: Recording) -> None:
        """Raise if a parameter would be left without a gradient that backpropagation gives it.

        Raises:
            SignalError: There are such parameters.
        """
        if any(arrival.planner < 0 for i, arrival in enumerate(recording.arrivals) if i not in self.gates.removed):
            return  # a rule that delivers nothing leaves them on purpose
        served = {
            number
            for deliveries in recording.deliveries
            for delivery in deliveries
            for number, layout in enumerate(delivery.layouts)
            if layout is not None
        }
        numbers = [number for number, arrival in enumerate(recording.arrivals) if arrival.trains]
        ends = [t for number, t in zip(numbers, recording.tensors, strict=True) if number in served]
        outputs = [tensor for tensors in recording.tapped for tensor in tensors]
        # Below a point that turned out to be none, the gradient passes.
        ends += [recording.ends[number] for number in self.gates.removed if number in recording.ends]
        trained = leaves_below([*outputs, *ends], through=self.gates.removed)
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        missing = [names[id(leaf)] for leaf in leaves_below(outputs) - trained if id(leaf) in names]
        if missing:
            raise SignalError(
                "These parameters would get no gradient, though the output depends on them: they lie below tensors "
                f"that are cut and receive no signal:\n{listing(sorted(missing))}\nName those tensors too in points=, "
                "or leave the module out of the points, or freeze the parameters with requires_grad_(False). "
                f"{candidates(self.model)}"
            )

    def close(self, recording: Recording, outputs: Sequence[str]) -> None:
        """Close the gates, now that the forward pass has ended, and keep what the backward pass is checked by.

        Args:
            recording: The forward pass.
            outputs: What the outputs are called in messages.
        """
        self._remove_hook()
        gates = self.gates
        gates.names = {n: a.point for n, a in enumerate(recording.arrivals) if n not in gates.removed}
        gates.ends = {n: end for n, end in recording.ends.items() if n not in gates.removed}
        gates.outputs = outputs
        gates.tapped, gates.points = recording.tapped, recording.tensors
        gates.open, gates.checking = False, len(recording.runs) == 1

    def forget(self) -> None:
        """Drop all references, after a forward pass that raised or is run again."""
        self._remove_hook()
        self.gates.open, self.gates.ends, self.gates.modules = False, {}, []

    def _remove_hook(self) -> None:
        self._hook.remove()
