"""What the studies of two-layer networks share: times, rounded curves, cells and panels."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from scipy.stats import binomtest

from feedalign.experiments.styles import style
from feedalign.experiments.tables import interval
from feedalign.theory.integrals import Array

RULES = {"backprop": "Backprop", "dfa": "DFA"}
DIGITS = 5  # significant ones of what a record holds of curves


def log_times(first: float, last: float, count: int) -> Array:
    """Return 0 and ``count`` times evenly spaced in their logarithm."""
    return np.concatenate(([0.0], np.geomspace(first, last, count)))


def rounded(values: Array | Sequence[float]) -> Any:
    """Return numbers as nested lists, with five significant digits: more would only make records larger."""
    found = np.asarray(values, dtype=np.float64)
    return _rounded(found)


def _rounded(found: Array) -> Any:
    return [_rounded(row) for row in found] if found.ndim else float(f"{float(found):.{DIGITS}g}")


def mean(samples: Iterable[float | None], digits: int = 2, scale: float = 1.0) -> str:
    """Return the mean of those that there are, with its 95 % interval; nothing where there are none."""
    found = [sample for sample in samples if sample is not None]
    return interval(found).text(digits, scale) if found else ""


def clopper_pearson(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of independent trials."""
    low, high = binomtest(successes, trials).proportion_ci()
    return float(low), float(high)


def share(successes: int, trials: int, digits: int = 2) -> str:
    """Return a share with its interval: ``"0.25 [0.17, 0.35]"``."""
    low, high = clopper_pearson(successes, trials)
    return f"{successes / trials:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def several(axes: Axes, times: Sequence[float], curves: Sequence[Sequence[float]], rule: str, label: str) -> None:
    """Draw the curve of every seed thinly in the style of a rule, from the second time on, and name them once."""
    for i, curve in enumerate(curves):
        look = {**style(rule), "linewidth": 1.0, "alpha": 0.75}
        axes.plot(times[1:], curve[1:], **look, label=label if i == 0 else None)


def over_time(axes: Axes, title: str, error: bool = False) -> None:
    """Make a panel one over the logarithm of time; of a cosine, or of an error on a logarithmic axis."""
    axes.set_xscale("log")
    axes.set(title=title, xlabel="time (steps / N)")
    if error:
        axes.set_yscale("log")
    else:
        axes.set_ylim(-1.08, 1.08)
