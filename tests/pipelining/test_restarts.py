"""Checkpoints of all stages, loaded onto other numbers of stages, and processes that are killed and come back."""

import os
import random
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

import feedalign as fa
from feedalign import pipelining as fp
from feedalign.pipelining.checkpoint import complete
from pipelining.models import SYSTEMS, System
from pipelining.processes import run

TESTS = Path(__file__).parent.parent
SCRIPT = TESTS / "pipelining/train_and_die.py"
STEPS = 6
Bits = dict[str, Tensor]


def train(folder: Path, began: int, steps: int, rank: int, world: int) -> Bits:
    """Go on from a checkpoint if there is one, train up to ``steps``, save, and return the weights."""
    system: System = SYSTEMS["transformer"]
    part = system.build(rank, world)
    own = fp.Stage(part, fa.DFA(seed=3), system.names(part), index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, 4, system.loss)
    optimizer = torch.optim.AdamW(part.parameters(), 1e-2)
    assert fp.resume(folder, part, optimizer) == began
    for step in range(began, steps):
        x, y = system.batch(16, step)
        schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
        optimizer.step()
        optimizer.zero_grad()
    fp.save(folder, part, optimizer, steps)
    return {name: value.detach() for name, value in part.state_dict().items()}


def go_on(folder: Path, rank: int, world: int) -> Bits:
    return train(folder, 3, STEPS, rank, world)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three steps on two stages, saved."""
    folder = tmp_path_factory.mktemp("saved")
    run(2, tmp_path_factory.mktemp("group"), {"first": partial(train, folder / "checkpoints", 0, 3)})
    return folder / "checkpoints"


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Bits:
    folder = tmp_path_factory.mktemp("whole")
    found = run(2, folder, {"whole": partial(train, folder / "checkpoints", 0, STEPS)})("whole")
    return {**found[0], **found[1]}


@pytest.mark.parametrize("world", [1, 2, 4])
def test_another_number_of_stages_goes_on_to_the_same_bits(
    saved: Path, uninterrupted: Bits, tmp_path: Path, world: int
) -> None:
    found = run(world, tmp_path, {"end": partial(go_on, saved)})("end")
    together = {name: value for part in found for name, value in part.items()}
    assert together.keys() == uninterrupted.keys()
    assert [name for name, value in uninterrupted.items() if not torch.equal(together[name], value)] == []
    for path in saved.glob(f"step-*{STEPS}"):
        path.rename(tmp_path / path.name)  # so that the next number of stages begins at the same step


@pytest.fixture
def alone(tmp_path: Path) -> Any:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    part = torch.nn.Linear(2, 2)
    yield tmp_path, part, torch.optim.SGD(part.parameters(), 0.1, momentum=0.9)
    distributed.destroy_process_group()


def test_checkpoints_that_were_not_written_to_the_end_are_passed_over(alone: Any) -> None:
    folder, part, optimizer = alone
    assert fp.resume(folder, part, optimizer) == 0
    for step in (1, 2, 3):
        fp.save(folder, part, optimizer, step)
    assert [path.name for path in complete(folder)] == ["step-000000002", "step-000000003"]
    before = part.weight.detach().clone()
    (folder / "step-000000003" / ".metadata").unlink()
    with torch.no_grad():
        part.weight.zero_()
    assert fp.resume(folder, part, optimizer) == 2
    assert torch.equal(part.weight, before)
    fp.save(folder, part, optimizer, 3)
    assert fp.resume(folder, part, optimizer) == 3
    with pytest.raises(ValueError, match="keep expected at least 1"):
        fp.save(folder, part, optimizer, 4, keep=0)


def test_a_process_that_nobody_started(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(RuntimeError, match="that torchrun has started, and found no MASTER_ADDR, MASTER_PORT"):
        fp.init_process_group("gloo")


# ---- under torchrun --------------------------------------------------------------------------------------------------


def under_torchrun(folder: Path, *words: Any) -> list[dict[str, Any]]:
    arguments = ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1", SCRIPT, folder, STEPS, *words]
    path = os.pathsep.join([str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"end-{rank}.pt") for rank in range(2)]


def assert_like(found: list[dict[str, Any]], uninterrupted: Bits) -> None:
    together = {name: value for end in found for name, value in end["state"].items()}
    assert [name for name, value in uninterrupted.items() if not torch.equal(together[name], value)] == []


def moments(count: int) -> list[tuple[int, int, float]]:
    """Return whom to kill, in which step, and when in it."""
    random_number = random.Random(0)
    # Not in the first two steps, the first of which is longer than the others, nor so late that the end comes before.
    return [(i % 2, random_number.randrange(2, STEPS - 2), random_number.random()) for i in range(count)]


@pytest.mark.parametrize(("victim", "step", "moment"), moments(2))
def test_a_killed_process_comes_back(
    uninterrupted: Bits, tmp_path: Path, victim: int, step: int, moment: float
) -> None:
    found = under_torchrun(tmp_path, victim, step, moment)
    assert {end["life"] for end in found} == {1}
    assert 0 < found[0]["began"] < STEPS  # from a checkpoint, not from the start
    assert_like(found, uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(("victim", "step", "moment"), moments(22)[2:])
def test_twenty_killed_processes_come_back(
    uninterrupted: Bits, tmp_path: Path, victim: int, step: int, moment: float
) -> None:
    assert_like(under_torchrun(tmp_path, victim, step, moment), uninterrupted)
