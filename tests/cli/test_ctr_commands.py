"""``feedalign train ctr``, ``feedalign tune ctr`` and ``feedalign bench ctr``."""

import json
from pathlib import Path

import pytest
import torch

from feedalign.bench.ctr import FIELDS, WAYS, CtrConfig, measure, rows, shared_out
from feedalign.experiments.records import load_all

SHORT = ("--rows", "400", "--epochs", "2", "--seeds", "1", "--threads", "1")
ENDING = "_epochs-2_rows-400"


def names(folder: Path) -> set[str]:
    return {f"{run.record.name}/{run.record.rule}-{run.record.seed}" for run in load_all(folder)}


def test_the_planted_log_needs_no_data_and_no_options(command, tmp_path: Path) -> None:
    said = command("train", "ctr", *SHORT, "--output", tmp_path, "--data-root", tmp_path / "none")
    assert said.code == 0
    assert names(tmp_path) == {
        f"planted-fm{ENDING}/bp-0",
        *(f"planted-deepfm{ENDING}/{rule}-0" for rule in ("bp", "dfa", "shallow")),
    }
    assert f"planted-deepfm{ENDING}" in said.out
    assert "Click logs" in (tmp_path / "report.html").read_text()


def test_options_change_what_they_say_and_the_name(command, tmp_path: Path) -> None:
    words = ("--model", "dcn", "--rule", "dfa", "--batch", "100", "--sparse")
    assert command("train", "ctr", *SHORT, *words, "--output", tmp_path).code == 0
    (run,) = load_all(tmp_path)
    assert run.record.name == "planted-dcn_epochs-2_batch-100_rows-400_sparse"
    config = run.record.config
    assert (config["batch"], config["data"]["rows"], config["model"]["sparse"]) == (100, 400, True)
    assert run.record.data["rows"] == 400


def test_a_stopped_table_goes_on_where_it_was(command, tmp_path: Path) -> None:
    words = ("train", "ctr", *SHORT, "--model", "afn", "--output", tmp_path)
    assert command(*words, "--rule", "dfa").code == 0
    before = {run.directory: (run.directory / "record.json").stat().st_mtime_ns for run in load_all(tmp_path)}
    assert command(*words).code == 0
    assert len(names(tmp_path)) == 3
    assert all((folder / "record.json").stat().st_mtime_ns == time for folder, time in before.items())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--data", "critoe"), "There is no click log 'critoe'. Did you mean 'criteo'?"),
        (("--model", "dnc"), "There is no network for clicks 'dnc'. Did you mean 'dcn'? There are: fm, deepfm,"),
        (("--preset", "planted-dnc"), "There is no preset 'planted-dnc'. Did you mean 'planted-dcn'?"),
        (("--rule", "dfb"), "There is no rule 'dfb'. Did you mean 'dfa'?"),
        (("--seeds", "0"), "Expected at least one seed, the first at least 0, found 0 from 0 on."),
        (("--threads", "0"), "Expected at least one thread, found 0."),
        (("--batch", "1"), "Expected epochs and rows for the alignment of at least 0"),
        (("--model", "fm", "--rule", "dfa"), "Expected something to run: a factorisation machine learns by bp alone."),
    ],
)
def test_mistakes_are_named_before_anything_runs(words, expected: str, command, tmp_path: Path) -> None:
    said = command("train", "ctr", *words, "--output", tmp_path)
    assert said.code == 2
    assert expected in said.message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "words",
    [
        ("train", "ctr", "--data", "criteo"),  # for which nothing was tuned, but that is not what lacks first
        ("train", "ctr", "--data", "planted", "criteo", "--rule", "dfa", "--model", "dcn"),
        ("train", "ctr", "--data", "criteo", "--settings", "published"),
        ("train", "ctr", "--preset", "criteo-dcn"),
        ("tune", "ctr", "--data", "criteo", "--model", "dcn"),
    ],
)
def test_a_log_that_is_not_there_says_where_it_was_looked_for_and_comes_from(words, command, tmp_path: Path) -> None:
    said = command(*words, "--data-root", tmp_path / "none", "--output", tmp_path / "runs")
    assert said.code == 2
    assert "Criteo Kaggle is missing. Expected:" in said.message
    assert f"{tmp_path}/none/criteo/train.txt" in said.message
    assert "see https://ailab.criteo.com/ressources/" in said.message
    assert "pass it as the data root (--data-root), or set FEEDALIGN_DATA" in said.message
    assert not list(tmp_path.rglob("record.json"))


def test_a_log_that_is_there_and_was_not_tuned_says_so(command, data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "train.txt").write_bytes((data_root / "criteo" / "criteo_train.txt").read_bytes())
    said = command("train", "ctr", "--data", "criteo", "--data-root", tmp_path, "--output", tmp_path / "runs")
    assert said.code == 2
    assert "Expected settings of bp for criteo-fm, found none: it was not tuned" in said.message


def test_a_page_in_place_of_a_log_is_called_one(command, tmp_path: Path) -> None:
    (tmp_path / "criteo").mkdir()
    (tmp_path / "criteo" / "train.txt").write_text("<!DOCTYPE html>\n<html>Sign in</html>\n", encoding="utf-8")
    said = command("data", "check", "criteo", "--data-root", tmp_path)
    assert said.code == 2
    assert "criteo/train.txt is an HTML page, saved under the name of a data file" in said.out


