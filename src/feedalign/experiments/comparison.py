"""Runs of one configuration side by side: backprop, the rules, shallow, each over its seeds.

Everything that tables, plots and the report say is computed here from records.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from feedalign.experiments.names import BASELINE, FLOOR, full_name, rank, transports
from feedalign.experiments.published import Source, load_published
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, interval

FEW = 4  # rules that fit side by side: with more, tables turn round, legends stand outside, sentences group


@dataclass(frozen=True)
class Comparison:
    """The runs of one configuration.

    Attributes:
        name: The configuration's name.
        runs: The runs of each rule in the order of their seeds; backprop first and shallow last.
        published: What others published for it, the network most like ours first.
    """

    name: str
    runs: dict[str, list[Run]]
    published: tuple[Source, ...] = ()

    @property
    def rules(self) -> list[str]:
        """The rules in the order of every table: backprop, the others, shallow; also where one was not run."""
        others = [rule for rule in self.runs if rule not in (BASELINE, FLOOR)]
        return [BASELINE, *others, FLOOR]

    @property
    def many(self) -> bool:
        """Whether more rules were run than fit side by side."""
        return len(self.runs) > FEW

    @property
    def first(self) -> Run:
        """Any run, for what all of them share: data, parameters, configuration."""
        return next(iter(self.runs.values()))[0]


def compare(runs: Iterable[Run]) -> list[Comparison]:
    """Return the runs grouped by configuration name, in alphabetical order."""
    by_name = sorted(runs, key=lambda run: (run.record.name, rank(run.record.rule), run.record.seed))
    return [_comparison(name, list(group)) for name, group in groupby(by_name, key=lambda run: run.record.name)]


def classified(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that are told by a test accuracy. Those of other experiments have tables of their own."""
    own = {"light"}  # a table per fault, with no rule to a row
    return [
        run
        for run in runs
        if "test_accuracy" in run.record.metrics.get("best", {}) and run.record.experiment not in own
    ]


def _comparison(name: str, runs: list[Run]) -> Comparison:
    by_rule: dict[str, list[Run]] = {}
    for run in runs:
        by_rule.setdefault(full_name(run.record.rule), []).append(run)
    return Comparison(name, by_rule, load_published(runs[0].directory.parent))


def accuracy(runs: Sequence[Run], moment: str = "best") -> Interval:
    """Return the test accuracy over seeds, at the ``"best"`` epoch on validation data or the ``"final"`` one."""
    return interval([run.record.metrics[moment]["test_accuracy"] for run in runs])


def difference(comparison: Comparison, rule: str, other: str) -> Interval | None:
    """Return the test accuracy of ``rule`` minus that of ``other``, paired by seed; None without a common seed."""
    pairs = [
        {run.record.seed: run.record.metrics["best"]["test_accuracy"] for run in comparison.runs.get(name, [])}
        for name in (rule, other)
    ]
    common = sorted(pairs[0].keys() & pairs[1].keys())
    return interval([pairs[0][seed] - pairs[1][seed] for seed in common]) if common else None


@dataclass(frozen=True)
class Aligned:
    """Rules whose alignment was measured at the same places.

    Attributes:
        place: What the places are: ``"point"`` where signals are received, ``"layer"`` where a gradient comes through.
        names: The places, from input to output.
        runs: Of each rule, the runs that measured it.
    """

    place: str
    names: tuple[str, ...]
    runs: dict[str, list[Run]]


def aligned(comparison: Comparison) -> list[Aligned]:
    """Return the rules with measured alignment: those that broadcast to points, then those that go layer by layer."""
    measured = {rule: [run for run in runs if run.record.alignment] for rule, runs in comparison.runs.items()}
    groups = [
        (place, {rule: runs for rule, runs in measured.items() if runs and transports(rule) == by_layer})
        for place, by_layer in (("point", False), ("layer", True))
    ]
    return [Aligned(place, _places(runs), runs) for place, runs in groups if runs]


def _places(runs: dict[str, list[Run]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for found in runs.values() for run in found for name in run.record.alignment or {}))


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with dotted keys: ``{"optimizer.learning_rate": 0.01}``."""
    if not isinstance(config, dict):
        return {prefix: config}
    return {
        name: value
        for key, inner in config.items()
        for name, value in flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
