"""Graphs as graph layers need them: edges sorted by the node they lead to, and weighted.

Letters: ``N`` nodes, ``E`` edges, ``A`` the adjacency matrix (``A[i, j]`` counts the edges from j to i), ``D`` the
diagonal matrix of degrees.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.experiments.models.sparse import Pattern, pattern


class Edges(NamedTuple):
    """A weighted graph: a sparse matrix ``[N, N]``, whose rows are the nodes that edges lead to."""

    pattern: Pattern
    weights: Tensor
    """``[E]``."""

    def spread(self, x: Tensor) -> Tensor:
        """Return the weighted sum over what leads to every node, ``[N, D]`` to ``[N, D]``."""
        return self.pattern.product(self.weights, x)


def check(edge_index: Tensor, nodes: int) -> None:
    """Refuse what is not a graph of so many nodes.

    Raises:
        ValueError: ``edge_index`` is not ``[2, E]``, or names a node that does not exist.
    """
    if edge_index.dim() != 2 or len(edge_index) != 2:
        raise ValueError(f"Expected edges [2, E], from and to, found a shape of {tuple(edge_index.shape)}.")
    if edge_index.numel():
        first, last = int(edge_index.min()), int(edge_index.max())
        if first < 0 or last >= nodes:
            raise ValueError(f"Expected edges between nodes 0 to {nodes - 1}, found nodes {first} to {last}.")


def neighbours(edge_index: Tensor, nodes: int) -> Pattern:
    """Return the edges as they are."""
    check(edge_index, nodes)
    return pattern(edge_index[1], edge_index[0], nodes, nodes)[0]


def with_loops(edge_index: Tensor, nodes: int) -> Pattern:
    """Return the edges with exactly one from every node to itself."""
    check(edge_index, nodes)
    loops = torch.arange(nodes, device=edge_index.device).expand(2, -1)
    return neighbours(torch.cat([_without_loops(edge_index), loops], 1), nodes)


def normalised(edge_index: Tensor, nodes: int, dtype: torch.dtype) -> Edges:
    """Return ``D^-1/2 (A + I) D^-1/2`` of Kipf & Welling 2017, with the degrees of ``A + I``."""
    found = with_loops(edge_index, nodes)
    root = found.start.diff().to(dtype).pow(-0.5)
    return Edges(found, root[found.row] * root[found.column])


def laplacian(edge_index: Tensor, nodes: int, dtype: torch.dtype) -> Edges:
    """Return ``-D^-1/2 A D^-1/2`` without self-loops: the normalised Laplacian, scaled to [-1, 1] (Defferrard 2016)."""
    check(edge_index, nodes)
    found = neighbours(_without_loops(edge_index), nodes)
    degree = torch.bincount(found.column, minlength=nodes).to(dtype)
    root = degree.pow(-0.5).masked_fill(degree == 0, 0)
    return Edges(found, -root[found.row] * root[found.column])


def _without_loops(edge_index: Tensor) -> Tensor:
    return edge_index[:, edge_index[0] != edge_index[1]]
