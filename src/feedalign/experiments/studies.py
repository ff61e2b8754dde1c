"""Tuning with equal budgets by Optuna: every rule is given as many trials, over the same space, from the same seed.

A study is one configuration under one rule. Its trials are in a journal that survives a kill: the study goes on from
where it was. Several processes may work on a list of studies: each takes one that no other is at.
"""

import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Generic

from feedalign.experiments import records
from feedalign.experiments.errors import BusyError, DivergedError, RecordError
from feedalign.experiments.files import exclusive, writable_folder
from feedalign.experiments.names import rank
from feedalign.experiments.progress import Progress, Silent
from feedalign.experiments.records import SCHEMA, read_json, write_json
from feedalign.experiments.runs import Experiment
from feedalign.experiments.settings import with_settings
from feedalign.experiments.training import ConfigT

if TYPE_CHECKING:  # only tuning needs it, and other commands must start without it
    import optuna
    from optuna.trial import FrozenTrial

TUNING, STUDY, JOURNAL = "tuning.json", "study.json", "journal.log"
SAMPLER_SEED = 1_000
STARTUP = 6
"""Trials at random, those that are given counted, before what came out guides the choice."""
SUMMARY_SECONDS = 60.0  # how long to wait for another process that is writing the summary


@dataclass(frozen=True)
class Logarithmic:
    """Numbers between two others, each power of ten as likely as the next."""

    low: float
    high: float


Space = Mapping[str, Logarithmic | tuple[Any, ...]]


@dataclass(frozen=True)
class Study(Generic[ConfigT]):
    """One configuration under one rule, and what is tried.

    Attributes:
        experiment: Runs the trials.
        config: What the trials share, the rule included.
        space: Dotted names of settings to the values that may be tried.
        first: Settings that are tried first.
        trials: How many, the first ones counted.
        seeds: Of the runs of a trial, which is as good as their mean. Not those to be reported later.
        chosen_by: The figure on validation data that decides, of the best epoch of a run.
        output: The summary goes into the folder of the configuration below.
    """

    experiment: Experiment[ConfigT, Any]
    config: ConfigT
    space: Space
    first: Sequence[Mapping[str, Any]]
    trials: int
    seeds: tuple[int, ...]
    chosen_by: str
    output: Path

    @property
    def folder(self) -> Path:
        """Where the study is kept."""
        return self.output / self.config.name / "tuning" / self.config.rule

    def trial(self, settings: Mapping[str, Any], seed: int) -> ConfigT:
        """Return the configuration of one run of a trial."""
        return with_settings(replace(self.config, seed=seed), settings)  # type: ignore[type-var]

    def done(self) -> list[dict[str, Any]]:
        """Return the finished trials.

        Raises:
            RecordError: The folder holds a study of another configuration.
        """
        if not (self.folder / STUDY).exists():
            return []
        found = read_json(self.folder / STUDY)
        if different := records.differences(found["tried"], self.tried):
            raise RecordError(
                f"{self.folder} holds trials of something else:\n  "
                + "\n  ".join(different)
                + "\nChoose another output folder, or delete that one."
            )
        trials: list[dict[str, Any]] = found["trials"]
        return trials

    @property
    def tried(self) -> dict[str, Any]:
        """All that decides how trials come out, as JSON values."""
        return {
            "config": records.describe(self.config),
            "space": {name: records.describe(values) for name, values in self.space.items()},
            "first": [dict(settings) for settings in self.first],
            "seeds": list(self.seeds),
        }

    @property
    def finished(self) -> bool:
        """Whether nothing is left to try."""
        return len(self.done()) >= self.trials

    def run(self, read: Callable[[Any], Any], progress: Progress) -> None:
        """Run the trials that are left.

        Raises:
            BusyError: Another process is at it.
            ExperimentError: As a run does, but for diverged ones.
        """
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend

        with exclusive(writable_folder(self.folder)):
            self.done()  # raises if the folder is that of another study
            optuna.logging.set_verbosity(optuna.logging.WARNING)
            journal = JournalStorage(JournalFileBackend(str(self.folder / JOURNAL)))
            study = optuna.create_study(
                storage=journal, study_name=self.config.rule, direction="maximize", load_if_exists=True
            )
            if not study.trials:
                for settings in self.first:
                    study.enqueue_trial(dict(settings))
            while len(complete := _in_state(study, "COMPLETE")) < self.trials:
                # Seeded by the number of the trial, so that a study that was killed chooses what it would have chosen.
                study.sampler = optuna.samplers.TPESampler(seed=SAMPLER_SEED + len(complete), n_startup_trials=STARTUP)
                number, settings = self._next(study)
                study.tell(number, self._value(settings, read, progress))
                self._write(_in_state(study, "COMPLETE"))

    def _next(self, study: "optuna.Study") -> tuple[int, dict[str, Any]]:
        """Return a trial that was begun and not finished, or the next one."""
        for begun in _in_state(study, "RUNNING"):
            if begun.params.keys() == self.space.keys():
                return begun.number, _readable(begun.params)
            study.tell(begun.number, state=type(begun.state).FAIL)
        trial = study.ask()
        for name, values in self.space.items():
            if isinstance(values, Logarithmic):
                trial.suggest_float(name, values.low, values.high, log=True)
            else:
                trial.suggest_categorical(name, values)
        return trial.number, _readable(trial.params)

    def _value(self, settings: Mapping[str, Any], read: Callable[[Any], Any], progress: Progress) -> float:
        folder = self.folder / "trial"
        found = []
        for seed in self.seeds:
            config = self.trial(settings, seed)
            try:
                record = self.experiment.run(config, folder / str(seed), read=read, progress=progress)
                found.append(record.metrics["best"][self.chosen_by])
            except DivergedError as error:
                progress.message(str(error))
                found.append(0.0)
        shutil.rmtree(folder)  # what it came to is in the journal, and tables must not take it for a run
        return fmean(found)

    def _write(self, complete: "list[FrozenTrial]") -> None:
        trials = [{"settings": _readable(trial.params), self.chosen_by: trial.value} for trial in complete]
        write_json(self.folder / STUDY, {"schema": SCHEMA, "tried": self.tried, "trials": trials})

    def summarise(self) -> dict[str, Any]:
        """Write and return the summary of all studies of this configuration, whatever their rules."""
        folder = self.output / self.config.name
        with exclusive(writable_folder(folder), wait=SUMMARY_SECONDS):
            files = sorted((folder / "tuning").glob(f"*/{STUDY}"), key=lambda file: rank(file.parent.name))
            found = {file.parent.name: read_json(file) for file in files}
            by_rule = {rule: study["trials"] for rule, study in found.items()}
            spaces = {rule: study["tried"]["space"] for rule, study in found.items()}
            summary = {
                "schema": SCHEMA,
                "name": self.config.name,
                **self.tried,
                "space": {name: values for space in spaces.values() for name, values in space.items()},
                "chosen_by": self.chosen_by,
                "trials_per_rule": self.trials,
                "trials": by_rule,
                "chosen": {
                    rule: max(trials, key=lambda trial: float(trial[self.chosen_by]))["settings"]
                    for rule, trials in by_rule.items()
                    if len(trials) >= self.trials
                },
            }
            write_json(folder / TUNING, summary)
        return summary


