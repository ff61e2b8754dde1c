"""The rows of the tables of language models: runs by preset, and by rule, placement and tap."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feedalign.experiments.lm.presets import OPEN
from feedalign.experiments.names import label, rank, short_name
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, interval

LM = "lm"
OPENED = "last block open"
WHERE = {"hidden": "before the vocabulary", "logits": "at the logits"}


@dataclass(frozen=True, order=True)
class Row:
    """What is compared in one table: a rule, and where it sends what.

    Attributes:
        order: Sorts rows.
        rule: By its short name.
        points: ``"macro"``, ``"micro"``, or nothing for rules without points.
        error: ``"hidden"``, ``"logits"`` or nothing.
        more: What else is unlike the others, in words.
    """

    order: tuple[Any, ...]
    rule: str
    points: str = ""
    error: str = ""
    more: str = ""

    @property
    def words(self) -> str:
        """What the row is, as tables and legends write it."""
        parts = [self.points, WHERE.get(self.error, ""), self.more]
        return " ".join([label(self.rule), ", ".join(part for part in parts if part)]).strip()

    @property
    def published_as(self) -> str:
        """The row of the publication, whose error was tapped before the vocabulary; nothing if it has none."""
        if self.rule == "dfa":
            return self.points if self.error == "hidden" and not self.more else ""
        return self.rule


def family(run: Run) -> tuple[str, Row]:
    """Return the preset of a run, with what was changed in it, and the row it has in the table of that."""
    record, config = run.record, run.record.config
    rule = short_name(record.rule)
    ending = f"-{config['points']}-{config['error']}"
    if ending not in record.name:
        name, _, changed = record.name.partition("_")
        more = OPENED if name.endswith(f"-{OPEN}") else ""
        name = "_".join(part for part in (name.removesuffix(f"-{OPEN}"), changed) if part)
        return name, Row((*rank(rule), "", "", more), rule, more=more)
    before, _, after = record.name.rpartition(ending)
    marks, _, changed = after.partition("_")
    more = ", ".join(words for mark, words in (("embedding", "embedding too"), (OPEN, OPENED)) if f"-{mark}" in marks)
    name = f"{before}_{changed}" if changed else before
    order = (*rank(rule), config["points"], config["error"], more)
    return name, Row(order, rule, config["points"], config["error"], more)


Family = dict[Row, list[Run]]


def families(runs: Sequence[Run]) -> dict[str, Family]:
    """Return the runs of language models by preset and row; those of other experiments are left out."""
    found: dict[str, Family] = {}
    for run in runs:
        if run.record.experiment == LM:
            name, row = family(run)
            found.setdefault(name, {}).setdefault(row, []).append(run)
    return {name: dict(sorted(rows.items(), key=lambda pair: pair[0].order)) for name, rows in found.items()}


def figure(runs: Sequence[Run], metric: str, group: str = "best") -> Interval:
    """Return a figure over seeds."""
    return interval([run.record.metrics[group][metric] for run in runs])
