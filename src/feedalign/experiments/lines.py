"""Lines of a curve that take little room: hundreds of runs are kept in the repository."""

from typing import Any

LEFT_OUT = ("step", "learning_rate")
"""The same in every line of a run, or the number of the epoch."""


def lean(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line with four digits a number and, of an alignment, mean and standard deviation only."""
    kept = {name: value for name, value in line.items() if name not in LEFT_OUT}
    if kept["alignment"]:
        kept["alignment"] = {
            point: {"mean": cosine["mean"], "std": cosine["std"]} for point, cosine in kept["alignment"].items()
        }
    short: dict[str, Any] = _shortened(kept)
    return short


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value
