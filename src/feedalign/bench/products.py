"""What it would bring to form the weight gradients of equal layers as one batched product instead of one by one.

Under DFA no block waits for the one above, so the gradients ``g_i^T x_i`` of ``n`` layers of one shape could all be
formed at once, which autograd does not do. The batched product needs ``g_i`` and ``x_i`` side by side in memory.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from feedalign.bench.cost import Step, flops, peak_memory
from feedalign.bench.timing import Progress, check_device, check_rounds, interleaved, summed_up

ONE_BY_ONE, STACKED, BATCHED = "one by one", "stacked and batched", "batched"
SYSTEMS = ("8x1024x512", "32x1024x128", "16x256x64", "64x64x32", "128x32x16")


@dataclass(frozen=True)
class ProductsConfig:
    """What to measure.

    Attributes:
        systems: Hidden layers, their width, and the batch: ``8x1024x512``.
        rounds: Timed rounds a system; each forms all gradients in every way.
        warmup: Rounds before these, not counted.
        device: Where the products run.
        seed: Of the numbers.
    """

    systems: tuple[str, ...] = SYSTEMS
    rounds: int = 30
    warmup: int = 3
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        check_device(self.device)
        for system in self.systems:
            _sizes(system)


def measure(config: ProductsConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per system and way: times of all layers' products, how many times as fast, and peak memory.

    Args:
        config: What to measure.
        progress: Called as ``progress(system, rounds done, rounds)``.
    """
    entries = []
    for system in config.systems:
        entries += _measure_system(system, config, progress)
    return entries


def _sizes(system: str) -> tuple[int, int, int]:
    try:
        depth, width, batch = (int(size) for size in system.split("x"))
    except ValueError:
        depth = width = batch = 0
    if min(depth, width, batch) < 1:
        raise ValueError(f"Expected layers, width and batch as in 8x1024x512, all of at least 1; found {system!r}.")
    return depth, width, batch


def _measure_system(system: str, config: ProductsConfig, progress: Progress | None) -> list[dict[str, Any]]:
    device, (depth, width, batch) = torch.device(config.device), _sizes(system)
    generator = torch.Generator().manual_seed(config.seed)
    # Apart from each other in memory, as layers make them: gradients and inputs, [N, D] each.
    gradients, inputs = (
        [torch.randn(batch, width, generator=generator).to(device) for _ in range(depth)] for _ in range(2)
    )
    steps = ways(gradients, inputs)
    seconds = interleaved(steps, system, config.rounds, config.warmup, device, progress)
    times = {way: summed_up(found) for way, found in seconds.items()}
    return [
        {
            "name": system,
            "depth": depth,
            "width": width,
            "batch": batch,
            "rule": way,
            **times[way],
            "ratio_to_one_by_one": times[ONE_BY_ONE]["median_seconds"] / times[way]["median_seconds"],
            "flops": flops(step),
            "peak_memory_bytes": peak_memory(step, device),
        }
        for way, step in steps.items()
    ]


def ways(gradients: list[Tensor], inputs: list[Tensor]) -> dict[str, Step]:
    """Return the ways to form every ``g_i^T x_i``, ``[D, D]``, from ``[N, D]`` tensors."""
    side_by_side = torch.stack(gradients), torch.stack(inputs)
    return {
        ONE_BY_ONE: lambda: [g.T @ x for g, x in zip(gradients, inputs, strict=True)],
        STACKED: lambda: _batched(torch.stack(gradients), torch.stack(inputs)),
        BATCHED: lambda: _batched(*side_by_side),
    }


def _batched(gradients: Tensor, inputs: Tensor) -> Tensor:
    return torch.bmm(gradients.transpose(1, 2), inputs)
