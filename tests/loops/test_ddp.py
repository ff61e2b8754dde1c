"""Two processes on half batches train as one process on the whole batch."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from loops.oracle import backward, chain, samples
from loops.ranks import leave

RANKS, STEPS, RATE = 2, 4, 0.2
RULE = fa.DFA(seed=3, feedback=fa.Normal(shared=False, gain=2.0))
POINTS = "[0-2]"
Parameters = dict[str, Tensor]


def by_hand(micro_batches: int = 1) -> Parameters:
    """Train one process on whole batches, without the library but for its matrices."""
    model, twin = chain(), chain()
    handle = fa.attach(twin, RULE, POINTS)
    twin(samples(1)[0])
    matrices = handle.planner.matrices()
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for step in range(STEPS):
        for part in range(micro_batches):
            x, y = samples(8, seed=10 * step + part)
            backward(model[:3], model[3], matrices, x, lambda z, y=y: F.cross_entropy(z, y) / micro_batches)
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def half(rank: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = samples(8, seed)
    return x[rank::RANKS], y[rank::RANKS]


def train(model: nn.Module, rank: int, micro_batches: int = 1) -> None:
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for step in range(STEPS):
        for part in range(micro_batches):
            last = part == micro_batches - 1
            with nullcontext() if last else model.no_sync():
                x, y = half(rank, seed=10 * step + part)
                (F.cross_entropy(model(x), y) / micro_batches).backward()
        optimizer.step()
        optimizer.zero_grad()


def plain(rank: int) -> Parameters:
    model = chain()
    fa.attach(model, RULE, POINTS)
    torch.manual_seed(100 + rank)  # each rank has a global generator of its own
    train(DistributedDataParallel(model), rank)
    return dict(model.named_parameters())


def accumulated(rank: int) -> Parameters:
    model = chain()
    fa.attach(model, RULE, POINTS)
    train(DistributedDataParallel(model, find_unused_parameters=True), rank, micro_batches=3)
    return dict(model.named_parameters())


def shallow(rank: int) -> Parameters:
    model = chain()
    fa.attach(model, fa.Shallow(), POINTS)
    train(DistributedDataParallel(model, find_unused_parameters=True), rank)
    return dict(model.named_parameters())


def sharded(rank: int, attach_first: bool) -> Parameters:
    model = chain()
    if attach_first:
        fa.attach(model, RULE, POINTS)
    mesh = distributed.init_device_mesh("cpu", (RANKS,))
    for block in model:
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    if not attach_first:
        fa.attach(model, RULE, POINTS)
    train(model, rank)
    return {name: parameter.full_tensor() for name, parameter in model.named_parameters()}


def attached_before_sharding(rank: int) -> Parameters:
    return sharded(rank, attach_first=True)


def attached_after_sharding(rank: int) -> Parameters:
    return sharded(rank, attach_first=False)


def enter(rank: int, folder: str, scenarios: list[Callable[[int], Parameters]]) -> None:
    """What each process runs: all the scenarios, one after the other, since starting processes is slow."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    for scenario in scenarios:
        found = {name: tensor.detach() for name, tensor in scenario(rank).items()}
        torch.save(found, f"{folder}/{scenario.__name__}-{rank}.pt")
    leave(folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Parameters]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    scenarios = [plain, accumulated, shallow, attached_before_sharding, attached_after_sharding]
    torch.multiprocessing.spawn(enter, (str(folder), scenarios), nprocs=RANKS)
    return lambda name: [torch.load(folder / f"{name}-{rank}.pt") for rank in range(RANKS)]


def assert_equal_to(found: list[Parameters], expected: Parameters) -> None:
    before = dict(chain().named_parameters())
    for name, tensor in found[0].items():
        assert torch.equal(tensor, found[1][name]), f"{name} differs between the ranks"
        torch.testing.assert_close(
            tensor, expected[name].detach(), rtol=1e-10, atol=1e-12, msg=lambda m: f"{name}: {m}"
        )
        assert not torch.allclose(tensor, before[name], rtol=1e-4), f"{name} has not been trained"


def test_two_ranks_equal_one_process(ranks: Callable[[str], list[Parameters]]) -> None:
    assert_equal_to(ranks("plain"), by_hand())


def test_accumulation_without_synchronising(ranks: Callable[[str], list[Parameters]]) -> None:
    assert_equal_to(ranks("accumulated"), by_hand(micro_batches=3))


def test_shallow_trains_the_head_alone(ranks: Callable[[str], list[Parameters]]) -> None:
    first, second = ranks("shallow")
    for name, before in chain().named_parameters():
        assert torch.equal(first[name], second[name])
        assert torch.equal(first[name], before) is not name.startswith("3.")


@pytest.mark.parametrize("scenario", ["attached_before_sharding", "attached_after_sharding"])
def test_sharded_parameters(ranks: Callable[[str], list[Parameters]], scenario: str) -> None:
    """FSDP2, parameters freed after each block's forward, applied before and after attaching."""
    assert_equal_to(ranks(scenario), by_hand())
