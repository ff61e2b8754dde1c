"""Twins: models that compute the same with another layout get the same gradients."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from contract.models.case import DIFFERENT, EQUAL, Sizes
from contract.models.signals import WindowBlock

pytestmark = [
    pytest.mark.usefixtures("float64"),
    pytest.mark.filterwarnings("ignore:enable_nested_tensor"),
]


@dataclass(frozen=True)
class Side:
    """One of two models that compute the same, up to the order of dimensions."""

    build: Callable[[Sizes], nn.Module]
    given: Callable[[Sizes], Tensor]
    """The same numbers for both sides, each in its own layout."""
    seen: Callable[[Tensor], Tensor] = lambda value: value
    """Brings what the model returns into the layout that both sides share."""
    arguments: dict[str, Any] = field(default_factory=dict)

    def gradients(self, s: Sizes, attached: bool) -> tuple[Tensor, list[Tensor | None]]:
        """Return what the model computes, and the gradients of its parameters in order."""
        torch.manual_seed(7)
        model = self.build(s).train()
        torch.manual_seed(3)
        given = self.given(s)
        if attached:
            fa.attach(model, fa.DFA(seed=1), **self.arguments)
        value = self.seen(model(given))
        torch.manual_seed(5)
        (value - torch.randn(value.shape)).square().mean().backward()
        return value.detach(), [parameter.grad for parameter in model.parameters()]


def batch_first(s: Sizes) -> Tensor:
    return torch.randn(s.n, s.t, s.d)


def time_first(s: Sizes) -> Tensor:
    return batch_first(s).transpose(0, 1)


def swapped(value: Tensor) -> Tensor:
    return value.transpose(0, 1)


class Tagger(nn.Module):
    """A layer over time and one output per step, or for the mean over time."""

    def __init__(self, layer: nn.Module, s: Sizes, mean_over: int | None = None) -> None:
        super().__init__()
        self.layer, self.head, self.mean_over = layer, nn.Linear(s.d, s.c), mean_over

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        x = x[0] if isinstance(x, tuple) else x
        return self.head(x) if self.mean_over is None else self.head(x.mean(self.mean_over))


def recurrent(kind: type[nn.RNNBase], first: bool, mean: bool) -> Side:
    over = (1 if first else 0) if mean else None
    return Side(
        lambda s: Tagger(kind(s.d, s.d, batch_first=first), s, over), batch_first if first else time_first,
        (lambda value: value) if first or mean else swapped, {"points": "layer"},
    )  # fmt: skip


def transformer(first: bool, mean: bool) -> Side:
    def build(s: Sizes) -> nn.Module:
        layer = nn.TransformerEncoderLayer(s.d, s.heads, 12, dropout=0.0, batch_first=first)
        over = (1 if first else 0) if mean else None
        return Tagger(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), s, over)

    return Side(build, batch_first if first else time_first, (lambda value: value) if first or mean else swapped)


class Raster(nn.Module):
    """Attention within windows of a raster. The blocks pass on windows, or the raster itself."""

    def __init__(self, s: Sizes, windows_between: bool) -> None:
        super().__init__()
        self.between = windows_between
        self.blocks = nn.ModuleList(InWindows(s, not windows_between) for _ in range(2))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        x = windows(x) if self.between else x
        for block in self.blocks:
            x = block(x)
        return self.head(raster(x) if self.between else x)


class InWindows(nn.Module):
    def __init__(self, s: Sizes, by_itself: bool) -> None:
        super().__init__()
        self.block, self.by_itself = WindowBlock(s.d, s.heads), by_itself

    def forward(self, x: Tensor) -> Tensor:
        return raster(self.block(windows(x))) if self.by_itself else self.block(x)


ROWS, COLUMNS, SIDE = 4, 6, 2


def windows(x: Tensor) -> Tensor:
    """``[N, ROWS * COLUMNS, D]`` to ``[N * windows, SIDE * SIDE, D]``."""
    x = x.unflatten(1, (ROWS // SIDE, SIDE, COLUMNS // SIDE, SIDE)).transpose(2, 3)
    return x.flatten(3, 4).flatten(0, 2)


def raster(x: Tensor) -> Tensor:
    """Undo :func:`windows`."""
    x = x.unflatten(0, (-1, ROWS // SIDE, COLUMNS // SIDE)).unflatten(3, (SIDE, SIDE)).transpose(2, 3)
    return x.flatten(1, 4)


class Attending(nn.Module):
    """Layers of PyTorch's attention, which returns its weights too if asked to; one output per sample."""

    def __init__(self, s: Sizes, need_weights: bool) -> None:
        super().__init__()
        self.need_weights = need_weights
        self.layers = nn.ModuleList(nn.MultiheadAttention(s.d, s.heads, batch_first=True) for _ in range(2))
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, x, x, need_weights=self.need_weights)[0]
        return self.head(x.mean(1))


