"""The projection runs while the backward pass goes on, and the gradients are those of waiting for it, bit for bit."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.feedback import Hardware
from feedalign.hardware import Function
from feedalign.optics.bench import Bench
from hardware.conftest import network
from zoo import ZOO, Exhibit, assert_same, batch, build, collect, run

RULES = {"dfa": fa.DFA, "sign": fa.SignDFA, "ternary": fa.TernaryDFA, "drtp": fa.DRTP}
# In these the width of the shared matrix, or the model itself, asks for more than one device can have.
FIT = [exhibit for exhibit in ZOO if exhibit.name not in ("image-to-image",)]


class Counted(Function):
    """A device that notes when it is asked and when it is waited for."""

    def __init__(self, matrix: Tensor, log: list[str]) -> None:
        super().__init__(lambda rows: rows.double() @ matrix, matrix.shape[1], "real")
        self.log = log

    def start(self, rows: Tensor) -> object:
        self.log.append("start")
        return super().start(rows)

    def collect(self, ticket: object) -> Tensor:
        self.log.append("collect")
        return super().collect(ticket)


def device(width: int, log: list[str] | None = None) -> Counted:
    numbers = torch.randn(width, 700, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return Counted(numbers, [] if log is None else log)


def error_width(exhibit: Exhibit) -> int:
    model = build(exhibit)
    handle = fa.attach(model, fa.DFA(), exhibit.points, exhibit.output)
    run(model, batch(exhibit)).backward()
    return handle.planner.error_width


def learnt(exhibit: Exhibit, deferred: bool, monkeypatch: pytest.MonkeyPatch) -> tuple[dict, list[str], fa.Attachment]:
    monkeypatch.setattr(Hardware, "deferred", deferred)
    log: list[str] = []
    model = build(exhibit).eval()
    feedback = fa.Hardware(device(error_width(exhibit), log), watch=0)
    handle = fa.attach(model, fa.DFA(feedback=feedback), exhibit.points, exhibit.output)
    run(model, batch(exhibit)).backward()
    model.zero_grad()
    log.clear()
    run(model, batch(exhibit)).backward()
    return collect(model), log, handle


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("exhibit", FIT, ids=lambda exhibit: exhibit.name)
def test_gradients_are_those_of_waiting(exhibit: Exhibit, monkeypatch: pytest.MonkeyPatch) -> None:
    expected, _, other = learnt(exhibit, False, monkeypatch)
    found, log, handle = learnt(exhibit, True, monkeypatch)
    assert_same(found, expected)
    outputs = len(next(iter(handle.planner._deliveries.values()))[1])
    assert log.count("start") == log.count("collect") == outputs
    assert handle.last.error == other.last.error
    assert handle.last.signals.keys() == other.last.signals.keys()
    assert all(torch.equal(norm, other.last.signals[name]) for name, norm in handle.last.signals.items())


@pytest.mark.parametrize("name", RULES)
def test_every_rule_that_defers(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for deferred in (False, True):
        monkeypatch.setattr(Hardware, "deferred", deferred)
        model = network().double()
        handle = fa.attach(model, RULES[name](feedback=fa.Hardware(device(4), watch=0)))
        handle.targets = torch.arange(8) % 4
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        nn.functional.cross_entropy(model(x), handle.targets).backward()
        found.append([p.grad for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


class Slow(nn.Module):
    """A head whose backward pass notes when it runs."""

    def __init__(self, log: list[str]) -> None:
        super().__init__()
        self.linear, self.log = nn.Linear(9, 4), log

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if y.requires_grad:
            y.register_hook(lambda gradient: self.log.append("head"))
        return y


def logged(rule: Callable[..., fa.BroadcastRule], log: list[str]) -> tuple[nn.Module, fa.Attachment]:
    model = network().double()
    model[4] = Slow(log).double()
    return model, fa.attach(model, rule(feedback=fa.Hardware(device(4, log), watch=0)), nn.Tanh)


def test_the_head_goes_first() -> None:
    log: list[str] = []
    model, _ = logged(fa.DFA, log)
    x = torch.randn(8, 6, dtype=torch.float64)
    model(x).square().sum().backward()
    log.clear()
    model(x).square().sum().backward()
    assert log == ["start", "head", "collect"]


def test_targets_start_in_the_forward_pass() -> None:
    log: list[str] = []
    model, handle = logged(fa.DRTP, log)
    handle.targets = torch.arange(8) % 4
    x = torch.randn(8, 6, dtype=torch.float64)
    nn.functional.cross_entropy(model(x), handle.targets).backward()
    log.clear()
    loss = nn.functional.cross_entropy(model(x), handle.targets)
    assert log == ["start"]
    loss.backward()
    assert log == ["start", "head", "collect"]


def test_a_backward_pass_may_be_run_again_or_in_part() -> None:
    model = network().double()
    fa.attach(model, fa.DFA(feedback=fa.Hardware(device(4), watch=0)))
    x = torch.randn(8, 6, dtype=torch.float64)
    loss = model(x).square().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in model.parameters()]
    (head,) = torch.autograd.grad(loss, [model[4].weight], retain_graph=True)  # nobody collects the signals
    assert torch.equal(head, once[4])
    loss.backward()
    assert all(torch.equal(p.grad, 2 * first) for p, first in zip(model.parameters(), once, strict=True))


def test_two_forwards_and_no_graph_of_the_backward_pass() -> None:
    model = network().double()
    fa.attach(model, fa.DFA(feedback=fa.Hardware(device(4), watch=0)))
    a, b = torch.randn(2, 8, 6, dtype=torch.float64)
    for x in (a, b):
        model(x).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    losses = [model(x).square().sum() for x in (a, b)]
    for loss in losses:
        loss.backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(model.parameters(), expected, strict=True))
    with pytest.raises(fa.SignalError, match="create_graph=True"):  # what a device returned has no graph
        torch.autograd.grad(model(a).square().sum(), list(model.parameters()), create_graph=True)


def test_two_passes_train_through_a_device() -> None:
    found = []
    for two in (False, True):
        model = network().double()
        handle = fa.attach(model, fa.DFA(feedback=fa.Hardware(device(4), watch=0)))
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        if two:
            fa.two_pass(handle, lambda: model(x).square().sum())
        else:
            model(x).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_latency_is_hidden_behind_a_head_that_takes_longer() -> None:
    """Only the wait is timed, and the head sleeps, so that little depends on the machine's load."""

    class Head(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx: object, gradient: Tensor) -> Tensor:
            time.sleep(0.45)
            return gradient

    class Sleepy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return Head.apply(x)

    waited: list[float] = []

    class Watched(Bench):
        def collect(self, ticket: object) -> Tensor:
            began = time.perf_counter()
            found = super().collect(ticket)
            waited.append(time.perf_counter() - began)
            return found

    bench = Watched(64, latency=0.15)
    model = nn.Sequential(*network(), Sleepy())
    fa.attach(model, fa.DFA(feedback=fa.Hardware(bench, watch=0)), nn.Tanh)
    x = torch.randn(8, 6)
    model(x).square().sum().backward()
    waited.clear()
    model(x).square().sum().backward()
    assert len(waited) == 1
    assert waited[0] < 0.1 * 0.15
