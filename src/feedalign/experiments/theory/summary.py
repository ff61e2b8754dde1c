"""What a record keeps of the curves of deep nets: means over seeds, and of every seed the moments that matter."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

from feedalign.experiments.errors import DivergedError
from feedalign.experiments.theory.draw import by_layer, half_time, summed_up
from feedalign.experiments.theory.history import Curve
from feedalign.experiments.theory.shallow import rounded
from feedalign.theory.phases import phases

TOTALS = ("loss", "accuracy", "test_accuracy", "weight_alignment_total", "gradient_alignment_total")
LAYERS = ("weight_alignment", "gradient_alignment", "batch_alignment")


def summarise(curves: Sequence[Curve], what: str) -> dict[str, Any]:
    """Return the record of nets that differ in their seeds alone.

    Args:
        curves: One a seed, see :func:`feedalign.experiments.theory.history.history`.
        what: Which nets, for an error.

    Returns:
        ``epochs``, the curves of ``TOTALS`` and, by layer, of ``LAYERS``, summed up; and of every seed the epochs at
        which ``weight_alignment`` and ``gradient_alignment`` of each layer pass half of their maximum (``half``), the
        ``phases`` of both totals and of the ``batch_alignment`` of layer 1 against the training loss, and ``finals``
        of all totals. Seeds whose loss is no longer a number are left out and counted as ``diverged``.

    Raises:
        DivergedError: No seed is left.
    """
    kept = [curve for curve in curves if all(map(math.isfinite, curve["loss"]))]
    if not kept:
        raise DivergedError(f"Expected nets that learn, found that all diverged: {what}. Choose a lower rate.")
    times = kept[0]["epochs"]
    return {
        "epochs": rounded(times),
        **{name: summed_up([curve[name] for curve in kept]) for name in TOTALS if name in kept[0]},
        **{name: by_layer([curve[name] for curve in kept]) for name in LAYERS},
        "half": {name: [_halves(curve, name) for curve in kept] for name in LAYERS[:2]},
        "phases": [_phases(curve) for curve in kept],
        "finals": [{name: float(curve[name][-1]) for name in TOTALS if name in curve} for curve in kept],
        "undefined": max(max(curve["undefined"]) for curve in kept),
        "diverged": len(curves) - len(kept),
    }


def _halves(curve: Curve, name: str) -> list[float | None]:
    return [half_time(curve["epochs"], layer) for layer in zip(*curve[name], strict=True)]


def _phases(curve: Curve) -> dict[str, Any]:
    lowest = [row[0] for row in curve["batch_alignment"]]
    found = {
        "weight": curve["weight_alignment_total"],
        "gradient": curve["gradient_alignment_total"],
        "batch": lowest,
    }
    return {name: asdict(phases(curve["epochs"], values, curve["loss"])) for name, values in found.items()}


def ordered(halves: Sequence[float | None]) -> bool:
    """Return whether each layer passes its half strictly after the one below it."""
    times = [math.inf if half is None else half for half in halves]
    return all(below < above for below, above in pairwise(times))
