"""One run, one record: a folder with ``record.json``, ``curve.jsonl`` and perhaps ``embedding.json``.

Every table and picture is a function of these files.
"""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedalign.experiments.errors import RecordError
from feedalign.experiments.files import write_atomically

SCHEMA = 1
RECORD, CURVE, EMBEDDING = "record.json", "curve.jsonl", "embedding.json"
OTHERS = {"cases", "findings"}
"""What the records of benchmarks and studies hold, and those of runs do not."""


@dataclass(frozen=True)
class Record:
    """What one finished run was and what came out. Accuracies are fractions in [0, 1]; times are in seconds.

    Attributes:
        experiment: The kind of experiment, such as ``"vision"``.
        name: The name of its configuration.
        rule: The learning rule, by its short name.
        seed: The seed of weights, batches and feedback.
        config: The whole configuration, dataclasses as dicts with their class under ``"type"``.
        versions: Of feedalign, torch, python and numpy.
        device: What it ran on.
        threads: How many CPU threads torch used.
        commit: The commit of the sources, None for an installed package.
        dirty: Whether the sources differed from that commit.
        started: ISO 8601, UTC.
        wall_seconds: Of the whole run, over all its resumptions.
        peak_memory_bytes: See :func:`feedalign.experiments.provenance.peak_memory_bytes`.
        parameters: Trainable numbers in the model.
        data: The data set's name, and how many samples were used: ``train``, ``validation``, ``test``.
        metrics: ``"final"`` and ``"best"`` (the epoch with the best validation accuracy).
        alignment: Per point ``mean``, ``std``, ``n``, ``zero_error``, ``undefined`` at the end; None for
            rules that deliver no signal.
        schema: The version of this layout.
    """

    experiment: str
    name: str
    rule: str
    seed: int
    config: dict[str, Any]
    versions: dict[str, str]
    device: str
    threads: int
    commit: str | None
    dirty: bool
    started: str
    wall_seconds: float
    peak_memory_bytes: int
    parameters: int
    data: dict[str, Any]
    metrics: dict[str, dict[str, Any]]
    alignment: dict[str, dict[str, Any]] | None
    schema: int = SCHEMA


@dataclass(frozen=True)
class Run:
    """A record with what lies beside it.

    Attributes:
        directory: The folder of the run.
        record: The record.
        curve: One dict an epoch, epoch 0 (before training) included.
        embedding: t-SNE of the last hidden layer, or None: ``layer``, ``rule``, ``points``, ``labels`` and
            ``silhouette``.
    """

    directory: Path
    record: Record
    curve: list[dict[str, Any]] = field(repr=False)
    embedding: dict[str, Any] | None = field(repr=False)


def to_json(value: object) -> str:
    """Return ``value`` as one line of valid JSON. JSON has no NaN and no infinity: they become null."""
    return json.dumps(_plain(value), allow_nan=False)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as an indented JSON file, whole or not at all.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    text = json.dumps(_plain(value), allow_nan=False, ensure_ascii=False, indent=1)
    write_atomically(path, (text + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file that this program wrote.

    Raises:
        RecordError: There is no such file, it is not a JSON object, or its schema is another one.
    """
    value = _json(path)
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema != SCHEMA:
        raise RecordError(
            f"{path} is not a record of this version: expected a JSON object with schema {SCHEMA}, found "
            f"{'schema ' + str(schema) if isinstance(value, dict) else type(value).__name__}. "
            "Move it away, or use the version that wrote it."
        )
    return dict(value)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(
            f"Expected a record at {path}, found no such file. Is that the folder of a finished run?"
        ) from error
    except (OSError, ValueError) as error:
        raise RecordError(
            f"{path} is not a record: expected JSON, found {error}. Move it away or run again."
        ) from error


def save(record: Record, directory: Path) -> None:
    """Write the record into the folder of its run, whole or not at all.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    write_json(directory / RECORD, dataclasses.asdict(record))


def load(path: Path) -> Run:
    """Return the run in a folder (or that of a ``record.json``).

    Raises:
        RecordError: There is no record, or it does not have the fields of one.
    """
    file = path / RECORD if path.is_dir() else path
    return _run(file, read_json(file))


def load_all(directory: Path, experiment: str | None = None) -> list[Run]:
    """Return every run at or below a folder, in the order of their paths.

    Args:
        directory: Where to look.
        experiment: Only runs of this kind. By default all runs; benchmarks, whose records hold ``"cases"``, and
            studies of the theory, whose records hold ``"findings"``, are passed over.

    Raises:
        RecordError: A ``record.json`` there is not a record; the message names it.
    """
    found = ((file, read_json(file)) for file in sorted(directory.rglob(RECORD)))
    return [
        _run(file, value)
        for file, value in found
        if (value.get("experiment") == experiment if experiment else value.keys().isdisjoint(OTHERS))
    ]


def _run(file: Path, value: dict[str, Any]) -> Run:
    known = {f.name for f in dataclasses.fields(Record)}
    if missing := sorted(known - value.keys()):
        raise RecordError(
            f"{file} is not the record of a run: it has no {', '.join(missing)}. Move it away or run again."
        )
    embedding = file.with_name(EMBEDDING)
    return Run(
        directory=file.parent,
        record=Record(**{key: value[key] for key in known}),
        curve=read_curve(file.with_name(CURVE)),
        embedding=_json(embedding) if embedding.exists() else None,
    )


def read_curve(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a curve. A last line torn off by a crash is dropped; no file is an empty curve.

    Raises:
        RecordError: A line before the last is not a JSON object.
    """
    if not path.exists():
        return []
    *lines, torn = path.read_text(encoding="utf-8").split("\n")
    del torn  # a whole line ends in a line feed, so what follows the last one is empty or half written
    try:
        curve = [json.loads(line) for line in lines]
    except ValueError as error:
        raise RecordError(f"{path} is not a curve: expected one JSON object a line, found {error}.") from error
    if other := [type(line).__name__ for line in curve if not isinstance(line, dict)]:
        raise RecordError(f"{path} is not a curve: expected one JSON object a line, found a {other[0]}.")
    return curve


def write_curve(path: Path, curve: list[dict[str, Any]]) -> None:
    """Write a whole curve, for instance to take back the epochs after the checkpoint a run resumes from.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    write_atomically(path, "".join(to_json(line) + "\n" for line in curve).encode())


def describe(config: object) -> Any:
    """Return a configuration as JSON values, every dataclass a dict that names its class under ``"type"``."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        fields = {f.name: describe(getattr(config, f.name)) for f in dataclasses.fields(config)}
        return {"type": type(config).__name__, **fields}
    if isinstance(config, list | tuple):
        return [describe(item) for item in config]
    return config


def differences(found: Any, expected: Any, prefix: str = "") -> list[str]:
    """Return where two described configurations differ, as ``"optimiser.learning_rate: 0.1, not 0.01"``."""
    if not (isinstance(found, dict) and isinstance(expected, dict)):
        return [] if found == expected else [f"{prefix}: {found!r}, not {expected!r}"]
    inside = f"{prefix}." if prefix else ""
    keys = [*found, *(key for key in expected if key not in found)]
    return [line for key in keys for line in differences(found.get(key), expected.get(key), inside + key)]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
