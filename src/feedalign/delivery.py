"""From the error that arrives at an output to one signal a point: flatten, apply the rule, give each its shape."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from feedalign.errors import SignalError
from feedalign.feedback import Kept, Parts, Projection, Site, kept
from feedalign.layout import Layout, match
from feedalign.learned import LearnedFeedback
from feedalign.recording import Arrival, Facts, Output, Recording
from feedalign.rules import Broadcast, BroadcastRule, Inject
from feedalign.structure import SHAPES, Structure
from feedalign.targets import as_rows

Push = Callable[[dict[int, int], Inject], list[Tensor | None]]


@dataclass(frozen=True)
class Delivery:
    """Everything that one output needs to turn its error into the signals of one rule's points."""

    rule: BroadcastRule
    rows: int
    """``N``"""
    sizes: tuple[int, ...]
    """Width of each tensor of the output; they add up to ``C``."""
    layouts: tuple[Layout | None, ...]
    """One an arrival; ``None`` if it gets no signal here: it belongs to another output or rule, or does not train."""
    trains: tuple[bool, ...]
    """Whether there is anything to train below an arrival. One that does not is served only by rules that relay."""
    project: Projection
    orders: tuple[tuple[int, ...] | None, ...] = ()
    """Per tensor of the output, the order of dimensions that puts its rows first; ``None`` where they are."""
    serves: bool = True
    """Whether any point receives a signal here."""
    problem: str = ""
    """Why a point that hears this error cannot be matched to it; that matters only if such an error comes."""
    own: tuple[Layout, ...] = ()
    """The layouts of the points that receive a signal here."""

    def error(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the error ``[N, C]``: the gradients at the output's tensors, side by side."""
        if len(gradients) == 1 and gradients[0] is not None:
            return self._rows_first(gradients[0], 0)
        some = next(gradient for gradient in gradients if gradient is not None)
        return torch.cat(
            [
                some.new_zeros(self.rows, size) if gradient is None else self._rows_first(gradient, i)
                for i, (gradient, size) in enumerate(zip(gradients, self.sizes, strict=True))
            ],
            dim=1,
        )

    def _rows_first(self, gradient: Tensor, number: int) -> Tensor:
        order = self.orders[number] if self.orders else None
        if order is not None:
            gradient = gradient.permute(order)
        return gradient.reshape(self.rows, self.sizes[number])

    def shaped(self, signals: Sequence[Tensor]) -> list[Tensor | None]:
        """Return one signal per arrival that trains, in the point's shape; ``None`` where it is not served here."""
        flat = iter(signals)
        found = [None if layout is None else layout.unflatten(next(flat)) for layout in self.layouts]
        return [signal for signal, trains in zip(found, self.trains, strict=True) if trains]

    def norms(self, signals: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the norm of the signal that each point receives, by name, given the signals that the rule made."""
        found: dict[str, Tensor] = {}
        of: dict[int, Tensor] = {}  # points of one width may share one tensor: its norm is taken once
        training = [trains for layout, trains in zip(self.layouts, self.trains, strict=True) if layout is not None]
        for layout, signal, trains in zip(self.own, signals, training, strict=True):
            if not trains:
                continue
            norm = of.get(id(signal))
            if norm is None:
                norm = of[id(signal)] = torch.linalg.vector_norm(signal.detach())
            site = layout.site
            if signal.numel() == self.rows * site.columns != self.rows * site.width:  # it is yet to be repeated
                norm = norm * (site.width / site.columns) ** 0.5
            found[site.key] = torch.hypot(found[site.key], norm) if site.key in found else norm
        return found


@dataclass
class Planner:
    """Makes the deliveries of one rule for a recording, and keeps those made, with their matrices, by shapes."""

    rule: BroadcastRule
    number: int = 0
    """Its place among the planners of an attachment."""
    store: LearnedFeedback | None = None
    """Where the matrices are, if the rule learns them."""
    structure: Structure = field(default_factory=Structure)
    """What is known of rows; one for all planners of an attachment."""
    layouts: dict[str, Layout] = field(default_factory=dict)
    """How each point was matched to the error when it last ran; not filled under ``torch.compile``."""
    silent: set[str] = field(default_factory=set)
    """Those of them that have nothing to train below, and so receive no signal."""
    error_width: int | None = None
    _learned: list[str] = field(default_factory=list)
    _deliveries: dict[int, tuple[list[Output], list[Delivery]]] = field(default_factory=dict)
    _matrices: dict[Any, Kept] = field(default_factory=dict)

    def __getstate__(self) -> dict[str, Any]:
        # Matrices are rebuilt from the seed, so a copy or a pickle carries none.
        return {**self.__dict__, "_deliveries": {}, "_matrices": {}}

    def plan(self, recording: Recording) -> list[Delivery]:
        """Return one delivery per output of the recording.

        Raises:
            SignalError: Points and outputs cannot be paired, or their shapes cannot be matched.
        """
        if torch.compiler.is_compiling():  # tracing keeps nothing; the numbers become constants of the graph
            return self._make(recording)
        # The structure keeps one list of outputs for all passes that are alike.
        known = self._deliveries.get(id(recording.outputs))
        if known is None or known[0] is not recording.outputs:
            recording.check()
            if len(self._deliveries) >= SHAPES:
                self._deliveries.clear()
            known = self._deliveries[id(recording.outputs)] = (recording.outputs, self._make(recording))
        return known[1]

    def matrices(self) -> list[Tensor]:
        """Return the scaled feedback matrix ``[C, D_i]`` of every point that has run, in the order of running."""
        assert self.error_width is not None  # known as soon as a point has run
        if self.rule.learns:
            return [matrix.detach() for matrix in self.learned().values()]
        return self._first()

    def learned(self) -> dict[str, Tensor]:
        """Return the matrices that the rule learns, by point, with their place in the autograd graph."""
        found = {} if self.store is None else {key: self.store.get(key) for key in self._learned}
        return {key: matrix for key, matrix in found.items() if matrix is not None}

    def start(self, store: LearnedFeedback, device: torch.device) -> None:
        """Begin to learn, now that the shapes are known from a forward pass."""
        for (key, layout), matrix in zip(self.layouts.items(), self._first(), strict=True):
            if key not in self.silent:
                store.add(key, self.rule.first(matrix).to(device, layout.dtype))
                self._learned.append(key)
        self.store = store

    def send(self, delivery: Delivery, error: Tensor, recording: Recording, push: Push) -> Broadcast:
        """Return all that the rule may use to make the signals of one output's points."""
        own, project = delivery.own, delivery.project
        matrices: list[Tensor] = []
        activations: list[Tensor] = []
        if self.rule.learns and self.store is not None:
            learned = self.learned()
            matrices = [learned[layout.site.key].detach().to(error.dtype) for layout in own]
            trained = iter(recording.activations or [])
            passed = [next(trained) if trains else None for trains in delivery.trains]
            served = [h for h, layout in zip(passed, delivery.layouts, strict=True) if layout and h is not None]
            activations = [layout.flatten(h).to(error.dtype) for h, layout in zip(served, own, strict=True)]

            def project(rows: Tensor) -> list[Tensor]:
                return [rows @ matrix for matrix in matrices]

        def jvp(inject: Inject) -> Tensor:
            return delivery.error(push(recording.places(delivery), inject))

        return Broadcast(error, project, own, activations, matrices, self._targets(recording, error), jvp)

    def send_one(self, layout: Layout, error: Tensor, recording: Recording, activation: Tensor) -> Broadcast:
        """Return what the rule may use to make the signal of one point alone."""
        assert self.error_width is not None
        like = Facts(error.shape, error.dtype, error.device)
        matrix = self.learned().get(layout.site.key)
        if matrix is None:
            project = self.rule.feedback.projection(
                (layout.site,), self.widest(), partial(self._kept, self.error_width, like)
            )
            return Broadcast(error, project, [layout], targets=self._targets(recording, error))
        value = matrix.detach().to(error.dtype)
        flat = layout.flatten(activation).to(error.dtype)
        return Broadcast(error, lambda rows: [rows @ value], [layout], [flat], [value], self._targets(recording, error))

    def _targets(self, recording: Recording, error: Tensor) -> Tensor | None:
        return as_rows(recording.targets, error) if self.rule.targeted else None

    def _first(self) -> list[Tensor]:
        """Return the matrices as the seed gives them."""
        assert self.error_width is not None
        sites = tuple(layout.site for layout in self.layouts.values())
        like = Facts(torch.Size(), torch.float64, torch.device("cpu"))
        project = self.rule.feedback.projection(sites, self.widest(), partial(self._kept, self.error_width, like))
        return project(torch.eye(self.error_width, dtype=torch.float64))

    def widest(self, layouts: Iterable[Layout] = ()) -> Site:
        """Return the most columns and the largest width of the points that have run, and of ``layouts``."""
        sites = [layout.site for layout in (*self.layouts.values(), *layouts)]
        return Site("", max(site.columns for site in sites), max(site.width for site in sites))

    def _make(self, recording: Recording) -> list[Delivery]:
        made = []
        found = [self._matched(recording, output) for output in recording.outputs]
        self._check_some(recording, found)
        everything = [layout for matched, _ in found for layout in matched if layout]
        widest = self.widest(everything) if everything else None
        if not torch.compiler.is_compiling():
            self._remember(recording, found)
        for output, (matched, problem) in zip(recording.outputs, found, strict=True):
            arrivals = recording.arrivals[: output.before]
            trains = tuple(arrival.trains for arrival in arrivals)
            # What a relaying rule sends through a point goes on from there, whether it trains anything or not.
            wanted = tuple(
                layout if arrival.trains or self.rule.relays else None
                for layout, arrival in zip(matched, arrivals, strict=True)
            )
            rows, sizes = _sizes(output.tensors)
            project = self._project(wanted, widest, sum(sizes), output.tensors[0])
            orders = tuple(_order(facts) for facts in output.tensors)
            own = tuple(layout for layout in wanted if layout is not None)
            made.append(
                Delivery(self.rule, prod(rows), sizes, wanted, trains, project, orders, bool(own), problem, own)
            )
        if not torch.compiler.is_compiling() and any(delivery.serves for delivery in made):
            self.silent = self._silent(recording, found, made)
        return made

    def _silent(
        self, recording: Recording, found: list[tuple[list[Layout | None], str]], made: list[Delivery]
    ) -> set[str]:
        """Return the points that receive no signal: nothing trains below them, or nothing reads them."""
        keys = {layout.site.key for matched, _ in found for layout in matched if layout}
        for delivery in made:
            pairs = zip(delivery.layouts, delivery.trains, strict=True)
            keys -= {layout.site.key for layout, trains in pairs if layout and trains}
        return keys

    def _matched(self, recording: Recording, output: Output) -> tuple[list[Layout | None], str]:
        """Return how each arrival before an output is read against its error, and why one cannot be."""
        rows, _ = _sizes(output.tensors)
        found: list[Layout | None] = []
        problem = ""
        for number, arrival in enumerate(recording.arrivals[: output.before]):
            layout = None
            if arrival.planner == self.number and recording.belongs(number, output):
                try:
                    layout = self._match(recording.key(arrival), arrival, output, rows)
                except SignalError as error:
                    if arrival.trains or self.rule.relays:
                        problem = problem or str(error)
            found.append(layout)
        return found, problem

    def _match(self, key: str, arrival: Arrival, output: Output, rows: tuple[int, ...]) -> Layout:
        placement = self.structure.placement(key, arrival.shape, output, rows)
        channel = self.structure.channel(key)
        return match(key, arrival.shape, arrival.dtype, rows, self.rule.feedback, placement, channel)

    def _check_some(self, recording: Recording, found: list[tuple[list[Layout | None], str]]) -> None:
        """Raise if a point that trains is matched to none of the errors that it hears.

        Raises:
            SignalError: There is one.
        """
        for number, arrival in enumerate(recording.arrivals):
            if not arrival.trains or arrival.planner != self.number:
                continue
            own = [
                (matched[number], problem)
                for output, (matched, problem) in zip(recording.outputs, found, strict=True)
                if number < output.before and recording.belongs(number, output)
            ]
            if own and all(layout is None for layout, _ in own):
                raise SignalError(next(problem for _, problem in own if problem))

    def _project(self, wanted: Sequence[Layout | None], widest: Site | None, width: int, facts: Facts) -> Projection:
        sites = tuple(layout.site for layout in wanted if layout)
        if not sites or widest is None:
            return lambda error: []
        self.rule.feedback.check(sites, width)
        if self.rule.learns and torch.compiler.is_compiling():
            raise SignalError(
                f"{type(self.rule).__name__} learns its feedback, which is not supported under torch.compile. Train in "
                "eager mode, or choose a rule with fixed feedback."
            )
        if self.rule.learns:
            self._check_learned(sites)
            return lambda error: []  # the parameters at hand when the error arrives are used in its place
        make = partial(self.rule.feedback.projection, sites, widest, partial(self._kept, width, facts))
        return make() if torch.compiler.is_compiling() else _when_used(make)

    def _check_learned(self, sites: tuple[Site, ...]) -> None:
        new = [site.key for site in sites if self.store is not None and site.key not in self._learned]
        if new:
            raise SignalError(
                f"{', '.join(map(repr, new))} did not receive a signal when the model ran on example=, so nothing is "
                "learned for them. Attach with an example that runs every point, and with their layers not frozen."
            )

    def _kept(self, width: int, like: Facts, parts: Parts) -> Kept:
        key = (parts, width, like.dtype, like.device)
        if not torch.compiler.is_compiling() and key in self._matrices:
            return self._matrices[key]
        made: Kept = kept(self.rule.feedback, self.rule.seed, parts, width, like.dtype, like.device)
        if not torch.compiler.is_compiling():
            self._matrices[key] = made
        return made

    def _remember(self, recording: Recording, found: list[tuple[list[Layout | None], str]]) -> None:
        """Keep how points were matched; raise if a matrix would not be the one that a point has learnt with so far."""
        before = max((layout.site.columns for layout in self.layouts.values()), default=0)
        new: dict[str, Layout] = {}
        for output, (matched, _) in zip(recording.outputs, found, strict=True):
            layouts = {layout.site.key: layout for layout in matched if layout}
            if not any(
                layout and (a.trains or self.rule.relays)
                for layout, a in zip(matched, recording.arrivals, strict=False)
            ):
                continue
            if output.places[0] != 0:  # another error beside the first: what is told of a point is of the first
                new |= {key: layout for key, layout in layouts.items() if key not in self.layouts and key not in new}
                continue
            for layout in layouts.values():
                self._check_width(layout, before)
            width = sum(_sizes(output.tensors)[1])
            if layouts and self.error_width not in (None, width):
                raise SignalError(
                    f"The output was {self.error_width} wide and now is {width}, so every feedback matrix would be "
                    "another one. Attach again for an output of another width, or name a module with output=."
                )
            self.error_width = width if layouts else self.error_width
            new |= layouts
        if new and self.error_width is None:
            self.error_width = sum(_sizes(recording.outputs[0].tensors)[1])
        self.layouts.update(new)

    def _check_width(self, layout: Layout, before: int) -> None:
        key, columns = layout.site.key, layout.site.columns
        known = self.layouts.get(key, layout)
        if known.site.columns != columns:
            raise SignalError(
                f"Point {key!r} had {known.site.columns} features (shape {known.shape}) and now has {columns} "
                f"(shape {layout.shape}), so its feedback matrix would be another one. Where the number of "
                "positions varies, write feedback=feedalign.Uniform(positions='repeat')."
            )
        if self.rule.feedback.shared and before and columns > before:
            raise SignalError(
                f"Point {key!r} with {columns} features did not run before, and is wider than the {before} that "
                "the shared matrix was drawn for. Write feedback=feedalign.Uniform(shared=False)."
            )


def _when_used(make: Callable[[], Projection]) -> Projection:
    """Draw no numbers before an error arrives: a forward pass may never see one, or another projection serves it."""
    made: list[Projection] = []

    def project(error: Tensor) -> list[Tensor]:
        if not made:
            made.append(make())
        return made[0](error)

    return project


def _sizes(tensors: Sequence[Facts]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the sizes of the row dimensions that an output's tensors share, and the width of each tensor."""
    rows = tuple(tensors[0].shape[dim] for dim in tensors[0].dims)
    widths = [[size for dim, size in enumerate(facts.shape) if dim not in facts.dims] for facts in tensors]
    return rows, tuple(prod(width) for width in widths)


def _order(facts: Facts) -> tuple[int, ...] | None:
    """Return the order of dimensions that puts a tensor's rows first, ``None`` if they are."""
    rest = tuple(dim for dim in range(len(facts.shape)) if dim not in facts.dims)
    order = (*facts.dims, *rest)
    return None if order == tuple(range(len(facts.shape))) else order
