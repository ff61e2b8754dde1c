"""torch.compile of every rule: what eager gives, or an error that says which rule and why."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

import feedalign as fa
from contract.rules import RULES
from loops.test_compile import CLOSE, EXHIBITS, _fresh, compiled, of, pytestmark
from zoo import assert_same, batch, build, gradients

__all__ = ["_fresh", "pytestmark"]  # what holds for that module holds for this one

REFUSED = {
    "ifa": "IFA is not supported under torch.compile: it pushes tangents forward",
    "fdfa": "FDFA is not supported under torch.compile: it pushes tangents forward",
    "grape": "GrAPE is not supported under torch.compile: it pushes tangents forward",
    "dkp": "DKP learns its feedback, which is not supported under torch.compile. Train in eager mode",
    "brsf": "BRSF is not supported under torch.compile: it draws numbers in every step. Train in eager mode",
    "mirror": "WeightMirror is not supported under torch.compile: it draws noise in every step",
}
COMPILED = [name for name in RULES if name not in REFUSED and not name.startswith("dfa")]


def attached(name: str, rules: Callable[[], fa.Rule | dict], points: object = "auto") -> nn.Module:
    """Return a model with targets for four classes set before every forward pass."""
    exhibit = EXHIBITS[name]
    model = build(exhibit).eval()
    handle = fa.attach(model, rules(), points, exhibit.output, example=batch(exhibit))
    handle.targets = torch.tensor([0, 3, 1, 1, 2, 0])
    return model


@pytest.mark.parametrize("name", ["mlp", "cnn-grouped"])
@pytest.mark.parametrize("rule", COMPILED)
def test_equals_eager(rule: str, name: str) -> None:
    eager, model = attached(name, RULES[rule]), attached(name, RULES[rule])
    fast = compiled(model)
    for seed in (3, 4):
        inputs = batch(EXHIBITS[name], seed=seed)
        assert_same(of(model, fast, inputs), gradients(eager, inputs), **CLOSE)
        for found, expected in zip(model.parameters(), eager.parameters(), strict=True):  # what is learned, too
            torch.testing.assert_close(found.grad, expected.grad, **CLOSE)


def test_a_layer_that_runs_twice_has_one_matrix() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.again(self.again(self.first(x)).tanh()).tanh())

    x, models = (torch.randn(6, 6),), []
    for _ in range(2):
        torch.manual_seed(1)
        models.append(Twice())
        fa.attach(models[-1], fa.FA(seed=1))
    assert_same(of(models[0], compiled(models[0]), x), gradients(models[1], x), **CLOSE)


def test_layer_wise_below_direct_feedback() -> None:
    def model() -> nn.Module:
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 4))

    x, eager, traced = (torch.randn(6, 6),), model(), model()
    for each in (eager, traced):
        fa.attach(each, {"2": fa.FA(seed=2), "3": fa.DFA(seed=3)})
    assert_same(of(traced, compiled(traced), x), gradients(eager, x), **CLOSE)


@pytest.mark.parametrize("rule", REFUSED)
def test_refused_with_a_reason(rule: str) -> None:
    model = attached("mlp", RULES[rule])
    with pytest.raises(Exception, match=REFUSED[rule].replace(".", r"\.")):
        compiled(model)(*batch(EXHIBITS["mlp"]))


def test_layers_with_products_inside_are_refused() -> None:
    model = attached("transformer-post-ln", fa.FA)
    message = r"self_attn' cannot be compiled with a layer-wise rule: .*Leave it out with points=, or train in eager"
    with pytest.raises(Exception, match=message):
        compiled(model)(*batch(EXHIBITS["transformer-post-ln"]))


@pytest.mark.parametrize("rule", ["dkp", "fdfa", "grape", "ifa", "brsf", "mirror", "fa"])
def test_without_fullgraph_what_cannot_be_traced_runs_in_eager_mode(rule: str) -> None:
    eager, model = attached("mlp", RULES[rule]), attached("mlp", RULES[rule])
    fast = torch.compile(model, backend="aot_eager")
    assert_same(of(model, fast, batch(EXHIBITS["mlp"])), gradients(eager, batch(EXHIBITS["mlp"])), **CLOSE)
    for found, expected in zip(model.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, **CLOSE)


def test_two_rules_that_broadcast() -> None:
    def rules() -> dict:
        return {"1": fa.DFA(seed=1), "3": fa.DRTP(seed=2)}

    eager, model = attached("mlp", rules), attached("mlp", rules)
    inputs = batch(EXHIBITS["mlp"])
    assert_same(of(model, compiled(model), inputs), gradients(eager, inputs), **CLOSE)
