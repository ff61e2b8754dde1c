"""Models, devices and a remote device in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn


def network(wide: int = 12, outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, wide), nn.Tanh(), nn.Linear(wide, 9), nn.Tanh(), nn.Linear(9, outputs)
    )  # fmt: skip


def batch(seed: int = 0, rows: int = 32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 6, generator=generator), torch.randint(4, (rows,), generator=generator)


def gradients(model: nn.Module, seed: int = 0) -> list[Tensor]:
    model.zero_grad()
    x, y = batch(seed)
    nn.functional.cross_entropy(model(x.to(next(model.parameters()).dtype)), y).backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


Served = Callable[..., tuple[str, subprocess.Popen[str]]]


@pytest.fixture
def served() -> Iterator[Served]:
    """Run ``feedalign serve`` in a process; return its address and the process."""
    running: list[subprocess.Popen[str]] = []

    def serve(*options: str, token: str | None = None) -> tuple[str, subprocess.Popen[str]]:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **({"FEEDALIGN_TOKEN": token} if token else {})}
        command = [sys.executable, "-m", "feedalign", "serve", "--port", "0", "--columns", "64", *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, line
        return line.split()[-1].strip(), process

    yield serve
    for process in running:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
