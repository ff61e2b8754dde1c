r"""The closed equations of online learning in two-layer networks, exact for inputs of infinite dimension.

Every step takes a fresh sample; time is steps over the input dimension. First layer: :math:`w_k \leftarrow w_k -
\tfrac{\eta}{\sqrt N} f_k\, e\, g'(\lambda_k)\, x`, with ``f = F`` for DFA (and FA, which is the same rule here) and
``f = v`` for backpropagation. Second layer, under both: :math:`v_k \leftarrow v_k - \tfrac{\eta_2}{N} e\,
g(\lambda_k)`.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from feedalign.theory.integrals import Array, Integrals, integrals
from feedalign.theory.order import Order


@dataclass(frozen=True)
class Learning:
    """How the student learns.

    Attributes:
        activation: ``"erf"``, ``"linear"`` or ``"relu"``.
        rate: The learning rate of the first layer.
        second_rate: That of the second; ``None`` is the same.
        noise: Standard deviation of Gaussian noise on the teacher's output.
        flow: Only for the equations: the limit of small rates, without the terms of second order. Only the product
            of rates and times then matters.
    """

    activation: str = "erf"
    rate: float = 0.2
    second_rate: float | None = None
    noise: float = 0.0
    flow: bool = False

    def __post_init__(self) -> None:
        integrals(self.activation)  # an unknown one raises here

    @property
    def rates(self) -> tuple[float, float]:
        """The learning rates of both layers."""
        return self.rate, self.rate if self.second_rate is None else self.second_rate


@dataclass(frozen=True, eq=False)
class Trajectory:
    """The order parameters over time."""

    times: Array
    """``[n]``."""
    order: Order
    """With the times as first dimension."""


def integrate(
    start: Order,
    feedback: Sequence[float] | Array | None,
    learning: Learning,
    times: Sequence[float] | Array,
    tolerance: float = 1e-6,
) -> Trajectory:
    """Integrate the order parameters from time 0.

    Args:
        start: The order parameters at time 0, of one student.
        feedback: ``F [K]``; ``None`` is backpropagation.
        learning: The activation and the rates.
        times: When to report, increasing, in steps over the input dimension.
        tolerance: Relative; the absolute one is a thousandth of it.

    Raises:
        ValueError: The feedback does not have a number for every unit.
        NotImplementedError: The activation has no closed equations; the message says what to do.
        ArithmeticError: The integration failed: the rates are too large.
    """
    F = None if feedback is None else np.asarray(feedback, dtype=np.float64)
    if F is not None and F.shape != start.v.shape:
        raise ValueError(f"Expected one number of feedback for each of {len(start.v)} units, found shape {F.shape}.")
    moments = np.asarray(times, dtype=np.float64)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", UserWarning)  # of what becomes an error below
        solved = _solver()(
            lambda _, state: _pack(*derivative(_unpack(state, start), F, learning)),
            (0.0, float(moments[-1])),
            _pack(start.Q, start.R, start.v),
            method="LSODA",
            t_eval=moments,
            rtol=tolerance,
            atol=tolerance / 1000,
        )
    if not solved.success or not np.isfinite(solved.y).all():
        raise ArithmeticError(
            f"Expected an integration up to time {moments[-1]:g}, found it to end at "
            f"{solved.t[-1] if len(solved.t) else 0:g}: {solved.message} Lower the rates."
        )
    return Trajectory(moments, _unpack(solved.y.T, start))


def derivative(order: Order, feedback: Array | None, learning: Learning) -> tuple[Array, Array, Array]:
    """Return how fast ``Q``, ``R`` and ``v`` of one student change, per unit of time."""
    g, C, c, K = integrals(learning.activation), order.covariance, order.coefficients, order.v.shape[-1]
    f = order.v if feedback is None else feedback
    first, second = learning.rates
    # Minus the mean update of w_i, times every field: [K, P].
    pull = first * f[:, None] * np.einsum("b,iab->ia", c, g.i3(C, K))
    dQ = pull[:, :K] + pull[:, :K].T
    if not learning.flow:
        dQ = dQ + first**2 * np.outer(f, f) * _spread(g, C, c, K, learning.noise)
    return dQ, pull[:, K:], second * g.i2(C)[:K] @ c


def _spread(g: Integrals, C: Array, c: Array, K: int, noise: float) -> Array:
    """Return ``E[e^2 g'(z_i) g'(z_k)]``: what single samples add to the overlaps of the weights."""
    found: Array = np.einsum("a,b,ikab->ik", c, c, g.i4(C, K))
    return found + noise**2 * g.j2(C, K) if noise else found


def _pack(Q: Array, R: Array, v: Array) -> Array:
    return np.concatenate((Q.ravel(), R.ravel(), v))


def _unpack(state: Array, start: Order) -> Order:
    """Return the order parameters of a state ``[..., K K + K M + K]``."""
    (K, M), lead = start.R.shape, state.shape[:-1]
    Q, R, v = np.split(state, [K * K, K * K + K * M], axis=-1)
    return Order(Q.reshape(*lead, K, K), R.reshape(*lead, K, M), start.T, v, start.A)


def _solver() -> Any:
    try:
        from scipy.integrate import solve_ivp
    except ImportError as error:
        raise ImportError("Expected scipy, found none. Do pip install 'feedalign[theory]'.") from error
    return solve_ivp
