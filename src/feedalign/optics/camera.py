"""A camera: photons arrive one by one, the electronics add noise, the well overflows, the converter has few bits."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from feedalign.optics.noise import Noise

EXACT = 16.0
"""Means below which a Poisson number is drawn by inverting its distribution."""


@dataclass(frozen=True)
class Camera:
    r"""Counts of a frame: :math:`c = q\,\mathrm{clip}(\mathrm{round}((\mathrm{Poisson}(I) + \sigma_r g)/q))`.

    The step of the converter is :math:`q = FW/(2^b - 1)`, and counts end at the full well :math:`FW`.

    The defaults are round numbers, not those of a data sheet: a full well of ten times the light that
    :class:`feedalign.Optical` uses, so that hardly a pixel saturates, at eight bits.

    Args:
        full_well: ``FW``, photoelectrons at which a pixel saturates.
        read_noise: Standard deviation of the electronics, in photoelectrons.
        bits: Of the converter.
        dark: Dark current, in photoelectrons per exposure.

    Raises:
        ValueError: A number is out of range.
    """

    full_well: float = 13_000.0
    read_noise: float = 10.0
    bits: int = 8
    dark: float = 0.0

    def __post_init__(self) -> None:
        if not (self.full_well > 0 and math.isfinite(self.full_well)):
            raise ValueError(f"full_well expected a number of photoelectrons above 0, found {self.full_well}.")
        if self.read_noise < 0 or self.dark < 0:
            raise ValueError(
                f"read_noise and dark expected photoelectrons of at least 0, found {self.read_noise} and {self.dark}."
            )
        if not 1 <= self.bits <= 24:
            raise ValueError(f"bits expected 1 to 24, found {self.bits}.")

    @property
    def step(self) -> float:
        """``q``, photoelectrons per count."""
        return self.full_well / ((1 << self.bits) - 1)

    @property
    def floor(self) -> float:
        """Variance of a dark pixel in photoelectrons squared: read noise, dark current and rounding."""
        return self.read_noise * self.read_noise + self.dark + self.step * self.step / 12

    def counts(self, intensity: Tensor, noise: Noise, frame: int) -> Tensor:
        """Return what the camera reads, in photoelectrons, ``[N, D]``.

        Args:
            intensity: Mean photoelectrons ``[N, D]``.
            noise: Of the rows.
            frame: The number of the frame.
        """
        shot, read = noise.pair(intensity.shape[1], frame, intensity.dtype)
        electrons = poisson(intensity + self.dark if self.dark else intensity, shot)
        electrons += read.mul_(self.read_noise)
        # Dividing by the step in the type of the numbers, and multiplying back, as a converter and its driver do.
        return electrons.div_(self.step).round_().clamp_(0, 2**self.bits - 1).mul_(self.step)

    def saturated(self, mean: float) -> float:
        r"""Return the fraction of a speckle frame's pixels that overflow, :math:`e^{-FW/n}`.

        Args:
            mean: ``n``, mean photoelectrons per pixel.
        """
        return math.exp(-self.full_well / mean)


def poisson(mean: Tensor, normal: Tensor) -> Tensor:
    """Return Poisson numbers made from standard normal ones, so that they follow from whatever those follow from.

    Below :data:`EXACT` by inversion; above by the normal limit with the third moment's correction
    (Cornish and Fisher 1938), whose mean, variance and skewness are those of the distribution.

    Args:
        mean: ``[...]``, at least 0.
        normal: Standard normal numbers of the same shape.
    """
    found = mean.sqrt().mul_(normal).add_(mean)
    found.add_(normal.square().sub_(1).div_(6))
    few = (mean < EXACT).nonzero(as_tuple=True)
    if len(few[0]):
        found[few] = _inverted(mean[few], normal[few])
    return found


def _inverted(mean: Tensor, normal: Tensor) -> Tensor:
    uniform = torch.special.ndtr(normal)
    term = torch.exp(-mean)
    total, found = term.clone(), torch.zeros_like(mean)
    for number in range(1, int(EXACT + 8 * math.sqrt(EXACT)) + 1):
        above = uniform > total
        found += above
        term = term * mean / number
        total += term
    return found
