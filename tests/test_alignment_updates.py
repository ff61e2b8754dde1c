"""Alignment of the steps of whole blocks: against formulas, against gradients trained apart, and what it costs."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from closed_form.oracle_numbers import array, shared_uniform
from feedalign.bench.cases import mlp
from feedalign.bench.cost import flops, peak_memory
from zoo import Siamese, collect

Loss = Callable[[], Tensor]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


@pytest.mark.usefixtures("float64")
def test_updates_by_hand() -> None:
    model, x, y = chain(), torch.randn(20, 5), torch.randn(20, 3)
    handle = fa.attach(model, fa.DFA(seed=2))
    report = fa.alignment(handle, lambda: F.mse_loss(model(x), y))
    w1, w2, w3 = (array(model[i].weight) for i in (0, 2, 4))
    b1, b2, b3 = (array(model[i].bias) for i in (0, 2, 4))
    h0 = array(x)
    h1 = np.tanh(h0 @ w1.T + b1)
    h2 = np.tanh(h1 @ w2.T + b2)
    e = 2 * (h2 @ w3.T + b3 - array(y)) / 60
    B1, B2 = shared_uniform(2, 3, [8, 6])
    g2 = e @ w3
    g1 = (g2 * (1 - h2**2)) @ w2

    def step(at_point: np.ndarray, h: np.ndarray, below: np.ndarray) -> np.ndarray:
        before = at_point * (1 - h**2)
        return np.concatenate([(before.T @ below).ravel(), before.sum(0)])

    assert report.updates == {
        "1": pytest.approx(cosine(step(e @ B1, h1, h0), step(g1, h1, h0)), rel=1e-10),
        "3": pytest.approx(cosine(step(e @ B2, h2, h1), step(g2, h2, h1)), rel=1e-10),
    }
    assert report.blocks == {}
    assert repr(report).splitlines()[0].split() == [
        "point", "signal:", "mean", "std", "update", "samples", "zero", "error", "undefined",
    ]  # fmt: skip
    assert f"{report.updates['3']:+.3f}" in repr(report)
    assert "block: mean" in repr(fa.alignment(handle, lambda: F.mse_loss(model(x), y), block_samples=4))


class Tied(nn.Module):
    """One linear layer in two blocks and in the head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.shared, self.own = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.first, self.second, self.third = nn.Tanh(), nn.Tanh(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(self.shared(self.embedding(x)))
        h = self.third(self.own(self.second(self.shared(h))))
        return h @ self.embedding.weight


class Skipping(nn.Module):
    """A skip connection around its points, through which the error also gets by backpropagation."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.below(x).tanh()
        return self.head(h + self.b(self.a(h).tanh()).tanh())


class Outputs(nn.Module):
    """Two outputs, and a parameter that is used outside of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.below, self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)
        self.act = nn.Tanh()
        self.scale = nn.Parameter(torch.rand(4))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.act(self.below(x * self.scale))
        return self.left(h), self.right(h)


def frozen() -> nn.Sequential:
    model = chain()
    model[2].weight.requires_grad_(False)
    return model


def of(model: nn.Module, *inputs: tuple[int, ...]) -> Loss:
    batch = [torch.randn(shape) for shape in inputs]

    def loss() -> Tensor:
        outputs = model(*batch)
        return sum(out.sin().square().mean() for out in (outputs if isinstance(outputs, tuple) else [outputs]))

    return loss


