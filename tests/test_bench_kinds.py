"""The other benchmarks: memory, feedback, alignment, and what an accuracy costs; and what is claimed of all of them."""

from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from feedalign.bench.accuracy import AccuracyConfig
from feedalign.bench.alignment import AlignmentConfig
from feedalign.bench.cases import mlp
from feedalign.bench.feedback import FeedbackConfig
from feedalign.bench.memory import MemoryConfig, trainable
from feedalign.bench.memory_tables import growth_table, sizes_table, speed_table
from feedalign.bench.methods import label
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.tables import bench_tables
from feedalign.experiments.errors import RecordError
from feedalign.experiments.models import MLPConfig
from feedalign.experiments.records import SCHEMA, Record, describe, read_json, write_curve, write_json
from feedalign.experiments.vision import preset

GIVEN = ("schema", "experiment", "name", "rule", "seed", "config", "data")
MISSING = [field.name for field in fields(Record) if field.name not in GIVEN]


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> dict:
    config = MemoryConfig(
        depths=(2, 4, 12), widths=(32, 64), batches=(256, 128), depth=4, methods=("backprop", "two-pass-stepping"),
        rounds=2,
    )  # fmt: skip
    return run(config, tmp_path_factory.mktemp("memory"))


def test_every_size_is_measured_once() -> None:
    config = MemoryConfig(depths=(8, 16), widths=(64, 32), batches=(10, 20), depth=16)
    assert config.systems == [(8, 64, 10), (16, 64, 10), (16, 32, 10), (16, 64, 20)]


def test_memory_over_depth_is_that_of_theory(sizes: dict) -> None:
    peaks = {
        (c["rule"], c["depth"]): c["peak_memory_bytes"] for c in sizes["cases"] if c["name"].endswith("x32, batch 256")
    }
    activation = 4 * 256 * 32
    assert peaks["backprop", 12] - peaks["backprop", 4] == 8 * activation
    assert peaks["two-pass-stepping", 12] == peaks["two-pass-stepping", 4]
    table = growth_table(sizes)
    assert table.headings == ("method", "2 layers", "4 layers", "12 layers", "KiB a layer more", "of backprop's growth")
    assert [row[-1] for row in table.rows] == ["100.0 %", "0.0 %"]
    assert "width 32, batch 256" in table.title


def test_times_over_depth_are_multiples_of_backprop(sizes: dict) -> None:
    base, two = (
        next(c for c in sizes["cases"] if c["rule"] == rule and c["depth"] == 12)
        for rule in ("backprop", "two-pass-stepping")
    )
    table = speed_table(sizes)
    assert table.rows[0][-1] == f"{base['median_seconds']:.3f}"
    assert table.rows[1][-1] == f"{two['median_seconds'] / base['median_seconds']:.2f}"


def test_the_roofline_is_below_what_was_measured(sizes: dict) -> None:
    for case in sizes["cases"]:
        assert 0 < case["roofline_seconds"] < case["quartiles"][1]
    assert len(sizes_table(sizes).rows) == 3 * 2


def test_gradients_of_deep_models_are_ordinary_numbers() -> None:
    torch.manual_seed(0)
    model = trainable(mlp(64, 128))
    cross_entropy(model(torch.randn(32, 64)), torch.zeros(32, dtype=torch.long)).backward()
    sizes = [layer.weight.grad.abs().mean().item() for layer in model if isinstance(layer, nn.Linear)]
    assert min(sizes) > 1e-12  # float32 ends at 1e-38


def test_feedback_is_measured_by_family(tmp_path: Path) -> None:
    record = run(FeedbackConfig(classes=(50,), widths=(64,), rows=8, rounds=2, warmup=1), tmp_path)
    found = {case["rule"]: case for case in record["cases"]}
    assert list(found) == ["dense", "regenerated", "hadamard", "sparse"]
    assert found["dense"]["kept_bytes"] == 4 * 50 * 64
    assert found["dense"]["peak_memory_bytes"] == 4 * 8 * 64
    assert found["dense"]["flops"] == 2 * 8 * 50 * 64
    assert found["regenerated"]["kept_bytes"] == 8  # the seed of one block
    assert found["sparse"]["kept_bytes"] == 4 * 64 * (4 + 8)
    (table,) = bench_tables(record)
    assert table.rows[0][-1] == "1.000"
    assert len(PICTURES["bench-feedback"][0](record, False).axes[0].get_lines()) == 4


def test_alignment_is_measured_in_training_steps(tmp_path: Path) -> None:
    record = run(AlignmentConfig(cases=("mlp-16x256",), rounds=2, warmup=1), tmp_path)
    step, backprop, default, blocks, copied = record["cases"]
    assert step["ratio_to_step"] == backprop["ratio_to_backprop"] == 1
    assert default["ratio_to_backprop"] == default["median_seconds"] / backprop["median_seconds"]
    assert default["median_seconds"] < blocks["median_seconds"]
    weights = 4 * copied["parameters"]
    assert copied["peak_memory_bytes"] > 2 * weights  # a model, and gradients of two
    assert default["peak_memory_bytes"] < copied["peak_memory_bytes"]
    (table,) = bench_tables(record)
    assert [row[1] for row in table.rows[:2]] == ["training step of DFA", "training step of backprop"]
    assert table.rows[2][4:6] == (f"{default['ratio_to_step']:.2f}", f"{default['ratio_to_backprop']:.2f}")
    assert len(PICTURES["bench-alignment"][0](record, True).axes[0].patches) == 3
    earlier = {key: value for key, value in default.items() if key != "ratio_to_backprop"} | {"rule": "signals"}
    (table,) = bench_tables({**record, "cases": [earlier]})
    assert (table.rows[0][1], table.rows[0][5]) == ("signals", "")


