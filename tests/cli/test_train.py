import json
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from feedalign.cli.app import parse
from feedalign.cli.train import TrainVision, cpu_threads
from feedalign.experiments.records import load_all
from feedalign.rules import RULES


def test_training_ends_with_table_report_and_next_steps(command, trained: Path) -> None:
    words = shlex.split(
        "train vision --epochs 1 --widths 16 --limit 200 --rule dfa bp --seeds 2 --device cpu --threads 1"
    )
    said = command(*words, "--output", trained)
    assert said.code == 0
    name = "digits-demo_limit-200_widths-16_epochs-1"
    assert [row[:2] for row in said.rows] == [["backprop", "2"], ["DFA", "2"], ["shallow", "0"]]
    assert said.err.count("holds this run already, finished") == 4
    report = trained / name / "report.html"
    assert f"Report: {report}" in said.out
    assert report.read_text(encoding="utf-8").startswith("<!doctype html>")
    (following,) = (line.strip() for line in said.out.splitlines() if line.strip().endswith("--rule shallow"))
    assert command(*following.split()[1:], "--device", "cpu").code == 0
    assert (trained / name / "shallow-seed0" / "record.json").exists()


def test_all_rules_are_one_word(command, tmp_path: Path) -> None:
    words = "train vision --rule all --epochs 1 --widths 8 --limit 64 --device cpu --threads 1"
    said = command(*words.split(), "--output", tmp_path)
    assert said.code == 0
    labels = [entry.label for name, entry in RULES.items() if name not in ("backprop", "shallow")]
    shown = [line.strip() for line in said.out.splitlines()]
    rows = shown[next(i for i, line in enumerate(shown) if line.startswith("───")) + 1 :]
    for row, name in zip(rows, ["backprop", *labels, "shallow"], strict=False):
        assert row.startswith(f"{name}  ")


def test_the_options_reach_the_run(trained: Path) -> None:
    file = trained / "digits-demo_limit-200_widths-16_epochs-1" / "dfa-seed1" / "record.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["seed"] == 1
    assert record["config"]["epochs"] == 1
    assert record["config"]["model"]["widths"] == [16]
    assert record["data"]["train"] == 200
    assert record["threads"] == 1


def test_the_number_of_threads_is_put_back() -> None:
    before = torch.get_num_threads()
    with cpu_threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_an_option_with_the_presets_value_changes_nothing(command, tmp_path: Path) -> None:
    assert TrainVision(preset="launay-mnist", epochs=15, data="mnist").name == "launay-mnist"
    assert TrainVision(data="mnist", learning_rate=0.1).name == "launay-mnist_learning-rate-0.1"
    assert TrainVision(data="cifar10").preset_name == "cifar10-cnn"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--rule dfaa", "There is no rule 'dfaa'. Did you mean 'dfa'?"),
        ("--data mnits", "There is no data set 'mnits'. Did you mean 'mnist'?"),
        ("--preset launy-mnist", "There is no preset 'launy-mnist'. Did you mean 'launay-mnist'?"),
        ("--rule dfa --points layers.relu7", "No module matches points="),
        ("--seeds 0", "Expected at least one rule and one seed, found 3 rules and 0 seeds."),
        ("--threads 0", "Expected at least one thread, found 0."),
        ("--learning-rate -1", "Expected a learning rate above 0, found -1.0."),
        ("--learning-rate nan", "Expected a learning rate above 0, found nan."),
        ("--first-seed -1", "Expected a first seed of at least 0, found -1."),
        ("--widths 16 0", "Expected hidden layers of at least 1 unit, found widths of 16, 0."),
    ],
)
def test_mistakes_of_the_user_end_in_two(command, tmp_path: Path, words: str, message: str) -> None:
    said = command("train", "vision", *words.split(), "--output", tmp_path, "--device", "cpu")
    assert said.code == 2
    assert message in said.message


def test_what_cannot_run_is_found_out_before_the_first_run(command, tmp_path: Path) -> None:
    said = command("train", "vision", "--rule", "bp", "dfa", "--points", "layers.relu7", "--output", tmp_path)
    assert said.code == 2
    assert "No module matches points=" in said.message
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_ends_in_one(command, tmp_path: Path) -> None:
    words = shlex.split("train vision --rule bp --epochs 1 --limit 200 --learning-rate 1e38 --device cpu")
    said = command(*words, "--output", tmp_path)
    assert said.code == 1
    assert re.search(r"Expected a finite loss, found (nan|inf) at epoch 1 of 1, step \d+", said.message)
    assert "Try a learning rate a tenth as large" in said.message


def test_an_option_of_several_values_may_be_given_several_times(command, tmp_path: Path) -> None:
    words = "train vision --rule bp --epochs 1 --widths 16 --rule=dfa --limit 200 --widths 8 --device cpu --threads 1"
    said = command(*words.split(), "--output", tmp_path)
    assert said.code == 0
    records = [run.record for run in load_all(tmp_path)]
    assert [record.rule for record in records] == ["bp", "dfa"]
    assert all(record.config["model"]["widths"] == [16, 8] for record in records)


@pytest.mark.parametrize(
    ("words", "name", "expected"),
    [
        ("train vision --rule bp --rule dfa shallow --rule fa", "rule", ("bp", "dfa", "shallow", "fa")),
        ("train ctr --data planted --seeds 3 --data criteo-sample", "data", ("planted", "criteo-sample")),
        ("train lm --rule=bp --rule=dfa --threads 1", "rule", ("bp", "dfa")),
        ("tune graph --rule bp --rule dfa", "rule", ("bp", "dfa")),
        ("bench step --cases mlp-8x1024 --methods backprop --methods dfa", "methods", ("backprop", "dfa")),
        ("bench memory --depths 8 --depths 16 32", "depths", (8, 16, 32)),
    ],
)
def test_values_of_all_places_are_kept_in_their_order(words: str, name: str, expected: tuple[object, ...]) -> None:
    assert getattr(parse(words.split()), name) == expected


def test_of_an_option_of_one_value_the_last_counts() -> None:
    assert parse(["train", "vision", "--epochs", "1", "--rule", "bp", "--epochs", "2", "--rule", "dfa"]).epochs == 2


def test_an_unwritable_output_ends_in_two(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    said = command("train", "vision", "--output", tmp_path / "file" / "runs")
    assert said.code == 2
    assert "Choose another output folder" in said.message


@pytest.mark.usefixtures("interruptible")
def test_ctrl_c_ends_in_130_and_says_how_to_go_on(tmp_path: Path) -> None:
    options = shlex.split("train vision --rule shallow --epochs 100000 --limit 100 --device cpu --threads 1 --output")
    words = [*options, str(tmp_path)]
    process = subprocess.Popen(
        [sys.executable, "-m", "feedalign", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    curve = tmp_path / "digits-demo_limit-100_epochs-100000" / "shallow-seed0" / "curve.jsonl"
    deadline = time.monotonic() + 120
    while not curve.exists() or curve.read_text(encoding="utf-8").count("\n") < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Give the same command again and the run goes on from there" in err
    assert curve.with_name("checkpoint.pt").exists()
