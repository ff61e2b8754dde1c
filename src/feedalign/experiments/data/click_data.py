"""What a click log is here: one row a display, one category index a field, and whether it was clicked."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Indices = NDArray[np.int32]
Labels = NDArray[np.uint8]
Rows = NDArray[np.int64]
PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Clicks:
    """Rows of categories with a label, and which of them train, validate and test.

    A part is a stretch of consecutive rows, in the order of the file; whoever trains shuffles. The arrays of a file
    are memory-mapped: only the rows that a batch asks for are read.

    Attributes:
        name: Of the data set.
        fields: Names of the F fields.
        sizes: How many indices each field has, index 0 included, which stands for a category that is rare among the
            training rows or not among them.
        indices: ``[N, F]``, int32; column f is within 0 and ``sizes[f] - 1``. Each field counts from 0.
        labels: ``[N]``, uint8, 0 or 1.
        train: Numbers of the rows that are trained on, int64.
        validation: Those that decide about epochs and settings.
        test: Those that decide about nothing.
        best_auc: The test AUC that no model exceeds but by chance, where the labels' probabilities are known.
    """

    name: str
    fields: tuple[str, ...]
    sizes: tuple[int, ...]
    indices: Indices
    labels: Labels
    train: Rows
    validation: Rows
    test: Rows
    best_auc: float | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The size of the log for records: rows a part, fields, and indices of all fields together."""
        parts = {part: len(getattr(self, part)) for part in PARTS}
        return {"rows": len(self.labels), "fields": len(self.fields), "indices": sum(self.sizes), **parts}

    def batch(self, rows: Any) -> tuple[Tensor, Tensor]:
        """Return the indices ``[B, F]``, int64, and the labels ``[B]``, float32, of some rows.

        Args:
            rows: Their numbers ``[B]``: an array, a tensor on the CPU, a list or a slice.
        """
        chosen = rows if isinstance(rows, slice) else np.asarray(rows)
        indices = np.asarray(self.indices[chosen]).astype(np.int64)
        return torch.from_numpy(indices), torch.from_numpy(self.labels[chosen].astype(np.float32))


def part_sizes(rows: int) -> tuple[int, int, int]:
    """Return how many of ``rows`` train, validate and test: 80, 10 and 10 %, the remainder training."""
    held_out = rows // 10
    return rows - 2 * held_out, held_out, held_out


def consecutive(sizes: tuple[int, ...]) -> tuple[Rows, ...]:
    """Return the row numbers of parts of these sizes that lie one after the other."""
    ends = np.cumsum(sizes, dtype=np.int64)
    return tuple(np.arange(end - size, end, dtype=np.int64) for size, end in zip(sizes, ends, strict=True))
