"""Which rule goes where: one rule for the whole model, or one per group of points."""

from collections.abc import Mapping
from typing import NamedTuple

from torch import nn

from feedalign.errors import PointsError
from feedalign.points import Point, Points, select
from feedalign.rules import BroadcastRule, Rule, TransportRule
from feedalign.rules.table import rule
from feedalign.transport import Form, layers

Rules = Rule | Mapping[Points, Rule]
Named = Rule | str
"""A rule, or its short name."""


class Assigned(NamedTuple):
    """One rule and where it works."""

    rule: Rule
    points: list[Point]
    """Where it cuts."""
    layers: dict[str, Form]
    """The layers that it transports through, by name, and how each uses its weight."""


def resolve(rules: Named | Mapping[Points, Named]) -> Rules:
    """Return the rules that short names such as ``"dfa"`` stand for, with their default options.

    Raises:
        ValueError: There is no rule of that name.
        TypeError: Something is neither a rule nor a name.
    """
    if isinstance(rules, Mapping):
        return {where: _rule(each) for where, each in rules.items()}
    return _rule(rules)


def _rule(given: Named) -> Rule:
    if isinstance(given, str):
        return rule(given)
    if not isinstance(given, Rule):
        raise TypeError(
            "rule expected a rule such as feedalign.DFA(seed=0), its short name such as 'dfa', or a dict of points and "
            f"rules, found {given!r}."
        )
    return given


def assign(model: nn.Module, rules: Rules, points: Points) -> list[Assigned]:
    """Return each rule with its points and layers.

    Raises:
        PointsError: Nothing matches, or two rules want the same place.
    """
    if isinstance(rules, Mapping):
        if points != "auto":
            raise PointsError(
                "With a rule per point, the points are the keys: attach(model, {'conv*': FA(), 'fc*': DFA()}). "
                f"Leave out points={points!r}."
            )
        pairs = list(rules.items())
    else:
        pairs = [(points, rules)]
    found = [_assigned(model, each, where) for where, each in pairs]
    _check_once([str(point) for assigned in found for point in assigned.points])
    _check_once([layer for assigned in found for layer in assigned.layers])
    return found


def _assigned(model: nn.Module, rule: Rule, points: Points) -> Assigned:
    if isinstance(rule, TransportRule):
        places = [] if points == "auto" else select(model, points)
        if any(place.at_input or place.leaf is not None for place in places):
            raise PointsError(f"{type(rule).__name__} goes through whole layers: name modules, found {points!r}.")
        return Assigned(rule, [], layers(model, [place.module for place in places] or [""]))
    if isinstance(rule, BroadcastRule) and rule.replays and any(each.is_complex() for each in model.parameters()):
        raise PointsError(
            f"{type(rule).__name__} pushes tangents through the model, which is defined for real weights, and "
            f"{type(model).__name__} has complex ones. Choose a rule that needs the error alone (DFA, DKP)."
        )
    # Backpropagation cuts nothing, but a name that is wrong for the other rules is wrong for it too.
    selected = select(model, points) if rule.cuts or points != "auto" else []
    return Assigned(rule, selected if rule.cuts else [], {})


def _check_once(places: list[str]) -> None:
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise PointsError(f"{', '.join(map(repr, twice))} is named for two rules of one kind: each place has one.")
