"""From the error that arrives at an output to one signal a point: flatten, apply the rule, give each its shape."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from feedalign.errors import SignalError, listing
from feedalign.feedback import Projection, Site, dense
from feedalign.layout import Layout, error_shape, match
from feedalign.recording import Facts, Recording
from feedalign.rules import BroadcastRule

SHAPES = 256
"""Deliveries are kept for so many combinations of shapes: sentences come in many lengths."""


@dataclass(frozen=True)
class Delivery:
    """Everything that one output needs to turn its error into the signals of its points."""

    rule: BroadcastRule
    rows: int
    """``N``"""
    sizes: tuple[int, ...]
    """Width of each tensor of the output; they add up to ``C``."""
    layouts: tuple[Layout | None, ...]
    """One an arrival that trains; ``None`` if it belongs to another output."""
    project: Projection

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

    def signals(self, error: Tensor) -> Sequence[Tensor]:
        """Return the rule's signals ``[N, D_i]`` for the points that belong to this output."""
        return self.rule.signals(error, self.project)

    def shaped(self, signals: Sequence[Tensor]) -> list[Tensor | None]:
        """Return one signal an arrival, in the point's shape; ``None`` where it belongs to another output."""
        flat = iter(signals)
        return [None if layout is None else layout.unflatten(next(flat)) for layout in self.layouts]

    def pull(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return one signal an arrival for the gradients at the output's tensors: all in one."""
        return self.shaped(self.signals(self.error(gradients)))

    def norms(self, signals: Sequence[Tensor]) -> dict[str, Tensor]:
        """Return the norm of the signal that each point receives, by name."""
        found: dict[str, Tensor] = {}
        of: dict[int, Tensor] = {}
        for layout, signal in zip(filter(None, self.layouts), signals, strict=True):
            # Points of one width may share one tensor: its norm is taken once.
            norm = of.get(id(signal))
            if norm is None:
                norm = of[id(signal)] = torch.linalg.vector_norm(signal.detach())
            site = layout.site
            if site.width != site.columns:
                norm = norm * (site.width / site.columns) ** 0.5
            found[site.key] = torch.hypot(found[site.key], norm) if site.key in found else norm
        return found


@dataclass
class Planner:
    """Makes the deliveries of a recording, and keeps those made, with their matrices, by shapes."""

    rule: BroadcastRule
    layouts: dict[str, Layout] = field(default_factory=dict)
    """How each point was matched to the error when it last ran; not filled under ``torch.compile``."""
    silent: set[str] = field(default_factory=set)
    """Those of them that have nothing to train below, and so receive no signal."""
    error_width: int | None = None
    _deliveries: dict[Any, list[Delivery]] = field(default_factory=dict)
    _matrices: dict[Any, Tensor] = field(default_factory=dict)

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
        sites = tuple(layout.site for layout in self.layouts.values())
        like = Facts(torch.Size(), torch.float64, torch.device("cpu"))
        project = self.rule.feedback.projection(sites, self.widest(), partial(self._dense, self.error_width, like))
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
                if recording.belongs(arrival, index)
                else None
                for arrival in arrivals
            ]
            wanted = tuple(layout for layout, arrival in zip(matched, arrivals, strict=True) if arrival.trains)
            project = self._project([layout for layout in matched if layout], wanted, sum(sizes), output.tensors[0])
            made.append(Delivery(self.rule, prod(rows), sizes, wanted, project))
        return made

    def _project(self, layouts: list[Layout], wanted: Sequence[Layout | None], width: int, facts: Facts) -> Projection:
        sites = tuple(layout.site for layout in wanted if layout)
        if not sites:
            return lambda error: []
        widest = self.widest(layouts)
        if not torch.compiler.is_compiling():
            self._remember(layouts, width)
            self.silent = {layout.site.key for layout in layouts} - {site.key for site in sites}
        return self.rule.feedback.projection(sites, widest, partial(self._dense, width, facts))

    def _dense(self, width: int, like: Facts, parts: tuple[tuple[str, int, float], ...]) -> Tensor:
        key = (parts, width, like.dtype, like.device)
        if not torch.compiler.is_compiling() and key in self._matrices:
            return self._matrices[key]
        matrix: Tensor = dense(self.rule.feedback, self.rule.seed, parts, width, like.dtype, like.device)
        if not torch.compiler.is_compiling():
            self._matrices[key] = matrix
        return matrix

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
