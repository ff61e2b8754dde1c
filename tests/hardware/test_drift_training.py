"""A network in training whose device begins to drift: it is told before it is worse than shallow training."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.optics.bench import Bench

STEPS, REST = 420, 300


def accuracies(rule: fa.Rule, bench: Bench | None = None, tau: float = 0.0) -> tuple[list[float], int | None]:
    """Return the test accuracy after every step, and the step that raised, if one did."""
    digits = load_digits()
    x, y = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 128), nn.Tanh(), nn.Linear(128, 128), nn.Tanh(), nn.Linear(128, 10))
    fa.attach(model, rule, nn.Tanh)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    generator = torch.Generator().manual_seed(0)
    found: list[float] = []
    for step in range(STEPS):
        if bench is not None and step == REST:
            bench.tau = tau
        rows = torch.randint(1400, (64,), generator=generator)
        optimiser.zero_grad()
        try:
            cross_entropy(model(x[rows]), y[rows]).backward()
        except fa.SignalError:
            return found, step
        optimiser.step()
        with torch.no_grad():
            found.append((model(x[1400:]).argmax(1) == y[1400:]).double().mean().item())
    return found, None


@pytest.fixture(scope="module")
def shallow() -> list[float]:
    return accuracies(fa.Shallow())[0]


@pytest.mark.parametrize("tau", [3.0, 30.0, 300.0])
def test_training_stops_while_it_is_better_than_shallow(tau: float, shallow: list[float]) -> None:
    bench = Bench(192)
    found, step = accuracies(fa.DFA(feedback=fa.Hardware(bench)), bench, tau)
    assert step is not None
    assert REST < step <= REST + 100  # the next look
    assert all(a > b for a, b in zip(found[REST:], shallow[REST:], strict=False))


def test_a_device_at_rest_trains_to_the_end(shallow: list[float]) -> None:
    bench = Bench(192)
    found, step = accuracies(fa.DFA(feedback=fa.Hardware(bench)), bench, float("inf"))
    assert step is None
    assert found[-1] > shallow[-1] + 0.02
