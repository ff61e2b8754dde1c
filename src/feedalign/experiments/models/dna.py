r"""Dynamic neighbourhood aggregation: every node asks, of every neighbour, for what it was in some earlier layer.

.. math::
    x_i^{(t)} = \sum_j \frac{1}{\sqrt{d_i d_j}} \sum_{l < t} a^{(t)}_{ijl}\, x_j^{(l)} W_V + b_V, \qquad
    a_{ij} = \mathrm{softmax}\bigl(0, s_{ij1}, s_{ij2}, \dots\bigr), \qquad
    s_{ijl} = (x_i^{(t-1)} W_Q + b_Q) \cdot (x_j^{(l)} W_K + b_K) / \sqrt{D / H}

The zero in the softmax lets a node attend to nothing. Written as it stands, keys and values are projected for every
edge and every earlier layer. But :math:`q \cdot (x W_K + b_K) = (q W_K^T) \cdot x + q \cdot b_K`, so it is the query
that is projected, once for every node; and values are projected after they are summed. What is left to do for an edge
is a dot product and a weighted sum. When the layers before are cut off, as by DFA, nothing at all flows back along the
edges but what the query needs.

Letters: ``N`` nodes, ``E`` edges with self-loops, ``F`` features in, ``D`` channels, ``H`` heads, ``C`` classes, ``T``
layers before this one.

References:
    Fey, *Just Jump: Dynamic Neighborhood Aggregation in Graph Neural Networks*, ICLR workshop 2019.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from feedalign.experiments.models.edges import Edges, normalised
from feedalign.experiments.models.features import Dropout, Features
from feedalign.experiments.models.network import FeatureLinear, GraphNetwork
from feedalign.experiments.models.remembered import Remembered


class GroupedLinear(nn.Module):
    """A linear map of groups of channels, each by itself.

    Args:
        channels: ``D``, in and out.
        groups: How many.
        heads: Of which every one consists of whole groups.
    """

    def __init__(self, channels: int, groups: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        width = channels // groups
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter(torch.empty(groups, width, width).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(channels).uniform_(-bound, bound))

    def by_head(self) -> tuple[Tensor, Tensor]:
        """Return weights ``[H, D/H, D/H]``, zero between groups, and biases ``[H, 1, D/H]``."""
        groups, width, _ = self.weight.shape
        each = groups // self.heads
        blocks = self.weight.view(self.heads, each, width, width)
        own = torch.eye(each, dtype=blocks.dtype, device=blocks.device)
        weight = torch.einsum("hgio,gk->hgiko", blocks, own).reshape(self.heads, each * width, each * width)
        return weight, self.bias.view(self.heads, 1, -1)


class MultiHead(nn.Module):
    """The three projections of attention, under the names that PyTorch Geometric gives them."""

    def __init__(self, channels: int, heads: int, groups: int) -> None:
        super().__init__()
        self.lin_q = GroupedLinear(channels, groups, heads)
        self.lin_k = GroupedLinear(channels, groups, heads)
        self.lin_v = GroupedLinear(channels, groups, heads)

    def forward(self) -> tuple[tuple[Tensor, Tensor], ...]:
        """Return weights and biases by head, of queries, keys and values."""
        return self.lin_q.by_head(), self.lin_k.by_head(), self.lin_v.by_head()


class DNAConv(nn.Module):
    """One layer. It computes what PyTorch Geometric's layer of the same name does, from the same weights.

    Args:
        channels: ``D``.
        heads: ``H``.
        groups: Of the projections; a multiple of the heads.
        dropout: Probability of dropping an earlier layer of a neighbour from a head.

    Shapes:
        ``T`` tensors ``[H, N, D/H]`` (see :func:`by_head`) and edges with
        :func:`~feedalign.experiments.models.edges.normalised` weights to ``[N, D]``.

    Raises:
        ValueError: The channels cannot be divided so.
    """

    def __init__(self, channels: int, heads: int, groups: int, dropout: float = 0.0) -> None:
        super().__init__()
        if channels % groups or groups % heads:
            raise ValueError(
                "Expected channels that are a multiple of the groups, and groups that are a multiple of the heads, "
                f"found {channels} channels, {groups} groups, {heads} heads."
            )
        self.multi_head = MultiHead(channels, heads, groups)
        self.dropout = Dropout(dropout)

    def forward(self, layers: list[Tensor], edges: Edges) -> Tensor:
        """Return the new layer."""
        (Wq, bq), (Wk, bk), (Wv, bv) = self.multi_head()
        width = layers[-1].shape[-1]
        keys = torch.cat([Wk, bk], 1).transpose(1, 2) / math.sqrt(width)  # [H, D/H, D/H + 1]
        queries = layers[-1] @ (Wq @ keys) + bq @ keys  # [H, N, D/H + 1]: what to multiply x_j with, and to add
        scores = edges.pattern.sampled(queries[..., :width].contiguous(), *layers)  # [T, H, E]
        offsets = queries[..., width].index_select(1, edges.pattern.row)
        attention = self.dropout.drop(restricted_softmax(scores, offsets)) * edges.weights
        summed = edges.pattern.times(attention, *layers)  # [H, N, D/H]
        new = summed @ Wv + edges.pattern.sums(attention.sum(0)) * bv
        return new.transpose(0, 1).reshape(new.shape[1], -1)  # type: ignore[no-any-return]


class _RestrictedSoftmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, scores: Tensor, offsets: Tensor) -> Tensor:
        shifted = scores + offsets
        largest = shifted.amax(0).clamp_(min=0)
        shares = shifted.sub_(largest).exp_()
        shares.div_(shares.sum(0).add_(largest.neg_().exp_()))
        ctx.save_for_backward(shares)
        return shares

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        # PyTorch's own softmax takes four times as long for this over so few numbers.
        (shares,) = ctx.saved_tensors
        weighed = shares * gradients[0]
        of_scores = torch.addcmul(weighed, shares, weighed.sum(0), value=-1)
        return of_scores, of_scores.sum(0)


def restricted_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    """Return the softmax over the first dimension of ``scores [T, H, E]`` plus ``offsets [H, E]``, and of a zero."""
    return _RestrictedSoftmax.apply(scores, offsets)  # type: ignore[no-any-return, no-untyped-call]


def by_head(x: Tensor, heads: int) -> Tensor:
    """Return ``x [N, D]`` as ``[H, N, D/H]``."""
    return x.view(len(x), heads, -1).transpose(0, 1).contiguous()


class DNA(GraphNetwork):
    """A linear layer, layers of dynamic neighbourhood aggregation, a linear layer.

    The points are behind the ReLU of every layer but the last.

    Args:
        features: ``F``.
        channels: ``D``.
        layers: How many between the linear ones.
        classes: ``C``.
        heads: ``H``.
        groups: Of the projections; a multiple of the heads.
        dropout: Probability of zeroing a unit behind the first linear layer, and before the last.
        attention_dropout: Probability of dropping an earlier layer of a neighbour from a head.
        log_softmax: Return log-probabilities.
    """

    def __init__(
        self,
        features: int,
        channels: int,
        layers: int,
        classes: int,
        heads: int,
        groups: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        log_softmax: bool = False,
    ) -> None:
        super().__init__()
        self._edges = Remembered(normalised)
        self.heads = heads
        self.log_softmax = log_softmax
        self.lin1 = FeatureLinear(features, channels)
        self.convs = nn.ModuleList(DNAConv(channels, heads, groups, attention_dropout) for _ in range(layers))
        self.activations = nn.ModuleList(nn.ReLU() for _ in range(layers + 1))
        self.dropout = Dropout(dropout)
        self.lin2 = nn.Linear(channels, classes)
        self.points = tuple(f"activations.{i}" for i in range(layers + 1))
        self.hidden_layer = self.points[-1]

    def classify(self, x: Features, edge_index: Tensor) -> Tensor:
        """Return the class scores of all nodes, or their log-probabilities."""
        edges = self._edges(edge_index, len(x), x.dtype)
        hidden = self.dropout(self.activations[0](self.lin1(x)))
        layers = []
        for conv, activation in zip(self.convs, self.activations[1:], strict=True):
            layers.append(by_head(hidden, self.heads))
            hidden = activation(conv(layers, edges))
        scores = self.lin2(self.dropout(hidden))
        return torch.log_softmax(scores, 1) if self.log_softmax else scores
