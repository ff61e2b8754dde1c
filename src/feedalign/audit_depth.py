"""The numbers of an audit: what is known of each depth, of a batch, and the rows they are gathered from."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from feedalign.alignment import Cosine, summed
from feedalign.cosine import as_real

ENOUGH = 8
"""Rows from which on a unit that never changes is called dead."""
NAN = float("nan")


@dataclass(frozen=True)
class Depth:
    """One point (or layer, for rules that transport through layers) of one batch. NaN where nothing was measured."""

    name: str
    alignment: Cosine | None = None
    """Of the signal with the true gradient, row by row; see :func:`feedalign.alignment`."""
    descent: float = NAN
    """Cosine, in [-1, 1], of the gradients that the rule and backpropagation give the parameters of the block that
    ends here, over the whole batch. A step along it descends where this is positive."""
    activation: float = NAN
    """Mean norm of a row of the output."""
    signal: float = NAN
    """Mean norm of a row of what is delivered, over the rows that have an error."""
    truth: float = NAN
    """The same of the true gradient."""
    units: int = 0
    """Numbers a row of the output has."""
    dead: float = NAN
    """Share of the units that are the same for all rows (at a layer also: whose true gradient is zero for all)."""
    nothing: str = ""
    """Why it receives nothing; empty if it does."""
    flattened: bool = False
    """Whether it is an image with numbers of its own for every position, where ``positions="repeat"`` is a choice."""

    @property
    def ratio(self) -> float:
        """The size of the signal over that of the true gradient."""
        return self.signal / self.truth if self.truth > 0 else NAN


@dataclass(frozen=True)
class Batch:
    """What one batch showed."""

    depths: tuple[Depth, ...]
    rows: int
    zero_error: int
    """Rows whose error is zero: masked, or fitted exactly."""
    descent: float
    """As in :class:`Depth`, over all parameters of the model."""
    calls: dict[tuple[str, int], str] = field(default_factory=dict)
    """The name in ``depths`` of each call of a point."""

    def growth(self, what: str) -> float:
        """Return by what factor a size changes from the first depth to the last; NaN if there are not two.

        Args:
            what: ``"activation"`` (of one unit, since widths differ), ``"signal"`` or ``"truth"`` (of a row).
        """
        measured = [depth for depth in self.depths if depth.units]
        found = [getattr(d, what) / (d.units**0.5 if what == "activation" else 1) for d in measured]
        found = [size for size in found if size > 0 and math.isfinite(size)]
        return found[-1] / found[0] if len(found) > 1 else NAN


@dataclass
class Rows:
    """The rows of one depth while they are gathered, ``[N, D]`` each; a depth that runs several times has several."""

    activations: list[Tensor] = field(default_factory=list)
    signals: list[Tensor] = field(default_factory=list)
    truths: list[Tensor] = field(default_factory=list)
    having: list[Tensor] = field(default_factory=list)
    """Which rows have an error, ``[N]``."""

    def add(self, activation: Tensor, signal: Tensor, truth: Tensor, has_error: Tensor) -> None:
        """Take in one run, tensors of the place's shape; ``has_error [N]`` says into how many rows they fall."""
        rows = len(has_error)
        self.activations.append(as_real(activation.detach()).reshape(rows, -1).double())
        self.signals.append(as_real(signal.detach()).reshape(rows, -1).double())
        self.truths.append(as_real(truth).reshape(rows, -1).double())
        self.having.append(has_error)

    def depth(self, name: str, descent: float, layer: bool, flattened: bool) -> Depth:
        """Return what the rows show; ``layer`` says that they are those in front of a non-linearity."""
        has_error = torch.cat(self.having)
        activation, signal, truth = (
            torch.cat([rows.norm(dim=1) for rows in kind]) for kind in (self.activations, self.signals, self.truths)
        )
        products = torch.cat([(a * b).sum(1) for a, b in zip(self.signals, self.truths, strict=True)])
        received = signal[has_error].mean().item()
        return Depth(
            name,
            summed((products / (signal * truth))[has_error], int((~has_error).sum())),
            descent,
            activation.mean().item(),
            received,
            truth[has_error].mean().item(),
            self.activations[0].shape[1],
            self._dead(layer),
            "its signal is zero" if received == 0 else "",
            flattened,
        )

    def _dead(self, layer: bool) -> float:
        if len({rows.shape[1] for rows in self.activations}) > 1:
            return NAN  # sequences of several lengths have no units to compare
        activations, truths = torch.cat(self.activations), torch.cat(self.truths)
        if len(activations) < ENOUGH:
            return NAN
        dead = (activations == activations[0]).all(0)
        if layer:  # in front of its non-linearity, so that a dead one shows in the gradient
            dead |= (truths == 0).all(0)
        return dead.double().mean().item()
