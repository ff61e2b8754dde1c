r"""Targets that have nothing to do with the inputs, and the conditioning that they give to the alignment matrices.

Two targets with the covariance

.. math:: \Sigma_y = \begin{pmatrix} 1 & \alpha (1 - \beta) \\ \alpha (1 - \beta) & \alpha^2 \end{pmatrix}

``alpha`` makes one smaller than the other, a small ``beta`` makes them alike: both make it ill-conditioned.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class RandomTargets:
    """One such task.

    Attributes:
        alpha: Standard deviation of the second target; that of the first is 1.
        beta: 1 minus their correlation.
    """

    alpha: float
    beta: float

    def __post_init__(self) -> None:
        if not (self.alpha > 0 and 0 < self.beta <= 1):
            raise ValueError(
                f"Expected alpha above 0 and beta in (0, 1], found {self.alpha} and {self.beta}. With beta = 0 the two "
                "targets are one."
            )

    @property
    def covariance(self) -> Array:
        """``Sigma_y [2, 2]``."""
        mixed = self.alpha * (1 - self.beta)
        return np.array([[1.0, mixed], [mixed, self.alpha**2]])

    @property
    def condition_number(self) -> float:
        """The larger over the smaller eigenvalue of the covariance."""
        return float(np.linalg.cond(self.covariance))

    @property
    def alignment(self) -> float:
        """The weight alignment of the second layer as learning begins, for infinitely many inputs.

        The cosine of the covariance with the identity, which ``S S^T`` fluctuates around.
        """
        return float(np.trace(self.covariance) / (np.sqrt(2) * np.linalg.norm(self.covariance)))

    def draw(self, samples: int, inputs: int, generator: np.random.Generator) -> tuple[Array, Array]:
        """Return ``x [P, d]`` and ``y [P, 2]``, independent of each other."""
        x = generator.standard_normal((samples, inputs))
        y = generator.standard_normal((samples, 2)) @ np.linalg.cholesky(self.covariance).T
        return x, y
