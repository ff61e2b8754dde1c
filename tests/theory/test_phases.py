"""The phases of curves whose phases are known by construction."""

import numpy as np
import pytest

from feedalign.theory.phases import Phases, noise, phases, running_median

TIMES = np.geomspace(0.1, 1000, 121)


def risen_and_fallen(peak: float, end: float) -> np.ndarray:
    """A cosine that rises to 0.8 at ``peak`` and falls towards ``end``."""
    rise = 0.8 * np.exp(-(np.log(TIMES / peak) ** 2))
    return np.where(peak >= TIMES, rise, end + (0.8 - end) * np.exp(-(np.log(TIMES / peak) ** 2)))


def test_peak_and_levels_of_a_smooth_run() -> None:
    found = phases(TIMES, risen_and_fallen(8.0, 0.5), 2 / (1 + TIMES / 40))
    assert found.peak_time == pytest.approx(8.0, rel=0.1)
    assert found.peak_alignment == pytest.approx(0.8, abs=0.01)
    assert found.final_alignment == pytest.approx(0.5, abs=1e-6)
    start = 1 / (1 + 0.1 / 40)
    assert found.half_time == pytest.approx(40 * (2 / start - 1), rel=0.01)
    assert found.plateau_exit == pytest.approx(40 * (1 / (0.9 * start) - 1), rel=0.03)
    assert found.aligned_first


@pytest.mark.parametrize("seed", range(10))
def test_noise_moves_nothing_far(seed: int) -> None:
    generator = np.random.default_rng(seed)
    cosine = risen_and_fallen(8.0, 0.5) + 0.01 * generator.normal(size=len(TIMES))
    error = 2 / (1 + TIMES / 40) + 0.02 * generator.normal(size=len(TIMES))
    error[20] = 0.0  # one wild sample
    found = phases(TIMES, cosine, error)
    assert found.peak_time == pytest.approx(8.0, rel=0.35)
    assert found.peak_alignment == pytest.approx(0.8, abs=0.02)
    assert found.half_time == pytest.approx(40, rel=0.2)
    assert found.plateau_exit is not None
    assert found.plateau_exit < found.half_time


@pytest.mark.parametrize("seed", range(10))
def test_noise_alone_is_no_peak(seed: int) -> None:
    generator = np.random.default_rng(seed)
    flat = generator.normal(0, 0.05, len(TIMES))
    assert phases(TIMES, flat, np.ones_like(TIMES)).peak_time is None


def test_what_only_rises_or_only_falls_has_no_peak() -> None:
    rising, flat = 1 - np.exp(-TIMES / 10), np.ones_like(TIMES)
    risen = 10 * np.log(10) + 0.1  # nine tenths of the way from where it is at 0.1
    assert phases(TIMES, rising, flat) == Phases(
        pytest.approx(risen, rel=0.02), None, None, None, None, pytest.approx(1)
    )
    assert phases(TIMES, -rising, flat).peak_time is None
    assert phases(TIMES, -rising, flat).rise_time is None
    assert not phases(TIMES, -rising, flat).aligned_first


def test_least_says_what_counts() -> None:
    cosine = 0.1 * risen_and_fallen(8.0, 0.5)
    assert phases(TIMES, cosine, np.ones_like(TIMES)).peak_time == pytest.approx(8.0, rel=0.1)
    found = phases(TIMES, cosine, np.ones_like(TIMES), least=0.2)
    assert (found.rise_time, found.peak_time) == (None, None)


def test_late_peak_is_not_aligned_first() -> None:
    found = phases(TIMES, risen_and_fallen(100.0, 0.5), 1 / (1 + TIMES))
    assert found.peak_time is not None
    assert 50 < found.rise_time < found.peak_time
    assert not found.aligned_first


def test_noise_is_estimated() -> None:
    curve = np.sin(np.linspace(0, 3, 2000)) + 0.03 * np.random.default_rng(0).normal(size=2000)
    assert noise(curve) == pytest.approx(0.03, rel=0.1)


def test_running_median_leaves_lines_and_drops_outliers() -> None:
    line = np.arange(9.0)
    assert (running_median(line) == line).all()
    wild = line.copy()
    wild[4] = 100
    assert running_median(wild)[4] == 5


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        (TIMES[:4], TIMES[:4], "Expected three curves of one length, 5 samples or more, found shapes"),
        (TIMES, TIMES[1:], "Expected three curves of one length"),
        (TIMES[::-1], TIMES, "Expected times that increase"),
        (TIMES, np.where(TIMES > 10, np.nan, 1), "Expected finite numbers, found nan in error"),
    ],
)
def test_errors_say_what_was_found(times: np.ndarray, error: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        phases(times, np.zeros(len(times)), error)
