"""Tuning with equal budgets: every rule tries the very same settings, and validation accuracy decides.

Several processes may tune into one folder at the same time: each takes trials that no other one is at, and each
writes the summary of all finished trials when nothing is left for it to do.
"""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from feedalign.experiments import records
from feedalign.experiments.data import load
from feedalign.experiments.errors import BusyError, DivergedError, ExperimentError
from feedalign.experiments.files import exclusive, writable_folder
from feedalign.experiments.names import label, rank, short_name
from feedalign.experiments.progress import Progress, Silent
from feedalign.experiments.records import SCHEMA, read_json, write_json
from feedalign.experiments.runs import finished, require_config, run_folder
from feedalign.experiments.settings import with_settings
from feedalign.experiments.tables import Table
from feedalign.experiments.vision.config import Config
from feedalign.experiments.vision.runs import VISION, run

TUNING, DIVERGED = "tuning.json", "diverged.json"
SUMMARY_SECONDS = 60.0  # how long to wait for another process that is writing the summary
Space = Mapping[str, Sequence[Any]]


def settings_to_try(space: Space, trials: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return distinct combinations of the values in ``space``: all of them, or a random choice of ``trials``."""
    combinations = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
    return random.Random(seed).sample(combinations, min(trials, len(combinations)))


@dataclass(frozen=True)
class Tuning:
    """What is tried: the same settings for every rule.

    Attributes:
        config: What the trials share.
        space: Dotted names of settings to the values to try, as in ``{"optimiser.learning_rate": [0.01, 0.1]}``.
        trials: How many settings to try per rule.
        output: Folder of the trials and of the summary.
        seed: Of the runs, and of the choice of settings. Not one of the seeds to be reported later.

    Raises:
        ExperimentError: Nothing would be tried, or nothing is held out to decide by, or there is no such setting.
    """

    config: Config
    space: Space
    trials: int
    output: Path
    seed: int = 1_000
    settings: list[dict[str, Any]] = field(init=False)
    """What each trial changes, in the order of their numbers."""

    def __post_init__(self) -> None:
        if self.config.data.validation == 0:
            raise ExperimentError("Tuning expected images held out for validation, found none. Set data.validation.")
        object.__setattr__(self, "settings", settings_to_try(self.space, max(0, self.trials), self.seed))
        if not self.settings:
            raise ExperimentError(f"Tuning expected at least one trial, found {self.trials}.")

    def trial(self, rule: str, number: int) -> Config:
        """Return the configuration of a trial."""
        shared = replace(self.config, name=f"trial{number:03}", rule=rule, seed=self.seed)
        return with_settings(shared, self.settings[number])

    def folder(self, rule: str, number: int) -> Path:
        """Return the folder of a trial."""
        return run_folder(self.output, self.trial(rule, number))

    def outcome(self, rule: str, number: int) -> dict[str, Any] | None:
        """Return how a trial came out, None if it is not finished. The test part stays out of it.

        Raises:
            RecordError: The folder holds a trial of another configuration.
        """
        config, folder = self.trial(rule, number), self.folder(rule, number)
        if (folder / DIVERGED).exists():
            require_config(folder, read_json(folder / DIVERGED)["config"], config)
            return {"validation_accuracy": None, "epoch": None}
        record = finished(config, folder)
        if record is None:
            return None
        best = record.metrics["best"]
        return {"validation_accuracy": best["validation_accuracy"], "epoch": best["epoch"]}

    @property
    def rules(self) -> list[str]:
        """The rules with a trial in the folder, whichever process began it, in the order of tables."""
        found = {
            folder.name.removesuffix(f"-seed{self.seed}") for folder in self.output.glob(f"trial*/*-seed{self.seed}")
        }
        return sorted(found, key=rank)

    def summary(self) -> dict[str, Any]:
        """Return the finished trials, and what they choose for every rule whose trials are all finished."""
        tried = [
            {"rule": rule, "settings": settings, **outcome}
            for number, settings in enumerate(self.settings)
            for rule in self.rules
            if (outcome := self.outcome(rule, number)) is not None
        ]
        of_rule = {rule: [trial for trial in tried if trial["rule"] == rule] for rule in self.rules}
        return {
            "schema": SCHEMA,
            "experiment": "vision-tuning",
            "name": self.config.name,
            "config": records.describe(self.config),
            "seed": self.seed,
            "space": {name: list(values) for name, values in self.space.items()},
            "trials_per_rule": len(self.settings),
            "trials": tried,
            "chosen": {rule: _best(own) for rule, own in of_rule.items() if len(own) == len(self.settings)},
        }


def tune(
    tuning: Tuning, rules: Sequence[str], *, root: Path | str | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Run the trials that are not finished, and return and write to ``tuning.json`` the summary of all in the folder.

    A trial that diverges counts, with an accuracy of None. Trials are runs in folders of their own: finished ones
    are not run again, stopped ones go on, and those that another process is at are left to it.

    Args:
        tuning: What is tried.
        rules: Each gets the same trials. The summary also holds other rules that were tuned into the same folder.
        root: The data root.
        progress: Who is told.

    Raises:
        ExperimentError: As :func:`feedalign.experiments.vision.run` does, but for diverged trials.
    """
    progress = progress or Silent()
    read = lru_cache(maxsize=1)(partial(load, root=root))
    wanted = [(rule, n) for n in range(len(tuning.settings)) for rule in dict.fromkeys(map(short_name, rules))]
    left = [(rule, n) for rule, n in wanted if tuning.outcome(rule, n) is None]
    for rule, number in left:
        config = tuning.trial(rule, number)
        VISION.rehearse(config, read(config.data))
    for rule, number in left:
        if tuning.outcome(rule, number) is not None:  # another process has been at it since
            continue
        try:
            run(tuning.trial(rule, number), tuning.folder(rule, number), read=read, progress=progress)
        except DivergedError as error:
            progress.message(str(error))
            config = records.describe(tuning.trial(rule, number))
            write_json(tuning.folder(rule, number) / DIVERGED, {"schema": SCHEMA, "config": config})
        except BusyError:
            progress.message(f"trial{number:03} {rule}: left to the process that is at it.")
    with exclusive(writable_folder(tuning.output), wait=SUMMARY_SECONDS):
        summary = tuning.summary()
        write_json(tuning.output / TUNING, summary)
    return summary


def tuning_table(summary: dict[str, Any]) -> Table:
    """Return what tuning found, a row a rule: the chosen settings, and how all trials did on validation images."""
    changed = list(summary["space"])
    rows = []
    for rule in dict.fromkeys(trial["rule"] for trial in summary["trials"]):
        found = [trial["validation_accuracy"] for trial in summary["trials"] if trial["rule"] == rule]
        reached = sorted(accuracy for accuracy in found if accuracy is not None)
        chosen = summary["chosen"].get(rule)
        rows.append(
            (
                label(rule),
                f"{len(found)} of {summary['trials_per_rule']}",
                *(str(chosen[name]) if chosen else "not all tried" for name in changed),
                f"{100 * reached[-1]:.2f}" if reached else "none",
                f"{100 * reached[0]:.2f}" if reached else "none",
                str(len(found) - len(reached)),
            )
        )
    return Table(
        title=f"{summary['name']}: settings chosen by validation accuracy",
        headings=("rule", "trials", *changed, "best (%)", "worst (%)", "diverged"),
        rows=tuple(rows),
        notes=("Every rule is given the same trials. A rule is decided when all of its trials are finished.",),
    )


def _best(trials: list[dict[str, Any]]) -> dict[str, Any]:
    return max(trials, key=lambda trial: trial["validation_accuracy"] or 0.0)["settings"]  # type: ignore[no-any-return]
