"""Two processes that train together: two rigs are two matrices and are refused, one rig for both is right."""

import threading
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from feedalign.hardware.server import Server
from feedalign.optics.bench import Bench
from hardware.conftest import batch, network
from loops.ranks import leave

RANKS = 2


def enter(rank: int, folder: str, url: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    x, y = batch(rank)
    local = network()
    fa.attach(local, fa.DFA(feedback=fa.Hardware(Bench(64))))
    try:
        local(x)
        said = "nothing"
    except fa.SignalError as error:
        said = str(error)
    model = network()
    feedback = fa.Hardware(fa.Remote(url), watch=0)
    fa.attach(model, fa.DFA(feedback=feedback))
    wrapped = DistributedDataParallel(model)
    nn.functional.cross_entropy(wrapped(x), y).backward()
    found = {"said": said, "grads": [p.grad for p in model.parameters()], "device": feedback.fingerprint}
    torch.save(found, f"{folder}/{rank}.pt")
    leave(folder)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    with Server(Bench(64, camera=None), port=0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        torch.multiprocessing.spawn(enter, (str(folder), server.url), nprocs=RANKS)
        server.shutdown()
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


def test_a_rig_a_rank_is_refused(found: list[dict]) -> None:
    for rank in found:
        assert "Bench serves one process, and 2 train together: each would have a matrix of its own" in rank["said"]
        assert "`feedalign serve` and fa.Hardware(fa.Remote(url)), or train with fa.Optical()" in rank["said"]


def test_one_rig_serves_all_ranks(found: list[dict]) -> None:
    first, second = found
    assert first["device"] == second["device"]
    assert all(torch.equal(a, b) for a, b in zip(first["grads"], second["grads"], strict=True))
    model = network()
    fa.attach(model, fa.DFA(feedback=fa.Hardware(Bench(64, camera=None), watch=0)))
    for rank in range(RANKS):
        x, y = batch(rank)
        (nn.functional.cross_entropy(model(x), y) / RANKS).backward()
    for found_, expected in zip(first["grads"], model.parameters(), strict=True):
        torch.testing.assert_close(found_, expected.grad, rtol=1e-4, atol=1e-6)
