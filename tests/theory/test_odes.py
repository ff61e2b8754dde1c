"""The equations of the order parameters: closed forms, the two phases, and what they refuse."""

import subprocess
import sys

import numpy as np
import pytest

from feedalign.theory.integrals import integrals
from feedalign.theory.odes import Learning, derivative, integrate
from feedalign.theory.order import Order
from feedalign.theory.phases import Phases, phases
from feedalign.theory.simulation import draw

ERF = integrals("erf")
F = np.array([-0.8, -1.3])
TIMES = np.concatenate(([0.0], np.geomspace(0.1, 4000, 200)))


def zero(K: int, T: np.ndarray, A: np.ndarray) -> Order:
    return Order(np.zeros((K, K)), np.zeros((K, len(A))), T, np.zeros(K), A)


def test_first_phase_in_closed_form() -> None:
    rng = np.random.default_rng(0)
    A, F3 = np.array([1.0, -0.6]), np.array([0.5, -1.2, 0.9])
    T = np.array([[1.1, 0.3], [0.3, 0.8]])
    start, rate = zero(3, T, A), 1e-3 * (1 + rng.random())
    t = 0.03 / rate  # rate * t = 0.03
    end = integrate(start, F3, Learning(rate=rate), [t], tolerance=1e-10).order[0]
    root = np.sqrt(1 + np.diag(T))
    S2 = A @ (T / np.outer(root, root)) @ A
    y2 = A @ ERF.i2(T) @ A
    et = rate * t
    np.testing.assert_allclose(end.R, et * 2 / np.pi * np.outer(F3, T @ (A / root)), rtol=5e-3)
    np.testing.assert_allclose(
        end.Q, np.outer(F3, F3) * (2 / np.pi * rate * et * y2 + 4 / np.pi**2 * et**2 * S2), rtol=5e-3
    )
    np.testing.assert_allclose(end.v, 2 / np.pi**2 * et**2 * S2 * F3, rtol=5e-3)
    fallen = start.error(ERF) - end.error(ERF)
    assert fallen == pytest.approx(8 / np.pi**4 * et**3 * (F3 @ F3) * S2**2, rel=5e-3)
    assert 1 - end.weight_alignment(F3) < 1e-6


def test_linear_students_stay_aligned_for_ever() -> None:
    A, T = np.array([1.0, 0.5]), np.eye(2)
    found = integrate(zero(2, T, A), F, Learning("linear", rate=1.0, flow=True), [1.0, 3.0, 60.0], tolerance=1e-9)
    np.testing.assert_allclose(found.order.weight_alignment(F), 1, atol=1e-9)
    end = F / 2 * (2 * np.sqrt(A @ T @ A) / (F @ F)) ** (2 / 3)
    np.testing.assert_allclose(found.order.v[-1], end, rtol=1e-5)
    assert found.order.error(integrals("linear"))[-1] < 1e-9


def followed(seed: int, feedback: np.ndarray | None) -> tuple[Phases, np.ndarray, np.ndarray]:
    """Return phases, alignment and error of the recommended setting: K = M = 2, A = 1, T = I, sd 0.01, rate 0.2."""
    run = integrate(draw(1, 2, (1, 1), 1000, 0.01, seed).order[0], feedback, Learning(), TIMES)
    alignment, error = run.order.weight_alignment(F), run.order.error(ERF)
    return phases(run.times, alignment, error), alignment, error


@pytest.mark.parametrize("seed", range(4))
def test_align_then_memorise(seed: int) -> None:
    found, alignment, error = followed(seed, F)
    assert found.peak_alignment > 0.99
    assert alignment[error > 0.4 * error[0]].max() > 0.99
    assert found.aligned_first
    assert found.half_time == pytest.approx(7.8, abs=1)
    assert found.final_alignment == pytest.approx(np.abs(F).sum() / (np.sqrt(2) * np.linalg.norm(F)), abs=0.005)
    assert error[-1] < 1e-8