APART: dict[str, tuple[Any, ...]] = {
    "chain": (chain, fa.DFA(), {}, [(9, 5)], {"1": ["0."], "3": ["2."]}),
    "drtp-like": (chain, fa.SignDFA(), {}, [(9, 5)], {"1": ["0."], "3": ["2."]}),
    "learned": (chain, fa.DKP(), {"example": torch.randn(9, 5)}, [(9, 5)], {"1": ["0."], "3": ["2."]}),
    "frozen": (frozen, fa.DFA(), {}, [(9, 5)], {"1": ["0."], "3": ["2.bias"]}),
    "one point": (chain, fa.DFA(), {"points": "3"}, [(9, 5)], {"3": ["0.", "2."]}),
    "siamese": (
        Siamese, fa.DFA(), {"points": "encoder", "output": "head"}, [(9, 6), (9, 6)], {"encoder": ["encoder."]},
    ),
    "tied": (
        Tied, fa.DFA(), {"points": ["first", "second", "third"]}, [(9, 4)],
        {"first": ["embedding.", "shared."], "second": ["shared."], "third": ["own."]},
    ),
    "skipping": (
        Skipping, fa.DFA(), {"points": ["a", "b"]}, [(9, 4)], {"a": ["below.", "a."], "b": ["b."]},
    ),
    "outputs": (Outputs, fa.DFA(), {"points": "act"}, [(9, 4)], {"act": ["below.", "scale"]}),
    "layers": (chain, fa.FA(), {}, [(9, 5)], {"0": ["0."], "2": ["2."]}),
    "both kinds": (
        chain, {"0": fa.FA(), "2": fa.FA(), "3": fa.DFA()}, {}, [(9, 5)],
        {"0": ["0."], "2": ["2."], "3": ["0.", "2."]},
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:The error also reaches what lies below:UserWarning")
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", APART)
def test_updates_are_the_gradients_that_training_would_have(name: str) -> None:
    build, rule, where, shapes, blocks = APART[name]
    model = build()
    handle = fa.attach(model, rule, **{k: v.double() if k == "example" else v for k, v in where.items()})
    loss = of(model, *shapes)
    report = fa.alignment(handle, loss)

    def trained() -> dict[str, Tensor]:
        model.zero_grad()
        loss().backward()
        return {key: gradient.clone() for key, gradient in collect(model).items() if gradient is not None}

    by_rule = trained()
    with handle.off():
        truth = trained()
    expected = {}
    for point, prefixes in blocks.items():
        inside = [key for key in truth if any(key.startswith(prefix) for prefix in prefixes)]
        a, b = (np.concatenate([array(found[key]).ravel() for key in inside]) for found in (by_rule, truth))
        expected[point] = pytest.approx(cosine(a, b), rel=1e-9)
    assert report.updates == expected
    assert list(report.updates) == list(report.points)


def test_scaling_the_loss_changes_no_update() -> None:
    torch.manual_seed(0)
    model, x, y = chain(), torch.randn(20, 5), torch.randn(20, 3)
    handle = fa.attach(model, fa.DFA())
    reports = [fa.alignment(handle, lambda s=s: s * F.mse_loss(model(x), y)) for s in (1.0, 1e-30, 1e-8, 1e8, 1e25)]
    for report in reports[1:]:
        assert report.updates == pytest.approx(reports[0].updates, abs=1e-5)


def test_long_gradients_are_added_up_exactly() -> None:
    """Longer than a piece, and with sums that float32 would lose."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(700, 900), nn.Tanh(), nn.Linear(900, 3))
    handle, loss = fa.attach(model, fa.DFA()), of(model, (6, 700))
    single = fa.alignment(handle, loss).updates["1"]
    loss().backward()
    a = [p.grad.double().clone() for p in model[0].parameters()]
    model.zero_grad()
    with handle.off():
        loss().backward()
    b = [p.grad.double() for p in model[0].parameters()]
    a, b = (np.concatenate([array(each).ravel() for each in found]) for found in (a, b))
    assert single == pytest.approx(cosine(a, b), abs=1e-6)


def test_what_is_dead_has_no_update() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1)  # no unit of the second layer ever fires
    handle = fa.attach(model, fa.DFA())
    x = torch.randn(20, 5)
    report = fa.alignment(handle, lambda: model(x).square().sum())
    assert all(math.isnan(cosine) for cosine in report.updates.values())
    assert "+nan" in repr(report)


def test_a_frozen_block_is_no_point_that_learns() -> None:
    model = chain()
    model[0].requires_grad_(False)
    handle = fa.attach(model, fa.DFA())
    assert list(fa.alignment(handle, of(model, (9, 5))).updates) == ["3"]


# ---- what it costs ---------------------------------------------------------------------------------------------------


def step_of(model: nn.Module, loss: Loss) -> Callable[[], None]:
    def step() -> None:
        model.zero_grad()
        loss().backward()

    step()  # draws the matrices
    model.zero_grad()
    return step


@pytest.mark.parametrize(("width", "depth", "classes", "batch"), [(32, 8, 10, 16), (24, 3, 5, 7)])
def test_operations_are_a_step_of_backprop_and_a_backward_pass_of_the_rule(
    width: int, depth: int, classes: int, batch: int
) -> None:
    model = mlp(width, depth, classes)
    handle, loss = fa.attach(model, fa.DFA(), points=nn.ReLU), of(model, (batch, width))
    step = flops(step_of(model, loss))
    layer, head = 2 * batch * width * width, 2 * batch * width * classes
    forward, inputs, weights = depth * layer + head, (depth - 1) * layer + head, depth * layer
    found = flops(lambda: fa.alignment(handle, loss))
    assert found == forward + inputs + 2 * weights + head  # the last is the projection of the error
    assert found <= 2 * step


@pytest.mark.parametrize("points", ["macro", "micro"])
def test_operations_with_layers_inside_of_blocks(points: str) -> None:
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), nn.Linear(16, 11))
    handle, loss = fa.attach(model, fa.DFA(), points=points), of(model, (4, 5, 16))
    step_of(model, loss)()  # in which it is found out where rows lie
    assert flops(lambda: fa.alignment(handle, loss)) <= 2.05 * flops(step_of(model, loss))


def test_layers_cost_two_backward_passes() -> None:
    model = mlp(32, 6)
    handle, loss = fa.attach(model, fa.FA()), of(model, (8, 32))
    assert flops(lambda: fa.alignment(handle, loss)) <= 2 * flops(step_of(model, loss))


def test_memory_is_that_of_one_set_of_gradients_and_no_second_model() -> None:
    model = mlp(256, 8)
    handle, loss = fa.attach(model, fa.DFA(), points=nn.ReLU), of(model, (4, 256))
    fa.alignment(handle, loss)
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    block = size / 8
    assert peak_memory(lambda: fa.alignment(handle, loss), torch.device("cpu")) < size + 2 * block + 2**21
