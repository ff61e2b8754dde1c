r"""Gaussian averages of an activation and its slope, the coefficients of the order parameters' equations.

Letters, here and in the modules built on this one: ``K`` student units, ``M`` teacher units, ``P = K + M`` fields
:math:`z = (\lambda_1..\lambda_K, \nu_1..\nu_M)`, jointly Gaussian with mean zero and covariance ``C [..., P, P]``. Any
leading dimensions are computed side by side. Indices: ``i, k`` run over the students, ``a, b`` over all fields.

References:
    Saad & Solla, *On-line learning in soft committee machines*, Physical Review E 1995.
    Goldt et al., *Dynamics of stochastic gradient descent for two-layer neural networks in the teacher-student setup*,
    NeurIPS 2019.
"""

from abc import ABC, abstractmethod
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
SMALLEST = 1e-14  # variance, so that nothing is divided by zero
DYING = 1e-10  # variance of a ReLU field around which its unit comes to rest


class Integrals(ABC):
    """The averages for one activation ``g``."""

    name: ClassVar[str]
    """Of the activation."""

    @abstractmethod
    def i2(self, C: Array) -> Array:
        """Return ``E[g(z_a) g(z_b)]``, ``[..., P, P]``."""

    @abstractmethod
    def i3(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) z_a g(z_b)]``, ``[..., K, P, P]``."""

    @abstractmethod
    def i4(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) g'(z_k) g(z_a) g(z_b)]``, ``[..., K, K, P, P]``.

        Raises:
            NotImplementedError: It has no closed form.
        """

    @abstractmethod
    def j2(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) g'(z_k)]``, ``[..., K, K]``."""


class Erf(Integrals):
    r"""The sigmoid of the soft committee machine, :math:`g(z) = \operatorname{erf}(z / \sqrt 2)`."""

    name = "erf"

    def i2(self, C: Array) -> Array:
        """Return ``E[g(z_a) g(z_b)]``."""
        D = 1 + _variances(C)
        return 2 / np.pi * _asin(C / np.sqrt(_outer(D, D)))

    def i3(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) z_a g(z_b)]``."""
        S, D, Di = _students(C, K)
        determinant = _outer(Di, D) - S**2
        over = C[..., None, :, :] * Di[..., None, None] - S[..., :, None] * S[..., None, :]
        return 2 / np.pi * over / (np.sqrt(determinant)[..., None, :] * Di[..., None, None])

    def i4(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) g'(z_k) g(z_a) g(z_b)]``."""
        S, D, Di = _students(C, K)
        Cik = S[..., :K]
        determinant = _outer(Di, Di) - Cik**2  # [..., i, k]
        Si, Sk = S[..., :, None, :], S[..., None, :, :]  # C_ia and C_ka, [..., i, k, a]
        di, dk = Di[..., :, None, None], Di[..., None, :, None]
        L4, mixed = determinant[..., None], Cik[..., None]
        own = L4 * D[..., None, None, :] - Sk**2 * di - Si**2 * dk + 2 * mixed * Si * Sk  # [..., i, k, a]
        L0 = (
            L4[..., None] * C[..., None, None, :, :]
            - _outer(Sk, Sk) * di[..., None]
            - _outer(Si, Si) * dk[..., None]
            + mixed[..., None] * (_outer(Si, Sk) + _outer(Sk, Si))
        )
        return 4 / np.pi**2 / np.sqrt(L4)[..., None] * _asin(L0 / np.sqrt(_outer(own, own)))

    def j2(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) g'(z_k)]``."""
        S, _, Di = _students(C, K)
        return 2 / np.pi / np.sqrt(_outer(Di, Di) - S[..., :K] ** 2)


class Linear(Integrals):
    """The identity."""

    name = "linear"

    def i2(self, C: Array) -> Array:
        """Return ``E[z_a z_b]``."""
        return C

    def i3(self, C: Array, K: int) -> Array:
        """Return ``E[z_a z_b]`` for every ``i``."""
        return np.broadcast_to(C[..., None, :, :], (*C.shape[:-2], K, *C.shape[-2:]))

    def i4(self, C: Array, K: int) -> Array:
        """Return ``E[z_a z_b]`` for every ``i`` and ``k``."""
        return np.broadcast_to(C[..., None, None, :, :], (*C.shape[:-2], K, K, *C.shape[-2:]))

    def j2(self, C: Array, K: int) -> Array:
        """Return ones."""
        return np.ones((*C.shape[:-2], K, K))


class Relu(Integrals):
    r"""The rectifier, :math:`g(z) = \max(z, 0)`, whose ``i4`` has no closed form.

    A unit that is driven to no weights at all gets there in finite time, where it has no direction any more and the
    equations end. Here it comes to rest: its ``i3`` fades out where the variance of its field is around 1e-10.
    """

    name = "relu"

    def i2(self, C: Array) -> Array:
        """Return ``E[g(z_a) g(z_b)]``."""
        rho, scale = _correlations(C)
        return scale / (2 * np.pi) * (np.sqrt(1 - rho**2) + rho * (np.pi / 2 + np.arcsin(rho)))

    def i3(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) z_a g(z_b)]``."""
        rho, _ = _correlations(C)
        variance = np.maximum(_variances(C), SMALLEST)
        deviation, living = np.sqrt(variance), variance[..., :K] / (variance[..., :K] + DYING)
        rho, S = rho[..., :K, :], C[..., :K, :]
        ratio = deviation[..., None, :] / deviation[..., :K, None] * np.sqrt(1 - rho**2) / (2 * np.pi)
        share = 0.25 + np.arcsin(rho) / (2 * np.pi)
        along: Array = S[..., :, None] * ratio[..., None, :] + C[..., None, :, :] * share[..., None, :]
        return along * living[..., None, None]

    def i4(self, C: Array, K: int) -> Array:
        """Raise: there is no closed form."""
        raise NotImplementedError(
            "Expected an activation whose four-point average has a closed form (erf or linear), found relu. "
            "Integrate its gradient flow, Learning(flow=True), or simulate it."
        )

    def j2(self, C: Array, K: int) -> Array:
        """Return ``E[g'(z_i) g'(z_k)]``."""
        return 0.25 + np.arcsin(_correlations(C)[0][..., :K, :K]) / (2 * np.pi)


INTEGRALS: dict[str, Integrals] = {kind.name: kind() for kind in (Erf, Linear, Relu)}


def integrals(activation: str) -> Integrals:
    """Return the averages for an activation: ``"erf"``, ``"linear"`` or ``"relu"``.

    Raises:
        ValueError: It is none of these.
    """
    if activation not in INTEGRALS:
        raise ValueError(f"Expected an activation among {', '.join(INTEGRALS)}, found {activation!r}.")
    return INTEGRALS[activation]


def _variances(C: Array) -> Array:
    return np.diagonal(C, axis1=-2, axis2=-1)


def _outer(x: Array, y: Array) -> Array:
    found: Array = x[..., :, None] * y[..., None, :]
    return found


def _asin(x: Array) -> Array:
    return np.arcsin(np.clip(x, -1, 1))


def _students(C: Array, K: int) -> tuple[Array, Array, Array]:
    """Return the students' rows of C, one plus all variances, and those of the students."""
    D = 1 + _variances(C)
    return C[..., :K, :], D, D[..., :K]


def _correlations(C: Array) -> tuple[Array, Array]:
    """Return the correlations and the products of the standard deviations, ``[..., P, P]``."""
    deviation = np.sqrt(np.maximum(_variances(C), SMALLEST))
    scale = _outer(deviation, deviation)
    return np.clip(C / scale, -1, 1), scale
