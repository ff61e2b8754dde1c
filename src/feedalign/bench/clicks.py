"""What it takes to make a cache of a click log: seconds a stage and peak memory, over the length of the file.

Seconds are those of the CPU, all threads together: those of the clock, recorded beside them, depend on what else a
machine does and on its disk.
"""

import multiprocessing
import re
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from feedalign.bench.timing import Progress
from feedalign.experiments.data.clicks import CLICKS, ClickConfig, load_clicks
from feedalign.experiments.provenance import peak_memory_bytes

COUNTED = "count categories"
# Rows of the whole Kaggle file, for which time and memory are foretold.
WHOLE = CLICKS["criteo"].rows


@dataclass(frozen=True)
class ClicksConfig:
    """What to measure.

    Attributes:
        rows: Lengths of the files.
        data_root: Folder with the 8,000 real rows; see :func:`~feedalign.experiments.data.root.data_root`.
        scratch: Folder for a file and its cache, 420 bytes a row; by default that of temporary files.
        device: Where it runs; there is nothing for an accelerator to do.
        seed: Seed of what is replaced in the rows.
    """

    rows: tuple[int, ...] = (1_000_000, 5_000_000)
    data_root: str | None = None
    scratch: str | None = None
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.rows or min(self.rows) < 10:
            raise ValueError(f"Expected at least one length, of at least 10 rows each; found {self.rows}.")


def measure(config: ClicksConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per length: rows, bytes, CPU seconds of each stage, peak memory, and indices.

    Each cache is made in a process of its own, whose peak memory is read; what it holds before is given beside it.

    Args:
        config: What to measure.
        progress: Called as ``progress(length, 1, 1)``.

    Raises:
        DataError: The 8,000 real rows are missing.
    """
    from feedalign.bench.click_file import write_rows  # here, so that polars is needed for this benchmark alone

    sources = CLICKS["criteo-sample"].locate(config.data_root)
    entries = []
    for rows in config.rows:
        with tempfile.TemporaryDirectory(dir=config.scratch) as folder:
            file = Path(folder, "criteo", "train.txt")
            file.parent.mkdir()
            write_rows(rows, sources, file, config.seed)
            # A fresh process, so that neither this one's memory nor that of a length before counts.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                made = pool.apply(make, (folder,))
            entries.append({"name": f"{rows:,} rows", "rule": "cache", "file_bytes": file.stat().st_size, **made})
        if progress is not None:
            progress(f"{rows:,} rows", 1, 1)
    return entries


def make(folder: str) -> dict[str, Any]:
    """Make the cache of ``criteo/train.txt`` under a folder, in that folder, and return what it took."""
    before, counted = peak_bytes(), [0.0]

    def note(what: str, done: int, total: int) -> None:
        if what == COUNTED:
            counted.append(time.process_time())

    clock, start = time.perf_counter(), time.process_time()
    clicks = load_clicks(ClickConfig("criteo"), folder, cache=folder, progress=note)
    end = time.process_time()
    return {
        "rows": len(clicks.labels),
        "indices": sum(clicks.sizes),
        "cache_bytes": clicks.indices.nbytes + clicks.labels.nbytes,
        "wall_seconds": time.perf_counter() - clock,
        "cpu_seconds": end - start,
        "counting_cpu_seconds": counted[-1] - start,
        "writing_cpu_seconds": end - counted[-1],
        "memory_before_bytes": before,
        "peak_memory_bytes": peak_bytes(),
    }


def foretold(cases: list[dict[str, Any]], rows: int = WHOLE) -> tuple[float, float]:
    """Return the CPU seconds and the peak bytes to expect for ``rows`` rows, from the two longest cases.

    Both grow no faster than in proportion: time with rows, memory with the number of different categories. What does
    not grow is known from the difference of two lengths; with one length, nothing is taken not to grow.
    """
    *_, longest = found = sorted(cases, key=lambda case: int(case["rows"]))
    before = found[-2] if len(found) > 1 else {"rows": 0, "cpu_seconds": 0.0, "peak_memory_bytes": 0}
    more = (rows - longest["rows"]) / (longest["rows"] - before["rows"])
    seconds, peak = (longest[key] + more * (longest[key] - before[key]) for key in ("cpu_seconds", "peak_memory_bytes"))
    return float(seconds), float(peak)


def peak_bytes() -> int:
    """Return the most memory that this process has held so far.

    On Linux from ``/proc``, since the usual count of a child begins with what its parent held.
    """
    if sys.platform == "linux":
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
        if found:
            return int(found[1]) * 1024
    return peak_memory_bytes(torch.device("cpu"))
