"""What the commands for language models share: which rules, and where they send what."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from feedalign.cli.failures import UsageError
from feedalign.cli.options import RULE_NAMES
from feedalign.experiments.lm.presets import PRESETS, sends
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
    rules: Words, points: tuple[Placement, ...] | None, errors: tuple[Tap, ...] | None, open_last: bool
) -> Iterator[Sent]:
    """Yield what is to be compared under a preset: rules that send an error to points once for each placement and tap.

    What is not asked for is left to the preset.

    Raises:
        UsageError: There is no rule, placement or tap.
        ValueError: There is no rule of some name.
    """
    if not rules or points == () or errors == ():
        raise UsageError("Expected at least one rule, placement and tap, found none. Do: --rule bp dfa shallow.")
    last = False if open_last else None
    for rule in expand(rules):
        if not sends(rule):
            yield Sent(rule, {"last": last})
            continue
        for place in points or (None,):
            for error in errors or (None,):
                yield Sent(rule, {"points": place, "error": error, "last": last})
