"""Graph layers: Kipf & Welling's, Defferrard's, and Velickovic's attention.

They compute what the layers of PyTorch Geometric of the same names do, from weights of the same names and first values,
and a test holds them to it. Features that are mostly zeros are projected as such, and what is sent along the edges is
projected before it is sent.

Letters: ``N`` nodes, ``F`` features in, ``D`` features out, ``H`` heads.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.experiments.models.edges import Edges
from feedalign.experiments.models.features import Dropout, Features, project
from feedalign.experiments.models.sparse import Pattern


class Projection(nn.Module):
    """A linear map without bias, of features that may be sparse, with Glorot's first values.

    Shapes:
        ``[N, F]`` to ``[N, D]``.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(outputs, inputs)))

    def forward(self, x: Features) -> Tensor:
        """Return the map of ``x``."""
        return project(x, self.weight)


class GCNConv(nn.Module):
    r""":math:`D^{-1/2} (A + I) D^{-1/2} X W + b` (Kipf & Welling, *Semi-Supervised Classification with Graph
    Convolutional Networks*, ICLR 2017).

    Shapes:
        ``[N, F]`` and edges with :func:`~feedalign.experiments.models.edges.normalised` weights to ``[N, D]``.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lin = Projection(inputs, outputs)
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Features, edges: Edges) -> Tensor:
        """Return the new features."""
        return edges.spread(self.lin(x)) + self.bias


class ChebConv(nn.Module):
    r""":math:`X W_0 + \hat L X W_1 + b`: Chebyshev polynomials of the Laplacian up to K = 2 terms (Defferrard, Bresson
    & Vandergheynst, *Convolutional Neural Networks on Graphs with Fast Localized Spectral Filtering*, NeurIPS 2016).

    Shapes:
        ``[N, F]`` and edges with :func:`~feedalign.experiments.models.edges.laplacian` weights to ``[N, D]``.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.lins = nn.ModuleList([Projection(inputs, outputs), Projection(inputs, outputs)])
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Features, edges: Edges) -> Tensor:
        """Return the new features."""
        return self.lins[0](x) + edges.spread(self.lins[1](x)) + self.bias  # type: ignore[no-any-return]


class GATConv(nn.Module):
    r""":math:`\Vert_h \sum_j \alpha^h_{ij} x_j W^h + b`, where attention :math:`\alpha^h_{ij}` is the softmax over j of
    :math:`\mathrm{LeakyReLU}(a^h \cdot x_i W^h + c^h \cdot x_j W^h)` (Veličković et al., *Graph Attention Networks*,
    ICLR 2018).

    Args:
        inputs: ``F``.
        outputs: Features of a head, ``D``.
        heads: ``H``.
        dropout: Probability of dropping an edge from a head.
        slope: Of the leaky ReLU below zero.

    Shapes:
        ``[N, F]`` and edges with self-loops to ``[N, H D]``.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, inputs: int, outputs: int, heads: int, dropout: float = 0.0, slope: float = 0.2) -> None:
        super().__init__()
        self.heads = heads
        self.slope = slope
        self.lin = Projection(inputs, heads * outputs)
        self.att_src = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, outputs))[None])
        self.att_dst = nn.Parameter(nn.init.xavier_uniform_(torch.empty(heads, outputs))[None])
        self.bias = nn.Parameter(torch.zeros(heads * outputs))
        self.dropout = Dropout(dropout)

    def forward(self, x: Features, edges: Pattern) -> Tensor:
        """Return the new features."""
        projected = self.lin(x).view(edges.rows, self.heads, -1).transpose(0, 1).contiguous()  # [H, N, D]
        scores = self._scores(projected, edges)
        exponentials, total = edges.softmax(scores)
        kept = self.dropout.drop(exponentials)
        heads = edges.times(kept[None], projected) / total
        return heads.transpose(0, 1).reshape(edges.rows, -1) + self.bias

    def _scores(self, projected: Tensor, edges: Pattern) -> Tensor:
        """Return the scores ``[H, E]`` of the edges before the softmax."""
        source = (projected * self.att_src.transpose(0, 1)).sum(-1, keepdim=True)
        target = (projected * self.att_dst.transpose(0, 1)).sum(-1, keepdim=True)
        one = torch.ones_like(source)
        # (target, 1) . (1, source): the sums, at the edges only.
        sums = edges.sampled(torch.cat([target, one], -1), torch.cat([one, source], -1))[0]
        return F.leaky_relu(sums, self.slope)
