"""The abstract feedback: which numbers carry the error to the points, and how they are scaled and shared.

Letters, here and in the families: ``N`` rows (samples, tokens, nodes), ``C`` width of the error, ``D`` columns
of a point's matrix.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Projection = Callable[[Tensor], list[Tensor]]


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

    @abstractmethod
    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return a CPU matrix ``[rows, columns]`` whose entries have variance of order one."""

    def matrix(self, seed: int, key: str, rows: int, columns: int) -> Tensor:
        """Return the unscaled matrix ``[rows, columns]`` that belongs to (seed, key, shape), on the CPU."""
        digest = hashlib.sha256(f"{seed}/{key}/{rows}x{columns}".encode()).digest()
        # 63 bits: what torch.Generator takes on every platform.
        generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        with torch.device("cpu"):  # whatever the user's default device is
            return self.draw(rows, columns, generator)

    def factor(self, site: Site, widest: Site) -> float:
        """Return what a site's numbers are multiplied by: ``gain`` over the root of the width."""
        width = site.width if self.scale == "point" else widest.width
        return self.gain / math.sqrt(width)

    def projection(
        self, seed: int, sites: tuple[Site, ...], widest: Site, rows: int, dtype: torch.dtype, device: torch.device
    ) -> Projection:
        """Return the function that maps an error ``[N, C]`` to one signal ``[N, D_i]`` per site.

        Args:
            seed: Seed of the rule.
            sites: The points, in the order in which signals are wanted. A key may occur several times.
            widest: The most columns and the largest width among all points, those that want no signal included.
            rows: ``C``, the width of the error.
            dtype: Type of the error.
            device: Device of the error.
        """
        factors = [self.factor(site, widest) for site in sites]
        if not self.shared:
            return self._separate(seed, sites, rows, factors, dtype, device)
        # The widest point's factor is in the matrix, so that the largest signal is the product itself, uncopied.
        largest = self.factor(widest, widest)
        matrix = dense(self, seed, (("shared", widest.columns, largest),), rows, dtype, device)
        ratios = [factor / largest for factor in factors]

        def project(error: Tensor) -> list[Tensor]:
            product = error @ matrix
            # Points of one width receive the very same tensor.
            made: dict[tuple[int, float], Tensor] = {}
            for site, ratio in zip(sites, ratios, strict=True):
                if (site.columns, ratio) not in made:
                    signal = product if site.columns == widest.columns else product[:, : site.columns]
                    made[site.columns, ratio] = signal if ratio == 1 else signal * ratio
            return [made[site.columns, ratio] for site, ratio in zip(sites, ratios, strict=True)]

        return project

    def _separate(
        self,
        seed: int,
        sites: tuple[Site, ...],
        rows: int,
        factors: list[float],
        dtype: torch.dtype,
        device: torch.device,
    ) -> Projection:
        parts = tuple(
            dict.fromkeys((site.key, site.columns, factor) for site, factor in zip(sites, factors, strict=True))
        )
        matrix = dense(self, seed, parts, rows, dtype, device)
        columns = [part[1] for part in parts]
        places = [parts.index((site.key, site.columns, factor)) for site, factor in zip(sites, factors, strict=True)]

        def project(error: Tensor) -> list[Tensor]:
            signals = (error @ matrix).split(columns, dim=1)
            return [signals[place] for place in places]

        return project


# Under torch.compile the numbers are constants of the graph: drawing them is not to be traced.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def dense(
    feedback: Feedback,
    seed: int,
    parts: tuple[tuple[str, int, float], ...],
    rows: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Return the matrices of ``parts`` (key, columns, factor) side by side, ``[rows, sum of columns]``."""
    # Nor are they part of what torch.func differentiates or maps over, or torch.inference_mode freezes.
    with torch._C._DisableFuncTorch(), torch.inference_mode(mode=False), torch.no_grad():
        matrices = [feedback.matrix(seed, key, rows, columns) * factor for key, columns, factor in parts]
        return torch.cat(matrices, dim=1).to(device=device, dtype=dtype)
