"""What one forward pass leaves for its backward pass: which points and outputs ran, and which of them are paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from feedalign.deferred import Mail, carry
from feedalign.errors import SignalError

if TYPE_CHECKING:
    from feedalign.delivery import Delivery
    from feedalign.observe import Gates
    from feedalign.replay import Inputs


class Arriving(NamedTuple):
    """One tensor on its way out of a point."""

    point: str
    planner: int
    """The number of the planner that makes its signal; -1 if it gets none by its rule."""
    own: bool
    """Whether every call is a point of its own: a module without parameters, used in several places."""


class Arrival(NamedTuple):
    """One tensor that left a point in this forward pass, without the tensor."""

    point: str
    call: int
    """How often the point had run before in this forward pass."""
    planner: int
    """The number of the planner that makes its signal; -1 if it gets none by its rule."""
    own: bool
    """Whether every call is a point of its own: a module without parameters, used in several places."""
    trains: bool
    """Whether there is anything to train below it. If not it gets no signal, but it is still one of the points."""
    shape: torch.Size
    dtype: torch.dtype


class Facts(NamedTuple):
    """One tensor of an output, without the tensor."""

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    dims: tuple[int, ...] = ()
    """Its row dimensions, once they are known."""


class Run(NamedTuple):
    """One run of the output, and how many arrivals came before it."""

    tensors: tuple[Facts, ...]
    before: int


class Output(NamedTuple):
    """One error: tensors of one run of the output whose rows are the same, and the points that hear them."""

    tensors: tuple[Facts, ...]
    before: int
    """How many arrivals came before the run."""
    run: int
    """The number of the run."""
    places: tuple[int, ...]
    """The numbers of these tensors among those of the run."""
    heard: tuple[bool, ...]
    """Which of these tensors the points hear; the error is zero in the columns of the others."""
    points: tuple[int, ...] | None = None
    """The numbers of the arrivals that hear it; ``None`` for all."""

    def gradients(self, run: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return those of a run's gradients that make up this error; ``None`` for what its points do not hear."""
        return [run[place] if heard else None for place, heard in zip(self.places, self.heard, strict=True)]


