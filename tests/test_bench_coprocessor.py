"""The cost model against formulas written down again, and the figures that it is known by."""

import math
from pathlib import Path

import pytest

from feedalign.bench.coprocessor import (
    GPUS,
    OPUS,
    CoprocessorConfig,
    claims,
    crossover,
    crossovers,
    energy_crossover,
    measure,
    parameters,
    skipped_share,
)
from feedalign.bench.plots import PICTURES
from feedalign.bench.record import run
from feedalign.bench.tables import bench_tables


def test_the_count_of_products_is_the_librarys_own() -> None:
    """An MLP leaves out all but the projection's place; blocks keep what lies inside of them."""
    mlp, micro, macro = (skipped_share(placement) for placement in ("mlp", "micro", "macro"))
    assert 0.88 < mlp < 1.0
    assert 0.5 < micro < 0.9
    assert 0.1 < macro < 0.35


@pytest.mark.parametrize(
    ("gpu", "opu", "billions", "energy", "side"),
    [
        ("a100", "2khz", 31.2, 2.34, 176_600),
        ("a100", "20khz", 3.12, 0.234, 55_860),
        ("h100", "2khz", 98.9, 4.24, 314_500),
        ("h100", "20khz", 9.89, 0.424, 99_450),
    ],
)
def test_crossovers(gpu: str, opu: str, billions: float, energy: float, side: float) -> None:
    for frames in (1, 4):
        (found,) = crossovers(CoprocessorConfig(gpus=(gpu,), opus=(opu,), frames=frames), 1.0)
        assert found["parameters"] == pytest.approx(frames * billions * 1e9, rel=2e-3)
        assert found["energy_parameters"] == pytest.approx(frames * energy * 1e9, rel=3e-3)
        assert found["side"] == pytest.approx(frames**0.5 * side, rel=2e-3)
    assert crossover(1, 500e-6, 19.5e12 * 0.55, 1.0) == pytest.approx(2.7e9, rel=0.01)
    assert energy_crossover(2, 1e-3, 30, 3e-12, 0.5) == pytest.approx(30 * 2e-3 / 3e-12)


def test_the_whole_device_does_what_is_claimed_of_it() -> None:
    full = OPUS["full"]
    assert 2 * 912 * 1140 * 2048 * 1088 / full.frame == pytest.approx(1500e12)
    assert full.seconds(2048 * 1088) == pytest.approx(full.frame)
    assert OPUS["2khz"].seconds(1000) == 500e-6
    assert OPUS["2khz"].seconds(2048 * 500) > 500e-6  # more lines are read than fit into the frame


def test_a_step_adds_up() -> None:
    config = CoprocessorConfig(
        gpus=("a100-40gb",), opus=("2khz",), widths=(2048,), depths=(24,), rows=(1000,), frames=4
    )
    bp, dfa, hadamard, light = measure(config)
    size, share, rate = 12 * 24 * 2048**2 + 50_000 * 2048, skipped_share("macro"), 0.4 * 312e12
    assert bp["parameters"] == parameters(2048, 24, 50_000) == size
    assert bp["seconds"] == pytest.approx(6 * size * 1000 / rate)  # all of it fits
    direct = (6 - 2 * share) * size * 1000 / rate
    assert dfa["seconds"] == pytest.approx(direct + 2 * 50_000 * 2048 * 1000 / rate)
    assert hadamard["seconds"] == pytest.approx(direct + 64 * 65_536 * 1000 / 1.56e12)
    projection = 1000 * 4 * 500e-6 + 1e-3
    waiting = projection - 2 * 50_000 * 2048 * 1000 / rate
    assert light["projection_seconds"] == pytest.approx(projection)
    assert light["seconds"] == pytest.approx(direct + waiting)
    assert light["joules"] == pytest.approx(400 * direct + 30 * light["seconds"])
    assert bp["joules"] == pytest.approx(400 * bp["seconds"])


def test_what_does_not_fit_goes_over_the_link() -> None:
    config = CoprocessorConfig(gpus=("a100-40gb",), opus=("2khz",), widths=(8192,), depths=(48,), rows=(100,))
    bp, dfa, *_ = measure(config)
    size = bp["parameters"]
    activations = 2 * 8192 * 48 * 100
    spilled = 2 * (16 * size + activations - 40e9) / 25e9
    assert bp["seconds"] == pytest.approx(6 * size * 100 / (0.4 * 312e12) + spilled)
    assert bp["seconds"] - dfa["seconds"] > 2 * activations * (1 - 1 / 48) / 25e9
    assert GPUS["a100-40gb"].memory / 16 == 2.5e9


def test_a_head_that_takes_longer_hides_the_light() -> None:
    config = CoprocessorConfig(gpus=("a100-fp32",), opus=("20khz",), widths=(1024,), vocabularies=(5_000_000,))
    light = measure(config)[-1]
    bp = measure(config)[0]
    share = skipped_share("macro")
    assert light["projection_seconds"] > 0
    wire = 5_000_000 / 8 / 2e9 * config.rows[0]
    assert light["projection_seconds"] == pytest.approx(wire + 1e-3)  # so wide an error, the wire is what counts
    assert light["seconds"] <= bp["seconds"] * (6 - 2 * share) / 6 + light["projection_seconds"]


def test_claims_are_checked_in_words() -> None:
    said = " ".join(each["arithmetic"] for each in claims(CoprocessorConfig()))
    assert "31.2 billion parameters with bfloat16" in said
    assert "2.68 billion parameters with float32" in said
    assert "fill 40 GB at 2.5 billion parameters. That needs no light" in said
    assert "16 ns per row and the device 500 us" in said
    assert "4.6 TB in bfloat16" in said


def test_the_record_is_drawn(tmp_path: Path) -> None:
    record = run(CoprocessorConfig(), tmp_path)
    tables = bench_tables(record)
    assert [table.title.split()[0] for table in tables] == ["From", "A", "Claims"]
    assert len(tables[0].rows) == 2 * 3
    assert len(tables[1].rows) == 2 * 3 * 6
    assert any("assumptions" in note for note in tables[1].notes)
    figure = PICTURES["bench-coprocessor"][0](record, False)
    assert len(figure.axes) == 2
    assert all(math.isfinite(case["seconds"]) and case["joules"] > 0 for case in record["cases"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": ("a200",)}, "There is no 'a200'"),
        ({"opus": ("2hz",)}, "There is no '2hz'"),
        ({"frames": 0}, "sizes and frames of at least 1, found 0"),
        ({"utilisation": 0.0}, "a utilisation up to 1"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CoprocessorConfig(**options)
