"""The forward passes that :func:`feedalign.two_pass` takes: what they do at points and at the output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from feedalign.attach import Attachment
from feedalign.delivery import Delivery, Planner
from feedalign.errors import SignalError
from feedalign.layout import Layout
from feedalign.parallel import averaged
from feedalign.recording import Arrival, Arriving, Facts, Output, Recording, Run
from feedalign.replay import Inputs
from feedalign.rules import Broadcast
from feedalign.tree import flatten, is_floating

if TYPE_CHECKING:
    from feedalign.twopass import Step

HALF = "This step is half done: zero the gradients, and if an optimiser was given, go back to saved weights."


FEW = 5
"""Samples on which rows are found out."""


@dataclass
class First:
    """The pass that finds the error. Up to the output it runs without a graph."""

    handle: Attachment
    stepping: bool = False
    """Whether an optimiser steps each block at once."""
    averaged: bool = False
    """Whether ``DistributedDataParallel`` averages the gradients over processes."""
    recording: Recording = field(default_factory=Recording)
    call: Callable[..., Any] | None = None
    """What the closure ran: the model, or a method of it."""
    inputs: Inputs | None = None
    leaves: list[list[Tensor]] = field(default_factory=list)
    """The tensors of every run of the output, from which the loss is computed."""
    beginning: Any = None
    uses: Counter[nn.Module] = field(default_factory=Counter)
    """How often each module has run."""
    buffers: dict[str, Tensor] = field(default_factory=dict)
    """As they were before it: what is computed from them has to be the same in both passes (spectral norm)."""

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Keep what the second pass begins with, and stop recording a graph."""
        if self.inputs is not None:
            raise SignalError("The closure ran the model twice. Write one two_pass for each forward pass.")
        self.averaged = averaged(self.stepping)
        if any(is_floating(leaf) and leaf.requires_grad for leaf in flatten((args, kwargs))[0]):
            raise SignalError(
                "The model's input needs a gradient, which two passes cannot give: what lies below the model would not "
                "learn. Put that part into the model, or detach the input."
            )
        self.inputs, self.recording.targets = Inputs.of(args, kwargs), self.handle.targets
        self.call = self.handle._call
        if not self.handle.structure.settled:
            self._find_rows()
        self.beginning = beginning(args, kwargs)
        named = self.handle.model.named_buffers(remove_duplicate=False)
        self.buffers = {name: buffer.clone() for name, buffer in named}
        torch.set_grad_enabled(False)  # until the output; the closure's own context restores it if that never comes

    def _find_rows(self) -> None:
        """Let the attachment find out where rows lie, on a few samples where possible: it takes a whole graph."""
        assert self.inputs is not None
        leaves, rebuild = flatten((self.inputs.args, self.inputs.kwargs))
        sizes = {leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()}
        whole = rebuild(leaves)
        few = rebuild([leaf[:FEW] if isinstance(leaf, Tensor) and leaf.dim() else leaf for leaf in leaves])
        ran = Counter(self.uses)
        with self.handle.staged(None):
            try:
                self.handle._find_out(*(few if len(sizes) == 1 and sizes.pop() > FEW else whole))
            except Exception:  # noqa: BLE001 - a model may raise anything when run on fewer samples than it expects
                self.handle._find_out(*whole)
        self.uses.clear()
        self.uses.update(ran)

    def at_point(self, arriving: Sequence[Arriving | None], tensors: list[Tensor]) -> list[Tensor]:
        """Note who passed, and let it go on."""
        for each, tensor in zip(arriving, tensors, strict=True):
            if each is not None:
                call = self.recording.calls.get(each.point, 0)
                arrival = Arrival(
                    each.point, call, each.planner, each.own, each.planner >= 0, tensor.shape, tensor.dtype
                )
                self.recording.arrivals.append(arrival)
                self.recording.calls[each.point] = call + 1
        return tensors

    def at_output(self, tensors: list[Tensor]) -> list[Tensor]:
        """Begin the graph of the loss."""
        facts = tuple(Facts(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors)
        self.recording.runs.append(Run(facts, len(self.recording.arrivals)))
        torch.set_grad_enabled(True)
        self.leaves.append([tensor.detach().requires_grad_() for tensor in tensors])
        return self.leaves[-1]


@dataclass
class Second:
    """The pass in which every point receives its signal as soon as it is reached."""

    step: Step
    recording: Recording
    leaves: list[list[Tensor]]
    """The tensors of every run of the output in the first pass, with their gradients."""
    _arrivals: int = 0
    _outputs: int = 0
    _shared: dict[tuple[int, int], Sequence[Tensor]] = field(default_factory=dict)

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Nothing is to be noted: the inputs are those of the first pass."""

    def at_point(self, arriving: Sequence[Arriving | None], tensors: list[Tensor]) -> list[Tensor]:
        """Let the block below learn, and cut."""
        ends: list[Tensor] = []
        signals: list[Tensor] = []
        for each, tensor in zip(arriving, tensors, strict=True):
            if each is None:
                continue
            number = self._next(each, tensor)
            if tensor.requires_grad and (signal := self._signal(number, tensor)) is not None:
                ends.append(tensor)
                signals.append(signal)
        if ends:
            self.step.backward(ends, signals)
        return [tensor.detach() for tensor in tensors]

    def at_output(self, tensors: list[Tensor]) -> list[Tensor]:
        """Let the last block learn by its true gradient."""
        self._outputs += 1
        if self._outputs > len(self.leaves):
            raise _another_way(f"the output ran more than {len(self.leaves)} times")
        leaves = self.leaves[self._outputs - 1]
        _check_same(tensors, leaves)
        ends = [(t, leaf.grad) for t, leaf in zip(tensors, leaves, strict=True) if leaf.grad is not None]
        ends = [(tensor, gradient) for tensor, gradient in ends if tensor.requires_grad]
        if ends:
            self.step.backward([tensor for tensor, _ in ends], [gradient for _, gradient in ends])
        return [tensor.detach() for tensor in tensors]

    def finish(self) -> None:
        """Raise unless all that ran in the first pass has run."""
        expected = len(self.recording.arrivals), len(self.leaves)
        if (self._arrivals, self._outputs) != expected:
            raise _another_way(
                f"{self._arrivals} points and {self._outputs} outputs ran, not {expected[0]} and {expected[1]}"
            )

    def _next(self, each: Arriving, tensor: Tensor) -> int:
        number, self._arrivals = self._arrivals, self._arrivals + 1
        known = self.recording.arrivals[number] if number < len(self.recording.arrivals) else None
        if known is None or (known.point, known.shape) != (each.point, tensor.shape):
            before = f"{known.point!r} {tuple(known.shape)}" if known else "the end"
            raise _another_way(f"point {each.point!r} {tuple(tensor.shape)} came where before it was {before}")
        return number

    def _signal(self, number: int, tensor: Tensor) -> Tensor | None:
        total: Tensor | None = None
        for planner, deliveries in zip(self.step.handle.planners, self.recording.deliveries, strict=True):
            for place, (output, delivery) in enumerate(zip(self.recording.outputs, deliveries, strict=True)):
                layout = delivery.layouts[number] if number < len(delivery.layouts) else None
                if layout is not None and self._comes(delivery, output):
                    made = self._made(planner, delivery, (place, output), number, layout, tensor)
                    signal = layout.unflatten(made)
                    total = signal if total is None else total + signal
        return total

    def _made(
        self, planner: Planner, delivery: Delivery, numbered: tuple[int, Output], number: int, layout: Layout,
        tensor: Tensor,
    ) -> Tensor:  # fmt: skip
        place, output = numbered
        error = self._error(delivery, output)
        if planner.rule.feedback.shared:  # one product serves all points, and is kept for the whole pass
            key = (planner.number, place)
            if key not in self._shared:
                sent = planner.send(delivery, error, self.recording, _no_push)
                self._shared[key] = planner.rule.signals(sent)
            return self._shared[key][self.recording.places(delivery)[number]]
        sent = planner.send_one(layout, error, self.recording, tensor.detach())
        (signal,) = planner.rule.signals(sent)
        self._teach(planner, layout, sent)
        return signal

    def _comes(self, delivery: Delivery, output: Output) -> bool:
        """Return whether there is such an error.

        Raises:
            SignalError: There is, and a point that hears it cannot be matched to it.
        """
        comes = any(gradient is not None for gradient in self._gradients(output))
        if comes and delivery.problem:
            raise SignalError(delivery.problem)
        return comes

    def _gradients(self, output: Output) -> list[Tensor | None]:
        return output.gradients([leaf.grad for leaf in self.leaves[output.run]])

    def _error(self, delivery: Delivery, output: Output) -> Tensor:
        return delivery.error(self._gradients(output))

    def _teach(self, planner: Planner, layout: Layout, sent: Broadcast) -> None:
        matrix = planner.learned().get(layout.site.key)
        if matrix is not None:
            (lesson,) = planner.rule.lessons(sent)
            lesson = lesson.to(matrix.dtype)
            matrix.grad = lesson if matrix.grad is None else matrix.grad + lesson


def _check_same(tensors: Sequence[Tensor], leaves: Sequence[Tensor]) -> None:
    for tensor, leaf in zip(tensors, leaves, strict=True):
        if tensor.shape != leaf.shape:
            raise _another_way(f"the output is {tuple(tensor.shape)} and was {tuple(leaf.shape)}")
        difference, size = (tensor.detach() - leaf.detach()).norm(), leaf.detach().norm()
        # Kernels that add in any order may differ in the last digits. NaN compares as false: divergence is no concern
        # of this check.
        if difference > torch.finfo(leaf.dtype).eps ** 0.5 * size:
            raise _another_way(f"the output differs by {100 * float(difference / size):.2g} % of its norm")


def _another_way(found: str) -> SignalError:
    return SignalError(
        f"The forward pass was not the same the second time: {found}. It changes something that it depends on, draws "
        "numbers that are not PyTorch's (Python's random, NumPy), or shares parameters between blocks, which an "
        f"optimiser stepped one after the other. Take the ordinary step. {HALF}"
    )


@dataclass
class Only(Second):
    """The one pass of rules that send targets. The output keeps its graph: only what lies above the points is in it."""

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Take the targets."""
        self.recording.targets = self.step.handle.targets

    def at_output(self, tensors: list[Tensor]) -> list[Tensor]:
        """Let the loss be computed from the last block."""
        return tensors

    def _comes(self, delivery: Delivery, output: Output) -> bool:
        return True

    def _error(self, delivery: Delivery, output: Output) -> Tensor:
        facts = output.tensors[0]
        return torch.zeros(delivery.rows, sum(delivery.sizes), dtype=facts.dtype, device=facts.device)


@dataclass
class Choice:
    """One pass if it begins like the one that is known, else the first of two."""

    first: First
    only: Only
    known: Any
    taken: First | Only | None = None

    def start(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Choose, now that the inputs are there."""
        # In a single pass gradients would come before DistributedDataParallel expects any.
        single = beginning(args, kwargs) == self.known and not averaged(self.first.stepping)
        self.taken = self.only if single else self.first
        self.taken.start(args, kwargs)

    def at_point(self, arriving: Sequence[Arriving | None], tensors: list[Tensor]) -> list[Tensor]:
        """Do what the chosen pass does."""
        assert self.taken is not None
        return self.taken.at_point(arriving, tensors)

    def at_output(self, tensors: list[Tensor]) -> list[Tensor]:
        """Do what the chosen pass does."""
        assert self.taken is not None
        return self.taken.at_output(tensors)


def beginning(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what the shapes and types of all that follows depend on, as far as it can be told from the inputs."""
    tensors = [leaf for leaf in flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    cast = {
        (d.type, torch.is_autocast_enabled(d.type), torch.get_autocast_dtype(d.type))
        for d in {t.device for t in tensors}
    }
    return [(tensor.shape, tensor.dtype) for tensor in tensors], cast


def _no_push(*_: object) -> list[Tensor | None]:
    raise AssertionError("rules that push tangents forward are refused")