def test_memory_is_drawn_over_what_varies(sizes: dict) -> None:
    figure = PICTURES["bench-memory"][0](sizes, False)
    assert [axes.get_xlabel() for axes in figure.axes] == ["hidden layers"] * 2 + ["width"] * 2 + ["batch"] * 2
    lines = figure.axes[1].get_lines()
    assert [line.get_label() for line in lines] == ["backprop", label("two-pass-stepping"), "roofline of backprop"]


def write_run(folder: Path, rule: str, seed: int, accuracies: list[float]) -> None:
    """Write what is read of a run on digits with batches of 32: ten steps and three seconds an epoch."""
    config = replace(preset("digits-demo", rule, seed), model=MLPConfig(widths=(16, 16)), batch=32)
    given = (SCHEMA, "vision", "digits-demo", rule, seed, describe(config), {"name": "digits"})
    folder.mkdir()
    write_json(folder / "record.json", {**dict.fromkeys(MISSING), **dict(zip(GIVEN, given, strict=True))})
    lines = [
        {"epoch": n, "step": 10 * n, "seconds": 3.0 * n, "test_accuracy": accuracy}
        for n, accuracy in enumerate(accuracies)
    ]
    write_curve(folder / "curve.jsonl", lines)


def test_what_an_accuracy_costs_is_read_from_records(tmp_path: Path) -> None:
    write_run(tmp_path / "bp-seed0", "bp", 0, [0.1, 0.91, 0.92])
    write_run(tmp_path / "bp-seed1", "bp", 1, [0.1, 0.5, 0.9])
    write_run(tmp_path / "dfa-seed0", "dfa", 0, [0.1, 0.5, 0.95])
    write_run(tmp_path / "dfa-seed1", "dfa", 1, [0.1, 0.5, 0.89])
    record = run(AccuracyConfig(str(tmp_path), targets=(90.0, 99.0)), tmp_path / "bench")
    backprop, dfa = record["cases"]  # nothing reached 99 %
    forward = 2 * 32 * (64 * 16 + 16 * 16 + 16 * 10)
    operations = 3 * forward - 2 * 32 * 64 * 16
    assert (backprop["rule"], backprop["reached"], backprop["epochs"], backprop["seconds"]) == ("backprop", 2, 1.5, 4.5)
    assert backprop["flops"] == 15 * operations
    assert (dfa["rule"], dfa["reached"], dfa["flops"]) == ("dfa", 1, None)
    assert dfa["flops_a_step"] == 2 * forward + 2 * 32 * 10 * 16
    (table,) = bench_tables(record)
    tera = f"{15 * operations / 1e12:.2f}"
    assert table.rows == (("digits-demo", "digits", "90 %", "1.5", "4.5", tera, "1 of 2", "", ""),)
    assert len(PICTURES["bench-accuracy"][0](record, False).axes[0].get_lines()) == 2


def test_accuracies_of_runs_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"found none\. `feedalign train vision` makes some"):
        run(AccuracyConfig(str(tmp_path)), tmp_path / "bench")
    with pytest.raises(RecordError, match="Expected runs of a, b at or below"):
        run(AccuracyConfig(str(tmp_path), names=("b", "a")), tmp_path / "bench")


# ---- what is claimed -------------------------------------------------------------------------------------------------

RESULTS = Path(__file__).parent.parent / "results/bench"


def committed(kind: str) -> list[dict]:
    record = read_json(RESULTS / kind / "record.json")
    assert not record["dirty"], "a record of a tree with changes"
    return record["cases"]


def test_committed_memory_does_not_grow_with_depth() -> None:
    found = {(c["rule"], c["depth"]): c for c in committed("memory") if (c["width"], c["batch"]) == (512, 1024)}

    def growth(method: str) -> float:
        return found[method, 128]["peak_memory_bytes"] - found[method, 8]["peak_memory_bytes"]

    for method in ("two-pass-stepping", "one-pass-stepping"):
        assert growth(method) <= 0.05 * growth("backprop")
    two, checkpointed = found["two-pass-stepping", 64], found["checkpointing", 64]
    assert 1 / two["ratio_to_backprop"] <= 1.15
    assert two["median_seconds"] < checkpointed["median_seconds"]
    assert two["peak_memory_bytes"] < checkpointed["peak_memory_bytes"]


def test_committed_feedback_takes_a_tenth_of_dense() -> None:
    found = {c["rule"]: c for c in committed("feedback") if (c["classes"], c["width"]) == (32_000, 4096)}
    size = {rule: case["kept_bytes"] + case["peak_memory_bytes"] for rule, case in found.items()}
    assert size["regenerated"] < 0.1 * size["dense"]


def test_committed_alignment_costs_about_two_steps() -> None:
    found = {(case["name"], case["rule"]): case for case in committed("alignment")}
    for name in ("mlp-8x1024", "transformer-macro", "cnn"):
        assert found[name, "alignment"]["ratio_to_step"] <= 2.2, name
        copied = found[name, "with a second model"]
        assert found[name, "alignment"]["median_seconds"] < copied["median_seconds"], name
