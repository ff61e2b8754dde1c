"""The simulation through the library, against a plain loop of numpy and against the equations."""

import numpy as np
import pytest
import torch
from scipy.special import erf

import feedalign as fa
from feedalign.theory.integrals import integrals
from feedalign.theory.odes import Learning, integrate
from feedalign.theory.simulation import Given, SoftCommittees, _samples, draw, simulate

FUNCTIONS = {
    "erf": (lambda z: erf(z / np.sqrt(2)), lambda z: np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2)),
    "linear": (lambda z: z, np.ones_like),
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
}


@pytest.mark.parametrize("activation", FUNCTIONS)
@pytest.mark.parametrize("rule", ["dfa", "each", "backprop"])
def test_equals_the_updates_written_out(activation: str, rule: str) -> None:
    g, slope = FUNCTIONS[activation]
    weights, rate, second, N = draw(3, 2, (1.0, -0.5), 20, 0.5, 1), 0.3, 0.2, 20
    learning = Learning(activation, rate=rate, second_rate=second, noise=0.1)
    F = {"dfa": np.array([0.7, -1.1]), "each": np.random.default_rng(0).normal(size=(3, 2)), "backprop": None}[rule]
    found = simulate(weights, F, learning, [0.0, 1.0, 4.0], seed=7)
    w, v, samples = weights.w.copy(), weights.v.copy(), _samples(weights, learning, 3, 7)
    for _ in range(80):
        x, y = (tensor.numpy() for tensor in next(samples))
        fields = np.einsum("skn,sn->sk", w, x) / np.sqrt(N)
        e = (v * g(fields)).sum(1) - y[:, 0]
        f = v if F is None else np.broadcast_to(F, (3, 2))
        dw = (e[:, None] * f * slope(fields))[..., None] * x[:, None] * rate / np.sqrt(N)
        w, v = w - dw, v - second / N * e[:, None] * g(fields)
    end = type(weights)(w, v, weights.B, weights.A).order
    assert found.times.tolist() == [0, 1, 4]
    np.testing.assert_allclose(found.order.v[0], weights.v)
    for ours, theirs in ((found.order.Q[-1], end.Q), (found.order.R[-1], end.R), (found.order.v[-1], end.v)):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-12)


def test_a_step_is_reported_once() -> None:
    run = simulate(draw(1, 2, (1.0,), 10, 0.5, 1), None, Learning(), [0.0, 0.04, 0.11, 0.12, 0.3], seed=0)
    assert run.times.tolist() == [0, 0.1, 0.3]
    assert run.order.v.shape == (3, 1, 2)


def test_samples_are_those_of_the_teacher() -> None:
    weights = draw(2, 2, (1.0, -0.5), 20, 0.5, 1)
    x, y = next(_samples(weights, Learning("erf"), 2, 0))
    np.testing.assert_allclose(y[:, 0], erf(x.numpy() @ weights.B.T / np.sqrt(40)) @ weights.A)


@pytest.mark.parametrize("rule", ["dfa", "backprop"])
def test_follows_the_equations(rule: str) -> None:
    """Small form: within 0.22 / sqrt(N), twice over."""
    N, times = 500, np.linspace(0, 20, 21)
    weights, F = draw(2, 2, (1.0, 1.0), N, 1.0, 0), np.array([-0.8, 1.3])
    feedback = F if rule == "dfa" else None
    run = simulate(weights, feedback, Learning(rate=0.2), times, seed=0).order.error(integrals("erf"))
    for s in range(2):
        exact = integrate(weights.order[s], feedback, Learning(rate=0.2), times).order.error(integrals("erf"))
        assert np.abs(run[:, s] - exact).max() < 0.44 / np.sqrt(N)


def test_teacher_is_orthonormal_and_students_are_independent() -> None:
    few, many = draw(1, 3, (1.0, 2.0), 50, 0.1, 4), draw(5, 3, (1.0, 2.0), 50, 0.1, 4)
    np.testing.assert_allclose(many.order.T, np.eye(2), atol=1e-12)
    np.testing.assert_array_equal(few.w[0], many.w[0])
    assert np.abs(many.order.R).max() < 0.1
    assert not np.allclose(many.w[0], many.w[1])


def test_given_feedback_says_what_fits() -> None:
    with pytest.raises(ValueError, match=r"Expected feedback of shape \(2,\) or \(3, 2\), found \(4,\)"):
        simulate(draw(3, 2, (1.0,), 20, 0.5, 1), np.ones(4), Learning(), [1.0], seed=0)
    several = Given(numbers=((1.0, 2.0), (3.0, 4.0)))
    with pytest.raises(ValueError, match=r"numbers of shape \(1, 2\) for this error and point, found \(2, 2\)"):
        several.matrix(0, "hidden", 1, 2)
    with pytest.raises(ValueError, match="flow=False, found True"):
        simulate(draw(3, 2, (1.0,), 20, 0.5, 1), None, Learning(flow=True), [1.0], seed=0)


def test_given_feedback_is_measured_as_any_other() -> None:
    weights = draw(1, 2, (1.0, 1.0), 20, 0.5, 1)
    model = SoftCommittees(weights.w, weights.v, "erf")
    handle = fa.attach(model, fa.DFA(feedback=Given(numbers=((-0.8, 1.3),))), points="hidden")
    x = torch.randn(1, 20, dtype=torch.float64)
    found = fa.alignment(handle, lambda: model(x).square().sum(), block_samples=0).points["hidden"].mean
    expected = weights.v[0] @ (-0.8, 1.3) / np.linalg.norm(weights.v[0]) / np.linalg.norm((-0.8, 1.3))
    assert found == pytest.approx(expected)


def test_rates_too_large_are_told() -> None:
    with pytest.raises(ArithmeticError, match="Lower the rates"):
        simulate(draw(1, 2, (1.0,), 20, 1.0, 1), None, Learning("linear", rate=50.0), [50.0], seed=0)


@pytest.mark.slow
@pytest.mark.timeout(900)  # minutes of one core, on a machine that others use too
@pytest.mark.parametrize(
    ("activation", "units", "rate", "deviation", "until"),
    [("erf", 2, 0.2, 1.0, 60), ("erf", 3, 0.2, 1.0, 60), ("erf", 2, 0.2, 0.01, 60), ("linear", 2, 0.1, 0.3, 60)],
)
@pytest.mark.parametrize("rule", ["dfa", "backprop"])
def test_follows_the_equations_in_full(
    activation: str, units: int, rate: float, deviation: float, until: float, rule: str
) -> None:
    weights, g = draw(1, units, (1.0,) * units, 2000, deviation, 0), integrals(activation)
    feedback = np.random.default_rng(5).normal(size=units) if rule == "dfa" else None
    times, learning = np.concatenate(([0.0], np.geomspace(0.1, until, 60))), Learning(activation, rate=rate)
    run = simulate(weights, feedback, learning, times, seed=0)
    exact = integrate(weights.order[0], feedback, learning, run.times).order.error(g)
    assert np.abs(run.order.error(g)[:, 0] - exact).max() < 0.03 * exact[0]
