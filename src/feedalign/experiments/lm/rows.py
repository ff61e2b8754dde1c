"""The rows of the tables of language models: runs by preset, and by rule, placement and tap."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from feedalign.experiments.lm.presets import EMBEDDED, MICRO_TUNED, OPEN, SMALL_NAME, SMALL_ROWS, sends, tuned_name
from feedalign.experiments.names import label, rank, short_name
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, interval

LM = "lm"
OPENED = "last block open"
MARKS = {EMBEDDED: "embedding too", OPEN: OPENED}
WHERE = {"hidden": "before the vocabulary", "logits": "at the logits"}
STUDIED = {row: f"{SMALL_NAME}-{row}" for row in SMALL_ROWS}
"""The presets of the small model with the published optimisers."""


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
        parts = [f"{label(self.rule)} {self.points}".strip(), WHERE.get(self.error, ""), self.more]
        return ", ".join(part for part in parts if part)

    @property
    def published_as(self) -> str:
        """The row of the publication, whose error was tapped before the vocabulary; nothing if it has none."""
        if self.rule == "dfa":
            return self.points if self.error == "hidden" and not self.more else ""
        return self.rule


def family(run: Run) -> tuple[str, Row]:
    """Return the preset of a run, with what was changed in it, and the row it has in the table of that.

    Settings tuned for points behind every sub-layer stand in the table of those tuned for points behind every block.
    """
    config, rule = run.record.config, short_name(run.record.rule)
    name, _, changed = run.record.name.partition("_")
    points, error = (config["points"], config["error"]) if sends(rule) else ("", "")
    marks = [EMBEDDED] if points and config["embedding"] else []
    if (points or rule == "shallow") and not config["last"]:
        marks.append(OPEN)
    name = name.removesuffix("-".join(["", *([points, error] if points else []), *marks]))
    if name.endswith(MICRO_TUNED):
        name = tuned_name(name)
    more = ", ".join(MARKS[mark] for mark in marks)
    return "_".join(part for part in (name, changed) if part), Row(
        (*rank(rule), points, error, more), rule, points, error, more
    )


Family = dict[Row, list[Run]]


def families(runs: Sequence[Run]) -> dict[str, Family]:
    """Return the runs of language models by preset and row; those of other experiments are left out."""
    found: dict[str, Family] = {}
    for run in runs:
        if run.record.experiment == LM:
            name, row = family(run)
            found.setdefault(name, {}).setdefault(row, []).append(run)
    return {name: dict(sorted(rows.items(), key=lambda pair: pair[0].order)) for name, rows in found.items()}


def apart(everything: Mapping[str, Family]) -> tuple[dict[str, Family], dict[str, Family]]:
    """Return the presets that stand alone, and the small model's runs by optimiser where there are several to compare.

    One optimiser alone is a preset like any other.
    """
    together = {row: everything[name] for row, name in STUDIED.items() if name in everything}
    if len(together) < 2:
        return dict(everything), {}
    return {name: rows for name, rows in everything.items() if name not in STUDIED.values()}, together


def figure(runs: Sequence[Run], metric: str, group: str = "best") -> Interval:
    """Return a figure over seeds."""
    return interval([run.record.metrics[group][metric] for run in runs])
