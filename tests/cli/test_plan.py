import json
from pathlib import Path

import pytest

SMALL = ["plan", "--stages", "4", "--micro-batches", "8", "--forward", "20ms"]


def test_a_plan_prints_the_table_and_the_best(command, tmp_path: Path) -> None:
    picture, drawn, trace = tmp_path / "plan.svg", tmp_path / "plan.png", tmp_path / "plan.json"
    said = command(*SMALL, "--picture", picture, "--trace", trace)
    assert said.code == 0
    assert "A step of 8 micro-batches over 4 stages, simulated" in said.out
    periods = {tuple(row[:3]): row for row in said.rows}
    assert periods["1F1B,", "backprop", "660"][2:6] == ["660", "ms", "660", "ms"]  # (8 + 3) 60 ms
    assert "Best: DFA, flat, error by chain, a period of 320 ms, 2.06 times as fast as 1F1B." in said.out
    assert picture.read_text().startswith("<?xml")
    assert len(json.loads(trace.read_text())["traceEvents"]) == 2 * 4 * 16
    assert command(*SMALL, "--picture", drawn).code == 0
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_units_and_options(command) -> None:
    said = command(
        *SMALL, "--backward", "1.75", "--activation", "64MiB", "--error", "1GiB", "--product", "64MiB",
        "--bandwidth", "50GB/s", "--latency", "10us", "--aheads", "0", "2", "--memory", "4GiB", "--kept", "1GiB",
        "--broadcasts", "chain", "--clip-globally",
    )  # fmt: skip
    assert said.code == 0
    assert "DFA, 2 ahead, product by chain" in said.out
    assert "with one norm of all gradients in each" in said.out
    assert "by tree" not in said.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--forward", "20"], "--forward expected a time such as 16.5ms, found '20'. The units are s, ms, us"),
        (["--activation", "3 bananas"], "--activation expected a size such as 64MiB, found '3 bananas'"),
        (["--bandwidth", "10GB"], "--bandwidth expected a rate such as 50GB/s, found '10GB'"),
        (["--aheads", "far"], "'flat' or 'all', found 'far'"),
        (["--picture", "plan.jpg"], "expected a file that ends in .svg or .png, found plan.jpg"),
        (["--stages", "0"], "a stage and a micro-batch at least"),
    ],
)
def test_mistakes_are_explained(command, words: list[str], message: str) -> None:
    said = command(*SMALL, *words)
    assert said.code == 2
    assert message in said.message


def test_help_teaches(command) -> None:
    said = command("plan", "--help")
    assert said.code == 0
    assert "Example: feedalign plan --stages 8" in said.out
