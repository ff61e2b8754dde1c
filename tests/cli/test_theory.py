"""``feedalign theory``: real studies, cut down to seconds."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from feedalign.experiments.records import describe, write_json
from feedalign.experiments.theory import STUDIES, study
from feedalign.experiments.theory.jobs import run_all

QUICK = ("linear", "bound")


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of two studies, made side by side."""
    from feedalign.cli import main

    folder = tmp_path_factory.mktemp("theory")
    assert main(["theory", *QUICK, "--short", "--jobs", "2", "--output", str(folder)]) == 0
    return folder


def test_studies_leave_records_and_a_report(studied: Path) -> None:
    for name in QUICK:
        record = json.loads((studied / name / "record.json").read_text(encoding="utf-8"))
        assert record["experiment"] == f"theory-{name}"
        assert record["config"]["type"] == "Config"
        assert record["findings"]
        assert record["wall_seconds"] > 0
        assert record["threads"] == 1
    page = (studied / "report.html").read_text(encoding="utf-8")
    for name in QUICK:
        assert f"Theory: {name}" in page
        assert study(name).about.split(":")[0].replace("'", "&#39;") in page
    assert page.count("data:image/svg+xml") >= 2
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_finished_study_is_not_run_again(command, studied: Path) -> None:
    file = studied / "linear/record.json"
    before = file.stat().st_mtime_ns
    said = command("theory", "linear", "--short", "--output", studied)
    assert said.code == 0
    assert file.stat().st_mtime_ns == before
    assert study("linear").tables(json.loads(file.read_text()))[0].title in said.out


def test_other_settings_want_another_folder(command, studied: Path) -> None:
    said = command("theory", "bound", "--short", "--seeds", "3", "--output", studied)
    assert said.code == 2
    assert "to be a record with the settings asked for, found others: seeds: 2, not 3" in said.message
    assert "Choose another output folder, or move this one away." in said.message


def test_records_become_pictures_and_tables_of_pages(command, studied: Path, tmp_path: Path) -> None:
    assert command("report", studied, "--output", tmp_path / "a.html", "--pictures", tmp_path / "images").code == 0
    assert "theory-bound-shapes.png" in {path.name for path in (tmp_path / "images").iterdir()}
    page = tmp_path / "page.md"
    page.write_text("<!-- theory-bound:begin -->\n<!-- theory-bound:end -->\n", encoding="utf-8")
    assert command("table", studied, "--write", page).code == 0
    assert "| law: root of p / D |" in page.read_text(encoding="utf-8")
    page.write_text("<!-- theory-ode:begin -->\n<!-- theory-ode:end -->\n", encoding="utf-8")
    said = command("table", studied, "--write", page)
    assert said.code == 2
    assert "Expected a record of theory-ode" in said.message
    assert "`feedalign theory ode` makes one." in said.message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "Expected the name of a study, found none. Studies, in the order of the story: ode, phases"),
        (["lineer"], "There is no study 'lineer'. Did you mean 'linear'?"),
        (["bound", "--seeds", "0"], "Expected --seeds of at least 1, found 0."),
        (["bound", "--jobs", "0"], "Expected --jobs of at least 1, found 0."),
        (["bound", "--threads", "-1"], "Expected --threads of at least 1, found -1."),
    ],
)
def test_mistakes_end_in_two(command, tmp_path: Path, words: list[str], expected: str) -> None:
    said = command("theory", *words, "--output", tmp_path)
    assert said.code == 2
    assert expected in said.message
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_ends_in_two(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = command("theory", "bound", "--short", "--output", tmp_path / "file")
    assert said.code == 2
    assert "Expected a folder that can be written" in said.message


def test_a_study_that_fails_stops_no_other_one(command, tmp_path: Path) -> None:
    (tmp_path / "bound").write_text("")  # in the way of the first study's folder
    said = command("theory", "bound", "linear", "--short", "--output", tmp_path)
    assert said.code == 2
    assert "Expected a folder that can be written" in said.message
    assert (tmp_path / "linear/record.json").exists()
    assert (tmp_path / "report.html").exists()


def test_help_teaches(command) -> None:
    said = command("theory", "--help")
    assert said.code == 0
    assert "Example: feedalign theory all --jobs 2" in said.out
    assert all(f"{name}: " in said.out for name in STUDIES)
    assert "{" not in said.out


def test_a_study_that_dies_is_told_of(tmp_path: Path) -> None:
    """As by the kernel's killer of processes that eat memory."""

    def kill(*_: object) -> None:
        for child in multiprocessing.active_children():
            child.kill()

    (done,) = run_all([(study("ode"), study("ode").config())], tmp_path, kill, processes=2)
    assert done.name == "ode"
    assert "The study ode was ended from outside (status -9). Give it again alone." in str(done.error)


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_keeps_what_is_finished_and_ends_at_once(tmp_path: Path) -> None:
    bound, ode = study("bound"), tmp_path / "ode"
    (tmp_path / "bound").mkdir()
    record = {"schema": 1, "experiment": "theory-bound", "config": describe(bound.config()), "findings": {}}
    write_json(tmp_path / "bound/record.json", record)  # a finished study, which takes no time
    words = ["theory", "bound", "ode", "--jobs", "2", "--output", str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "feedalign", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    begun = ""
    while not begun.endswith("(1/2)\n") and process.poll() is None:
        begun += process.stderr.readline()
    while not (ode / ".lock").exists() and process.poll() is None:
        time.sleep(0.01)
    assert process.poll() is None, begun
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to every process
    _, said = process.communicate(timeout=60)  # which waits for all of them
    assert process.returncode == 130
    assert f"Finished and kept in {tmp_path}: bound. The same command goes on with the others." in said
    assert said.endswith("Stopped.\n")
    assert "Traceback" not in said
    assert list(ode.iterdir()) == []
