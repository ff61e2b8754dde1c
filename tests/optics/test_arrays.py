"""Analogue arrays against closed forms, and the family that is made of them."""

import math

import pytest
import torch
from torch import Tensor

import feedalign as fa
from feedalign.feedback import dense, kept
from feedalign.optics import arrays

CPU = torch.device("cpu")
PARTS = (("shared", 500, 1.0),)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def product(feedback: fa.Feedback, error: Tensor) -> Tensor:
    return feedback.product(error, PARTS, kept(feedback, 0, PARTS, error.shape[1], error.dtype, CPU))


def matrix(feedback: fa.Feedback, rows: int) -> Tensor:
    return dense(feedback, 0, PARTS, rows, torch.float64, CPU)


def test_with_nothing_simulated_it_is_uniform_feedback() -> None:
    error = torch.randn(40, 12, generator=generator(), dtype=torch.float64)
    assert torch.equal(matrix(fa.Crossbar(), 12), matrix(fa.Uniform(), 12))
    torch.testing.assert_close(product(fa.Crossbar(tile=5), error), product(fa.Uniform(), error))


@pytest.mark.parametrize("classes", [10, 128])
@pytest.mark.parametrize("sigma", [0.098, 0.195])
def test_the_noise_of_rings_adds_up_over_products_and_tiles(classes: int, sigma: float) -> None:
    """``max|e| sigma sqrt(C)``, whatever the tiles; and its mean ``max|e| mu C``."""
    error = torch.randn(800, classes, generator=generator(), dtype=torch.float64)
    for tile in (3, 50):
        feedback = fa.Crossbar(cells="rings", sigma=sigma, mean=0.003, tile=tile)
        noise = (product(feedback, error) - error @ matrix(feedback, classes)) / error.abs().amax(1, keepdim=True)
        assert noise.std().item() == pytest.approx(sigma * classes**0.5, rel=0.01)
        assert noise.mean().item() == pytest.approx(0.003 * classes, abs=0.01 * sigma * classes**0.5)
    total = 0.195 * 10**0.5
    assert total == pytest.approx(0.618, abs=2e-3)  # as the public code states it, for a sum of ten


def test_effective_bits() -> None:
    assert arrays.effective_bits(0.195) == pytest.approx(3.36, abs=0.005)
    assert arrays.effective_bits(2 / 2**9) == 9


def test_converters_round_to_levels_that_hold_zero() -> None:
    values = torch.linspace(-1.2, 1.2, 100_001, dtype=torch.float64)
    for bits in (2, 7, 9):
        found = arrays.quantise(values, bits)
        assert len(found.unique()) == 2**bits - 1
        assert {-1.0, 0.0, 1.0} <= set(found.unique().tolist())
        inside = values.abs() <= 1
        step = 1 / (2 ** (bits - 1) - 1)
        assert (found - values)[inside].abs().max() <= step / 2 + 1e-9
        assert (found - values)[inside].square().mean().item() == pytest.approx(step**2 / 12, rel=0.05)
    assert arrays.quantise(values, None) is values


def test_outputs_are_clipped_only_where_no_halving_helps() -> None:
    error = torch.randn(50, 12, generator=generator(), dtype=torch.float64)
    feedback = fa.Crossbar(bound=0.5, bits_out=16)
    expected = error @ matrix(feedback, 12)
    assert (expected.abs().amax(1) > 0.5 * error.abs().amax(1)).all()
    torch.testing.assert_close(product(feedback, error), expected, rtol=0, atol=1e-3)
    assert arrays.halvings(torch.tensor([0.1, 0.5, 0.6, 2.1]), 0.5).tolist() == [0, 0, 1, 3]


def test_rings() -> None:
    weights = torch.linspace(-0.99, 1, 500, dtype=torch.float64)
    torch.testing.assert_close(arrays.ring_weight(arrays.ring_detuning(weights)), weights)
    assert arrays.ring_weight(torch.zeros(1)).item() == 1
    bank = torch.rand(20, 30, generator=generator(), dtype=torch.float64) * 1.9 - 0.9
    assert arrays.crosstalk(bank, 0.0) is bank
    warmed = arrays.crosstalk(bank, 0.1)
    pair = arrays.ring_detuning(bank)
    torch.testing.assert_close(warmed[0], arrays.ring_weight(sum(0.1**i * pair[i] for i in range(20))))
    assert (warmed <= bank + 1e-12).all()  # every neighbour warms a ring further away from resonance
    rings = fa.Crossbar.microring()
    levels = matrix(rings, 10).unique() * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("hours", [1.0, 24.0, 720.0])
