r"""Which of its many equivalent solutions a student finds, and what fixed feedback has to do with it.

A student with as many units as its teacher has a solution for every way to pair units with units; and for an odd
activation such as erf, as :math:`v_k g(w_k x) = (-v_k) g(-w_k x)`, one for every choice of signs: :math:`2^K K!` in
all.
A rectifier is not odd: its student must find the signs of the teacher, and fixed feedback fixes them for good.
"""

from math import comb
from typing import NamedTuple

import numpy as np

from feedalign.theory.integrals import Array, integrals
from feedalign.theory.order import Order


class Minimum(NamedTuple):
    """One of the equivalent solutions of an odd problem with ``K = M``."""

    pairing: tuple[int, ...]
    """The teacher unit that each student unit stands for."""
    signs: tuple[int, ...]
    """Whether it does so with the teacher's sign (1) or with both layers reversed (-1)."""


def minimum(order: Order) -> Minimum | None:
    """Return the solution that a student ended in; None where two of its units stand for the same one."""
    R = order.R / np.sqrt(np.diag(order.T))
    pairing = tuple(int(m) for m in np.abs(R).argmax(1))
    if len(set(pairing)) < len(pairing):
        return None
    return Minimum(pairing, tuple(int(np.sign(row[m])) for row, m in zip(R, pairing, strict=True)))


def highest_alignment(F: Array, A: Array) -> float:
    """Return the largest cosine of ``F`` with the second layer of any solution (erf, ``K = M``).

    By the rearrangement inequality: the unit with the r-th largest feedback, in size, takes the r-th largest weight.
    """
    return float(np.sort(np.abs(F)) @ np.sort(np.abs(A)) / np.linalg.norm(F) / np.linalg.norm(A))


def best_pairing(F: Array, A: Array) -> tuple[int, ...]:
    """Return the pairing with that cosine: the teacher unit for each student unit."""
    pairing = np.empty(len(F), dtype=int)
    pairing[np.argsort(np.abs(F))] = np.argsort(np.abs(A))
    return tuple(int(m) for m in pairing)


def learnable(F: Array, A: Array) -> bool:
    """Return whether a ReLU student can learn from feedback ``F``: it has enough units of either sign.

    Under the gradient flow ``Q_kk - 2 F_k v_k`` does not change, so from small weights ``v_k`` takes the sign of
    ``F_k`` and keeps it.
    """
    return all(bool((sign * F > 0).sum() >= (sign * A > 0).sum()) for sign in (1, -1))


def success_probability(units: int, positive: int, negative: int = 0) -> float:
    """Return how often feedback with signs by the toss of a coin lets a ReLU student learn.

    Args:
        units: Hidden units of the student, ``K``.
        positive: Units of the teacher with a positive weight.
        negative: With a negative one.
    """
    good = sum(comb(units, k) for k in range(positive, units - negative + 1))
    return good / float(2**units)


def relu_levels(A: Array) -> tuple[float, float]:
    """Return the errors ``e_g`` that a ReLU student is left with by an orthonormal teacher of equal weights.

    The first is that of no usable unit, the second that of the best single unit.
    """
    M = len(A)
    # The fields of the teacher, and that along the sum of its units.
    joint = np.eye(M + 1)
    joint[:M, M] = joint[M, :M] = 1 / np.sqrt(M)
    averages = integrals("relu").i2(joint)
    power, along = A @ averages[:M, :M] @ A, A @ averages[:M, M]
    return float(power / 2), float((power - along**2 / averages[M, M]) / 2)