def tune(
    studies: Iterable[Study[Any]], *, root: Path | str | None = None, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Work on studies until none is left that no other process is at, and return the summary of each configuration.

    Args:
        studies: What is tuned.
        root: The data root.
        progress: Who is told.

    Raises:
        ExperimentError: As a run does, but for diverged ones.
    """
    progress = progress or Silent()
    studies = list(studies)
    for study in studies:
        study.done()
    summaries, readers = {}, {study.experiment: study.experiment.reader(root) for study in studies}
    for study in studies:
        if not study.finished:
            try:
                study.run(readers[study.experiment], progress)
            except BusyError:
                progress.message(f"{study.config.name} {study.config.rule}: left to the process that is at it.")
        summaries[study.config.name] = study
    return [study.summarise() for study in summaries.values()]


def _in_state(study: "optuna.Study", state: str) -> "list[FrozenTrial]":
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.name == state]


def _readable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with three digits each: no more are needed, and a reader can take them in."""
    return {name: float(f"{one:.3g}") if isinstance(one, float) else one for name, one in settings.items()}


def chosen(folder: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """Return what tuning chose, by configuration and rule, from every summary in the folders below.

    Raises:
        RecordError: There is no summary.
    """
    files = sorted(folder.glob(f"*/{TUNING}"))
    if not files:
        raise RecordError(f"Expected folders with a {TUNING} in {folder}, found none. `feedalign tune` makes some.")
    return {summary["name"]: summary["chosen"] for summary in map(read_json, files)}
