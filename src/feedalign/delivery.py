"""From the error that arrives at an output to one signal a point: flatten, apply the rule, give each its shape."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from feedalign.errors import SignalError, listing
from feedalign.feedback import Kept, Parts, Projection, Site, kept
from feedalign.layout import Layout, error_shape, match
from feedalign.learned import LearnedFeedback
from feedalign.recording import Facts, Recording
from feedalign.rules import Broadcast, BroadcastRule, Inject
from feedalign.targets import as_rows

Push = Callable[[dict[int, int], Inject], list[Tensor | None]]
SHAPES = 256
"""Deliveries are kept for so many combinations of shapes: sentences come in many lengths."""


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

    @property
    def own(self) -> list[Layout]:
        """The layouts of the points that receive a signal here."""
        return [layout for layout in self.layouts if layout is not None]

    def error(self, gradients: Sequence[Tensor | None]) -> Tensor:
        """Return the error ``[N, C]``: the gradients at the output's tensors, side by side."""
        if len(gradients) == 1 and gradients[0] is not None:
            return gradients[0].reshape(self.rows, self.sizes[0])
        some = next(gradient for gradient in gradients if gradient is not None)
        return torch.cat(
            [
                some.new_zeros(self.rows, size) if gradient is None else gradient.reshape(self.rows, size)
                for gradient, size in zip(gradients, self.sizes, strict=True)
            ],
            dim=1,
        )

    def shaped(self, signals: Sequence[Tensor]) -> list[Tensor | None]:
        """Return one signal an arrival that trains, in the point's shape; ``None`` where it is not served here."""
        flat = iter(signals)
        found = [None if layout is None else layout.unflatten(next(flat)) for layout in self.layouts]
        return [signal for signal, trains in zip(found, self.trains, strict=True) if trains]

    def norms(self, signals: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the norm of the signal that each point receives, by name."""
        found: dict[str, Tensor] = {}
        of: dict[int, Tensor] = {}
        training = [trains for layout, trains in zip(self.layouts, self.trains, strict=True) if layout is not None]
        for layout, signal, trains in zip(self.own, signals, training, strict=True):
            if not trains:
                continue
            # Points of one width may share one tensor: its norm is taken once.
            norm = of.get(id(signal))
            if norm is None:
                norm = of[id(signal)] = torch.linalg.vector_norm(signal.detach())
            site = layout.site
            if signal.numel() == self.rows * site.columns != self.rows * site.width:
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
    layouts: dict[str, Layout] = field(default_factory=dict)
    """How each point was matched to the error when it last ran; not filled under ``torch.compile``."""
    silent: set[str] = field(default_factory=set)
    """Those of them that have nothing to train below, and so receive no signal."""
    error_width: int | None = None
    _learned: list[str] = field(default_factory=list)
    _deliveries: dict[Any, list[Delivery]] = field(default_factory=dict)
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
        key = (tuple(recording.arrivals), tuple(recording.outputs))
        if key not in self._deliveries:
            recording.check()
            if len(self._deliveries) >= SHAPES:
                self._deliveries.clear()
            self._deliveries[key] = self._make(recording)
        return self._deliveries[key]

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
        for index, output in enumerate(recording.outputs):
            rows, sizes = rows_and_sizes([facts.shape for facts in output.tensors])
            arrivals = recording.arrivals[: output.before]
            matched = [
                match(recording.key(arrival), arrival.shape, arrival.dtype, rows, self.rule.feedback)
                if arrival.planner == self.number and recording.belongs(arrival, index)
                else None
                for arrival in arrivals
            ]
            trains = tuple(arrival.trains for arrival in arrivals)
            # What a relaying rule sends through a point goes on from there, whether it trains anything or not.
            wanted = tuple(
                layout if arrival.trains or self.rule.relays else None
                for layout, arrival in zip(matched, arrivals, strict=True)
            )
            project = self._project([layout for layout in matched if layout], wanted, sum(sizes), output.tensors[0])
            if not torch.compiler.is_compiling() and any(wanted):
                heard = {layout.site.key for layout, each in zip(wanted, trains, strict=True) if layout and each}
                self.silent = {layout.site.key for layout in matched if layout} - heard
            made.append(Delivery(self.rule, prod(rows), sizes, wanted, trains, project))
        return made

    def _project(self, layouts: list[Layout], wanted: Sequence[Layout | None], width: int, facts: Facts) -> Projection:
        sites = tuple(layout.site for layout in wanted if layout)
        if not sites:
            return lambda error: []
        self.rule.feedback.check(sites, width)
        if self.rule.learns and torch.compiler.is_compiling():
            raise SignalError(
                f"{type(self.rule).__name__} learns its feedback, which is not supported under torch.compile. Train in "
                "eager mode, or choose a rule with fixed feedback."
            )
        widest = self.widest(layouts)
        if not torch.compiler.is_compiling():
            self._remember(layouts, width)
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

    def _remember(self, layouts: list[Layout], width: int) -> None:
        """Raise if a matrix would not be the one that the point has learnt with so far."""
        before = max((layout.site.columns for layout in self.layouts.values()), default=0)
        for layout in layouts:
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
        if self.error_width not in (None, width):
            raise SignalError(
                f"The output was {self.error_width} wide and now is {width}, so every feedback matrix would be another "
                "one. Attach again for an output of another width, or name a module with output=."
            )
        self.error_width = width
        self.layouts.update({layout.site.key: layout for layout in layouts})


def _when_used(make: Callable[[], Projection]) -> Projection:
    """Draw no numbers before an error arrives: a forward pass may never see one, or another projection serves it."""
    made: list[Projection] = []

    def project(error: Tensor) -> list[Tensor]:
        if not made:
            made.append(make())
        return made[0](error)

    return project


def rows_and_sizes(shapes: Sequence[torch.Size]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the leading dimensions that the output's tensors share, and the width of each.

    Raises:
        SignalError: Their rows differ, so they form no one error.
    """
    found = [error_shape(shape) for shape in shapes]
    rows = found[0][0]
    if any(other != rows for other, _ in found):
        raise SignalError(
            "The output is made of several tensors whose rows differ, so they form no one error:\n"
            f"{listing(str(tuple(shape)) for shape in shapes)}\n"
            "Name the module whose output carries the error, such as output='head'."
        )
    return rows, tuple(size for _, size in found)
