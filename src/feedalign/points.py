"""Where the backward pass is cut: points by name, glob, type, predicate, or found by themselves."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

from torch import nn

from feedalign.discovery import blocks, chain, sublayers
from feedalign.errors import PointsError, listing, nearest

Predicate = Callable[[str, nn.Module], bool]
Selector = str | type[nn.Module] | Predicate
Points = Selector | Sequence[Selector]


@dataclass(frozen=True)
class Point:
    """A place at which the backward pass is cut and a signal delivered.

    Written as text it is the module's name; with ``[0]`` behind it, only that tensor of the module's output gets
    a signal (the others are cut and receive nothing); with ``:input``, it is the module's first input.
    """

    module: str
    leaf: int | None = None
    at_input: bool = False
    found: bool = field(default=False, compare=False)
    """Whether ``"auto"``, ``"macro"`` or ``"micro"`` found it, so that nobody named it."""

    def __str__(self) -> str:
        return self.module + ("" if self.leaf is None else f"[{self.leaf}]") + (":input" if self.at_input else "")


def select(model: nn.Module, points: Points) -> list[Point]:
    """Return the points that the user's selection means on ``model``, in the order of its modules.

    Args:
        model: The model.
        points: One or several of

            * a name or glob, ``"layers.2"``, ``"layers.*"``: ``*`` and ``?`` stay within a level, ``**`` spans any;
            * a type, ``nn.ReLU``;
            * a predicate ``(name, module) -> bool``;
            * ``"macro"``: the output of every repeated block of a deep model;
            * ``"micro"``: also the normalisations and non-linearities inside the blocks;
            * ``"auto"``: ``"macro"`` where blocks repeat, else every non-linearity of a plain chain, functional
              ones (``F.relu``) included.

    Raises:
        PointsError: Nothing matches, or nothing is found; the message lists the candidates.
    """
    selectors: Iterable[Selector] = points if isinstance(points, list | tuple) else [points]  # type: ignore[list-item]
    found: dict[Point, None] = {}
    for selector in selectors:
        found.update(dict.fromkeys(_select(model, selector)))
    order = {name: i for i, (name, _) in enumerate(model.named_modules())}
    return sorted(found, key=lambda point: order[point.module])


def candidates(model: nn.Module) -> str:
    """Return the modules of a model, one a line, for the message of an error."""
    modules = [f"{name}  ({type(module).__name__})" for name, module in model.named_modules() if name]
    return "The modules are:\n" + listing(modules) if modules else "It has no modules inside."


def find_module(model: nn.Module, pattern: str) -> str:
    """Return the name of the one module that ``pattern`` means, for ``output=``.

    Raises:
        PointsError: None or several match; the message lists them.
    """
    names: list[str] = [name for name, _ in model.named_modules() if name and _matches(name, pattern)]
    if len(names) == 1:
        return names[0]
    if names:
        raise PointsError(
            f"output={pattern!r} must name one module and matches {len(names)}. Write one of:\n{listing(names)}"
        )
    raise _no_match(model, f"output={pattern!r}", pattern)


def means(pattern: str, name: str) -> bool:
    """Return whether a name or glob, with ``[0]`` or ``:input`` behind it or not, means the point called ``name``."""
    wanted, point = _parse(pattern), _parse(name)
    return (
        _matches(point.module, wanted.module)
        and wanted.leaf in (None, point.leaf)
        and wanted.at_input in (False, point.at_input)
    )


def _select(model: nn.Module, selector: Selector) -> list[Point]:
    named = [(name, module) for name, module in model.named_modules() if name]
    if isinstance(selector, str):
        return _by_text(model, named, selector)
    if isinstance(selector, type):
        chosen = [Point(name) for name, module in named if isinstance(module, selector)]
        what = f"points={selector.__name__}"
    elif callable(selector):
        chosen = [Point(name) for name, module in named if selector(name, module)]
        what = "the predicate given as points="
    else:
        raise PointsError(f"points expected names, types or a predicate (name, module) -> bool, found {selector!r}.")
    if not chosen:
        raise PointsError(f"No module matches {what}. {candidates(model)}")
    return chosen


def _by_text(model: nn.Module, named: list[tuple[str, nn.Module]], text: str) -> list[Point]:
    if text == "auto":
        found = blocks(model) or chain(model)
        return [replace(_parse(name), found=True) for name in found] if found else _nothing_found(model)
    if text in ("macro", "micro"):
        names = blocks(model) if text == "macro" else sublayers(model)
        if not names:
            raise PointsError(
                f"points={text!r} needs blocks that repeat (two or more modules of one composite class), and the "
                f"model has none. Name the points. {candidates(model)}"
            )
        return [Point(name, found=True) for name in names]
    pattern = _parse(text)
    chosen = [Point(name, pattern.leaf, pattern.at_input) for name, _ in named if _matches(name, pattern.module)]
    if not chosen:
        raise _no_match(model, f"points={text!r}", pattern.module)
    return chosen


def _nothing_found(model: nn.Module) -> list[Point]:
    raise PointsError(
        "points='auto' found neither repeated blocks nor the non-linearities of a plain chain "
        f"in {type(model).__name__}. Name the points, such as points=['layers.*'], or call feedalign.splice in "
        f"your own forward. {candidates(model)}"
    )


def _no_match(model: nn.Module, what: str, pattern: str) -> PointsError:
    hint = nearest(pattern, [name for name, _ in model.named_modules() if name])
    return PointsError(f"No module matches {what}.{hint} {candidates(model)}")


def _parse(text: str) -> Point:
    parts = re.fullmatch(r"(.*?)(?:\[(\d+)\])?(:input)?", text)
    assert parts is not None  # every part of the pattern may be empty
    leaf = None if parts[2] is None else int(parts[2])
    return Point(parts[1], leaf, parts[3] is not None)


def _matches(name: str, pattern: str) -> bool:
    """Match level by level: ``*`` within one level, ``**`` over any number of levels."""
    return _match_levels(name.split("."), pattern.split("."))


def _match_levels(levels: list[str], patterns: list[str]) -> bool:
    if not patterns:
        return not levels
    if patterns[0] == "**":
        return any(_match_levels(levels[i:], patterns[1:]) for i in range(len(levels) + 1))
    return bool(levels) and fnmatchcase(levels[0], patterns[0]) and _match_levels(levels[1:], patterns[1:])
