"""What the commands for language models share: which rules, and where they send what."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from feedalign.cli.failures import UsageError
from feedalign.cli.options import RULE_NAMES
from feedalign.experiments.lm.presets import PRESETS, TUNED, sends
from feedalign.experiments.models.transformer import Placement, Tap
from feedalign.experiments.names import expand

Words = tuple[str, ...]
Rules = Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=RULE_NAMES)]
Presets = Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=f"Settings by name: {', '.join(PRESETS)}.")]


@dataclass(frozen=True)
class Sent:
    """A rule, and where it sends what; nothing of the sort for rules without points."""

    rule: str
    options: dict[str, Any]


def sent(
    preset: str, rules: Words, points: tuple[Placement, ...], errors: tuple[Tap, ...], last: bool
) -> Iterator[Sent]:
    """Yield what is to be compared under a preset: rules that send an error to points once for each placement and tap.

    Raises:
        UsageError: There is no rule, placement or tap.
        ValueError: There is no rule of some name.
    """
    if not rules or not points or not errors:
        raise UsageError("Expected at least one rule, placement and tap, found none. Do: --rule bp dfa shallow.")
    for rule in expand(rules):
        if preset.endswith(TUNED):
            yield Sent(rule, {})
        elif not sends(rule):
            yield Sent(rule, {"last": last})
        else:
            for place in points:
                for error in errors:
                    yield Sent(rule, {"points": place, "error": error, "last": last})
