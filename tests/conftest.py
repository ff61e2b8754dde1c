"""Fixtures that several folders of tests share."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# The models of the tests are tiny: a second thread costs more than it brings, and sums stay in one order.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder with real data sets in their upstream layout.

    Without one these tests are skipped, unless FEEDALIGN_DATA_REQUIRED says that it must be there, as in CI.
    """
    root = os.environ.get("FEEDALIGN_DATA")
    if root and Path(root).is_dir():
        return Path(root)
    message = f"FEEDALIGN_DATA names no folder with the real data sets (found {root!r})"
    if os.environ.get("FEEDALIGN_DATA_REQUIRED") == "1":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture
def float64() -> Iterator[None]:
    """Float64 by default, for comparisons with formulas, and random numbers that are always the same."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def interruptible() -> Iterator[None]:
    """Let SIGINT interrupt this process and the ones it starts, as on a terminal.

    Tests that are started in the background or by ``nohup`` inherit that it is ignored, and would pass it on.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
