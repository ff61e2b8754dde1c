"""The abstract feedback: which numbers carry the error to the points, and how they are scaled and shared.

Letters, here and in the families: ``N`` rows (samples, tokens, nodes), ``C`` width of the error, ``D`` columns
of a point's matrix.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

Projection = Callable[[Tensor], list[Tensor]]
Parts = tuple[tuple[str, int, float], ...]
"""Matrices side by side: the key, the columns and the factor of each."""
Kept = tuple[Tensor, ...]
"""What a projection keeps from batch to batch: a matrix, or whatever it can do with instead of one."""


class Site(NamedTuple):
    """What a feedback matrix is made for: one point, as far as the numbers are concerned."""

    key: str
    """The point's name: with the seed and the shape it decides every number of the matrix."""
    columns: int
    """``D``: features of the point, or its channels when the signal is repeated over positions."""
    width: int
    """All features of the point, positions included: what ``scale`` divides by."""


@dataclass(frozen=True)
class Feedback(ABC):
    r"""Fixed random matrices :math:`B_i` of shape ``[C, D_i]``, one family of numbers a subclass.

    A matrix is a pure function of (seed, point name, shape). It is the same in every process, on every rank and
    device and whatever the global random number generator does; so it needs no place in a checkpoint.

    A family implements :meth:`draw`. One that can project without storing the matrix also overrides :meth:`keep` and
    :meth:`product`, which belong together.

    Args:
        shared: ``True`` draws one matrix as wide as the widest point and gives each point its first ``D_i``
            columns, so one product serves all points (Launay et al. 2020). ``False`` draws one per point.
        scale: ``"point"`` divides by the square root of the point's own width (the text of Launay et al. 2020);
            ``"widest"`` by that of the widest point (their code), which leaves narrow points with weak signals.
        gain: A further factor.
        positions: For points with positions (images, and tokens when the error has none). ``"flatten"`` draws
            numbers for every feature at every position. ``"repeat"`` draws them per channel and repeats the
            signal over positions, which suits layers that share weights over positions, and lets their number
            vary. The norm of a signal is the same either way.
        channel: The dimension that holds the channels for ``"repeat"``. By default dimension 1 of tensors with
            four or more dimensions (images) and the last of those with three (tokens).

    Raises:
        ValueError: An option has a value that is not listed.
    """

    deferred: ClassVar[bool] = False
    """Whether a projection takes a while outside of this process, so that it is begun early and waited for late."""
    eager: ClassVar[str] = ""
    """Why it needs eager mode; empty if ``torch.compile`` can take it."""

    shared: bool = True
    scale: Literal["point", "widest"] = "point"
    gain: float = 1.0
    positions: Literal["flatten", "repeat"] = "flatten"
    channel: int | None = None

    def __post_init__(self) -> None:
        for option, value, allowed in (
            ("scale", self.scale, ("point", "widest")),
            ("positions", self.positions, ("flatten", "repeat")),
        ):
            if value not in allowed:
                raise ValueError(f"{option} must be one of {', '.join(map(repr, allowed))}; found {value!r}.")
        if not math.isfinite(self.gain) or self.gain == 0:
            raise ValueError(f"gain must be a number other than 0, which would deliver nothing; found {self.gain!r}.")

    @abstractmethod
    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return a CPU matrix ``[rows, columns]`` whose entries have variance of order one."""

    def matrix(self, seed: int, key: str, rows: int, columns: int) -> Tensor:
        """Return the unscaled matrix ``[rows, columns]`` that belongs to (seed, key, shape), on the CPU."""
        with torch.device("cpu"):  # whatever the user's default device is
            return self.draw(rows, columns, seeded(seed, key, rows, columns))

    def scaled(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype) -> Tensor:
        """Return the scaled matrices side by side, ``[rows, sum of columns]``, on the CPU."""
        made = [self._scaled(seed, part, rows, dtype) for part in parts]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)

    def _scaled(self, seed: int, part: tuple[str, int, float], rows: int, dtype: torch.dtype) -> Tensor:
        key, columns, factor = part
        matrix = self.matrix(seed, key, rows, columns)
        # In the wider of the two types, so that the product with the factor is rounded once.
        return (matrix.to(torch.promote_types(matrix.dtype, dtype)) * factor).to(dtype)

    def keep(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
        """Return what :meth:`product` needs for errors ``[N, rows]`` of this type on this device: here the matrix."""
        return (self.scaled(seed, parts, rows, dtype).to(device),)

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return ``error [N, C]`` times the scaled matrices side by side, ``[N, sum of columns]``."""
        return error @ kept[0]

    def check(self, sites: tuple[Site, ...], rows: int) -> None:  # noqa: B027 - most have nothing to check
        """Raise if points cannot be served for errors ``[N, rows]``. Asked in the forward pass, for every new shape.

        Args:
            sites: The points.
            rows: ``C``.
        """

    def prefetch(self, error: Tensor) -> None:  # noqa: B027 - most need no time
        """Begin with an error whose :meth:`product` will be asked for. Only for families that are ``deferred``."""

    def notes(self) -> list[str]:
        """Return lines for the table of an attachment."""
        return []

    def factor(self, width: int, widest: int) -> float:
        """Return what the numbers of a point are multiplied by: ``gain`` over the root of a width."""
        return self.gain / math.sqrt(width if self.scale == "point" else widest)

    def projection(self, sites: tuple[Site, ...], widest: Site, keep: Callable[[Parts], Kept]) -> Projection:
        """Return the function that maps an error ``[N, C]`` to one signal ``[N, D_i]`` per site.

        Args:
            sites: The points, in the order in which signals are wanted. A key may occur several times.
            widest: The most columns and the largest width among all points, those that want no signal included.
            keep: Returns what :func:`kept` does for these parts; whoever calls may store it.
        """
        own = dict.fromkeys((site.key, site.columns) for site in sites)
        places = [("shared", widest.columns)] if self.shared else list(own)
        # The factor is in the matrix, so that no signal is copied; but not where it counts positions, whose number
        # may vary from batch to batch.
        parts = tuple((key, columns, self.factor(columns, widest.columns)) for key, columns in places)
        numbers = keep(parts)
        starts = [0, *accumulate(columns for _, columns in places)]
        cuts = []
        for site in sites:
            place = 0 if self.shared else places.index((site.key, site.columns))
            ratio = self.factor(site.width, widest.width) / parts[place][2]
            cuts.append((starts[place], site.columns, ratio))
        # Points of one width that share a matrix receive the very same tensor.
        distinct = list(dict.fromkeys(cuts))

        def project(error: Tensor) -> list[Tensor]:
            product = self.product(error, parts, numbers)
            made: dict[tuple[int, int, float], Tensor] = {}
            for start, columns, ratio in distinct:
                signal = product if columns == product.shape[1] else product[:, start : start + columns]
                made[start, columns, ratio] = signal if ratio == 1 else signal * ratio
            return [made[cut] for cut in cuts]

        return project


def seeded(seed: int, key: str, rows: int, columns: int) -> torch.Generator:
    """Return the generator that every number of one matrix comes from."""
    digest = hashlib.sha256(f"{seed}/{key}/{rows}x{columns}".encode()).digest()
    # 63 bits: what torch.Generator takes on every platform.
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@contextmanager
def drawing() -> Iterator[None]:
    """Draw on the CPU, out of sight of what torch.func differentiates or maps over, or inference mode freezes."""
    with torch._C._DisableFuncTorch(), torch.inference_mode(mode=False), torch.no_grad(), torch.device("cpu"):
        yield


def kept(feedback: Feedback, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
    """Return what a projection of errors ``[N, rows]`` keeps, :meth:`Feedback.keep`."""
    with drawing():
        return feedback.keep(seed, parts, rows, dtype, device)


def dense(feedback: Feedback, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the scaled matrices side by side, ``[rows, sum of columns]``, for rules that need them as such."""
    with drawing():
        return feedback.scaled(seed, parts, rows, dtype).to(device)
