"""Advice on points and feedback that follows from the model, and is never what is in force already."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from feedalign.discovery import NON_LINEARITIES
from feedalign.errors import some
from feedalign.points import Point
from feedalign.repeated import blocks, has_weight, module_tree
from feedalign.rules import BroadcastRule, Rule
from feedalign.tracing import is_container

if TYPE_CHECKING:
    from feedalign.attach import Attachment


def around(model: nn.Module, points: Iterable[str]) -> str:
    """Return where to put points when the error passes around these ones, by a skip connection.

    Args:
        model: The model.
        points: The names of the points, as in the recording of a forward pass.
    """
    modules = list(dict.fromkeys(point.split("#")[0].split("[")[0].removesuffix(":input") for point in points))
    outer = [block for block in blocks(model) if any(name.startswith(f"{block}.") for name in modules)]
    if outer:
        return f"Put points on the outputs of the residual blocks: points='macro' takes {some(outer)}."
    if loops := [loop for name in modules if (loop := _loop(model, name)) is not None]:
        owner = f"{type(model.get_submodule(loops[0])).__name__} ({loops[0]!r})" if loops[0] else "the model"
        return (
            f"The sum seems to be written in the forward of {owner}, so that no module returns it: move each step of "
            "its loop into the forward of a module and put the points there, or call feedalign.splice in that forward."
        )
    return (
        "Put the points on modules that return the sum of the paths; where none does, move the sum into the forward of "
        "one, or call feedalign.splice in your own forward."
    )


def _loop(model: nn.Module, name: str) -> str | None:
    """Return the module whose forward loops over a list that this one is in; None if it is in none."""
    levels = name.split(".")
    for depth in range(len(levels) - 1, -1, -1):
        owner = model.get_submodule(".".join(levels[:depth]))
        if depth and is_container(owner):
            continue
        inside = (model.get_submodule(".".join(levels[:i])) for i in range(depth + 1, len(levels)))
        return ".".join(levels[:depth]) if any(isinstance(m, nn.ModuleList | nn.ModuleDict) for m in inside) else None
    return None


def behind_convolutions(model: nn.Module, points: Sequence[Point], rule: Rule) -> str:
    """Return one line about points behind convolutions that get flattened feedback; ``""`` if there are none.

    Weights that are shared over positions cannot align with feedback that is drawn for each position apart
    (Refinetti et al. 2021).

    Args:
        model: The model.
        points: The points that the rule serves.
        rule: The rule.
    """
    if not isinstance(rule, BroadcastRule) or rule.feedback.positions != "flatten":
        return ""
    nodes = module_tree(model).nodes
    places = {node.name: node for node in nodes}
    layers = [node for node in nodes if has_weight(node.module)]
    starts = [layer.place for layer in layers]
    found = []
    for point in points:
        node = places.get(point.module)
        if node is None:
            continue
        own = not point.at_input and node.layers > 0
        below = bisect_left(starts, node.end if own else node.place) - 1  # the last layer that the point is behind
        if below >= 0 and isinstance(layers[below].module, nn.modules.conv._ConvNd):
            found.append(str(point))
    if not found:
        return ""
    return (
        f"Behind convolutions ({some(found)}) feedback that is drawn for each position apart trains little: write "
        f"feedback={type(rule.feedback).__name__}(positions='repeat'), or take a sign-symmetric rule (USF, FRSF, BRSF)."
    )


class Untried(NamedTuple):
    """What an audit may advise: what the model and its rules do not have already."""

    macro: bool
    """``points="macro"`` would be fewer points."""
    learned: bool
    """No rule learns its feedback."""
    relu: bool
    """There may be ReLU units to exchange."""

    @classmethod
    def on(cls, handle: Attachment) -> Untried:
        """Return what is untried on the model of an attachment."""
        rules = [planner.rule for planner in handle.planners] + [carrier.rule for carrier in handle.carriers]
        units = [module for module in handle.model.modules() if isinstance(module, NON_LINEARITIES)]
        return cls(
            macro=0 < len(blocks(handle.model)) < len(handle.points),
            learned=not any(rule.learns for rule in rules),
            relu=not units or any(isinstance(unit, nn.ReLU | nn.ReLU6) for unit in units),
        )
