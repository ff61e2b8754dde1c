r"""Order parameters: all that the generalisation error of a two-layer student depends on, whatever its width.

Student :math:`\hat y = \sum_k v_k\, g(w_k \cdot x / \sqrt N)`, teacher :math:`y = \sum_m A_m\, g(B_m \cdot x / \sqrt
N)`, inputs :math:`x \sim \mathcal N(0, I_N)`. Letters as in :mod:`feedalign.theory.integrals`; ``F [..., K]`` is the
feedback vector, which carries the scalar error to the hidden units.

References:
    Refinetti et al., *Align, then memorise: the dynamics of learning with feedback alignment*, ICML 2021.
"""

from dataclasses import dataclass

import numpy as np

from feedalign.theory.integrals import Array, Integrals


@dataclass(frozen=True, eq=False)
class Order:
    """The order parameters of a student and its teacher. Leading dimensions may stand for times or seeds."""

    Q: Array
    """Overlaps of the student's weights, ``w_i . w_k / N``, ``[..., K, K]``."""
    R: Array
    """Of the student's with the teacher's, ``w_i . B_m / N``, ``[..., K, M]``."""
    T: Array
    """Of the teacher's, ``B_m . B_n / N``, ``[M, M]``."""
    v: Array
    """The student's second layer, ``[..., K]``."""
    A: Array
    """The teacher's second layer, ``[M]``."""

    @classmethod
    def of(cls, w: Array, v: Array, B: Array, A: Array) -> "Order":
        """Return the order parameters of weights ``w [..., K, N]`` and ``v [..., K]`` under a teacher ``B [M, N]``."""
        N = w.shape[-1]
        return cls(Q=w @ w.swapaxes(-1, -2) / N, R=w @ B.T / N, T=B @ B.T / N, v=v, A=A)

    def __getitem__(self, place: int) -> "Order":
        """Return those of one time (or of whatever the first dimension stands for)."""
        return Order(self.Q[place], self.R[place], self.T, self.v[place], self.A)

    @property
    def covariance(self) -> Array:
        """The covariance of the fields, ``[..., P, P]``."""
        T = np.broadcast_to(self.T, (*self.Q.shape[:-2], *self.T.shape))
        upper = np.concatenate((self.Q, self.R), axis=-1)
        return np.concatenate((upper, np.concatenate((self.R.swapaxes(-1, -2), T), axis=-1)), axis=-2)

    @property
    def coefficients(self) -> Array:
        """``c [..., P]``, with which the error of a sample is minus the sum of ``c_b g(z_b)``."""
        return np.concatenate((-self.v, np.broadcast_to(self.A, (*self.v.shape[:-1], *self.A.shape))), axis=-1)

    def error(self, g: Integrals) -> Array:
        """Return the generalisation error ``E[(y_student - y_teacher)^2] / 2``, with the factor 1/2, ``[...]``."""
        c = self.coefficients
        found: Array = 0.5 * np.einsum("...a,...b,...ab->...", c, c, g.i2(self.covariance))
        return found

    def weight_alignment(self, F: Array) -> Array:
        """Return the cosine of the second layer with the feedback, ``[...]``; 0 where ``v`` is zero."""
        return _cosine(self.v, F)

    def gradient_alignment(self, F: Array, g: Integrals) -> Array:
        r"""Return the cosine of the mean first-layer updates that ``F`` and backpropagation make, ``[...]``.

        Both are :math:`f_k E[e\, g'(\lambda_k) x]` with ``f = F`` or ``f = v``.
        """
        C = self.covariance
        X = np.einsum("...b,...kab->...ka", self.coefficients, g.i3(C, self.v.shape[-1]))
        # In the basis of the fields, which may depend on each other: the least-norm solution.
        size = np.sqrt(np.maximum(np.einsum("...ka,...ab,...kb->...k", X, np.linalg.pinv(C, hermitian=True), X), 0))
        return _cosine(self.v * size, F * size)


def _cosine(x: Array, y: Array) -> Array:
    over, under = (x * y).sum(-1), np.sqrt((x**2).sum(-1) * (y**2).sum(-1))
    found: Array = np.divide(over, under, out=np.zeros_like(over), where=under > 0)
    return found
