"""Sparse feedback: every feature hears a few entries of the error."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from feedalign.feedback.feedback import Feedback, Kept, Parts, seeded
from feedalign.feedback.linear import linear


@dataclass(frozen=True)
class Sparse(Feedback):
    r"""Columns with :math:`k` entries :math:`\pm\sqrt{C/k} / \sqrt{D}` in random rows, and zeros elsewhere.

    A projection adds up :math:`k` entries of the error for every feature, whatever :math:`C` is; what is kept is their
    places and signs, :math:`k D` each. The mean square of the entries is :math:`1/D`, as for :class:`Normal`.

    Args:
        nonzeros: ``k``. All rows where the error has fewer.
        shared: This and the other options are those of :class:`Feedback`.

    Raises:
        ValueError: ``nonzeros`` is below 1.

    References:
        Crafton et al., *Direct Feedback Alignment with Sparse Connections for Local Learning*, Frontiers in
        Neuroscience 2019.
    """

    nonzeros: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nonzeros < 1:
            raise ValueError(
                f"nonzeros must be at least 1, found {self.nonzeros}: it says how many entries of the error reach a "
                "feature. For no feedback at all use feedalign.Shallow()."
            )

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        """Return the dense twin: the entries that a projection adds up, among zeros."""
        places, entries = self._entries(rows, columns, generator)
        return torch.zeros(rows, columns, dtype=torch.float64).scatter_(0, places.T, entries.T)

    def keep(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
        """Return the places and the scaled entries of all columns, both ``[sum of columns, k]``."""
        drawn = [self._entries(rows, columns, seeded(seed, key, rows, columns)) for key, columns, _ in parts]
        places = torch.cat([places for places, _ in drawn])
        entries = torch.cat([entries * part[2] for (_, entries), part in zip(drawn, parts, strict=True)])
        return places.to(device), entries.to(device=device, dtype=dtype.to_real())

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return ``error [N, C]`` times the scaled matrices side by side, ``[N, sum of columns]``."""
        places, entries = kept
        rows = error.shape[1]
        if error.is_complex():  # the entries are real: real and imaginary parts are rows of their own
            return torch.complex(*self.product(torch.cat([error.real, error.imag]), parts, kept).chunk(2))
        return linear(error, lambda e: _gather(e, places, entries), lambda s: _scatter(s, places, entries, rows))

    def _entries(self, rows: int, columns: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return the rows of the non-zero entries, all different in a column, and their values, ``[columns, k]``."""
        number = min(self.nonzeros, rows)
        places = torch.empty(columns, 0, dtype=torch.int64)
        # Floyd's sampling without replacement, for all columns at once: row `last` takes the place of one that is in.
        for last in range(rows - number, rows):
            row = torch.randint(last + 1, (columns, 1), generator=generator)
            row = torch.where((places == row).any(1, keepdim=True), last, row)
            places = torch.cat([places, row], dim=1)
        signs = torch.randint(2, (columns, number), generator=generator).double() * 2 - 1
        return places, signs * (rows / number) ** 0.5


def _gather(error: Tensor, places: Tensor, entries: Tensor) -> Tensor:
    """Return ``error @ B`` for errors ``[N, C]``, ``[N, D]``."""
    # A bag of rows of the transposed error for every column: of all ways to write it the fastest on a CPU, and one
    # that makes nothing of size N D k.
    bags = functional.embedding_bag(places, error.T.contiguous(), per_sample_weights=entries, mode="sum")
    return bags.T.contiguous()


def _scatter(signal: Tensor, places: Tensor, entries: Tensor, rows: int) -> Tensor:
    """Return ``signal @ B.T`` for signals ``[N, D]``, ``[N, rows]``."""
    error = signal.new_zeros(signal.shape[0], rows)
    for row, entry in zip(places.unbind(1), entries.unbind(1), strict=True):
        error = error.index_add(1, row, signal * entry)
    return error
