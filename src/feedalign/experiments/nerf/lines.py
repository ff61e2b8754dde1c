"""Lines of a curve that take little room."""

from typing import Any

SHORT = ("mean", "std", "n")


def lean(line: dict[str, Any]) -> dict[str, Any]:
    """Return a line with five digits a number and, of an alignment, mean, standard deviation and count only."""
    kept = dict(line)
    if kept["alignment"]:
        kept["alignment"] = {
            point: {name: cosine[name] for name in SHORT} for point, cosine in kept["alignment"].items()
        }
    short: dict[str, Any] = _shortened(kept)
    return short


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(one) for name, one in value.items()}
    return float(f"{value:.5g}") if isinstance(value, float) else value
