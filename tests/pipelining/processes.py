"""Tests run in groups of processes; each leaves what it found in a folder."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from loops.ranks import leave

Scenario = Callable[[int, int], Any]
"""``scenario(rank, world)`` returns what ``torch.save`` takes."""


def run(world: int, folder: Path, scenarios: dict[str, Scenario]) -> Callable[[str], list[Any]]:
    """Run all scenarios in one group of processes, one after the other; return what looks up what each rank found."""
    torch.multiprocessing.spawn(_enter, (world, str(folder), scenarios), nprocs=world)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(world)]


def _enter(rank: int, world: int, folder: str, scenarios: dict[str, Scenario]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    for name, scenario in scenarios.items():
        torch.save(scenario(rank, world), f"{folder}/{name}-{rank}.pt")
    leave(folder)
