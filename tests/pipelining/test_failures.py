"""A stage that raises, dies, hangs or makes another shape: every other stage ends within the timeout and says where."""

import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed

import feedalign as fa
from feedalign import pipelining as fp
from pipelining.models import SYSTEMS

WORLD, TIMEOUT, MICRO_BATCHES = 2, 3.0, 4
SYSTEM = SYSTEMS["growing"]
HANG = 60


def misbehave(how: str, output: Tensor) -> Any:
    if how == "raises":
        raise ValueError("the loss is not finite")
    if how == "dies":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "hangs":
        time.sleep(HANG)
    return output[:2]  # another shape


def enter(rank: int, folder: str, how: str, who: int) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    part = SYSTEM.build(rank, WORLD)
    passes = 0

    def trouble(module: Any, args: Any, output: Tensor) -> Any:
        nonlocal passes
        passes += torch.is_grad_enabled()
        # The second micro-batch of the third step.
        return misbehave(how, output) if passes == 2 * MICRO_BATCHES + 2 and rank == who else None

    next(iter(part.children())).register_forward_hook(trouble)
    own = fp.Stage(part, fa.DFA(seed=0), SYSTEM.names(part), index=rank, stages=WORLD)
    loss = None if how == "no loss" and rank == who else SYSTEM.loss
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, loss, timeout=TIMEOUT)
    x, y = SYSTEM.batch(16, 0)
    began = time.monotonic()
    try:
        for _ in range(5):
            schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
            began = time.monotonic()
    except fp.StageError as error:
        Path(folder, f"said-{rank}").write_text(f"{time.monotonic() - began}\n{error}")
    if how == "no loss" and rank == who:
        time.sleep(TIMEOUT + 1)  # and goes on evaluating
    os._exit(1)


def said(tmp_path: Path, how: str, who: int) -> dict[int, str]:
    """Return what each rank said, once all but one that hangs have ended."""
    context = torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=enter, args=(rank, str(tmp_path), how, who)) for rank in range(WORLD)]
    for process in ranks:
        process.start()
    for rank, process in enumerate(ranks):
        if how == "hangs" and rank == who:
            continue
        process.join(120)
        assert process.exitcode in (1, -signal.SIGKILL)
    for process in ranks:
        process.kill()
        process.join()
    found = {}
    for rank in range(WORLD):
        path = tmp_path / f"said-{rank}"
        if path.exists():
            seconds, found[rank] = path.read_text().split("\n", 1)
            assert float(seconds) < TIMEOUT + 2
    return found


def test_a_stage_that_raises(tmp_path: Path) -> None:
    found = said(tmp_path, "raises", 0)
    assert found[0] == (
        "Stage 0 of 2 (rank 0) raised in the forward pass of micro-batch 1, step 3: ValueError: the loss is not finite"
    )
    assert re.match(
        r"Stage 1 of 2 \(rank 1\) waited for the activations of micro-batch [01], step 3, and stage 0 of 2 \(rank 0\) "
        r"did not answer: it has left, or hangs \(timeout 3 s\)",
        found[1],
    )


def test_a_stage_that_does_not_know_it_trains(tmp_path: Path) -> None:
    found = said(tmp_path, "no loss", 0)
    assert "Stage 1 of 2 (rank 1) raised in the exchange of names (is loss_fn given on every stage?)" in found[1]


def test_a_stage_that_dies(tmp_path: Path) -> None:
    found = said(tmp_path, "dies", 1)
    assert list(found) == [0]
    assert re.match(
        r"Stage 0 of 2 \(rank 0\) waited for the error of micro-batch [01], step 3, and stage 1 of 2 \(rank 1\) did ",
        found[0],
    )


def test_a_stage_that_hangs(tmp_path: Path) -> None:
    found = said(tmp_path, "hangs", 1)
    assert list(found) == [0]
    assert re.search(r"waited for the error of micro-batch [01], step 3, and stage 1 of 2 \(rank 1\) did not", found[0])


def test_a_stage_that_makes_another_shape(tmp_path: Path) -> None:
    found = said(tmp_path, "shape", 0)
    assert "Stage 0 of 2 (rank 0)" in found[0]
    assert "micro-batch 1, step 3" in found[0]
    assert "point '0' of shape (2, 16)" in found[0]
    assert re.search("waited for the activations of micro-batch [01], step 3", found[1])


@pytest.mark.parametrize(
    "text", ["[/a/b/tcp/pair.cc:553] Connection closed by peer", "\nConnection closed by peer\nmore"]
)
def test_what_the_process_group_says(text: str) -> None:
    from feedalign.pipelining.waiting import _first_line

    assert _first_line(RuntimeError(text)) == "Connection closed by peer"
