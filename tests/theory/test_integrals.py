"""The Gaussian averages against averages over samples."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.special import erf

from feedalign.theory.integrals import INTEGRALS, integrals

SAMPLES = {"erf": 4_000_000, "linear": 400_000, "relu": 4_000_000}
CHUNK, K = 100_000, 2
FUNCTIONS: dict[str, tuple[Callable, Callable]] = {
    "erf": (lambda z: erf(z / np.sqrt(2)), lambda z: np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2)),
    "linear": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
}
AVERAGES = {
    "i2": "na,nb->nab",
    "i3": "ni,na,nb->niab",
    "i4": "ni,nk,na,nb->nikab",
    "j2": "ni,nk->nik",
}


def covariance(seed: int, fields: int = 5) -> np.ndarray:
    factor = np.random.default_rng(seed).normal(size=(fields, fields + 1))
    return factor @ factor.T / fields


@pytest.mark.parametrize("activation", FUNCTIONS)
def test_averages_over_samples(activation: str) -> None:
    C, generator = covariance(1), np.random.default_rng(2)
    g, slope = FUNCTIONS[activation]
    root = np.linalg.cholesky(C)
    names = [name for name in AVERAGES if (activation, name) != ("relu", "i4")]
    sums = {name: [0.0, 0.0] for name in names}
    for _ in range(SAMPLES[activation] // CHUNK):
        z = generator.normal(size=(CHUNK, len(C))) @ root.T
        h, s = g(z), slope(z)[:, :K]
        factors = {"i2": (h, h), "i3": (s, z, h), "i4": (s, s, h, h), "j2": (s, s)}
        for name in names:
            # Sums of the products and of their squares, without the products themselves.
            over = AVERAGES[name].replace("->n", "->")
            sums[name][0] += np.einsum(over, *factors[name], optimize=True)
            sums[name][1] += np.einsum(over, *(factor**2 for factor in factors[name]), optimize=True)
    for name in names:
        mean, square = (total / SAMPLES[activation] for total in sums[name])
        error = np.sqrt(np.maximum(square - mean**2, 0) / SAMPLES[activation])
        exact = getattr(integrals(activation), name)(C, *(() if name == "i2" else (K,)))
        assert exact.shape == mean.shape
        # Four and a half standard errors: over a hundred entries, less than once in a thousand runs.
        np.testing.assert_array_less(np.abs(exact - mean), 4.5 * error + 1e-12, err_msg=name)


@pytest.mark.parametrize("activation", INTEGRALS)
def test_leading_dimensions_are_computed_side_by_side(activation: str) -> None:
    many = np.stack([covariance(seed) for seed in range(6)]).reshape(2, 3, 5, 5)
    g = integrals(activation)
    calls = [g.i2, lambda C: g.i3(C, K), lambda C: g.j2(C, K)]
    calls += [] if activation == "relu" else [lambda C: g.i4(C, K)]
    for call in calls:
        np.testing.assert_allclose(call(many)[1, 2], call(many[1, 2]), rtol=1e-13)


def test_relu_unit_without_weights_gives_zeros() -> None:
    C = np.diag([0.0, 1.0, 1.0])
    assert np.isfinite(integrals("relu").i3(C, 1)).all()
    np.testing.assert_allclose(integrals("relu").i2(C)[0], 0, atol=1e-7)


def test_errors_say_what_there_is() -> None:
    with pytest.raises(ValueError, match="Expected an activation among erf, linear, relu, found 'tanh'"):
        integrals("tanh")
    with pytest.raises(NotImplementedError, match=r"found relu.*flow=True.*simulate it"):
        integrals("relu").i4(np.eye(3), 1)
