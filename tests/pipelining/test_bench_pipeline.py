"""The benchmark of pipelines, on stages so small that only what it reports is of interest, not the times."""

from typing import Any

import pytest
import torch

from feedalign.bench.pipeline import ARMS, PipelineConfig
from feedalign.bench.pipeline_systems import System
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.tables import bench_tables

SHORT: dict[str, Any] = {"rounds": 2, "warmup": 1, "row": 2}
Entries = dict[str, dict[str, Any]]


def measured(tmp_path_factory: pytest.TempPathFactory, **options: Any) -> tuple[dict[str, Any], Entries]:
    record = run(PipelineConfig(**{**SHORT, **options}), tmp_path_factory.mktemp("pipeline"))
    return record, {case["rule"]: case for case in record["cases"]}


@pytest.fixture(scope="module")
def products(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Entries]:
    return measured(tmp_path_factory, micro_batches=(4,), depth=4, width=32, rows=8)


@pytest.fixture(scope="module")
def sleeping(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Entries]:
    return measured(tmp_path_factory, system="sleep", micro_batches=(2,), sleep=0.002, rows=3)


@pytest.fixture(scope="module")
def attention(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Entries]:
    return measured(
        tmp_path_factory, system="transformer", micro_batches=(2,), depth=2, width=32, rows=1, points=("micro",),
        schedules=("1f1b", "dfa-flat"),
    )  # fmt: skip


def test_every_schedule_is_there_beside_its_limit(products: Any, sleeping: Any) -> None:
    for record, entries in (products, sleeping):
        assert list(entries) == list(ARMS)
        assert record["experiment"] == "bench-pipeline"
        for entry in entries.values():
            assert entry["median_seconds"] > 0
            assert entry["period"]["median_seconds"] > 0
            assert 0 < entry["bubble"] < 1
        assert entries["1f1b"]["ratio"] == entries["1f1b"]["limit"]["step"] == entries["1f1b"]["period_ratio"] == 1


def test_what_is_sent(products: Any, sleeping: Any, attention: Any) -> None:
    """One link; backprop sends as much back as forward, DFA the error, or its product where that is narrower."""
    activations, errors = 4 * 8 * 32 * 4, 4 * 8 * 10 * 4
    _, entries = products
    assert entries["1f1b"]["sent_bytes"] == entries["gpipe"]["sent_bytes"] == 2 * activations
    assert entries["zbv"]["sent_bytes"] == 2 * 2 * activations  # there and back again over the same link
    for name in ("dfa-0", "dfa-flat", "dfa-all"):
        assert entries[name]["sent_bytes"] == activations + errors
    assert sleeping[1]["dfa-flat"]["sent_bytes"] == sleeping[1]["1f1b"]["sent_bytes"]
    # 512 classes against 128 columns behind the wide layer of a block.
    assert attention[1]["dfa-flat"]["sent_bytes"] == 2 * 64 * (32 + 128) * 4


def test_micro_batches_held(products: Any) -> None:
    _, entries = products
    assert {name: max(entry["held"]) for name, entry in entries.items()} == {
        "gpipe": 4, "1f1b": 2, "zbv": 4, "dfa-0": 2, "dfa-flat": 2, "dfa-all": 4,
    }  # fmt: skip
    peaks = {name: entry["peak_memory_bytes"] for name, entry in entries.items()}
    assert all(len(own) == 2 and min(own) > 0 for own in peaks.values())
    assert peaks["dfa-all"][0] > peaks["dfa-flat"][0]


def test_sleeping_stages_sleep(sleeping: Any) -> None:
    """Nothing is faster than its passes: f = d = 2 ms, and backprop's two halves the same."""
    _, entries = sleeping
    least = {"gpipe": 18, "1f1b": 18, "dfa-0": 10, "dfa-flat": 10, "dfa-all": 10}
    for name, milliseconds in least.items():
        assert entries[name]["median_seconds"] > milliseconds / 1000
        assert entries[name]["simulated"]["step"] > milliseconds / 1000
    assert entries["dfa-flat"]["limit"]["period"] > entries["dfa-0"]["limit"]["period"] > 1.2


def test_the_table_and_the_picture(products: Any, attention: Any) -> None:
    record, _ = products
    (table,) = bench_tables(record)
    assert table.title == "A step of a pipeline of 2 processes, cpu with 1 thread each"
    assert [row[1] for row in table.rows] == [
        "GPipe, backprop", "1F1B, backprop", "ZBV, backprop", "DFA, 0 ahead", "DFA, flat", "DFA, all ahead",
    ]  # fmt: skip
    assert table.rows[1][4] == table.rows[1][7] == "1.00 (1.00)"
    assert "MLP, 4 hidden layers of 32 ReLU, 8 rows a micro-batch" in table.notes[1]
    assert "a point per sub-layer" in bench_tables(attention[0])[0].notes[1]
    draw, *_ = PICTURES["bench-pipeline"]
    figure = draw(record, False)
    assert [axes.get_title() for axes in figure.axes] == ["First step", "Period"]
    assert len(figure.axes[0].patches) == len(ARMS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedules": ("gpipe", "dfa-flat")}, "schedules expected 1f1b, which the others are compared with"),
        ({"schedules": ("1f1b", "dualpipe")}, "found 1f1b, dualpipe"),
        ({"stages": 1}, "Expected 2 stages and 2 steps in a row at least, found 1 and"),
        ({"row": 1}, "found 2 and 1"),
        ({"micro_batches": (1,)}, "as many micro-batches as stages at least, 2, found 1"),
        ({"depth": 6}, "a multiple of 4, so that all stages are equal, found 6"),
        ({"sleep": -1.0}, "sleep and backward must be at least 0"),
        ({"device": "cuda"}, "measured on the CPU"),
        ({"rounds": 1}, "rounds must be at least 2"),
    ],
)
def test_mistakes_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PipelineConfig(**options)


def test_parts_are_those_of_one_model() -> None:
    for name in ("mlp", "transformer"):
        system = System(name, 4, 32, 2)
        names = [[n for n, _ in system.part(s, k, 2, True).named_parameters()] for k in (1, 2, 4) for s in range(k)]
        assert names[0] == names[1] + names[2] == names[3] + names[4] + names[5] + names[6]
        x, y = system.batch(3)
        model = system.part(0, 1, 2, True)
        assert torch.isfinite(system.loss(model(x), y))
        assert system.names(model, last=True) == [f"layer{i}" for i in range(4)]
