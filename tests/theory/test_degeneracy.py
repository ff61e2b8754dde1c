"""Which solution a student ends in: signs always by the feedback, the pairing mostly; and the sign rule of ReLU."""

from itertools import permutations, product

import numpy as np
import pytest

from feedalign.theory.degeneracy import (
    Minimum,
    best_pairing,
    highest_alignment,
    learnable,
    minimum,
    relu_levels,
    success_probability,
)
from feedalign.theory.integrals import integrals
from feedalign.theory.odes import Learning, Trajectory, integrate
from feedalign.theory.order import Order
from feedalign.theory.simulation import draw, simulate

ERF, RELU = integrals("erf"), integrals("relu")
ONES = np.ones(2)


def solution(A: np.ndarray, found: Minimum) -> Order:
    R = np.array([[sign * (m == n) for n in range(len(A))] for m, sign in zip(*found, strict=True)], dtype=float)
    return Order(np.eye(len(A)), R, np.eye(len(A)), np.array([s * A[m] for m, s in zip(*found, strict=True)]), A)


@pytest.mark.parametrize("A", [np.array([1.5, -0.7]), np.array([1.5, 1.0, -0.5])])
def test_all_solutions_and_the_best_of_them(A: np.ndarray) -> None:
    K, F = len(A), np.array([0.4, -1.9, 0.8])[: len(A)]
    every = [Minimum(p, s) for p in permutations(range(K)) for s in product((1, -1), repeat=K)]
    for each in every:
        assert solution(A, each).error(ERF) == pytest.approx(0, abs=1e-12)
        assert minimum(solution(A, each)) == each
    cosines = {each: float(solution(A, each).weight_alignment(F)) for each in every}
    assert highest_alignment(F, A) == pytest.approx(max(cosines.values()))
    assert best_pairing(F, A) == max(cosines, key=cosines.__getitem__).pairing


def test_units_that_share_a_teacher_are_no_solution() -> None:
    order = Order(np.ones((2, 2)), np.array([[0.9, 0.1], [-0.8, 0.2]]), np.eye(2), ONES, ONES)
    assert minimum(order) is None


@pytest.mark.parametrize("seed", range(6))
def test_feedback_decides_the_solution(seed: int) -> None:
    """K = M = 2 from small weights: the same solution from every seed, with the signs of F and the best pairing."""
    generator = np.random.default_rng(100 + seed)
    F = generator.uniform(0.3, 2, 2) * generator.choice((-1, 1), 2)
    A = np.array([1.5, -0.7])
    found = []
    for start in range(2):
        weights = draw(1, 2, A, 1000, 0.01, start)
        end = integrate(weights.order[0], F, Learning(rate=0.1), [20_000.0]).order[0]
        assert end.error(ERF) < 1e-6
        assert (np.sign(end.v) == np.sign(F)).all()
        assert end.weight_alignment(F) == pytest.approx(highest_alignment(F, A), rel=1e-3)
        found.append(minimum(end))
    assert found[0] == found[1]
    assert found[0].pairing == best_pairing(F, A)


def flow(F: np.ndarray, seed: int = 3, A: np.ndarray = ONES) -> Trajectory:
    start = draw(1, len(F), A, 1000, 0.01, seed).order[0]
    times = np.concatenate(([0.0], np.geomspace(0.1, 2000, 40)))
    return integrate(start, F, Learning("relu", rate=1.0, flow=True), times)


@pytest.mark.parametrize("F", [(-0.9, -1.2), (0.9, -1.2), (0.9, 1.2), (0.9, -1.2, -0.7), (0.9, 1.2, -0.7)])
def test_relu_levels_and_invariant(F: tuple[float, ...]) -> None:
    feedback = np.array(F)
    run, usable = flow(feedback), int((feedback > 0).sum())
    nothing, single = relu_levels(ONES)
    assert (nothing, single) == (pytest.approx(0.65915, abs=1e-5), pytest.approx(0.08851, abs=1e-5))
    assert run.order.error(RELU)[-1] == pytest.approx((nothing, single, 0.0)[min(usable, 2)], abs=0.002)
    invariant = np.diagonal(run.order.Q, axis1=1, axis2=2) - 2 * feedback * run.order.v
    assert np.abs(invariant - invariant[0]).max() < 1e-3
    assert learnable(feedback, ONES) == (usable >= 2)


def test_relu_feedback_fixes_how_a_weight_is_shared_between_layers() -> None:
    F = np.array([0.6, 1.4])
    end = flow(F).order[-1]
    np.testing.assert_allclose(end.v, np.cbrt(1 / (2 * F)), rtol=0.05)
    np.testing.assert_allclose(np.diag(end.Q), (2 * F) ** (2 / 3), rtol=0.05)


def test_orthogonal_feedback_stops_relu_but_not_erf() -> None:
    F = np.array([1.0, -1.0])
    end = integrate(draw(1, 2, ONES, 1000, 0.01, 0).order[0], F, Learning(), [4000.0]).order[0]
    assert end.error(ERF) < 1e-8
    np.testing.assert_allclose(end.v, F, atol=1e-3)
    assert flow(F).order.error(RELU)[-1] == pytest.approx(0.0885, abs=0.002)


@pytest.mark.parametrize(("A", "expected"), [((1, 1), 0.5), ((1, -1), 0.75), ((-1, -1), 0.5)])
def test_probability_counts_the_signs(A: tuple[int, int], expected: float) -> None:
    signs = [np.array(s, dtype=float) for s in product((1, -1), repeat=3)]
    teacher = np.array(A, dtype=float)
    share = np.mean([learnable(s, teacher) for s in signs])
    assert share == expected == success_probability(3, int((teacher > 0).sum()), int((teacher < 0).sum()))
    assert [success_probability(K, 2) for K in (2, 3, 4)] == [1 / 4, 1 / 2, 11 / 16]


def test_a_relu_student_of_finite_width_obeys_its_signs() -> None:
    signs = np.array(list(product((1.0, -1.0), repeat=2)))
    run = simulate(draw(4, 2, ONES, 100, 0.01, 0), signs, Learning("relu", rate=0.2), [100.0], seed=0)
    assert (run.order.error(RELU)[0] < 0.04).tolist() == [learnable(F, ONES) for F in signs]
