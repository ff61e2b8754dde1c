"""``feedalign train light``, ``bench coprocessor`` and ``serve``, as far as a command line goes."""

import json
from pathlib import Path

import pytest


def test_light_trains_and_its_table_is_printed(command, tmp_path: Path, data_root: Path) -> None:
    options = ("--condition", "ternary", "optical", "--seeds", "1", "--threads", "1", "--data-root", data_root)
    said = command("train", "light", "--system", "cora", *options, "--output", tmp_path)
    assert said.code == 0
    assert "Cora, a GCN" in said.out
    assert "light: anchor, 8 bits, 300 photoelectrons" in said.out
    record = json.loads((tmp_path / "cora_optical/ternary_dfa-seed0/record.json").read_text(encoding="utf-8"))
    assert record["experiment"] == "light"
    assert record["config"]["feedback"]["type"] == "Optical"
    assert record["config"]["feedback"]["camera"]["bits"] == 8
    assert 0.5 < record["metrics"]["best"]["test_accuracy"] < 1
    again = command("table", tmp_path)
    assert "Cora, a GCN" in again.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--system", "mnits"), "There is no system 'mnits'. Did you mean 'mnist'?"),
        (("--condition", "optcal"), "mnist has no condition 'optcal'. Did you mean 'optical'?"),
        (("--seeds", "0"), "Expected at least one seed, found 0."),
    ],
)
def test_wrong_words_are_named(command, tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    said = command("train", "light", *words, "--output", tmp_path)
    assert said.code != 0
    assert message in said.message


def test_the_cost_of_light_is_computed_written_and_reported(command, tmp_path: Path) -> None:
    said = command("bench", "coprocessor", "--frames", "4", "--output", tmp_path)
    assert said.code == 0
    assert "From which size light pays, 4 camera frames per row" in said.out
    assert "Claims and arithmetic" in said.out
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["experiment"] == "bench-coprocessor"
    pictures = tmp_path / "pictures"
    assert command("report", tmp_path, "--pictures", pictures).code == 0
    assert [path.name for path in pictures.iterdir()] == ["bench-coprocessor.png"]


@pytest.mark.parametrize("words", [("train", "light"), ("bench", "coprocessor"), ("serve",)])
def test_help_teaches(command, words: tuple[str, ...]) -> None:
    said = command(*words, "--help")
    assert said.code == 0
    assert f"Example: feedalign {' '.join(words)}" in said.out.replace("FEEDALIGN_TOKEN=secret ", "")


def test_serving_other_machines_needs_a_token(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FEEDALIGN_TOKEN", raising=False)
    said = command("serve", "--host", "0.0.0.0", "--port", "0")
    assert said.code == 2
    assert "so a token is expected" in said.message
