"""A device of one's own: everything that feedalign asks of one, in a file to start from.

The "device" is a matrix in this process, read by a worker thread, which adds noise as instruments do. Replace
``_project`` by the calls of your own driver.

    feedalign serve --device docs/tutorials/example_device.py:Rig     offers it to other processes
"""

from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor


class Rig:
    """A device that projects rows of zeros and ones."""

    name = "the rig in the cellar"  # how errors call it
    inputs = "binary"  # what it can show: "binary" (uint8), "ternary" (int8) or "real" (float32)
    mirrors = 4096  # the most entries of a row

    def __init__(self, columns: int = 512, noise: float = 0.05, seed: int = 0) -> None:
        self.columns = columns  # numbers that a projection has
        self._generator = torch.Generator().manual_seed(seed)
        self._matrix = torch.randn(self.mirrors, columns, generator=self._generator)
        self._noise = noise
        # One worker: a device does one thing at a time.
        self._worker = ThreadPoolExecutor(max_workers=1)

    def start(self, rows: Tensor) -> "Future[Tensor]":
        """Begin with rows ``uint8 [n, C]`` and return at once; training goes on meanwhile."""
        return self._worker.submit(self._project, rows)

    def collect(self, ticket: "Future[Tensor]") -> Tensor:
        """Return the projections ``float32 [n, columns]``; an exception here is tried again, then raised."""
        return ticket.result()

    def _project(self, rows: Tensor) -> Tensor:
        found = rows.float() @ self._matrix[: rows.shape[1]]
        return found + self._noise * torch.randn(found.shape, generator=self._generator)
