"""The tables of training through simulated hardware, made from records."""

from collections.abc import Sequence
from statistics import fmean

from feedalign.experiments.light.conditions import CONDITIONS, SYSTEMS, parts
from feedalign.experiments.light.config import LIGHT
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, Table, interval

Cells = dict[str, list[Run]]


def of_light(run: Run) -> bool:
    """Return whether a run went through simulated hardware, or stands beside one that did."""
    return run.record.experiment == LIGHT


def by_condition(runs: Sequence[Run], system: str) -> Cells:
    """Return the runs of a system by condition, in the order of the conditions."""
    found: Cells = {}
    for run in runs:
        if of_light(run) and parts(run.record.name)[0] == system:
            found.setdefault(parts(run.record.name)[1], []).append(run)
    return {name: found[name] for name in CONDITIONS if name in found}


def accuracy(runs: Sequence[Run]) -> Interval:
    """Return the test accuracy at the epoch that was best on validation data, in percent."""
    return interval([100 * run.record.metrics["best"]["test_accuracy"] for run in runs])


def final(runs: Sequence[Run]) -> Interval:
    """Return the test accuracy at the last epoch, in percent."""
    return interval([100 * run.record.metrics["final"]["test_accuracy"] for run in runs])


def alignment(runs: Sequence[Run]) -> Interval | None:
    """Return the alignment at the end, the mean over points; None for rules that deliver no signal."""
    measured = [fmean(point["mean"] for point in run.record.alignment.values()) for run in runs if run.record.alignment]
    return interval(measured) if measured else None


def light_tables(runs: Sequence[Run]) -> list[Table]:
    """Return one table per system: accuracy and alignment under each condition."""
    return [_table(system, cells) for system in SYSTEMS if (cells := by_condition(runs, system))]


def _table(system: str, cells: Cells) -> Table:
    rows = []
    reference = cells.get("ternary")
    for name, runs in cells.items():
        cosine = alignment(runs)
        rows.append(
            (
                CONDITIONS[name].label,
                str(len(runs)),
                accuracy(runs).text(),
                final(runs).text(),
                _difference(runs, reference),
                "" if cosine is None else cosine.text(3),
            )
        )
    return Table(
        title=SYSTEMS[system].about,
        headings=(
            "how the error is carried",
            "seeds",
            "test accuracy (%)",
            "at the last epoch (%)",
            "minus ternary DFA (points)",
            "alignment",
        ),
        rows=tuple(rows),
        notes=(
            "Mean ± half the 95 % interval over seeds (Student's t). Accuracy at the epoch with the best validation "
            "accuracy; the difference is taken seed by seed. Alignment: cosine with backpropagation at the end, per "
            "sample, mean over points.",
        ),
    )


def _difference(runs: Sequence[Run], reference: Sequence[Run] | None) -> str:
    if not reference:
        return ""
    known = {run.record.seed: run.record.metrics["best"]["test_accuracy"] for run in reference}
    pairs = [
        100 * (run.record.metrics["best"]["test_accuracy"] - known[run.record.seed])
        for run in runs
        if run.record.seed in known
    ]
    return interval(pairs).text() if pairs else ""