def test_drift_of_conductances_keeps_the_correlation_of_its_law(hours: float) -> None:
    """``exp(-s^2 L^2 / 2)`` for exponents of one spread; the gain is ``exp(-mu L + s^2 L^2 / 2)``."""
    spread, mean, seconds = 0.02, 0.06, arrays.T0 + 3600 * hours
    log = math.log(seconds / arrays.T0)
    sign = torch.randint(2, (1_000_000,), generator=generator()) * 2 - 1
    g = torch.rand(1_000_000, generator=generator(), dtype=torch.float64)
    nu = mean + spread * torch.randn(1_000_000, generator=generator(1), dtype=torch.float64)
    before, after = sign * g, sign * arrays.drifted(g, nu, seconds)
    correlation = (before @ after / (before.norm() * after.norm())).item()
    assert correlation == pytest.approx(math.exp(-(spread**2) * log**2 / 2), abs=5e-4)
    gain = (after.abs().mean() / before.abs().mean()).item()
    assert gain == pytest.approx(math.exp(-mean * log + spread**2 * log**2 / 2), rel=2e-3)
    figures = {1.0: 0.995, 24.0: 0.986, 720.0: 0.973}
    assert correlation == pytest.approx(figures[hours], abs=2e-3)


def test_phase_change_cells() -> None:
    g = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(arrays.programming_noise(g) * 25, torch.tensor([0.26348, 0.952705, 1.05538]))
    nu = arrays.drift_exponents(g.clamp(min=0.01), torch.zeros(3))
    torch.testing.assert_close(nu, torch.tensor([0.0957801, 0.049, 0.049]), rtol=1e-3, atol=0)
    assert arrays.read_noise(torch.ones(1), 20.0).item() == pytest.approx(0.0088 * math.sqrt(math.log(4e7)), rel=1e-3)
    fresh, old = fa.Crossbar.pcm(), fa.Crossbar.pcm(hours=720)
    wanted = matrix(fa.Uniform(), 200)
    for feedback, least in ((fresh, 0.995), (old, 0.95)):
        found = matrix(feedback, 200)
        assert least < torch.cosine_similarity(found.flatten(), wanted.flatten(), dim=0) < 0.9999
        assert found.abs().mean().item() == pytest.approx(
            wanted.abs().mean().item(), rel=0.06
        )  # the gain is made up for
    error = torch.randn(400, 10, generator=generator(), dtype=torch.float64)
    measured = product(fresh, error)
    exact = error @ matrix(fresh, 10)
    assert 0.99 < torch.corrcoef(torch.stack([measured.flatten(), exact.flatten()]))[0, 1] < 0.9999


def test_noise_follows_from_the_row_and_a_dark_row_is_silent() -> None:
    error = torch.randn(20, 12, generator=generator(), dtype=torch.float64)
    error[4] = 0
    for feedback in (fa.Crossbar.microring(), fa.Crossbar.pcm()):
        once = product(feedback, error)
        torch.testing.assert_close(product(feedback, error[3:9]), once[3:9], rtol=1e-9, atol=1e-9)
        assert (once[4] == 0).all()
        assert not torch.equal(once[3], product(feedback, error * (1 + 1e-7))[3])
        assert product(feedback, torch.full((1, 12), math.nan)).isnan().all()


def test_options_are_checked() -> None:
    for options, message in (
        ({"cells": "relays"}, "cells must be 'ideal', 'rings' or 'pcm'"),
        ({"bits_in": 1}, "bits_in expected 2 to 24"),
        ({"sigma": -1.0}, "sigma expected a number of at least 0"),
        ({"bits_out": 8}, "say which, such as bound=12"),
        ({"crosstalk": 0.1}, "write cells='rings'"),
        ({"hours": 3.0}, "write cells='pcm'"),
        ({"tile": 0}, "tile and bound expected numbers above 0"),
        ({"cells": "rings", "crosstalk": 1.0}, "crosstalk expected less than 1"),
    ):
        with pytest.raises(ValueError, match=message):
            fa.Crossbar(**options)