class Stream(nn.Module):
    """Adds attention to a stream, and passes its weights on if it was asked for them; one output per token."""

    def __init__(self, s: Sizes, need_weights: bool) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Adding(s, need_weights) for _ in range(2)), nn.Linear(s.d, s.c)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x, _ = layer(x)
        return self.head(x)


class Adding(nn.Module):
    def __init__(self, s: Sizes, need_weights: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(s.d, s.heads, batch_first=True)
        self.need_weights = need_weights

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        mixed, weights = self.attention(x, x, x, need_weights=self.need_weights, average_attn_weights=False)
        return x + mixed, weights


class Wave(nn.Module):
    """The same map everywhere: a convolution of size one on ``[N, D, T]``, or a linear layer on ``[N, T, D]``."""

    def __init__(self, s: Sizes, channels_first: bool) -> None:
        super().__init__()
        torch.manual_seed(11)
        linear = [nn.Linear(s.d, s.d), nn.Linear(s.d, s.d), nn.Linear(s.d, s.c)]
        self.layers = nn.ModuleList(map(convolution, linear) if channels_first else linear)
        self.acts = nn.ModuleList(nn.Tanh() for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer, act in zip(self.layers, self.acts, strict=False):
            x = act(layer(x))
        return self.layers[-1](x)


def convolution(linear: nn.Linear) -> nn.Module:
    found = nn.Conv1d(linear.in_features, linear.out_features, 1)
    with torch.no_grad():
        found.weight.copy_(linear.weight[:, :, None])
        found.bias.copy_(linear.bias)
    return found


class Layer(nn.Module):
    """Returns its tensor once or twice, as stages do that also give what they were before a downsampling."""

    def __init__(self, s: Sizes, times: int) -> None:
        super().__init__()
        self.inner, self.times = nn.Linear(s.d, s.d), times

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        x = self.inner(x).tanh()
        return x if self.times == 1 else (x,) * self.times


class Layers(nn.Module):
    def __init__(self, s: Sizes, times: int, read: int = 0) -> None:
        super().__init__()
        self.layers, self.head = nn.ModuleList(Layer(s, times) for _ in range(2)), nn.Linear(s.d, s.c)
        self.read = read

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
            x = x[self.read] if isinstance(x, tuple) else x
        return self.head(x)


class Squeezed(nn.Module):
    """One number per sample, ``[N, 1]`` or ``[N]``."""

    def __init__(self, s: Sizes, squeeze: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, 1))
        self.squeeze = squeeze

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).squeeze(-1) if self.squeeze else self.body(x)


class Convolved(nn.Module):
    """Convolutional features that a head reads, channels-first or as tokens."""

    def __init__(self, s: Sizes, tokens: bool) -> None:
        super().__init__()
        self.stem, self.act, self.head, self.tokens = nn.Conv1d(3, s.d, 1), Flip(tokens), nn.Linear(s.d, s.c), tokens

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.stem(x).tanh())
        return self.head(x if self.tokens else x.transpose(1, 2))


class Flip(nn.Module):
    """The identity, or ``[N, D, T]`` to ``[N, T, D]``."""

    def __init__(self, flip: bool) -> None:
        super().__init__()
        self.flip = flip

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2) if self.flip else x


def alone(s: Sizes) -> Tensor:
    return torch.randn(1, s.t, s.d)[0]


def batch_of_one(s: Sizes) -> Tensor:
    return torch.randn(1, s.t, s.d)


