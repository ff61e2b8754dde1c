"""``feedalign train graph | gae`` and ``feedalign tune graph``."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from feedalign.cli.failures import code, message
from feedalign.experiments.records import load_all

SHORT = ("--epochs", "8", "--seeds", "2", "--threads", "1")


def names(folder: Path) -> set[str]:
    return {f"{run.record.name}/{run.record.rule}-{run.record.seed}" for run in load_all(folder)}


def test_the_karate_club_needs_no_data_and_no_options(command, tmp_path: Path) -> None:
    said = command("train", "graph", *SHORT, "--output", tmp_path, "--data-root", tmp_path / "none")
    assert said.code == 0
    assert "karate-gcn_epochs-8" in said.out
    assert names(tmp_path) == {
        f"karate-gcn_epochs-8/{rule}-{seed}" for rule in ("bp", "dfa", "shallow") for seed in (0, 1)
    }
    report = (tmp_path / "report.html").read_text()
    assert "Graph networks" in report
    assert "karate-gcn_epochs-8 (karate)" in report


def test_a_table_in_one_command_that_goes_on_where_it_was(command, tmp_path: Path) -> None:
    words = ("train", "graph", "--model", "gcn", "cheb", "--seeds", "1", "--threads", "1", "--output", tmp_path)
    assert command(*words, "--rule", "dfa").code == 0
    before = {run.directory: (run.directory / "record.json").stat().st_mtime_ns for run in load_all(tmp_path)}
    said = command(*words)
    assert said.code == 0
    assert "karate: test accuracy" in said.out
    assert [row[:2] for row in said.rows] == [["ChebNet", "1"], ["GCN", "1"]]
    assert len(names(tmp_path)) == 6
    assert all((folder / "record.json").stat().st_mtime_ns == time for folder, time in before.items())


def test_the_autoencoder_has_a_command(command, tmp_path: Path) -> None:
    said = command("train", "gae", "--seeds", "1", "--epochs", "5", "--threads", "1", "--output", tmp_path)
    assert said.code == 0
    assert names(tmp_path) == {f"karate-gae_epochs-5/{rule}-0" for rule in ("bp", "dfa", "shallow")}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ("--data", "coar"),
            "There is no graph 'coar'. Did you mean 'cora'? There are: karate, cora, citeseer, pubmed.",
        ),
        (("--model", "gnc"), "There is no graph network 'gnc'. Did you mean 'gcn'?"),
        (("--preset", "cora-gnc"), "There is no preset 'cora-gnc'. Did you mean 'cora-gcn'?"),
        (("--rule", "dfb"), "There is no rule 'dfb'. Did you mean 'dfa'?"),
        (("--seeds", "0"), "Expected at least one seed, the first at least 0, found 0 from 0 on."),
        (("--threads", "0"), "Expected at least one thread, found 0."),
    ],
)
def test_mistakes_are_named_before_anything_runs(words, expected: str, command, tmp_path: Path) -> None:
    said = command("train", "graph", *words, "--output", tmp_path)
    assert said.code == 2
    assert expected in said.message
    assert not list(tmp_path.iterdir())


def test_a_folder_without_the_graph_says_where_it_looked(tmp_path: Path) -> None:
    words = f"train graph --data cora --settings published --data-root {tmp_path}/none --output {tmp_path}/runs".split()
    # Nothing listens at this port: no download, on any machine.
    environment = {**os.environ, "HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-m", "feedalign", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{tmp_path}/none/planetoid/ind.cora." in done.stderr
    assert "FEEDALIGN_DATA" in done.stderr


def test_tuned_settings_are_those_of_the_folder_that_is_named(command, tmp_path: Path) -> None:
    said = command("train", "graph", "--data", "cora", "--tuned", tmp_path, "--output", tmp_path / "runs")
    assert said.code == 2
    assert f"Expected folders with a tuning.json in {tmp_path}, found none." in said.message


def test_the_missing_extra_is_named_with_its_command() -> None:
    for module in ("optuna", "torch_geometric"):
        error = ModuleNotFoundError(f"No module named {module!r}", name=module)
        assert message(error).endswith(
            f'needs the package {module!r}, which is not installed: pip install "feedalign[graph]"'
        )
        assert code(error) == 2


TUNE = ("tune", "graph", "--trials", "3", "--runs", "1", "--epochs", "3", "--threads", "1")


def test_tuning_gives_every_rule_the_same_trials_and_keeps_what_it_chose(command, tmp_path: Path) -> None:
    said = command(*TUNE, "--model", "gcn", "gae", "--output", tmp_path, "--keep", tmp_path / "kept.json")
    assert said.code == 0
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert set(kept) == {"karate-gcn", "karate-gae"}
    for name, by_rule in kept.items():
        summary = json.loads((tmp_path / name / "tuning.json").read_text())
        assert summary["chosen"] == by_rule
        assert {len(trials) for trials in summary["trials"].values()} == {3}
        assert list(by_rule) == ["bp", "dfa", "shallow"]
    # What is tried before anything came out is the same for all rules, but for the gain, which DFA alone has.
    trials = json.loads((tmp_path / "karate-gcn" / "tuning.json").read_text())["trials"]
    assert all(trial["settings"].pop("feedback.gain") for trial in trials["dfa"])
    settings = [[trial["settings"] for trial in trials[rule]] for rule in ("bp", "dfa", "shallow")]
    assert settings[0] == settings[1] == settings[2]
    assert not load_all(tmp_path)  # no trial is mistaken for a run


def test_a_search_that_is_finished_is_not_begun_again(command, tmp_path: Path) -> None:
    words = (*TUNE, "--rule", "dfa", "--output", tmp_path)
    assert command(*words).code == 0
    journal = tmp_path / "karate-gcn" / "tuning" / "dfa" / "journal.log"
    before = journal.read_bytes()
    said = command(*words)
    assert said.code == 0
    assert "0 runs are left" in said.err
    assert journal.read_bytes() == before


def test_a_search_of_something_else_is_refused(command, tmp_path: Path) -> None:
    words = (*TUNE, "--rule", "dfa", "--output", tmp_path)
    assert command(*words).code == 0
    said = command(*words, "--epochs", "4")
    assert said.code == 2
    assert "holds trials of something else: config.epochs: 3, not 4" in said.message
