r"""Deep linear networks under DFA: the alignment matrices, their exact growth, and the alignment that they cause.

Letters: ``L`` weight matrices, ``C`` outputs, ``d`` inputs, ``n_l`` units. ``F_l [n_l, C]`` carries the error to layer
``l``; in this library it is the transpose of a feedback matrix ``B_l [C, n_l]``. ``G_l = F_l^T F_l``, and ``G_L = I``.

From zero weights, whatever the data, under SGD with momentum and weight decay (not Adam),

.. math:: W_1 = F_1 A_1, \qquad W_l = F_l A_l F_{l-1}^T, \qquad W_L = A_L F_{L-1}^T

with *alignment matrices* ``A_1 [C, d]`` and ``A_2 .. A_L [C, C]``. If they are multiples of the identity, the weights
lie along the feedback, and so do the gradients: what keeps DFA from aligning is their conditioning. Here they are a
tuple ``(A_1, .., A_L)``, and ``grams`` is ``(G_1, .., G_{L-1})``.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.integrate import solve_ivp

Array = NDArray[np.float64]
Matrices = tuple[Array, ...]
SUPPORT = 1e-10
"""Singular values below this share of the largest are none."""


def grams(feedback: Sequence[Array]) -> Matrices:
    """Return ``G_l = B_l B_l^T`` of the feedback matrices ``B_l [C, n_l]``."""
    return tuple(B @ B.T for B in feedback)


def zeros(outputs: int, inputs: int, depth: int) -> Matrices:
    """Return the alignment matrices of ``depth`` zero weights."""
    return (np.zeros((outputs, inputs)), *(np.zeros((outputs, outputs)) for _ in range(depth - 1)))


def maps(A: Sequence[Array], grams: Sequence[Array]) -> list[Array]:
    """Return ``M_1 .. M_L``, all ``[C, d]``: ``h_l = F_l M_l x``, and the output is ``M_L x``."""
    found = [A[0]]
    for matrix, gram in zip(A[1:], grams, strict=True):
        found.append(matrix @ gram @ found[-1])
    return found


def growth(A: Sequence[Array], grams: Sequence[Array], correlation: Array) -> Matrices:
    """Return what one step of rate 1 adds to the alignment matrices, exactly and for any loss.

    Args:
        A: The alignment matrices before the step.
        grams: Of the feedback.
        correlation: ``-E[e x^T] [C, d]`` over the batch, the sum for a summed loss.
    """
    below = maps(A, grams)[:-1]
    return (correlation, *(correlation @ each.T for each in below))


def flow(S: Array, covariance: Array, grams: Sequence[Array], times: Sequence[float]) -> list[Matrices]:
    """Return the alignment matrices at ``times`` (rate times steps) under gradient flow on half the squared error.

    Args:
        S: ``E[y x^T] [C, d]``
        covariance: ``E[x x^T] [d, d]``
        grams: Of the feedback; they decide the depth.
        times: Increasing, from 0 or later; the weights are zero at time 0.

    Raises:
        ArithmeticError: The equations could not be integrated.
    """
    shapes = [S.shape, *[(len(S), len(S))] * len(grams)]
    ends = np.cumsum([rows * columns for rows, columns in shapes])[:-1]

    def unpacked(numbers: Array) -> Matrices:
        return tuple(part.reshape(shape) for part, shape in zip(np.split(numbers, ends), shapes, strict=True))

    def slope(_: float, numbers: Array) -> Array:
        A = unpacked(numbers)
        grown = growth(A, grams, S - maps(A, grams)[-1] @ covariance)
        return np.concatenate([each.ravel() for each in grown])

    start = np.concatenate([each.ravel() for each in zeros(S.shape[0], S.shape[1], len(shapes))])
    span = (0.0, float(times[-1]))
    solved = solve_ivp(slope, span, start, "LSODA", np.asarray(times, dtype=np.float64), rtol=1e-8, atol=1e-12)
    if not solved.success:
        raise ArithmeticError(f"The flow could not be integrated to time {times[-1]:g}: {solved.message}")
    return [unpacked(column) for column in solved.y.T]


def early(S: Array, grams: Sequence[Array]) -> Matrices:
    r"""Return the alignment matrices at a time :math:`\eta t = 1` by the law of early times.

    :math:`A_1 = \eta t\, S`, :math:`A_2 = \tfrac12 (\eta t)^2 S S^T`, and :math:`A_{l+1} = \tfrac12 A_l G_{l-1} A_l`
    from there: the power of the time doubles from layer to layer, and so does that of ``S S^T``, whose conditioning
    is thereby squared. At another time ``A_l`` is ``(eta t)^(2^(l-1))`` times as large.
    """
    found = [S, S @ S.T / 2]
    for gram in grams[:-1]:
        found.append(found[-1] @ gram @ found[-1] / 2)
    return tuple(found[: len(grams) + 1])


def weights(A: Sequence[Array], feedback: Sequence[Array]) -> list[Array]:
    """Return ``W_1 .. W_L`` for feedback matrices ``B_l [C, n_l]``."""
    left = [*(B.T for B in feedback), np.eye(len(A[0]))]
    right = [np.eye(A[0].shape[1]), *feedback]
    return [F @ matrix @ B for F, matrix, B in zip(left, A, right, strict=True)]


def recovered(weights: Sequence[Array], feedback: Sequence[Array]) -> Matrices:
    """Return the alignment matrices whose :func:`weights` are nearest to these: exact where they have that form."""
    left = [*(np.linalg.pinv(B).T for B in feedback), np.eye(len(weights[-1]))]
    right = [np.eye(weights[0].shape[1]), *(np.linalg.pinv(B) for B in feedback)]
    return tuple(G @ W @ g for G, W, g in zip(left, weights, right, strict=True))


def weight_alignment(A: Sequence[Array], grams: Sequence[Array]) -> list[float]:
    """Return the cosine of ``W_l`` with ``F_l F_{l-1}^T`` (``W_L`` with ``F_{L-1}^T``), for l = 2 .. L."""
    above = [*grams[1:], np.eye(len(A[0]))]
    return [
        float(np.trace(G @ matrix @ g) / np.sqrt(np.trace(G @ matrix @ g @ matrix.T) * np.trace(G @ g)))
        for matrix, G, g in zip(A[1:], above, grams, strict=True)
    ]


def backward_matrices(A: Sequence[Array], grams: Sequence[Array]) -> list[Array]:
    """Return ``H_1 .. H_{L-1}``: backpropagation delivers ``F_l H_l e`` where DFA delivers ``F_l e``."""
    found = [A[-1].T]
    for matrix, gram in zip(reversed(A[1:-1]), reversed(grams[1:]), strict=True):
        found.append(matrix.T @ gram @ found[-1])
    return found[::-1]


def gradient_alignment(A: Sequence[Array], grams: Sequence[Array]) -> list[float]:
    """Return the cosine of the matrices ``F_l H_l`` and ``F_l``, for l = 1 .. L-1.

    It is the alignment over errors of all directions alike. For ``G = I`` it is ``tr H / (sqrt(C) |H|)``, which is
    ``1 / sqrt(1 + CV^2)`` with the coefficient of variation of the eigenvalues of a symmetric ``H``.
    """
    return [
        float(np.trace(G @ H) / np.sqrt(np.trace(H.T @ G @ H) * np.trace(G)))
        for H, G in zip(backward_matrices(A, grams), grams, strict=True)
    ]


def outside(weight: Array, above: Array | None, below: Array) -> float:
    """Return the share of a weight's norm that lies outside of the form ``F_l A F_{l-1}^T``.

    Args:
        weight: ``W_l [n_l, n_{l-1}]``
        above: ``B_l [C, n_l]``, None for the last layer.
        below: ``B_{l-1} [C, n_{l-1}]``
    """
    within = weight @ _onto(below)
    if above is not None:
        within = _onto(above) @ within
    return float(np.linalg.norm(weight - within) / np.linalg.norm(weight))


def _onto(B: Array) -> Array:
    """Return the projection onto the rows of a matrix."""
    return np.linalg.pinv(B) @ B


def condition_number(matrix: Array) -> float:
    """Return the largest over the smallest singular value, of those that are not zero; infinite for a matrix of zeros.

    A direction in which nothing is learned at all (errors of a softmax add up to zero) does not count.
    """
    values = np.linalg.svd(matrix, compute_uv=False)
    if values[0] == 0:
        return float("inf")
    kept = values[values > SUPPORT * values[0]]
    return float(kept[0] / kept[-1])


def worst_cosine(condition: float) -> float:
    """Return the least cosine of ``e`` and ``H e`` for a symmetric positive ``H`` of a condition number.

    References:
        Kantorovich's inequality.
    """
    return 2 * float(np.sqrt(condition)) / (1 + condition)
