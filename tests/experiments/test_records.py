"""Records are written whole or not at all, read back as they were, and say where they come from."""

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from feedalign.experiments import records
from feedalign.experiments.errors import OutputError, RecordError
from feedalign.experiments.files import append_line, exclusive, writable_folder, write_atomically
from feedalign.experiments.provenance import provenance, source_commit
from feedalign.experiments.records import Record
from feedalign.experiments.vision import preset


@pytest.fixture
def record():
    return Record(
        experiment="vision",
        name="digits-demo",
        rule="dfa",
        seed=3,
        config=records.describe(preset("digits-demo", "dfa", 3)),
        **provenance("cpu"),
        started="2025-01-01T00:00:00+00:00",
        wall_seconds=1.5,
        peak_memory_bytes=1_000,
        parameters=10,
        data={"name": "digits", "train": 1200, "validation": 200, "test": 397},
        metrics={"final": {"epoch": 2, "test_accuracy": 0.1 + 0.2}, "best": {"epoch": 1}},
        alignment={"layers.tanh1": {"mean": 0.5, "std": 0.1, "n": 9, "zero_error": 1, "undefined": 0}},
    )


def test_record_and_curve_come_back_as_they_were(record, tmp_path):
    curve = [{"epoch": 0, "train_loss": 2.302585092994046}, {"epoch": 1, "train_loss": 0.1}]
    records.save(record, tmp_path)
    records.write_curve(tmp_path / records.CURVE, curve[:1])
    append_line(tmp_path / records.CURVE, records.to_json(curve[1]))
    found = records.load(tmp_path)
    assert found.record == record
    assert found.curve == curve
    assert found.embedding is None
    assert records.load(tmp_path / records.RECORD) == found


def test_numbers_that_json_does_not_know_become_null(record, tmp_path):
    broken = dataclasses.replace(record, metrics={"final": {"test_loss": math.nan, "train_loss": math.inf}})
    records.save(broken, tmp_path)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    found = json.loads((tmp_path / records.RECORD).read_text(), parse_constant=refuse)
    assert found["metrics"]["final"] == {"test_loss": None, "train_loss": None}


def test_torn_last_line_of_a_curve_is_dropped(tmp_path):
    path = tmp_path / records.CURVE
    records.write_curve(path, [{"epoch": 0}, {"epoch": 1}])
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert records.read_curve(path) == [{"epoch": 0}, {"epoch": 1}][: whole[:length].count(b"\n")]


def test_broken_line_inside_a_curve_names_the_file(tmp_path):
    path = tmp_path / records.CURVE
    path.write_text('{"epoch": 0}\n{"epo\n{"epoch": 2}\n')
    with pytest.raises(RecordError, match=r"curve.jsonl is not a curve: expected one JSON object a line"):
        records.read_curve(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "Expected a record at .*record.json, found no such file"),
        ("{", "record.json is not a record: expected JSON, found Expecting property name"),
        ("[1]", "expected a JSON object with schema 1, found list"),
        ('{"schema": 2}', "expected a JSON object with schema 1, found schema 2"),
        (
            '{"schema": 1, "experiment": "vision"}',
            "record.json is not the record of a run: it has no alignment, commit",
        ),
    ],
)
def test_what_is_not_a_record_is_named(content, message, tmp_path):
    if content is not None:
        (tmp_path / records.RECORD).write_text(content)
    with pytest.raises(RecordError, match=message):
        records.load(tmp_path)


def test_all_runs_below_a_folder_are_found(record, tmp_path):
    for seed in (1, 0):
        folder = tmp_path / f"dfa-seed{seed}"
        folder.mkdir()
        records.save(dataclasses.replace(record, seed=seed), folder)
    bench = tmp_path / "bench"
    bench.mkdir()
    records.write_json(bench / records.RECORD, {"schema": 1, "experiment": "bench-step", "cases": []})
    assert [run.record.seed for run in records.load_all(tmp_path)] == [0, 1]
    assert len(records.load_all(tmp_path, "vision")) == 2
    assert records.load_all(tmp_path, "graph") == []


def test_full_disk_leaves_the_old_record_and_nothing_half_written(record, tmp_path):
    records.save(record, tmp_path)
    before = (tmp_path / records.RECORD).read_bytes()
    script = f"""
import resource
from pathlib import Path
from feedalign.experiments import records
from feedalign.experiments.errors import OutputError
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))  # the kernel refuses to let a file grow past this
try:
    records.write_json(Path({str(tmp_path / records.RECORD)!r}), {{"schema": 1, "much": "x" * 100_000}})
except OutputError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "Could not write" in done.stdout
    assert "record.json: File too large. What was there before is untouched. Free some space" in done.stdout
    assert (tmp_path / records.RECORD).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [records.RECORD]


def test_device_without_space_is_told():
    with pytest.raises(OutputError, match=r"Could not write /dev/full: No space left on device"):
        append_line(Path("/dev/full"), "{}")


def test_unwritable_folder_is_told_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"Expected a folder that can be written, found .*file.runs: Not a directory"):
        writable_folder(tmp_path / "file" / "runs")
    with pytest.raises(OutputError, match=r"Could not write .*missing.record.json: No such file or directory"):
        write_atomically(tmp_path / "missing" / "record.json", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_folder_without_permission_is_told(tmp_path):
    tmp_path.chmod(0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        writable_folder(tmp_path)


def test_differences_name_the_settings():
    first, second = (records.describe(preset("digits-demo", rule)) for rule in ("dfa", "bp"))
    second["optimiser"]["learning_rate"] = 0.5
    assert records.differences(first, first) == []
    assert records.differences(first, second) == [
        "rule: 'dfa', not 'bp'",
        "optimiser.learning_rate: 0.05, not 0.5",
    ]


def test_what_lies_beside_a_record_is_named_when_it_is_damaged(digits_folder, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(digits_folder / "digits-demo" / "dfa-seed0", run)
    (run / records.CURVE).write_text("[3]\n")
    with pytest.raises(RecordError, match=r"curve.jsonl is not a curve: expected one JSON object a line, found a list"):
        records.load(run)
    (run / records.CURVE).write_text("")
    (run / records.EMBEDDING).write_text('{"layer"')
    with pytest.raises(RecordError, match=r"embedding.json is not a record: expected JSON, found"):
        records.load(run)


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path):
    busy = pytest.raises(OutputError, match="another process is writing into it")
    with exclusive(tmp_path), busy, exclusive(tmp_path):
        pass
    with exclusive(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_description_tells_classes_apart_and_survives_json():
    described = records.describe(preset("cifar10-cnn"))
    assert described["model"]["type"] == "CNNConfig"
    assert described["feedback"]["type"] == "Uniform"
    assert json.loads(records.to_json(described)) == described


def git(folder, *arguments):
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    done = subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_commit_is_that_of_the_sources(tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "module.py").write_text("a = 1\n")
    assert source_commit(package) == (None, False)  # no repository
    git(tmp_path, "init", "--quiet")
    (tmp_path / "other").write_text("")
    git(tmp_path, "add", "other")
    git(tmp_path, "commit", "--quiet", "--message", "other")
    assert source_commit(package) == (None, False)  # installed inside somebody's repository
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "--quiet", "--message", "package")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert source_commit(package) == (head, False)
    (tmp_path / "other").write_text("a change elsewhere")
    assert source_commit(package) == (head, False)
    (package / "module.py").write_text("a = 2\n")
    assert source_commit(package) == (head, True)
