"""What modules return: dataclasses of every kind, objects, distributions, at points and as the model's output."""

import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, Normal

import feedalign as fa
from feedalign.tree import flatten
from zoo import assert_same, collect

pytestmark = pytest.mark.usefixtures("float64")


@dataclass
class Late:
    """A field that ``__init__`` does not take."""

    logits: Tensor
    note: str = "late"
    scores: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.scores = self.logits.tanh()


@dataclass(frozen=True)
class Frozen:
    logits: Tensor
    scores: Tensor
    note: str = "frozen"


@dataclass(frozen=True, slots=True)
class Slots:
    logits: Tensor
    scores: Tensor


@dataclass
class Checked:
    """What ``__post_init__`` computes is no field, and what it checks holds of a forward pass alone."""

    logits: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.logits, Tensor) or self.logits.grad_fn is None:
            raise ValueError("not from a forward pass")
        self.scores = self.logits.tanh()


@dataclass
class Keywords:
    logits: Tensor = field(kw_only=True)
    rest: dict[str, Any] = field(default_factory=dict)

    @property
    def scores(self) -> Tensor:
        return self.rest["scores"]


class Named(NamedTuple):
    logits: Tensor
    scores: Tensor


class Plain:
    def __init__(self, logits: Tensor, scores: Tensor) -> None:
        self.logits, self.scores, self.rows = logits, scores, len(logits)


class Slotted:
    __slots__ = ("logits", "missing", "scores")

    def __init__(self, logits: Tensor, scores: Tensor) -> None:
        self.logits, self.scores = logits, scores


class OwnDict(dict):
    """A dict that PyTorch's pytrees do not know."""

    logits = property(lambda self: self["logits"])
    scores = property(lambda self: self["scores"])