def first(value: Tensor) -> Tensor:
    return value[0]


TWINS = {
    **{
        f"{kind.__name__}, {what}": (recurrent(kind, True, mean), recurrent(kind, False, mean))
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
        for mean, what in ((False, "per step"), (True, "mean"))
    },
    "TransformerEncoder, per step": (transformer(True, False), transformer(False, False)),
    "TransformerEncoder, mean": (transformer(True, True), transformer(False, True)),
    "windows and raster": tuple(
        Side(lambda s, b=between: Raster(s, b), lambda s: torch.randn(s.n, ROWS * COLUMNS, s.d))
        for between in (True, False)
    ),
    "need_weights": tuple(
        Side(lambda s, n=need: Attending(s, n), batch_first, arguments={"points": "layers.*"}) for need in (True, False)
    ),
    "need_weights, in a stream": tuple(
        Side(lambda s, n=need: Stream(s, n), batch_first, arguments={"points": "layers.*"}) for need in (True, False)
    ),
    "unbatched LSTM": tuple(
        Side(lambda s: Tagger(nn.LSTM(s.d, s.d, batch_first=True), s), given, seen, {"points": "layer"})
        for given, seen in ((alone, lambda value: value), (batch_of_one, first))
    ),
    "unbatched Transformer": tuple(
        Side(lambda s: Tagger(nn.TransformerEncoder(nn.TransformerEncoderLayer(
            s.d, s.heads, 12, dropout=0.0, batch_first=True), 2, enable_nested_tensor=False), s), given, seen)
        for given, seen in ((alone, lambda value: value), (batch_of_one, first))
    ),
    "unbatched network": (
        Side(lambda s: Squeezed(s, False).body[:2].append(nn.Linear(s.d, s.c)), lambda s: torch.randn(1, s.d)[0],
             arguments={"rows": {"": ()}}),
        Side(lambda s: Squeezed(s, False).body[:2].append(nn.Linear(s.d, s.c)), lambda s: torch.randn(1, s.d), first),
    ),
    "convolution and linear layer": (
        Side(lambda s: Wave(s, True), lambda s: batch_first(s).transpose(1, 2), lambda value: value.transpose(1, 2)),
        Side(lambda s: Wave(s, False), batch_first),
    ),
    "channels and tokens": tuple(
        Side(lambda s, t=tokens: Convolved(s, t), lambda s: torch.randn(s.n, 3, s.t), arguments={"points": "act"})
        for tokens in (True, False)
    ),
    "a tensor returned twice": tuple(
        Side(lambda s, t=times: Layers(s, t), lambda s: torch.randn(s.n, s.d), arguments={"points": "layers.*"})
        for times in (1, 2)
    ),
    "the second of one tensor three times": tuple(
        Side(lambda s, t=times: Layers(s, t, 1), lambda s: torch.randn(s.n, s.d), arguments={"points": "layers.*"})
        for times in (1, 3)
    ),
    "one number, squeezed": tuple(
        Side(lambda s, q=squeeze: Squeezed(s, q), lambda s: torch.randn(s.n, s.d), seen)
        for squeeze, seen in ((True, lambda value: value), (False, lambda value: value.squeeze(-1)))
    ),
}  # fmt: skip


@pytest.mark.parametrize("attached", [False, True], ids=["backpropagation", "dfa"])
@pytest.mark.parametrize("sizes", [DIFFERENT, EQUAL], ids=["sizes-differ", "sizes-coincide"])
@pytest.mark.parametrize("name", TWINS)
def test_twins_get_equal_gradients(name: str, sizes: Sizes, attached: bool) -> None:
    one, other = TWINS[name]
    (value, found), (same, wanted) = one.gradients(sizes, attached), other.gradients(sizes, attached)
    torch.testing.assert_close(value, same, rtol=1e-9, atol=1e-12)
    assert len(found) == len(wanted)
    for gradient, twin in zip(found, wanted, strict=True):
        assert gradient is not None
        assert twin is not None
        assert twin.any()
        torch.testing.assert_close(gradient.reshape(twin.shape), twin, rtol=1e-9, atol=1e-12)