def test_real_rows_of_criteo_are_trained_on(command, data_root: Path, tmp_path: Path) -> None:
    words = ("--data", "criteo-sample", "--settings", "published", "--model", "fm", "--epochs", "1", "--seeds", "1")
    assert command("train", "ctr", *words, "--threads", "1", "--output", tmp_path, "--data-root", data_root).code == 0
    (run,) = load_all(tmp_path)
    assert (run.record.data["rows"], run.record.data["fields"]) == (8_000, 39)
    assert 0.4 < run.record.metrics["best"]["test_auc"] < 0.8


def test_tuning_gives_every_rule_the_same_trials_and_keeps_what_it_chose(
    command, data_root: Path, tmp_path: Path
) -> None:
    log = ("--data", "criteo-sample", "--data-root", data_root)
    words = (*log, "--model", "fm", "deepfm", "--trials", "3", "--epochs", "1", "--threads", "1")
    said = command("tune", "ctr", *words, "--output", tmp_path, "--keep", tmp_path / "kept.json")
    assert said.code == 0
    kept = json.loads((tmp_path / "kept.json").read_text())
    assert {name: list(by_rule) for name, by_rule in kept.items()} == {
        "criteo-sample-deepfm": ["bp", "dfa", "shallow"],
        "criteo-sample-fm": ["bp"],
    }
    trials = json.loads((tmp_path / "criteo-sample-deepfm" / "tuning.json").read_text())["trials"]
    settings = [[trial["settings"] for trial in trials[rule]] for rule in ("bp", "dfa", "shallow")]
    assert settings[0] == settings[1] == settings[2]
    assert settings[0][:2] == [{"optimiser.learning_rate": 0.001, "model.dropout": rate} for rate in (0.0, 0.5)]
    assert 1e-4 <= settings[0][2]["optimiser.learning_rate"] <= 1e-2
    assert not load_all(tmp_path)  # no trial is mistaken for a run
    tuned = (*log, "--tuned", tmp_path, "--output", tmp_path / "runs", *SHORT)
    assert command("train", "ctr", *tuned, "--rule", "dfa").code == 0
    run = next(run for run in load_all(tmp_path / "runs") if run.record.rule == "dfa")
    assert (
        run.record.config["optimiser"]["learning_rate"]
        == kept["criteo-sample-deepfm"]["dfa"]["optimiser.learning_rate"]
    )


def test_fm_is_tuned_by_backprop_or_not_at_all(command, tmp_path: Path) -> None:
    said = command("tune", "ctr", "--model", "fm", "--rule", "dfa", "--output", tmp_path)
    assert said.code == 2
    assert "Expected something to tune" in said.message


def test_the_memory_of_a_step_with_sparse_tables_does_not_grow_with_their_categories() -> None:
    found = measure(CtrConfig((2_000, 200_000), batch=8, rounds=2, warmup=1))
    peak = {(case["categories"], case["rule"]): case["peak_memory_bytes"] for case in found}
    assert len(found) == 2 * len(WAYS)
    width = 11  # an embedding of ten, and a weight
    for rule in ("backprop", "dfa"):
        grown = peak[200_000, rule] - peak[2_000, rule]
        assert grown >= 4 * width * 198_000  # a gradient for every category, at least
        assert peak[200_000, f"{rule}-sparse"] < peak[2_000, f"{rule}-sparse"] + 20_000
    base = {case["categories"]: case for case in found if case["rule"] == "backprop"}
    for case in found:
        expected = base[case["categories"]]["median_seconds"] / case["median_seconds"]
        assert case["ratio_to_backprop"] == pytest.approx(expected)


def test_rows_of_the_benchmark_name_every_field_and_few_categories_often() -> None:
    sizes = shared_out(10_000)
    assert (len(sizes), sum(sizes), max(sizes) - min(sizes)) == (FIELDS, 10_000, 1)
    found = rows(sizes, 500, 0, torch.device("cpu"))
    for indices, labels in found:
        assert indices.shape == (500, FIELDS)
        assert labels.shape == (500,)
        assert int(indices.min()) == 0
        assert bool((indices < indices.new_tensor(sizes)).all())
    assert float((found[0][0] < 16).float().mean()) == pytest.approx(0.5, abs=0.02)  # log 17 over log 257.4


def test_the_benchmark_prints_writes_and_is_drawn(command, tmp_path: Path) -> None:
    words = ("--categories", "50", "100", "--batch", "4", "--rounds", "2", "--warmup", "1")
    said = command("bench", "ctr", *words, "--output", tmp_path)
    assert said.code == 0
    assert "A training step of DeepFM on 4 rows over the number of categories" in said.out
    assert json.loads((tmp_path / "record.json").read_text())["experiment"] == "bench-ctr"
    pictures = tmp_path / "pictures"
    assert command("report", tmp_path, "--pictures", pictures).code == 0
    assert [path.name for path in pictures.iterdir()] == ["bench-ctr.png"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--categories", "20"), "Expected at least one category for each of 39 fields and 2 rows in a batch"),
        (("--batch", "1"), "Expected at least one category for each of 39 fields and 2 rows in a batch"),
        (("--model", "fm"), "Expected a network with hidden layers, found fm"),
        (("--categories", "50", "50"), "Expected every number of categories once, found (50, 50)."),
    ],
)
def test_benchmarks_that_make_no_sense_are_refused(words, expected: str, command, tmp_path: Path) -> None:
    said = command("bench", "ctr", *words, "--output", tmp_path)
    assert said.code == 2
    assert expected in said.message
