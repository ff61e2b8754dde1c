r"""Exact modes of a deep linear network under DFA, on white inputs with orthonormal feedback.

There the singular modes ``s`` of ``S = E[y x^T]`` decouple. The eigenvalue ``a_l`` of every alignment matrix follows
from that of the first, at all times of the flow from zero weights:

.. math:: \dot a_1 = \eta\,(s - \textstyle\prod_l a_l), \qquad a_l = 2 (a_1 / 2)^{2^{l-1}}

Large modes are learned first, which evens out the eigenvalues: alignment improves while the network learns. ``L`` is
the number of weight matrices, ``C`` that of modes.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

Array = NDArray[np.float64]


def spread(s: Sequence[float], power: float) -> float:
    """Return the cosine of a diagonal matrix ``s^power`` with the identity: ``tr / (sqrt(C) |.|)``."""
    raised = np.asarray(s, dtype=np.float64) ** power
    return float(raised.sum() / np.sqrt(len(raised) * (raised**2).sum()))


def early_weight_alignment(s: Sequence[float], depth: int) -> list[float]:
    """Return the weight alignment of layers 2 .. L as learning begins: of the powers ``2^(l-1)``."""
    return [spread(s, 2.0 ** (layer - 1)) for layer in range(2, depth + 1)]


def final_weight_alignment(s: Sequence[float], depth: int) -> list[float]:
    """Return the weight alignment of layers 2 .. L in the end: of the powers ``2^(l-1) / (2^L - 1)``."""
    return [spread(s, 2.0 ** (layer - 1) / (2**depth - 1)) for layer in range(2, depth + 1)]


def final_gradient_alignment(s: Sequence[float], depth: int) -> list[float]:
    """Return the gradient alignment of layers 1 .. L-1 in the end: of the powers ``(2^L - 2^l) / (2^L - 1)``."""
    return [spread(s, (2**depth - 2.0**layer) / (2**depth - 1)) for layer in range(1, depth)]


def eigenvalues(first: Array, depth: int) -> Array:
    """Return ``a_1 .. a_L``, stacked in front, for any array of ``a_1``."""
    return np.stack([2 * (first / 2) ** (2.0 ** (layer - 1)) for layer in range(1, depth + 1)])


def dynamics(s: Sequence[float], depth: int, times: Sequence[float]) -> Array:
    """Return the eigenvalues ``[times, L, C]`` at ``times`` (rate times steps).

    Raises:
        ArithmeticError: The equation could not be integrated.
    """
    modes = np.asarray(s, dtype=np.float64)
    power = 2**depth - 1

    def slope(_: float, first: Array) -> Array:
        slopes: Array = modes - 2.0**depth * (first / 2) ** power
        return slopes

    span = (0.0, float(times[-1]))
    solved = solve_ivp(slope, span, np.zeros_like(modes), "LSODA", np.asarray(times), rtol=1e-9, atol=1e-12)
    if not solved.success:
        raise ArithmeticError(f"The modes could not be integrated to time {times[-1]:g}: {solved.message}")
    return eigenvalues(solved.y.T, depth).swapaxes(0, 1)


def onset(layer: int, sigma: float, width: int, outputs: int) -> float:
    """Return the ``a_1`` at which a weight matrix grows out of its random start.

    There its cosine with ``F_l F_{l-1}^T`` is ``1 / sqrt(2)``. It increases with the layer: the bottom comes first.

    Args:
        layer: 2 .. L-1; layer 1 is not aligned with anything.
        sigma: Standard deviation of the initial weights.
        width: ``n``, of all hidden layers.
        outputs: ``C``
    """
    return 2 * float((sigma * width / (2 * np.sqrt(outputs))) ** (2.0 ** (1 - layer)))
