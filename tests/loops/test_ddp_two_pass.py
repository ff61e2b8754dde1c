"""Two processes that take two passes on half batches train as one that takes ordinary steps on the whole batch."""

import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import feedalign as fa
from loops.oracle import chain, samples
from loops.ranks import leave

RANKS, STEPS, RATE = 2, 3, 0.2
POINTS = "[0-2]"
Scenario = tuple[fa.Rule, dict[str, Any], int]
SCENARIOS: dict[str, Scenario] = {
    "dfa": (fa.DFA(seed=3), {}, 1),
    "a matrix a point": (fa.DFA(seed=3, feedback=fa.Normal(shared=False)), {}, 1),
    "many buckets": (fa.DFA(seed=3), {"gradient_as_bucket_view": True, "bucket_cap_mb": 1e-4}, 1),
    "accumulated": (fa.DFA(seed=3), {}, 3),
    "targets": (fa.DRTP(seed=3), {}, 1),  # without processes to wait for it takes one pass from the second step on
}
WRONG = {
    "find_unused_parameters": r"without find_unused_parameters=True.*Leave it out; freeze parameters",
    "static_graph": r"without static_graph=True.*Leave it out",
    "stepping": r"before DistributedDataParallel has averaged.*Leave the optimiser out, and call optimizer\.step",
    "reused": r"every parameter to be used once, since Distributed.*net\.2\.0\.weight.*Take the ordinary step",
}


class Twice(nn.Module):
    """A block that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = chain()

    def forward(self, x: Tensor) -> Tensor:
        first, _, third, head = self.net
        h: Tensor = third(third(first(x)[:, :9]))
        return head(h)


def ordinary(scenario: Scenario) -> dict[str, Tensor]:
    rule, _, parts = scenario
    model = chain()
    handle = fa.attach(model, rule, POINTS)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for step in range(STEPS):
        for part in range(parts):
            x, handle.targets = samples(8, seed=10 * step + part)
            (F.cross_entropy(model(x), handle.targets) / parts).backward()
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def half(rank: int, seed: int) -> tuple[Tensor, Tensor]:
    x, y = samples(8, seed)
    return x[rank::RANKS], y[rank::RANKS]


def in_two_passes(rank: int, scenario: Scenario) -> dict[str, Tensor]:
    rule, options, parts = scenario
    model = chain()
    handle = fa.attach(model, rule, POINTS)
    wrapped = DistributedDataParallel(model, **options)
    optimizer = torch.optim.SGD(model.parameters(), RATE)
    for step in range(STEPS):
        for part in range(parts):
            with nullcontext() if part == parts - 1 else wrapped.no_sync():
                x, handle.targets = half(rank, seed=10 * step + part)
                fa.two_pass(handle, lambda x=x, y=handle.targets: F.cross_entropy(wrapped(x), y) / parts)
        optimizer.step()
        optimizer.zero_grad()
    return {name: parameter.detach() for name, parameter in model.named_parameters()}


def refused(rank: int, name: str) -> str:
    model = Twice().double() if name == "reused" else chain()
    handle = fa.attach(model, fa.DFA(seed=3), "net.[0-2]" if name == "reused" else POINTS)
    if name == "reused":
        model.net[1].requires_grad_(False)  # does not run
    wrapped = DistributedDataParallel(model, **({name: True} if "_" in name else {}))
    optimizer = torch.optim.SGD(model.parameters(), RATE) if name == "stepping" else None
    x, y = half(rank, 0)
    try:
        fa.two_pass(handle, lambda: F.cross_entropy(wrapped(x), y), optimizer)
    except fa.SignalError as error:
        return str(error)
    return "nothing was raised"


def enter(rank: int, folder: str) -> None:
    """What each process runs: all of them, one after the other, since starting processes is slow."""
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=RANKS)
    found = {name: in_two_passes(rank, scenario) for name, scenario in SCENARIOS.items()}
    said = {name: refused(rank, name) for name in WRONG}
    torch.save((found, said), f"{folder}/{rank}.pt")
    leave(folder)


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[dict[str, dict[str, Tensor]], dict[str, str]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(enter, (str(folder),), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("name", SCENARIOS)
def test_two_ranks_equal_one_process(ranks: list[Any], name: str) -> None:
    (first, _), (second, _) = ranks
    before = dict(chain().named_parameters())
    for key, expected in ordinary(SCENARIOS[name]).items():
        assert torch.equal(first[name][key], second[name][key]), f"{key} differs between the ranks"
        torch.testing.assert_close(first[name][key], expected, rtol=1e-10, atol=1e-12)
        assert not torch.allclose(expected, before[key], rtol=1e-4), f"{key} has not been trained"


@pytest.mark.parametrize("name", WRONG)
def test_what_would_not_be_averaged_is_refused(ranks: list[Any], name: str) -> None:
    for _, said in ranks:
        assert re.search(WRONG[name], said[name], re.DOTALL), said[name]
