"""The tables of a search for settings: what was chosen, and what came out with every value."""

from collections.abc import Mapping, Sequence
from typing import Any

from feedalign.experiments.names import label
from feedalign.experiments.tables import Table

NONE = "-"


def study_tables(summary: Mapping[str, Any]) -> list[Table]:
    """Return what a search chose and, where it tried values out of lists, what came out with every one of them."""
    listed = any(isinstance(values, list) for values in summary["space"].values())
    return [trials_table(summary), *([values_table(summary)] if listed else [])]


def trials_table(summary: Mapping[str, Any]) -> Table:
    """Return what a search found, a row a rule: the chosen settings, and how all trials did on validation data."""
    decided, changed = summary["chosen_by"], list(summary["space"])
    what, unit = _figure(decided)
    rows = []
    for rule, trials in summary["trials"].items():
        reached = sorted(trial[decided] for trial in trials)
        found = summary["chosen"].get(rule)
        rows.append(
            (
                label(rule),
                f"{len(trials)} of {summary['trials_per_rule']}",
                *(_setting(found, name) for name in changed),
                _shown(decided, reached[-1]),
                _shown(decided, reached[0]),
            )
        )
    return Table(
        title=f"{summary['name']}: settings chosen by {what}",
        headings=("rule", "trials", *map(_short, changed), f"best{unit}", f"worst{unit}"),
        rows=tuple(rows),
    )


def values_table(summary: Mapping[str, Any]) -> Table:
    """Return the best trial with every value that was tried, a column a rule. Numbers out of a range are left out."""
    decided, trials = summary["chosen_by"], summary["trials"]
    what, unit = _figure(decided)
    rows = [
        (_short(name), str(value), *(_best_with(decided, its, name, value) for its in trials.values()))
        for name, values in summary["space"].items()
        if isinstance(values, list)
        for value in values
    ]
    return Table(
        title=f"{summary['name']}: the best trial with each value",
        headings=("setting", "value", *map(label, trials)),
        rows=tuple(rows),
        notes=(
            f"{what[0].upper()}{what[1:]}{unit}, and of how many trials. The other settings are not the same in them, "
            "and a search tries more often what did well: a hint at what matters, not a comparison with all else "
            "equal.",
        ),
        text_columns=2,
    )


def _figure(decided: str) -> tuple[str, str]:
    """Return how a figure that decides is called in tables, and its unit behind a space, if any."""
    name = decided.replace("_", " ")
    if decided.endswith("_likelihood"):
        return name.replace("likelihood", "perplexity"), ""
    return name.replace("auc", "AUC").replace("psnr", "PSNR"), " (dB)" if decided.endswith("_psnr") else " (%)"


def _shown(decided: str, reached: float) -> str:
    """Return a figure that decides as tables show it: a likelihood per token as its reciprocal, the perplexity."""
    if decided.endswith("_likelihood"):
        return f"{1 / reached:.1f}" if reached > 0 else "diverged"
    return f"{reached if decided.endswith('_psnr') else 100 * reached:.2f}"


def _short(name: str) -> str:
    """Return the last part of a dotted name, and that before it where the last part says nothing."""
    return name.removesuffix(".name").rpartition(".")[2]


def _setting(found: Mapping[str, Any] | None, name: str) -> str:
    if found is None:
        return "not all tried"
    value = found.get(name, NONE)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _best_with(decided: str, trials: Sequence[Mapping[str, Any]], name: str, value: Any) -> str:
    reached = [trial[decided] for trial in trials if trial["settings"].get(name) == value]
    return f"{_shown(decided, max(reached))} ({len(reached)})" if reached else NONE
