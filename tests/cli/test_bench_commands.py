import json
from pathlib import Path

import pytest

SMALL = {
    "step": ["--cases", "mlp-16x256", "--methods", "backprop", "leaves"],
    "memory": [
        "--depths",
        "2",
        "3",
        "--widths",
        "16",
        "--batches",
        "8",
        "--depth",
        "2",
        "--methods",
        "backprop",
        "two-pass",
    ],
    "feedback": ["--classes", "5", "--widths", "6", "--rows", "3"],
    "alignment": ["--cases", "mlp-16x256"],
    "products": ["--systems", "3x8x4"],
    "vocabulary": ["--vocabularies", "40", "--widths", "32", "--chunks", "2", "--context", "4"],
}
TITLES = {
    "step": "A whole training step on cpu",
    "memory": "Peak memory of a training step over depth, MiB: width 16, batch 8",
    "feedback": "A projection of 3 rows of the error",
    "alignment": "What measuring alignment costs on cpu",
    "products": "The weight gradients of all hidden layers on cpu",
    "vocabulary": "A training step of a language model over the size of its vocabulary",
}


@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_prints_writes_and_is_reported(command, tmp_path: Path, name: str) -> None:
    said = command("bench", name, *SMALL[name], "--rounds", "2", "--warmup", "1", "--output", tmp_path)
    assert said.code == 0
    assert TITLES[name] in said.out
    assert json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["experiment"] == f"bench-{name}"
    pictures = tmp_path / "pictures"
    assert command("report", tmp_path, "--pictures", pictures).code == 0
    assert [path.name for path in pictures.iterdir()] == [f"bench-{name}.png"]
    assert TITLES[name] in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", SMALL)
def test_help_teaches(command, name: str) -> None:
    said = command("bench", name, "--help")
    assert said.code == 0
    assert f"Example: feedalign bench {name}" in said.out
    assert "--device STR" in said.out


def test_an_unknown_method_ends_in_two(command, tmp_path: Path) -> None:
    said = command("bench", "step", "--methods", "backprop", "hoks", "--output", tmp_path)
    assert said.code == 2
    assert "There is no method 'hoks'. Did you mean 'hooks'?" in said.message


def test_a_system_that_is_none_ends_in_two(command, tmp_path: Path) -> None:
    for system in ("8x1024", "8x0x4", "wide"):
        said = command("bench", "products", "--systems", system, "--output", tmp_path)
        assert said.code == 2
        assert f"Expected layers, width and batch as in 8x1024x512, all of at least 1; found '{system}'" in said.message


def test_what_an_accuracy_costs(command, trained: Path, tmp_path: Path) -> None:
    said = command("bench", "accuracy", trained, "--targets", "5", "--output", tmp_path)
    assert said.code == 0
    assert "What an accuracy costs: training until a test accuracy is reached" in said.out
    assert said.rows[0][1:3] == ["digits", "5"]
    document = tmp_path / "page.md"
    document.write_text("<!-- bench-accuracy:begin -->\n<!-- bench-accuracy:end -->\n", encoding="utf-8")
    assert command("table", tmp_path, "--write", document).code == 0
    assert "**What an accuracy costs" in document.read_text(encoding="utf-8")


def test_a_block_needs_a_benchmark_of_its_kind(command, trained: Path, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- bench-memory:begin -->\n<!-- bench-memory:end -->\n", encoding="utf-8")
    said = command("table", trained, "--write", document)
    assert said.code == 2
    assert "Expected a record of bench-memory at or below" in said.message
    assert "`feedalign bench memory` makes one." in said.message


def test_a_pipeline_starts_its_own_processes(command, tmp_path: Path) -> None:
    said = command(
        "bench", "pipeline", "--system", "sleep", "--sleep", "1ms", "--micro-batches", "2", "--schedules", "1f1b",
        "dfa-flat", "--rounds", "2", "--warmup", "1", "--row", "2", "--output", tmp_path,
    )  # fmt: skip
    assert said.code == 0
    assert "A step of a pipeline of 2 processes, cpu with 1 thread each" in said.out
    record = json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))
    assert [case["rule"] for case in record["cases"]] == ["1f1b", "dfa-flat"]
    assert "Example: feedalign bench pipeline" in command("bench", "pipeline", "--help").out
    said = command("bench", "pipeline", "--sleep", "20")
    assert said.code == 2
    assert "--sleep expected a time such as 16.5ms" in said.message
