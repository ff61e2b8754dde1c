"""Calibration: do as many rows turn out to be clicks as a network said?"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 10


def calibration(probabilities: NDArray[np.float64], labels: NDArray[np.float64], bins: int = BINS) -> dict[str, Any]:
    """Return what a reliability diagram shows: rows in bins of equal numbers, from the least likely clicks on.

    Bins of equal width would leave most of them empty: few rows of a log are thought likely clicks.

    Args:
        probabilities: That rows are clicks ``[N]``.
        labels: Whether they are ``[N]``, 0 or 1.
        bins: How many; fewer where there are fewer rows.

    Returns:
        ``predicted`` and ``observed``, the mean probability and the share of clicks in each bin; ``rows`` in each;
        and ``error``, the expected calibration error: the mean over rows of how far their bin's two figures differ.
    """
    order = np.argsort(probabilities, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    predicted = [float(probabilities[part].mean()) for part in parts]
    observed = [float(labels[part].mean()) for part in parts]
    rows = [len(part) for part in parts]
    gaps = np.abs(np.subtract(predicted, observed))
    short = {"predicted": [_short(one) for one in predicted], "observed": [_short(one) for one in observed]}
    return {**short, "rows": rows, "error": _short(float(np.average(gaps, weights=rows)))}


def _short(number: float) -> float:
    return float(f"{number:.4g}")
