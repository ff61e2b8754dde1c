r"""Convolution with B-splines for kernels, in plain PyTorch.

Every edge has pseudo-coordinates :math:`u_{ij} \in [0, 1]^d`, and the kernel is a function of them: a tensor product of
B-splines with a weight matrix at every knot. Of degree 1 that is interpolation: between the two knots next to it in
every dimension, :math:`2^d` in all.

Letters: ``N`` nodes, ``E`` edges, ``F`` features in, ``D`` features out, ``d`` dimensions of pseudo-coordinates, ``P``
knots of the kernel, the product of its sizes.

References:
    Fey, Lenssen, Weichert & Müller, *SplineCNN: Fast Geometric Deep Learning with Continuous B-Spline Kernels*,
    CVPR 2018.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch
from torch import Tensor, nn

from feedalign.experiments.models.convolutions import Projection
from feedalign.experiments.models.edges import Edges, neighbours
from feedalign.experiments.models.features import Features, project
from feedalign.experiments.models.sparse import pattern


def basis(pseudo: Tensor, sizes: Sequence[int], opened: Sequence[bool]) -> tuple[Tensor, Tensor]:
    r"""Return how much of which knot every edge takes: the B-spline basis of degree 1.

    Along a dimension with ``k`` knots an open spline lays them on :math:`0, 1/(k-1), \dots, 1`, and a closed one on
    :math:`0, 1/k, \dots, (k-1)/k`, with the first again at 1.

    Args:
        pseudo: Pseudo-coordinates in [0, 1], ``[E, d]``.
        sizes: Knots along each dimension.
        opened: Whether the spline is open along each dimension.

    Returns:
        Shares ``[E, 2^d]``, which sum to one, and numbers of knots ``[E, 2^d]``, the first dimension counting fastest.

    Raises:
        ValueError: The dimensions do not agree, or a coordinate is outside of [0, 1].
    """
    if pseudo.dim() != 2 or not pseudo.shape[1] == len(sizes) == len(opened):
        raise ValueError(f"Expected pseudo-coordinates [E, {len(sizes)}], found a shape of {tuple(pseudo.shape)}.")
    if not ((pseudo >= 0) & (pseudo <= 1)).all():
        raise ValueError(
            f"Expected pseudo-coordinates in [0, 1], found {float(pseudo.min())} to {float(pseudo.max())}. Scale them."
        )
    counts = torch.tensor(sizes, device=pseudo.device)
    at = pseudo * (counts - torch.tensor(opened, device=pseudo.device).long())
    below = at.floor()
    above = at - below  # how far up to the next knot
    strides = torch.tensor([math.prod(sizes[:i]) for i in range(len(sizes))], device=pseudo.device)
    shares, knots = [], []
    for corner in product((0, 1), repeat=len(sizes)):
        step = torch.tensor(corner, device=pseudo.device)
        shares.append(torch.where(step.bool(), above, 1 - above).prod(1))
        knots.append((((below.long() + step) % counts) * strides).sum(1))
    return torch.stack(shares, 1), torch.stack(knots, 1)


def target_degree(edge_index: Tensor, nodes: int, dtype: torch.dtype) -> Tensor:
    """Return the in-degree of the node that every edge leads to, as a share of the largest, ``[E, 1]``."""
    degree = torch.bincount(edge_index[1], minlength=nodes).to(dtype)
    return (degree / degree.max().clamp(min=1))[edge_index[1]][:, None]


class SplineConv(nn.Module):
    r""":math:`\frac{1}{|N(i)|} \sum_{j \in N(i)} \sum_p B_p(u_{ij})\, x_j W_p + x_i W_{root} + b`.

    PyTorch Geometric's layer of the same name, with its weights and first values, for splines of degree 1; that one
    needs a compiled extension. Features are projected before they are sent along edges: once for every knot, and not
    once for every edge.

    Args:
        inputs: ``F``.
        outputs: ``D``.
        sizes: Knots along each dimension of the pseudo-coordinates.
        opened: Whether the spline is open along each; ``True`` for all by default.

    Shapes:
        ``[N, F]`` and the edges of :meth:`edges` to ``[N, D]``.

    Raises:
        ValueError: A kernel without knots, or an open spline with only one.
    """

    def __init__(self, inputs: int, outputs: int, sizes: Sequence[int], opened: Sequence[bool] | None = None) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.opened = (True,) * len(self.sizes) if opened is None else tuple(opened)
        if len(self.opened) != len(self.sizes) or any(
            size < 1 + is_open for size, is_open in zip(self.sizes, self.opened, strict=False)
        ):
            raise ValueError(
                "Expected at least 2 knots along every open dimension and 1 along every closed one, found sizes of "
                f"{self.sizes} with open {self.opened}."
            )
        knots = math.prod(self.sizes)
        bound = 1 / math.sqrt(knots * inputs)
        self.weight = nn.Parameter(torch.empty(knots, inputs, outputs).uniform_(-bound, bound))
        self.lin = Projection(inputs, outputs)
        nn.init.uniform_(self.lin.weight, -1 / math.sqrt(inputs), 1 / math.sqrt(inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def edges(self, edge_index: Tensor, pseudo: Tensor, nodes: int) -> Edges:
        """Return the matrix ``[N, N P]`` that takes the features projected for every knot to their means.

        Args:
            edge_index: From and to, ``[2, E]``.
            pseudo: Pseudo-coordinates in [0, 1], ``[E, d]``.
            nodes: ``N``.
        """
        return knotted(edge_index, pseudo, nodes, self.sizes, self.opened)

    def forward(self, x: Features, edges: Edges) -> Tensor:
        """Return the new features."""
        knots, inputs, outputs = self.weight.shape
        both = torch.cat([self.weight.transpose(1, 2).reshape(knots * outputs, inputs), self.lin.weight])
        projected = project(x, both)  # [N, P D + D]: the kernel's and the root's
        sent = projected[:, :-outputs].reshape(-1, outputs)
        return edges.spread(sent) + projected[:, -outputs:] + self.bias


def knotted(edge_index: Tensor, pseudo: Tensor, nodes: int, sizes: Sequence[int], opened: Sequence[bool]) -> Edges:
    """Return the edges of :meth:`SplineConv.edges`."""
    neighbours(edge_index, nodes)  # which refuses what is no graph
    shares, knots = basis(pseudo, sizes, opened)
    count = shares.shape[1]
    rows = edge_index[1].repeat_interleave(count)
    columns = edge_index[0].repeat_interleave(count) * math.prod(sizes) + knots.flatten()
    found, order = pattern(rows, columns, nodes, nodes * math.prod(sizes))
    degree = torch.bincount(edge_index[1], minlength=nodes).clamp(min=1)
    return Edges(found, shares.flatten()[order] / degree[found.row])
