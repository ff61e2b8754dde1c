"""What one training step costs besides time: arithmetic and memory, counted, not estimated."""

import gc
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Step = Callable[[], object]


def flops_of_a_later_step(step: Step) -> int:
    """Run ``step`` once, since the first step of an attachment finds out where rows lie; then count the operations."""
    step()
    return flops(step)


def flops(step: Step) -> int:
    """Return the floating-point operations of the matrix products and convolutions in one step."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def peak_memory(step: Step, device: torch.device) -> int:
    """Return the peak number of bytes that one step holds above what was held before it.

    On the CPU every allocation and release of PyTorch's allocator is recorded by the profiler, and the bytes are
    summed in order of time: exact, but blind to buffers which a maths library takes from the system by itself.
    On an accelerator the caching allocator's own peak is read.
    Call it after warm-up with the gradients set to None, so that their memory counts and the optimiser's does not.
    """
    gc.collect()
    if device.type != "cpu":
        return _accelerator_peak(step, device)
    with _quiet(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        recorded.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    memory = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: float(e["ts"]))
    return max(accumulate((int(e["args"]["Bytes"]) for e in memory), initial=0))


def _accelerator_peak(step: Step, device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    step()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the profiler's C++ side writes on stderr: it reads its log level before Python can set it."""
    kept = os.dup(2)
    with open(os.devnull, "w") as sink:  # noqa: PTH123
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
