"""The rule that a configuration asks for, by the name that folders and tables keep."""

from dataclasses import fields, replace
from typing import Any

import feedalign as fa
from feedalign.experiments.names import VARIANTS, rule_of
from feedalign.rules import RULES, BroadcastRule


def feedback_for(name: str, feedback: fa.Feedback) -> fa.Feedback:
    """Return the feedback with what a rule asks of it: a matrix a point if they are learned, and what makes a variant.

    Args:
        name: Of the rule or variant.
        feedback: As configured.
    """
    rule = RULES[rule_of(name)].rule
    learned = {"shared": False} if issubclass(rule, BroadcastRule) and rule.learns else {}
    asked: dict[str, Any] = {**learned, **(VARIANTS[name].feedback if name in VARIANTS else {})}
    return replace(feedback, **asked)


def rule_for(name: str, seed: int, feedback: fa.Feedback) -> fa.Rule:
    """Return the rule called ``name``, with the feedback if it broadcasts and the seed if it draws.

    Raises:
        ValueError: There is none of that name.
    """
    full = rule_of(name)
    rule = RULES[full].rule
    options: dict[str, Any] = {"feedback": feedback} if issubclass(rule, BroadcastRule) else {}
    if any(option.name == "seed" for option in fields(rule)):  # type: ignore[arg-type]
        options["seed"] = seed
    return fa.rule(full, **options)
