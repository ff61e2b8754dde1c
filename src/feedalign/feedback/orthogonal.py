"""Orthogonal feedback: every direction of the error reaches a point with the same strength."""

from dataclasses import dataclass

import torch
from torch import Tensor

from feedalign.feedback.feedback import Feedback


@dataclass(frozen=True)
class Orthogonal(Feedback):
    r"""Random rows with :math:`B B^T = I` (or, when ``C > D``, random columns with :math:`B^T B = (C/D)\, I`).

    The mean square of the entries is :math:`1/D`, as for :class:`Normal`. With ``shared=True`` the rows are
    orthogonal over the widest point; a narrower point gets the first columns of them, and its factor.
    The options are those of :class:`Feedback`.

    References:
        Mezzadri, *How to generate random matrices from the classical compact groups*, 2007 (the sign fix).
    """

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return a Haar-distributed semi-orthogonal matrix, entries of mean square one."""
        tall, narrow = max(rows, columns), min(rows, columns)
        q, r = torch.linalg.qr(torch.randn(tall, narrow, generator=generator, dtype=torch.float64))
        columns_orthogonal: Tensor = q * r.diagonal().sign() * tall**0.5
        return columns_orthogonal if rows == tall else columns_orthogonal.T
