"""How a signed error is shown on a modulator whose mirrors are either on or off.

Letters: ``N`` rows, ``C`` width of the error.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Relative = Literal["max", "rms"]


class Encoded(NamedTuple):
    """An error as integers: ``error`` is about ``scale * integers``, exactly so where it has few enough levels."""

    scale: Tensor
    """``[N, 1]``, in the type of the error; 0 for a row of zeros."""
    integers: Tensor
    """``int64 [N, C]`` between ``-(2**bits - 1)`` and ``2**bits - 1``."""
    bits: int
    """Bit planes of each sign: 1 for signs and for three levels."""
    signs: bool = False
    """Whether no entry is 0 but in rows of zeros, so that one frame per row and one that is known will do."""

    def planes(self) -> list[tuple[float, Tensor]]:
        """Return frames and what each counts: ``integers`` is the sum of ``weight * frame``, but for signs.

        Two frames per bit, ``bool [N, C]``: where the integer is positive and where it is negative. For signs one
        frame of weight 2, from which the projection of a frame of ones is to be taken.
        """
        if self.signs:
            return [(2.0, self.integers > 0)]
        size = self.integers.abs()
        found = []
        for bit in range(self.bits):
            on = (size >> bit) & 1 == 1
            found += [(2.0**bit, on & (self.integers > 0)), (-(2.0**bit), on & (self.integers < 0))]
        return found


def bits_of(levels: int) -> int:
    """Return the bit planes of each sign that an encoding with this number of levels needs.

    Raises:
        ValueError: ``levels`` is neither 2 (signs) nor one less than a power of two (3, 7, 15, ...).
    """
    if levels == 2:
        return 1
    bits = (levels + 1).bit_length() - 2
    if levels < 3 or levels != 2 ** (bits + 1) - 1:
        raise ValueError(
            f"levels expected 2 (signs), 3 (ternary) or more in bit planes (7, 15, 31, ...), found {levels}."
        )
    return bits


def encode(error: Tensor, levels: int = 3, threshold: float = 0.25, relative: Relative = "max") -> Encoded:
    r"""Return the error rounded to few levels.

    ===========  ==================================================  ==============  =======================
    levels       integers                                            frames per row  exact for
    ===========  ==================================================  ==============  =======================
    2            the sign; 0 counts as positive                      1               ``SignDFA``
    3            the sign where :math:`|e| > \theta`, else 0         2               ``TernaryDFA``, ``DRTP``
    2^(k+1) - 1  :math:`\mathrm{round}(e\,(2^k - 1) / \max|e|)`      2k              integers up to 2^k - 1
    ===========  ==================================================  ==============  =======================

    The scale is the one closest to the error in the least squares sense for 2 and 3 levels (the mean of the sizes of
    what is kept), and the step between levels for more.

    Args:
        error: ``e [N, C]``.
        levels: 2, 3, 7, 15, 31, ...
        threshold: Half width of the dead zone of three levels, as a fraction.
        relative: Of what: the ``"max"`` of the row's sizes, or its root mean square, ``"rms"``, which suits wide dense
            errors. The best threshold for Gaussian errors is 0.612 of it (Lloyd 1982, Max 1960).

    Raises:
        ValueError: ``levels`` is none of these.
    """
    bits = bits_of(levels)
    size = error.abs()
    largest = size.amax(1, keepdim=True)
    # An error that is not finite has no levels: its scale is NaN, so that it is not taken for a row of zeros.
    invalid = 0 * largest
    if levels == 2:
        integers = torch.where(error >= 0, 1, -1) * (largest > 0)
        return Encoded(size.mean(1, keepdim=True) + invalid, integers, bits, signs=True)
    if levels == 3:
        reference = largest if relative == "max" else size.square().mean(1, keepdim=True).sqrt()
        kept = size > threshold * reference
        mean = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        return Encoded(mean + invalid, error.sign().to(torch.int64) * kept, bits)
    steps = 2**bits - 1
    ratio = error / torch.where(largest > 0, largest, torch.ones_like(largest))
    return Encoded(largest / steps + invalid, (ratio * steps).round().to(torch.int64), bits)


def ternary_cosine(threshold: float) -> float:
    r"""Return the cosine between a Gaussian error and its three levels.

    :math:`2 \varphi(\theta) / \sqrt{2 Q(\theta)}` with the density :math:`\varphi` and the tail :math:`Q` of the
    standard normal distribution; for signs, :math:`\theta = 0`, it is :math:`\sqrt{2/\pi}`.

    Args:
        threshold: :math:`\theta`, half width of the dead zone in standard deviations.
    """
    density = math.exp(-(threshold**2) / 2) / math.sqrt(2 * math.pi)
    tail = math.erfc(threshold / math.sqrt(2)) / 2
    return 2 * density / math.sqrt(2 * tail)
