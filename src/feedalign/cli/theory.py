"""``feedalign theory``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from feedalign.cli.console import say, show, standard_error, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted
from feedalign.cli.report import REPORT
from feedalign.cli.train import cpu_threads
from feedalign.experiments.data.root import VARIABLE
from feedalign.experiments.report import write_report
from feedalign.experiments.theory import STUDIES, study
from feedalign.experiments.theory.jobs import Done, Job, run_all
from feedalign.experiments.theory.study import Progress as Tell
from feedalign.experiments.theory.study import finished

ALL = "all"
FOLDER, SHORT_FOLDER = Path("runs/theory"), Path("runs/theory-short")
NAMES = f"Studies, in the order of the story: {', '.join(STUDIES)}; {ALL} stands for all of them."


@dataclass(frozen=True)
class Theory:
    """Study why DFA learns: Align, then memorise (Refinetti et al. 2021), measured and held against its equations.

    Prints tables and writes a report. Finished studies are not run again; Ctrl-C loses only those on their way.
    The full studies take about {minutes:.0f} minutes of one core in all, {cores:.0f} with --jobs 2; --short is a look
    at what they do, in seconds each, whose numbers mean little.

    {studies}

    Example: feedalign theory all --short

    Example: feedalign theory ode phases

    Example: feedalign theory all --jobs 2

    Attributes:
        names: Which studies.
        short: Cut down, into a folder of its own.
        seeds: Over how many seeds; by default as many as the study says.
        jobs: How many studies run side by side, as processes of one CPU thread each.
        threads: CPU threads of a study that runs alone, torch's own choice by default.
        output: Folder of the records; runs/theory by default, and runs/theory-short with --short.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    names: Annotated[
        tuple[str, ...],
        tyro.conf.Positional,
        tyro.conf.arg(help=NAMES, metavar="NAME [NAME ...]", help_behavior_hint=""),
    ]
    short: bool = False
    seeds: Omitted[int] = None
    jobs: int = 1
    threads: Omitted[int] = None
    output: Omitted[Path] = None
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Measure what is not there yet, print the tables, write the report."""
        jobs, folder = self.asked(), self.folder
        with data_at(self.data_root), cpu_threads(self.threads), bars() as (tell, beside):
            failed = self.work(jobs, folder, tell, beside)
        console = standard_output()
        for done, config in jobs:
            if done.name not in failed and (record := finished(done, config, folder)) is not None:
                show(console, done.tables(record))
        if len(failed) < len(jobs):
            say(console, f"\nReport: {write_report(folder, folder / REPORT)}")
        for name, error in list(failed.items())[1:]:
            say(standard_error(), f"{name}: {error}")
        for error in failed.values():
            raise error

    def work(self, jobs: list[Job], folder: Path, tell: Tell, beside: Console) -> dict[str, BaseException]:
        """Run the studies and return the errors of those that failed."""
        ended: list[Done] = []
        try:
            for done in run_all(jobs, folder, tell, min(self.jobs, len(jobs))):
                ended.append(done)
                where = folder / done.name
                say(beside, f"{done.name}: {'failed' if done.error else where} ({len(ended)}/{len(jobs)})")
        except KeyboardInterrupt:
            names = ", ".join(done.name for done in ended if done.error is None) or "none"
            say(beside, f"Finished and kept in {folder}: {names}. The same command goes on with the others.")
            raise
        return {done.name: done.error for done in ended if done.error is not None}

    @property
    def folder(self) -> Path:
        """Where the records go."""
        return self.output or (SHORT_FOLDER if self.short else FOLDER)

    def asked(self) -> list[Job]:
        """Return the studies asked for with their settings.

        Raises:
            UsageError: A number makes no sense, or nothing is asked for.
            ExperimentError: There is no study of some name, or its record is one of other settings.
        """
        if not self.names:
            raise UsageError(f"Expected the name of a study, found none. {NAMES}")
        for option, count in (("seeds", self.seeds), ("jobs", self.jobs), ("threads", self.threads)):
            if count is not None and count < 1:
                raise UsageError(f"Expected --{option} of at least 1, found {count}.")
        names = dict.fromkeys(one for name in self.names for one in (STUDIES if name == ALL else [name]))
        jobs = [(found, self.config(found.short if self.short else found.config())) for found in map(study, names)]
        for found, config in jobs:  # a record in the way is found out now, not after half an hour
            finished(found, config, self.folder)
        return jobs

    def config(self, config: Any) -> Any:
        """Return the settings of a study with as many seeds as asked for, where it goes over seeds."""
        seeded = any(field.name == "seeds" for field in fields(config))
        return replace(config, seeds=self.seeds) if self.seeds is not None and seeded else config


def _help() -> str:
    minutes = sum(row.minutes for row in STUDIES.values())
    studies = "\n\n    ".join(f"{name}: {row.about}" for name, row in STUDIES.items())
    return (Theory.__doc__ or "").format(minutes=minutes, cores=minutes / 2, studies=studies)


Theory.__doc__ = _help()


@contextmanager
def data_at(root: Path | None) -> Iterator[None]:
    """Let data sets be looked for in a folder, by processes that are started too; None changes nothing."""
    before = os.environ.get(VARIABLE)
    if root is not None:
        os.environ[VARIABLE] = str(root)
    try:
        yield
    finally:
        if root is not None:
            os.environ.pop(VARIABLE)
            os.environ.update({} if before is None else {VARIABLE: before})


@contextmanager
def bars() -> Iterator[tuple[Tell, Console]]:
    """Show a bar for what each study is at; the console beside them is for sentences."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=standard_error(), transient=True) as drawn:
        tasks: dict[str, Any] = {}

        def tell(what: str, done: int, total: int) -> None:
            name = what.partition(":")[0]
            if name not in tasks:
                tasks[name] = drawn.add_task(what)
            drawn.update(tasks[name], description=what, completed=done, total=total)
            if done >= total:
                drawn.remove_task(tasks.pop(name))

        yield tell, drawn.console
