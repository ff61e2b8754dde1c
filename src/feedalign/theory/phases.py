"""The two phases of learning with fixed feedback, read off the curves of a run: first align, then memorise."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WINDOW = 5  # samples: what stands out for two of them is noise
EXIT, HALF = 0.9, 0.5  # of the error at the start
RISEN = 0.9  # of the way up
DEVIATIONS = 4.0  # of the noise: smoothed, that of a hundred samples spans less than three

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Phases:
    """When a run aligned and when it learned, in the unit of the times; None where there is no such moment."""

    rise_time: float | None
    """When the alignment had come nine tenths of the way from its start to its highest value. Where the peak is broad,
    it says better than ``peak_time`` when alignment was reached. None where it never rose."""
    peak_time: float | None
    """When the alignment was highest. None where it never rose, or never fell again."""
    peak_alignment: float | None
    """The alignment then, in [-1, 1]."""
    half_time: float | None
    """When the error had fallen to half of what it was at the start."""
    plateau_exit: float | None
    """When it had fallen to nine tenths: the end of the first phase."""
    final_alignment: float
    """The alignment at the end."""

    @property
    def aligned_first(self) -> bool:
        """Whether the alignment had risen before the error had fallen to half."""
        return self.rise_time is not None and (self.half_time is None or self.rise_time < self.half_time)


Curve = Sequence[float] | Array


def phases(times: Curve, alignment: Curve, error: Curve, least: float = 0.005) -> Phases:
    """Find the phases of one run.

    Both curves are smoothed by a running median over five samples, which leaves steps where they are and drops single
    outliers. A peak is the highest place of the alignment, if the curve rises to it and falls after it by more than
    its noise (and by more than ``least``). The noise is estimated from the second differences of the curve: take
    samples dense enough for the curve itself to be nearly straight over three of them. A curve passes a level where it
    first does, by linear interpolation.

    Args:
        times: ``[n]``, increasing: steps, epochs, or steps over the input dimension.
        alignment: ``[n]``, cosines.
        error: ``[n]``, not negative; the first value is that before learning.
        least: A cosine: a rise or a fall by less is none.

    Raises:
        ValueError: The curves differ in length, have fewer than five samples, hold numbers that are not finite, or
            the times do not increase.
    """
    time, cosine, fall = _checked(times, alignment, error)
    smooth, level = running_median(cosine), running_median(fall)
    least = max(least, DEVIATIONS * noise(cosine))
    peak, rise = _peak(smooth, least), float(smooth.max() - smooth[0])
    return Phases(
        rise_time=None if rise <= least else first_below(time, -smooth, -(smooth[0] + RISEN * rise)),
        peak_time=None if peak is None else float(time[peak]),
        peak_alignment=None if peak is None else float(smooth[peak]),
        half_time=first_below(time, level, HALF * fall[0]),
        plateau_exit=first_below(time, level, EXIT * fall[0]),
        final_alignment=float(smooth[-1]),
    )


def _checked(times: Curve, alignment: Curve, error: Curve) -> tuple[Array, Array, Array]:
    time, cosine, fall = (np.asarray(curve, dtype=np.float64) for curve in (times, alignment, error))
    if not (time.ndim == 1 and time.shape == cosine.shape == fall.shape and len(time) >= WINDOW):
        raise ValueError(
            f"Expected three curves of one length, {WINDOW} samples or more, found shapes {time.shape}, "
            f"{cosine.shape} and {fall.shape}. Record all three at the same times."
        )
    for name, curve in (("times", time), ("alignment", cosine), ("error", fall)):
        if not np.isfinite(curve).all():
            raise ValueError(
                f"Expected finite numbers, found {curve[~np.isfinite(curve)][0]} in {name}. Leave out such samples."
            )
    if (np.diff(time) <= 0).any():
        raise ValueError("Expected times that increase, found some that do not. Sort the samples by time.")
    return time, cosine, fall


def _peak(smooth: Array, least: float) -> int | None:
    peak = int(np.argmax(smooth))
    rise, fall = smooth[peak] - smooth[: peak + 1].min(), smooth[peak] - smooth[-1]
    return peak if min(rise, fall) > least else None


def running_median(curve: Array) -> Array:
    """Return the median of each sample, its two neighbours to the left and to the right; fewer near the ends."""
    n, reach = len(curve), WINDOW // 2
    # The window shrinks symmetrically, so that the ends of a monotone curve stay where they are.
    return np.array([np.median(curve[i - r : i + r + 1]) for i in range(n) for r in [min(reach, i, n - 1 - i)]])


def noise(curve: Array) -> float:
    """Return a robust estimate of the standard deviation of independent noise on a smooth curve."""
    bends = np.diff(curve, 2)  # variance 1 + 4 + 1 times that of the noise
    return float(np.median(np.abs(bends)) / (0.6745 * np.sqrt(6)))


def first_below(times: Array, curve: Array, level: float) -> float | None:
    """Return when the curve first passes below a level, by linear interpolation; None if it never does."""
    below = np.flatnonzero(curve <= level)
    if not len(below):
        return None
    after = int(below[0])
    if after == 0:
        return float(times[0])
    high, low = curve[after - 1], curve[after]
    return float(times[after - 1] + (times[after] - times[after - 1]) * (high - level) / (high - low))
