"""The tables of a search for the settings of language models: what was chosen, and what came out with every value."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from feedalign.experiments.lm.tuning import CHOSEN_BY
from feedalign.experiments.names import label
from feedalign.experiments.records import read_json
from feedalign.experiments.studies import TUNING
from feedalign.experiments.tables import Table

NONE = "-"


def searches(folder: Path) -> list[dict[str, Any]]:
    """Return the summary of every search for a language model at or below a folder, in the order of their paths."""
    found = (read_json(file) for file in sorted(folder.rglob(TUNING)))
    return [summary for summary in found if summary.get("chosen_by") == CHOSEN_BY]


def search_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return what a search chose, and what came out with every value that it tried."""
    return [trials_table(summary), values_table(summary)]


def trials_table(summary: Mapping[str, Any]) -> Table:
    """Return what tuning found, a row a rule: the chosen settings, and the perplexities of all trials."""
    changed = list(summary["space"])
    rows = []
    for rule, trials in summary["trials"].items():
        reached = sorted(trial[CHOSEN_BY] for trial in trials)
        found = summary["chosen"].get(rule)
        rows.append(
            (
                label(rule),
                f"{len(trials)} of {summary['trials_per_rule']}",
                *(_setting(found, name) for name in changed),
                _reciprocal(reached[-1]),
                _reciprocal(reached[0]),
            )
        )
    return Table(
        title=f"{summary['name']}: settings chosen by validation perplexity",
        headings=("rule", "trials", *(name.rpartition(".")[2] for name in changed), "best", "worst"),
        rows=tuple(rows),
    )


def _setting(found: Mapping[str, Any] | None, name: str) -> str:
    if found is None:
        return "not all tried"
    value = found.get(name, NONE)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _reciprocal(likelihood: float) -> str:
    return f"{1 / likelihood:.1f}" if likelihood > 0 else "diverged"


def values_table(summary: Mapping[str, Any]) -> Table:
    """Return the best perplexity with every value that was tried, a column a rule. Numbers out of a range are left out.

    Args:
        summary: Of a search.
    """
    trials = summary["trials"]
    rows = [
        (name.rpartition(".")[2], str(value), *(_with(its, name, value) for its in trials.values()))
        for name, values in summary["space"].items()
        if isinstance(values, list)
        for value in values
    ]
    return Table(
        title=f"{summary['name']}: the best trial with each value",
        headings=("setting", "value", *map(label, trials)),
        rows=tuple(rows),
        notes=(
            "Validation perplexity (and of how many trials). The other settings are not the same in them, and a search "
            "tries more often what did well: a hint at what matters, not a comparison with all else equal.",
        ),
        text_columns=2,
    )


def _with(trials: Sequence[Mapping[str, Any]], name: str, value: Any) -> str:
    reached = [trial[CHOSEN_BY] for trial in trials if trial["settings"].get(name) == value]
    return f"{_reciprocal(max(reached))} ({len(reached)})" if reached else NONE
