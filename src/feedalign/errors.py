"""The two errors of the library, and the sentence that suggests what a misspelt name may have meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class PointsError(ValueError):
    """The model, the points or the output named by the user do not fit together."""


class SignalError(RuntimeError):
    """A teaching signal cannot be delivered. Raised instead of training on zeros."""


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name most like ``name``, if one is like it at all."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=0.5)), None)


def nearest(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name most like ``name``, or ``""``."""
    match = closest(name, known)
    return f" Did you mean {match!r}?" if match else ""


def some(names: Iterable[str], limit: int = 3) -> str:
    """Return the first names in quotation marks, the rest counted: ``"'a', 'b', 'c' and 4 more"``."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def listing(lines: Iterable[str], limit: int = 30) -> str:
    """Return the lines indented below each other, the tail counted when there are more than ``limit``."""
    lines = list(lines)
    shown = [f"  {line}" for line in lines[:limit]]
    if len(lines) > limit:
        shown.append(f"  ... and {len(lines) - limit} more")
    return "\n".join(shown)
