"""Runs on click logs sorted into the cells of tables."""

from collections.abc import Sequence
from dataclasses import dataclass

from feedalign.experiments.names import short_name
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, interval

CTR = "ctr"
ALONE = "fm"
"""The network that has no hidden layers, and that the others are to exceed."""


def of_clicks(run: Run) -> bool:
    """Return whether a run is one on a click log."""
    return run.record.experiment == CTR


@dataclass(frozen=True)
class Cells:
    """The runs on click logs, by configuration and rule."""

    runs: dict[str, dict[str, list[Run]]]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Cells":
        """Return the runs sorted; those of other experiments are left out."""
        found: dict[str, dict[str, list[Run]]] = {}
        for run in runs:
            if of_clicks(run):
                found.setdefault(run.record.name, {}).setdefault(short_name(run.record.rule), []).append(run)
        return cls(found)

    def by_seed(self, name: str, rule: str, metric: str) -> dict[int, float]:
        """Return a figure of the best epoch by seed."""
        runs = self.runs.get(name, {}).get(rule, [])
        return {run.record.seed: run.record.metrics["best"][metric] for run in runs}

    def figure(self, name: str, rule: str, metric: str) -> Interval | None:
        """Return a figure of the best epoch over seeds; None where there is no run."""
        found = self.by_seed(name, rule, metric)
        return interval(list(found.values())) if found else None

    def difference(self, one: tuple[str, str], other: tuple[str, str], metric: str) -> Interval | None:
        """Return by how much the figure of a configuration and rule exceeds another's, paired by seed; None of none."""
        found, against = self.by_seed(*one, metric), self.by_seed(*other, metric)
        common = sorted(found.keys() & against.keys())
        return interval([found[seed] - against[seed] for seed in common]) if common else None

    def seeds(self, name: str) -> str:
        """Return how many runs of each rule there are, in words."""
        counts = sorted({len(runs) for runs in self.runs.get(name, {}).values()})
        return " or ".join(map(str, counts)) or "0"

    def first(self, name: str) -> Run:
        """Return any run of a configuration, for what all of them share."""
        return next(iter(self.runs[name].values()))[0]