@pytest.mark.parametrize("seed", range(4))
def test_backprop_does_not_align_and_leaves_the_origin_later(seed: int) -> None:
    found, alignment, error = followed(seed, None)
    assert found.half_time == pytest.approx(40, abs=8)
    early = error > 0.9 * error[0]
    assert np.ptp(alignment[early]) < 0.05  # where the seed put it
    assert not found.aligned_first


def test_noise_of_the_labels_leaves_an_error() -> None:
    start = draw(1, 2, (1, 1), 1000, 1.0, 0).order[0]
    noisy, clean = (integrate(start, F, Learning(rate=0.6, noise=noise), [400.0]).order for noise in (1.0, 0.0))
    assert noisy.error(ERF)[0] > 0.02 > 10 * clean.error(ERF)[0]


def test_backprop_is_feedback_equal_to_the_second_layer() -> None:
    start = draw(1, 3, (1, -0.5), 500, 1.0, 3).order[0]
    for ours, theirs in zip(
        derivative(start, start.v, Learning(second_rate=0.1)),
        derivative(start, None, Learning(second_rate=0.1)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("activation", ["erf", "linear", "relu"])
def test_gradient_flow_of_backprop_falls_by_the_square_of_the_gradient(activation: str) -> None:
    """d e_g / dt = -(|grad_w|^2 N + |grad_v|^2), with both gradients taken from the order parameters."""
    start, g = draw(1, 2, (1, 0.5), 400, 0.7, 1).order[0], integrals(activation)
    learning, dt = Learning(activation, rate=1.0, flow=True), 1e-5
    before, after = integrate(start, None, learning, [0.0, dt], tolerance=1e-12).order.error(g)
    C, c = start.covariance, start.coefficients
    X = np.einsum("b,kab->ka", c, g.i3(C, 2))
    first = (start.v**2 * np.einsum("ka,ab,kb->k", X, np.linalg.inv(C), X)).sum()
    second = ((g.i2(C)[:2] @ c) ** 2).sum()
    assert (before - after) / dt == pytest.approx(first + second, rel=1e-3)


def test_gradient_alignment_over_samples() -> None:
    weights = draw(1, 3, (1, -0.5), 300, 1.0, 3)
    order, x = weights.order[0], np.random.default_rng(0).normal(size=(40_000, 300))
    relu = integrals("relu")
    fields, targets = (x @ matrix.T / np.sqrt(300) for matrix in (weights.w[0], weights.B))
    error = np.maximum(fields, 0) @ weights.v[0] - np.maximum(targets, 0) @ weights.A
    mean = (error[:, None] * (fields > 0)).T @ x / len(x)
    F3 = np.array([0.4, -1.0, 0.6])
    ours, true = F3[:, None] * mean, weights.v[0][:, None] * mean
    cosine = (ours * true).sum() / np.linalg.norm(ours) / np.linalg.norm(true)
    assert order.gradient_alignment(F3, relu) == pytest.approx(cosine, abs=0.02)
    assert order.gradient_alignment(weights.v[0], relu) == pytest.approx(1)


def test_errors_say_what_was_found() -> None:
    start = draw(1, 2, (1, 1), 50, 1.0, 0).order[0]
    with pytest.raises(ValueError, match=r"one number of feedback for each of 2 units, found shape \(3,\)"):
        integrate(start, [1, 1, 1], Learning(), [1.0])
    with pytest.raises(NotImplementedError, match="found relu"):
        integrate(start, F, Learning("relu"), [1.0])
    with pytest.raises(ValueError, match="found 'tanh'"):
        Learning("tanh")


def test_rates_too_large_are_told() -> None:
    start = draw(1, 2, (1, 1), 50, 1.0, 0).order[0]
    with pytest.raises(ArithmeticError, match=r"up to time 100, found it to end at .*Lower the rates"):
        integrate(start, [-0.8, 1.3], Learning("linear", rate=20.0, second_rate=0.0), [100.0])


def test_missing_scipy_names_the_command() -> None:
    code = (
        "import sys; sys.modules['scipy.integrate'] = None\n"
        "from feedalign.theory.odes import _solver\n"
        "try: _solver()\n"
        "except ImportError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "Expected scipy, found none. Do pip install 'feedalign[theory]'."
