"""Which categories of a field have an index of their own, counted in one pass in bounded memory.

A category is a 64-bit key here. A categorical field's key holds the bytes of its text, at most eight of them, so that
keys sort as the texts do and no two texts share one. A number's key is that of its bin.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedalign.experiments.data.click_data import Indices

Keys = NDArray[np.uint64]
LONGEST = 8
# A missing number: the key below those of all bins.
MISSING = np.iinfo(np.int64).min
# Keys that wait at least until they are merged, so that short blocks are cheap.
LEAST_WAITING = 100_000


def log_bins(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bins of integers: floor(log(x)^2) for x > 2, and x - 2 for the others, each of which stays apart.

    The recipe of the winners of the Criteo challenge of 2014, which all later work on this data follows.
    """
    large = numbers > 2
    squares = np.floor(np.log(np.where(large, numbers, 1)) ** 2).astype(np.int64)
    # The smallest number is the mark of a missing one.
    return np.where(large, squares, np.where(numbers == MISSING, MISSING, numbers - 2))


def ordered(bins: NDArray[np.int64]) -> Keys:
    """Return signed numbers as keys that sort as they do."""
    return bins.view(np.uint64) ^ np.uint64(1 << 63)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """The categories of a field that have an index of their own.

    Attributes:
        keys: Theirs, in order. The first has index 1; index 0 is for all others.
    """

    keys: Keys

    @property
    def size(self) -> int:
        """How many indices there are, 0 included."""
        return len(self.keys) + 1

    def index(self, keys: Keys) -> Indices:
        """Return the indices of keys ``[N]``."""
        if not len(self.keys):
            return np.zeros(len(keys), np.int32)
        places = np.searchsorted(self.keys, keys)
        found = self.keys[np.minimum(places, len(self.keys) - 1)] == keys
        return np.where(found, places + 1, 0).astype(np.int32)


class Counts:
    """How often each key of a field was seen. Memory grows with the number of different keys, not of rows."""

    def __init__(self) -> None:
        self._keys: Keys = np.empty(0, np.uint64)
        self._counts: NDArray[np.uint32] = np.empty(0, np.uint32)
        self._waiting: list[tuple[Keys, NDArray[np.uint32]]] = []

    def add(self, keys: Keys) -> None:
        """Count keys ``[N]``."""
        distinct, counts = np.unique(keys, return_counts=True)
        self._waiting.append((distinct, counts.astype(np.uint32)))
        # Merged whenever as many wait as were merged: each key is moved a few times in all, however many blocks come.
        if sum(len(block) for block, _ in self._waiting) > max(LEAST_WAITING, len(self._keys)):
            self._merge()

    def frequent(self, minimum: int) -> Vocabulary:
        """Return the vocabulary of the keys that were seen at least ``minimum`` times."""
        self._merge()
        return Vocabulary(self._keys[self._counts >= minimum])

    def _merge(self) -> None:
        blocks = [(self._keys, self._counts), *self._waiting]
        self._waiting = []
        keys = np.concatenate([block for block, _ in blocks])
        counts = np.concatenate([block for _, block in blocks])
        if not len(keys):
            return
        order = np.argsort(keys)
        keys, counts = keys[order], counts[order]
        starts = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
        self._keys, self._counts = keys[starts], np.add.reduceat(counts, starts, dtype=np.uint32)
