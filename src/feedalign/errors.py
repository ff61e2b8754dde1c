"""The two errors of the library, and the sentence that suggests what a misspelt name may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class PointsError(ValueError):
    """The model, the points or the output named by the user do not fit together."""


class SignalError(RuntimeError):
    """A teaching signal cannot be delivered. Raised instead of training on zeros."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name most like ``name``, or ``""``."""
    match = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {match[0]!r}?" if match else ""


def listing(lines: Iterable[str], limit: int = 30) -> str:
    """Return the lines indented below each other, the tail counted when there are more than ``limit``."""
    lines = list(lines)
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  ... and {len(lines) - limit} more")
    return "\n".join(shown)
