"""Optimisers see ordinary parameters with ordinary gradients, whichever is made first."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from loops.oracle import backward, chain, samples

MAKERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd-foreach": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, foreach=True),
    "sgd-fused": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, nesterov=True, fused=True),
    "adam-foreach": lambda parameters: torch.optim.Adam(parameters, 0.01, foreach=True),
    "adamw-fused": lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.1, fused=True),
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[Any], torch.optim.Optimizer]:
    return MAKERS[request.param]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, step: Callable[[Tensor, Tensor], object]) -> list[Tensor]:
    for seed in range(5):
        optimizer.zero_grad()
        step(*samples(7, seed))
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def attached_loop(make: Callable[[Any], torch.optim.Optimizer], optimizer_first: bool) -> tuple[list[Tensor], Any]:
    model = chain()
    optimizer = make(model.parameters()) if optimizer_first else None
    handle = fa.attach(model, fa.DFA(seed=6), "[0-2]")
    optimizer = optimizer or make(model.parameters())
    return train(model, optimizer, lambda x, y: F.cross_entropy(model(x), y).backward()), handle


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_equal_dfa_by_hand(make: Callable[[Any], torch.optim.Optimizer], optimizer_first: bool) -> None:
    found, handle = attached_loop(make, optimizer_first)
    model, matrices = chain(), handle.planner.matrices()
    expected = train(
        model,
        make(model.parameters()),
        lambda x, y: backward(model[:3], model[3], matrices, x, lambda z: F.cross_entropy(z, y)),
    )
    for a, b, start in zip(found, expected, chain().parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
        assert not torch.equal(a, start)


def test_a_closure_that_is_run_several_times_per_step() -> None:
    """L-BFGS runs forward and backward again within one step."""
    model = chain()
    fa.attach(model, fa.DFA(seed=6), "[0-2]")
    x, y = samples(20)
    optimizer = torch.optim.LBFGS(model[3].parameters(), max_iter=8)
    runs = []

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        runs.append(loss.item())
        return loss

    optimizer.step(closure)
    assert len(runs) > 4
    assert runs[-1] < 0.9 * runs[0]  # the head's gradient is exact, so a second-order method gets on with it
