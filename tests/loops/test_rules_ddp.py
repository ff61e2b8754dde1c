"""Two processes on half batches train by each kind of rule as one process on the whole batch."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from loops.oracle import chain, samples
from loops.ranks import leave
from loops.test_ddp import RANKS, RATE, STEPS, half

Parameters = dict[str, Tensor]
RULES: dict[str, Callable[[], fa.Rule]] = {
    "ifa": lambda: fa.IFA(seed=3),
    "drtp": lambda: fa.DRTP(seed=3),
    "optical": lambda: fa.DFA(seed=3, feedback=fa.Optical()),
    "dkp": lambda: fa.DKP(seed=3),
    "fdfa": lambda: fa.FDFA(seed=3),
    "fa": lambda: fa.FA(seed=3),
    "brsf": lambda: fa.BRSF(seed=3),
    "mirror": lambda: fa.WeightMirror(seed=3),
    "kp": lambda: fa.KolenPollack(seed=3),
    "product": lambda: fa.ProductFA(seed=3),
}
Batch = Callable[[int], tuple[Tensor, Tensor]]
OTHER_NUMBERS = {
    "fdfa": "each rank draws tangents of its own, so that two ranks together have less variance than one process",
    "brsf": "its sizes follow from the bits of the weights, and sums over two ranks round at other places",
    "mirror": "its noise follows from the bits of the weights, and sums over two ranks round at other places",
}


def train(rule: str, batch: Batch, wrap: Callable[[nn.Module], nn.Module] = nn.Sequential) -> nn.Module:
    model = chain()
    made = RULES[rule]()
    points = "auto" if isinstance(made, fa.TransportRule) else "[0-2]"
    handle = fa.attach(model, made, points, example=samples(2)[0])
    called = wrap(model)
    optimizer = torch.optim.SGD(model.parameters(), RATE, weight_decay=0.01)
    for step in range(STEPS):
        x, handle.targets = batch(10 * step)
        F.cross_entropy(called(x), handle.targets).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def enter(rank: int, folder: str) -> None:
    """What each process runs: all the rules, one after the other, since starting processes is slow."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    for rule in RULES:
        torch.manual_seed(100 + rank)  # each rank has a global generator of its own
        model = train(rule, partial(half, rank), DistributedDataParallel)
        torch.save({name: p.detach() for name, p in model.named_parameters()}, f"{folder}/{rule}-{rank}.pt")
    leave(folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Parameters]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(enter, (str(folder),), nprocs=RANKS)
    return lambda rule: [torch.load(folder / f"{rule}-{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("rule", RULES)
def test_ranks_agree_bitwise(ranks: Callable[[str], list[Parameters]], rule: str) -> None:
    first, second = ranks(rule)
    begun = dict(chain().named_parameters())
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), f"{name} differs between the ranks"
        assert name not in begun or not torch.allclose(tensor, begun[name], rtol=1e-4), f"{name} has not been trained"


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule not in OTHER_NUMBERS])
def test_two_ranks_equal_one_process(ranks: Callable[[str], list[Parameters]], rule: str) -> None:
    expected = dict(train(rule, lambda seed: samples(8, seed)).named_parameters())
    found, _ = ranks(rule)
    learned = [name for name in found if name.startswith("feedalign.")]
    assert bool(learned) == RULES[rule]().learns
    for name, tensor in found.items():
        torch.testing.assert_close(
            tensor, expected[name].detach(), rtol=1e-9, atol=1e-11, msg=lambda m, n=name: f"{n}: {m}"
        )
