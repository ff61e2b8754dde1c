"""A study: one question of the theory, its measurement, and the tables and pictures made from its record."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from feedalign.experiments.errors import RecordError
from feedalign.experiments.files import exclusive, writable_folder
from feedalign.experiments.provenance import provenance
from feedalign.experiments.records import RECORD, SCHEMA, describe, differences, read_json, write_json
from feedalign.experiments.tables import Table

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``"""
Findings = dict[str, Any]
Written = dict[str, Any]
PREFIX = "theory-"


@dataclass(frozen=True)
class Study:
    """One question of the theory.

    Attributes:
        name: A word; the folder of the record, and ``"theory-" + name`` its kind.
        about: What it shows, in a sentence.
        config: The frozen dataclass of its settings, whose defaults are the full study. A field ``seeds`` says over
            how many seeds it goes.
        short: Settings of a real run of seconds.
        measure: Called as ``measure(config, progress)``; returns the findings, values that JSON can hold.
        tables: From a record as it was read back: keys are strings, tuples lists, NaN None.
        pictures: From the same, by a short name. A figure's label, ``figure.set_label``, is its caption: a sentence
            or two that say what is to be seen.
        minutes: About how long the full study takes on one core; the longest are begun first.
    """

    name: str
    about: str
    config: type
    short: Any
    measure: Callable[[Any, Progress], Findings]
    tables: Callable[[Written], list[Table]]
    pictures: Callable[[Written], dict[str, Figure]]
    minutes: float = 1.0

    @property
    def experiment(self) -> str:
        """The kind that its records name."""
        return PREFIX + self.name

    def file(self, picture: str) -> str:
        """Return the name, without ending, of the file of a picture: ``theory-NAME-PICTURE``, with no word twice."""
        own = picture == self.name or picture.startswith(f"{self.name}-")
        return PREFIX + (picture if own else f"{self.name}-{picture}")


def silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def run(study: Study, config: Any, folder: Path, progress: Progress = silent) -> Written:
    """Return the record of a study, measured now or found finished with the same settings.

    Args:
        study: Which.
        config: Its settings, an instance of ``study.config``.
        folder: The record is ``<name>/record.json`` below it, written whole or not at all.
        progress: Who is told.

    Raises:
        OutputError: The folder cannot be written; found out before measuring.
        RecordError: The record there is one of other settings.
    """
    directory = writable_folder(folder / study.name)
    with exclusive(directory):
        found = finished(study, config, folder)
        return found if found is not None else _measure(study, config, directory, progress)


def _measure(study: Study, config: Any, directory: Path, progress: Progress) -> Written:
    started, clock = datetime.now(UTC), time.perf_counter()
    origin = provenance("cpu")  # of the sources as they are now, not as they may have become by the end
    findings = study.measure(config, progress)
    record = {
        "schema": SCHEMA,
        "experiment": study.experiment,
        "config": describe(config),
        **origin,
        "started": started.isoformat(timespec="seconds"),
        "wall_seconds": time.perf_counter() - clock,
        "findings": findings,
    }
    write_json(directory / RECORD, record)
    return read_json(directory / RECORD)


def finished(study: Study, config: Any, folder: Path) -> Written | None:
    """Return the record of a study with these settings, or None where there is none.

    Raises:
        RecordError: The record there is one of other settings, or no record.
    """
    file = folder / study.name / RECORD
    if not file.exists():
        return None
    found = read_json(file)
    if different := differences(found.get("config"), describe(config)):
        raise RecordError(
            f"Expected {file} to be a record with the settings asked for, found others: {'; '.join(different)}. "
            "Choose another output folder, or move this one away."
        )
    return found


def load_studies(folder: Path) -> list[Written]:
    """Return the records of studies at or below a folder, in the order of their paths.

    Raises:
        RecordError: A ``record.json`` there is not a record; the message names it.
    """
    found = (read_json(file) for file in sorted(folder.rglob(RECORD)))
    return [record for record in found if str(record.get("experiment", "")).startswith(PREFIX)]
