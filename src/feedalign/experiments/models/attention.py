"""Causal attention, in four ways: by scaled dot products, by either Synthesizer, and by fixed patterns.

Every one maps ``[N, T, D]`` to ``[N, T, D]``, and the output at a token depends on that token and those before it only.
All parameters exist from construction on, so that an optimiser made then trains them.

Letters: ``N`` chunks, ``T`` tokens of a chunk, ``D`` width of the model, ``H`` heads, ``d = D / H`` width of a head.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

AttentionKind = Literal["dot", "dense", "random", "fixed"]
KINDS: tuple[AttentionKind, ...] = ("dot", "dense", "random", "fixed")
PATTERNS = 4
"""Heads of :class:`Fixed`, one a pattern."""


class DotProduct(nn.Module):
    r""":math:`\mathrm{softmax}(Q K^\top / \sqrt{d}) V`, a head each, and a projection of the heads side by side
    (Vaswani et al., *Attention Is All You Need*, NeurIPS 2017).

    Args:
        width: ``D``.
        heads: ``H``.
        dropout: Probability of dropping a weight of attention, and a unit of the output.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.inputs = _glorot(width, 3 * width)
        self.output = _zero_bias(nn.Linear(width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return what every token gathers."""
        query, key, value = (split(part, self.heads) for part in self.inputs(x).chunk(3, dim=-1))
        rate = self.rate if self.training else 0.0
        gathered = F.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        return self.dropout(self.output(merge(gathered)))  # type: ignore[no-any-return]


class DenseSynthesizer(nn.Module):
    r""":math:`\mathrm{softmax}(W_2\,\mathrm{ReLU}(W_1 x_t + b_1) + b_2) V`: every token says by itself, without being
    compared with any other, where it attends to (Tay et al., *Synthesizer: Rethinking Self-Attention for Transformer
    Models*, ICML 2021).

    :math:`W_1` maps the model's width to that of a head, :math:`W_2` maps that to the positions of a chunk.

    Args:
        width: ``D``.
        heads: ``H``.
        context: Most tokens of a chunk.
        dropout: Probability of dropping a weight of attention, and a unit of the output.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, width: int, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.hidden = nn.Linear(width, width)
        # A layer of its own for each head: [H, d, context].
        self.weight = nn.Parameter(torch.empty(heads, width // heads, context))
        self.bias = nn.Parameter(torch.zeros(heads, 1, context))
        for of_head in self.weight:
            nn.init.xavier_uniform_(of_head)
        self.values = _glorot(width, width)
        self.output = _zero_bias(nn.Linear(width, width))
        self.weights_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return what every token gathers."""
        length = x.shape[1]
        hidden = split(F.relu(self.hidden(x)), self.heads)
        scores = hidden @ self.weight[..., :length] + self.bias[..., :length]
        weights = self.weights_dropout(causal_softmax(scores))
        return self.dropout(self.output(merge(weights @ split(self.values(x), self.heads))))  # type: ignore[no-any-return]


class RandomSynthesizer(nn.Module):
    r""":math:`\mathrm{softmax}(R) V`: random scores of positions for positions, whatever the tokens are, which are then
    learned (Tay et al., *Synthesizer: Rethinking Self-Attention for Transformer Models*, ICML 2021).

    Args:
        width: ``D``.
        heads: ``H``.
        context: Most tokens of a chunk.
        dropout: Probability of dropping a weight of attention, and a unit of the output.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, width: int, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scores = nn.Parameter(torch.empty(heads, context, context))
        for of_head in self.scores:
            nn.init.xavier_uniform_(of_head)
        self.values = _glorot(width, width)
        self.output = _zero_bias(nn.Linear(width, width))
        self.weights_dropout, self.dropout = nn.Dropout(dropout), nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return what every token gathers."""
        length = x.shape[1]
        weights = self.weights_dropout(causal_softmax(self.scores[:, :length, :length]))
        return self.dropout(self.output(merge(weights @ split(self.values(x), self.heads))))  # type: ignore[no-any-return]


class Fixed(nn.Module):
    """Four heads whose weights are never learned: of values alone, without a projection of the output.

    The heads look at the token itself; at the one before; at all before that one, evenly; and at the same, token ``j``
    in proportion to ``(j + 1)^3``, so that weight decays into the past. Where there is no such token, they look at the
    first one. These are the patterns of Raganato, Scherrer & Tiedemann (*Fixed Encoder Self-Attention Patterns in
    Transformer-Based Machine Translation*, Findings of EMNLP 2020) that do not look ahead, and even weights in the
    place of their mirror images.

    Args:
        width: ``D``.
        heads: ``H``, which must be 4.
        context: Most tokens of a chunk.
        dropout: Probability of dropping a unit of the output.

    Raises:
        ValueError: Another number of heads is asked for.
    """

    def __init__(self, width: int, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        check_fixed(heads)
        self.values = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        # Follow from the context, so they have no place in a checkpoint.
        self.register_buffer("patterns", patterns(context), persistent=False)
        self.patterns: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return what every token gathers."""
        length = x.shape[1]
        values = split(self.values(x), PATTERNS)
        return self.dropout(merge(self.patterns[:, :length, :length].to(values.dtype) @ values))  # type: ignore[no-any-return]


def check_fixed(heads: int) -> None:
    """Raise unless fixed attention has its four heads.

    Raises:
        ValueError: It has another number.
    """
    if heads != PATTERNS:
        raise ValueError(f"Expected {PATTERNS} heads with fixed attention, one a pattern, found {heads}. Set heads=4.")


def patterns(context: int) -> Tensor:
    """Return the weights ``[4, context, context]`` of the fixed heads: itself, previous, even past, decaying past."""
    places = torch.arange(context)
    itself = torch.eye(context)  # of the default type, like all below
    previous = itself[(places - 1).clamp(min=0)]
    before_that = (places <= places[:, None] - 2).to(itself.dtype)
    before_that[:2, 0] = 1  # nothing is before the previous token
    decaying = before_that * (places + 1.0) ** 3
    past = (each / each.sum(1, keepdim=True) for each in (before_that, decaying))
    return torch.stack([itself, previous, *past])


def causal_softmax(scores: Tensor) -> Tensor:
    """Return the softmax of scores ``[..., T, T]`` over the token itself and those before."""
    length = scores.shape[-1]
    ahead = torch.ones(length, length, dtype=torch.bool, device=scores.device).triu(1)
    return scores.masked_fill(ahead, -torch.inf).softmax(-1)


def split(x: Tensor, heads: int) -> Tensor:
    """Return ``[N, T, D]`` as ``[N, H, T, d]``."""
    return x.view(*x.shape[:-1], heads, -1).transpose(1, 2)


def merge(x: Tensor) -> Tensor:
    """Return ``[N, H, T, d]`` as ``[N, T, D]``."""
    return x.transpose(1, 2).flatten(2)


def attention(kind: AttentionKind, width: int, heads: int, context: int, dropout: float) -> nn.Module:
    """Return a new module that maps ``[N, T, D]`` to ``[N, T, D]``.

    Raises:
        ValueError: There is none of that name.
    """
    match kind:
        case "dot":
            return DotProduct(width, heads, dropout)
        case "dense":
            return DenseSynthesizer(width, heads, context, dropout)
        case "random":
            return RandomSynthesizer(width, heads, context, dropout)
        case "fixed":
            return Fixed(width, heads, context, dropout)
    raise ValueError(f"Expected attention out of {', '.join(KINDS)}, found {kind!r}.")


def _glorot(inputs: int, outputs: int) -> nn.Linear:
    layer = _zero_bias(nn.Linear(inputs, outputs))
    nn.init.xavier_uniform_(layer.weight)
    return layer


def _zero_bias(layer: nn.Linear) -> nn.Linear:
    nn.init.zeros_(layer.bias)
    return layer
