"""What the studies of deep nets share: curves over seeds summed up, their pictures, and cells of tables."""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes

from feedalign.experiments.tables import interval
from feedalign.experiments.theory.shallow import rounded
from feedalign.theory.phases import first_below

LINES = ("-", "--", "-.", ":", (0, (7, 1.5, 1, 1.5, 1, 1.5)), (0, (1, 0.7)))


def summed_up(samples: Sequence[Sequence[float]]) -> dict[str, list[float]]:
    """Return mean and half width of the 95 % interval over seeds, at every time of curves ``[seeds][times]``."""
    found = [interval(list(column)) for column in zip(*samples, strict=True)]
    return {
        "mean": rounded([each.mean for each in found]),
        "half_width": rounded([each.half_width or 0.0 for each in found]),
    }


def by_layer(samples: Sequence[Sequence[Sequence[float]]]) -> list[dict[str, list[float]]]:
    """Return the same for every layer of curves ``[seeds][times][layers]``."""
    return [summed_up([[row[layer] for row in curve] for curve in samples]) for layer in range(len(samples[0][0]))]


def half_time(times: Sequence[float], curve: Sequence[float]) -> float | None:
    """Return when a curve first passes half of its own maximum; None if that is not above 0."""
    values = np.asarray(curve, dtype=np.float64)
    return first_below(np.asarray(times, dtype=np.float64), -values, -values.max() / 2) if values.max() > 0 else None


def reached(times: Sequence[float], curve: Sequence[float], level: float) -> float | None:
    """Return when a curve first passes above a level; None if it never does."""
    return first_below(np.asarray(times, dtype=np.float64), -np.asarray(curve, dtype=np.float64), -level)


def averaged(axes: Axes, times: Sequence[float], curve: dict[str, list[float]], **line: Any) -> None:
    """Draw a summed-up curve, its interval as a band. A first time of 0 has no place on a logarithmic axis."""
    start = 1 if times[0] == 0 else 0
    mean, half = (np.asarray(curve[what][start:], dtype=np.float64) for what in ("mean", "half_width"))
    axes.plot(times[start:], mean, **line)
    axes.fill_between(times[start:], mean - half, mean + half, color=line.get("color"), alpha=0.18, linewidth=0)


def shades(count: int) -> list[dict[str, Any]]:
    """Return colours and lines from the bottom layer to the top, or from the smallest to the largest."""
    colors = mpl.colormaps["viridis"](np.linspace(0, 0.85, count))
    return [{"color": color, "linestyle": LINES[i % len(LINES)]} for i, color in enumerate(colors)]


def over_epochs(axes: Axes, title: str) -> None:
    """Make a panel one of a cosine over the logarithm of epochs."""
    axes.set_xscale("log")
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set(title=title, xlabel="epoch")


def spread(samples: Sequence[float | None], digits: int = 2) -> str:
    """Return the mean of those that there are, its interval, and how many are missing: ``"1.23 ± 0.10 (1 never)"``."""
    found = [sample for sample in samples if sample is not None]
    missing = len(samples) - len(found)
    never = f" ({missing} never)" if missing else ""
    return (interval(found).text(digits) + never) if found else "never"