def huggingface(logits: Tensor, scores: Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return BaseModelOutputWithPooling(last_hidden_state=logits, pooler_output=scores)


KINDS: dict[str, Callable[[Tensor], Any]] = {
    "late": Late,
    "frozen": lambda y: Frozen(y, y.tanh()),
    "slots": lambda y: Slots(y, y.tanh()),
    "checked": Checked,
    "keywords": lambda y: Keywords(logits=y, rest={"scores": y.tanh()}),
    "named": lambda y: Named(y, y.tanh()),
    "plain": lambda y: Plain(y, y.tanh()),
    "slotted": lambda y: Slotted(y, y.tanh()),
    "namespace": lambda y: types.SimpleNamespace(logits=y, scores=y.tanh()),
    "nested": lambda y: types.SimpleNamespace(inner=Plain(y, y.tanh()), also=[1, "a"]),
    "own-dict": lambda y: OwnDict(logits=y, scores=y.tanh()),
    "huggingface": lambda y: huggingface(y, y.tanh()),
    "tuple": lambda y: (y, y.tanh()),
    "dataclass-in-a-dict": lambda y: {"out": Frozen(y, y.tanh())},
}


def both(output: Any) -> tuple[Tensor, Tensor]:
    """Return the two tensors of an output of any kind."""
    if isinstance(output, dict) and "out" in output:
        output = output["out"]
    output = getattr(output, "inner", output)
    if isinstance(output, tuple):
        return output[0], output[1]
    return getattr(output, "logits", getattr(output, "last_hidden_state", None)), getattr(
        output, "scores", getattr(output, "pooler_output", None)
    )


class Returns(nn.Module):
    def __init__(self, make: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.make = nn.Linear(6, 3), make

    def forward(self, h: Tensor) -> Any:
        return self.make(self.linear(h))


class Reads(nn.Module):
    """Reads both tensors that a block returned."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, output: Any) -> Tensor:
        return self.linear(torch.cat(both(output), dim=1))


def output_model(make: Callable[[Tensor], Any]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), Returns(make))


def point_model(make: Callable[[Tensor], Any]) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), Returns(make), Reads())


def trained(model: nn.Module, points: list[str], loss: Callable[[Any], Tensor]) -> dict[str, Tensor | None]:
    fa.attach(model, fa.DFA(seed=1), points)
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2))
    for _ in range(2):  # the first pass is of another kind
        model.zero_grad()
        loss(model(x)).backward()
    return collect(model)


def loss_of(output: Any) -> Tensor:
    logits, scores = both(output)
    return (logits * torch.linspace(-1, 1, logits.numel()).reshape(logits.shape)).sum() + scores.square().sum()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "tuple"])
def test_as_the_output_and_at_a_point_every_kind_is_a_tuple(kind: str) -> None:
    expected = trained(output_model(KINDS["tuple"]), ["1"], loss_of)
    assert_same(trained(output_model(KINDS[kind]), ["1"], loss_of), expected)
    expected = trained(point_model(KINDS["tuple"]), ["1", "2"], lambda y: y.square().sum())
    assert expected["0.weight"].abs().sum() > 0
    assert_same(trained(point_model(KINDS[kind]), ["1", "2"], lambda y: y.square().sum()), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_rebuilt_with_other_tensors_the_rest_stays(kind: str) -> None:
    value = KINDS[kind](torch.randn(5, 3, requires_grad=True) * 1)
    leaves, rebuild = flatten(value)
    again = rebuild([leaf + 1 if isinstance(leaf, Tensor) else leaf for leaf in leaves])
    assert type(again) is type(value)
    assert again is not value
    for new, old in zip(both(again), both(value), strict=True):
        torch.testing.assert_close(new, old + 1)
    same, _ = flatten(value)
    assert all(a is b for a, b in zip(same, leaves, strict=True))  # what was taken apart is as it was
    assert getattr(again, "note", None) == getattr(value, "note", None)
    assert getattr(again, "rows", None) == getattr(value, "rows", None)


def test_the_output_of_huggingface_is_rebuilt_with_its_keys() -> None:
    value = huggingface(torch.zeros(2, 3), torch.ones(2, 3))
    leaves, rebuild = flatten(value)
    again = rebuild([leaf + 1 for leaf in leaves])
    assert again["pooler_output"] is again.pooler_output
    assert list(again.keys()) == ["last_hidden_state", "pooler_output"]


@pytest.mark.parametrize(
    "make",
    [
        lambda y: Normal(y, y.exp()),
        lambda y: Independent(Normal(y, y.exp()), 1),
        lambda y: Categorical(logits=y),
        lambda y: (Normal(y, y.exp()), y.sum(1, keepdim=True)),
    ],
    ids=["normal", "independent", "categorical", "beside-a-value"],
)
def test_a_policy_returns_a_distribution(make: Callable[[Tensor], Any]) -> None:
    """The error reaches the parameters of the distribution, so that the block below the point learns."""
    model = output_model(make)
    action = torch.zeros(5) if isinstance(make(torch.zeros(5, 3)), Categorical) else torch.zeros(5, 3)

    def loss(output: Any) -> Tensor:
        policy, value = output if isinstance(output, tuple) else (output, torch.zeros(()))
        return -policy.log_prob(action).sum() + value.sum()

    plain = {name: p.grad for name, p in _backprop(output_model(make), loss)}
    found = trained(model, ["1"], loss)
    torch.testing.assert_close(found["2.linear.weight"], plain["2.linear.weight"])
    assert found["0.weight"].abs().sum() > 0
    assert not torch.allclose(found["0.weight"], plain["0.weight"])


def _backprop(model: nn.Module, loss: Callable[[Any], Tensor]) -> Any:
    loss(model(torch.randn(5, 4, generator=torch.Generator().manual_seed(2)))).backward()
    return model.named_parameters()


def test_an_object_that_rides_along_with_the_output_is_left_alone() -> None:
    """As a cache of keys and values does: none of its tensors is a part of the output."""
    value = (torch.zeros(2, 3), Plain(torch.zeros(9, 7), torch.zeros(9, 7)))
    leaves, rebuild = flatten(value)
    assert leaves == list(value)
    assert rebuild(leaves)[1] is value[1]


def test_objects_without_tensors_are_left_alone() -> None:
    for value in (None, 3, "text", object(), types.SimpleNamespace(a=1), Frozen(1, "a"), nn.Linear(2, 2), len, type):
        leaves, rebuild = flatten(value)
        assert leaves == [value]
        assert rebuild(leaves) is value


def test_objects_that_cannot_be_taken_apart_are_refused() -> None:
    class Closed(Plain):
        def __setattr__(self, name: str, value: Any) -> None:
            if hasattr(self, "rows"):
                raise AttributeError("read only")
            super().__setattr__(name, value)

    class Ring(Plain):
        def __init__(self, logits: Tensor, scores: Tensor) -> None:
            super().__init__(logits, scores)
            self.self = self

    for kind, message in (
        (Closed, "Closed cannot be made again.*AttributeError: read only"),
        (Ring, "refers to itself"),
    ):
        model = output_model(lambda y, kind=kind: kind(y, y.tanh()))
        with pytest.raises(fa.SignalError, match=rf"{message}.*Return tensors, tuples, dicts or dataclasses, or name"):
            trained(model, ["1"], loss_of)


def test_a_loss_where_a_function_is_wanted() -> None:
    model, x = output_model(lambda y: y), torch.randn(5, 4)
    handle = fa.attach(model, fa.DFA(seed=1), ["1"])
    loss = model(x).square().sum()
    for measure in (fa.alignment, fa.audit, fa.conditioning, fa.two_pass):
        name = measure.__name__
        with pytest.raises(
            fa.SignalError, match=rf"{name} expected a function.*found a tensor of shape \(\).*itself.*"
        ) as raised:
            measure(handle, loss)
        assert f"{name}(handle, lambda: loss_fn(model(x), y))" in str(raised.value)
        with pytest.raises(fa.SignalError, match=rf"{name} expected a function.*found float"):
            measure(handle, 0.5)
    loss.backward()  # nothing was disturbed
    assert model[0].weight.grad.abs().sum() > 0