@dataclass
class Recording:
    """The points and outputs of one forward pass of the model."""

    arrivals: list[Arrival] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    """The uncut outputs of the points that train, in order. Dropped when the forward pass ends."""
    calls: dict[str, int] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    outputs: list[Output] = field(default_factory=list)
    """The errors of all runs; known when the forward pass ends."""
    nodes: set[Any] = field(default_factory=set)
    """The splices in the autograd graph. Dropped when the forward pass ends."""
    deliveries: Sequence[Sequence[Delivery]] = ()
    """Per planner, one per output; made when the forward pass ends, since only then it is known who ran how often."""
    call: Callable[..., Any] | None = None
    """What was run."""
    inputs: Inputs | None = None
    """For rules that push tangents forward."""
    activations: list[Tensor] | None = None
    """For rules that learn: the outputs of the points that train, without their graphs."""
    targets: object = None
    """What ``handle.targets`` was when the forward pass began."""
    mail: Mail | None = None
    """For feedback that is deferred: the signals that are under way."""
    delivered: bool = False
    """Whether a backward pass has handed an error to the points of this forward pass."""
    gates: Gates | None = None
    """What stands in for the cuts where the graph stays whole: while rows are found out, and for measuring."""
    ends: dict[int, Tensor] = field(default_factory=dict)
    """By number of the arrival, what the next block reads; only where there are gates."""
    tapped: list[list[Tensor]] = field(default_factory=list)
    """Per run the tensors of the output before the splice; only where there are gates."""
    ran: dict[int, tuple[Facts, ...]] = field(default_factory=dict)
    """Which of several outputs ran, and what tensors each has."""
    parts: dict[int, list[Tensor]] = field(default_factory=dict)
    """The tensors of each of several outputs before the splice; only where there are gates."""
    spliced: int = 0
    """How many of the points' tensors are spliced to an output, where there are several outputs."""

    def add(self, arriving: Arriving, tensor: Tensor, trains: bool) -> None:
        """Record that ``tensor`` left a point, and the tensor itself if a signal will be delivered to it."""
        point, planner, own = arriving
        call, trains = self.calls.get(point, 0), planner >= 0 and trains
        self.arrivals.append(Arrival(point, call, planner, own, trains, tensor.shape, tensor.dtype))
        if trains:
            self.tensors.append(tensor if self.mail is None else carry(tensor, self.mail, len(self.tensors)))
            if self.activations is not None:
                self.activations.append(tensor.detach())
        self.calls[point] = call + 1

    @staticmethod
    def places(delivery: Delivery) -> dict[int, int]:
        """Return the number among a delivery's points for the number among all arrivals."""
        served = [number for number, layout in enumerate(delivery.layouts) if layout is not None]
        return {number: place for place, number in enumerate(served)}

    def trained(self) -> list[Arrival]:
        """Return the arrivals that receive a signal."""
        return [arrival for arrival in self.arrivals if arrival.trains]

    def as_traced(self) -> Recording:
        """Return a copy whose sizes are those of the tensors in the graph that is being traced.

        ``torch.compile`` may trace a model's forward and this library's hooks one after the other; sizes noted in
        the first graph, which vary with the batch, are not known to the second.
        """
        tensors = iter(self.tensors)
        sized = [a._replace(shape=next(tensors).shape) if a.trains else a for a in self.arrivals]
        return Recording(arrivals=sized, calls=self.calls, runs=self.runs, targets=self.targets)

    def calls_per_run(self, point: str) -> int:
        """Return how many calls of a point belong to one run of the output."""
        calls, runs = self.calls[point], len(self.runs)
        return calls if calls == 1 else max(1, calls // runs)

    def key(self, arrival: Arrival) -> str:
        """Return the name that an arrival's feedback matrix is drawn for."""
        place = arrival.call % self.calls_per_run(arrival.point)
        return f"{arrival.point}#{place + 1}" if arrival.own and place else arrival.point

    def from_last(self) -> list[int]:
        """Return, per arrival, the number of its call counted from its point's last call, which is -1."""
        left = dict(self.calls)
        found = []
        for arrival in self.arrivals:
            found.append(-left[arrival.point])
            left[arrival.point] -= 1
        return found

    def paired(self, arrival: Arrival, run: int) -> bool:
        """Return whether an arrival is paired with run number ``run`` of the output.

        A point that ran once serves every run. One that ran k times per run of the output gives its first k calls to
        the first run, the next k to the second: siamese networks, coarse and fine streams, one output per time step.
        """
        return self.calls[arrival.point] == 1 or arrival.call // self.calls_per_run(arrival.point) == run

    def belongs(self, number: int, output: Output) -> bool:
        """Return whether an arrival, by its number, receives a signal from an output."""
        heard = output.points is None or number in output.points
        return heard and self.paired(self.arrivals[number], output.run)

    def check(self) -> None:
        """Raise unless every arrival belongs to an output that ran after it.

        Raises:
            SignalError: Calls and outputs do not divide, or a point ran after the output that it belongs to.
        """
        runs = len(self.runs)
        for position, arrival in enumerate(self.arrivals):
            if not arrival.trains:
                continue
            calls = self.calls[arrival.point]
            if calls > 1 and calls % runs:
                raise SignalError(
                    f"Point {arrival.point!r} ran {calls} times and the output {runs} times in one forward pass, so "
                    "their calls cannot be paired. Call the model once per stream, or write feedalign.splice in its "
                    "forward."
                )
            if not any(position < run.before and self.paired(arrival, index) for index, run in enumerate(self.runs)):
                raise SignalError(
                    f"Point {arrival.point!r} ran after the output that carries its error, so no signal can reach "
                    "it. Leave the point out, or name an output that runs after it."
                )
