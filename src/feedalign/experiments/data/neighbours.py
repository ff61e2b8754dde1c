"""Mini-batches of a graph: some nodes, and a sample of what they see. Memory does not grow with the graph.

What is exact. A network of k layers reads, for one node, its neighbourhood of k hops. With every neighbour taken
(a fan-out of -1) a batch of k hops gives its seed nodes just the output they have in the whole graph, if what flows
over an edge depends on its two ends alone, as in GAT. GCN also divides by the degrees of both ends, and a node on the
rim of a batch has none of its edges there: take one hop more than there are layers. ChebConv counts the edges that
leave a node: two hops more. Or compute the weights of the edges on the whole graph and give each batch its own,
``weights[batch.edges]``. With fewer neighbours than there are, outputs are an estimate.

References:
    Hamilton, Ying & Leskovec, *Inductive representation learning on large graphs*, NeurIPS 2017.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.experiments.data.graph_data import GraphData
from feedalign.experiments.errors import DataError


@dataclass(frozen=True, eq=False)
class Subgraph:
    """A part of a graph, its nodes numbered anew: first those that are trained on, then what they see.

    Attributes:
        x: Features ``[n, F]``.
        edge_index: The sampled edges in new numbers ``[2, e]``.
        y: Labels ``[n]``.
        nodes: The numbers of the nodes in the whole graph ``[n]``.
        edges: The positions of the edges in the whole graph's ``edge_index`` ``[e]``.
        seeds: How many nodes, the first ones, are trained on. The loss is that of ``output[:seeds]``.
    """

    x: Tensor
    edge_index: Tensor
    y: Tensor
    nodes: Tensor
    edges: Tensor
    seeds: int

    def to(self, device: torch.device | str) -> "Subgraph":
        """Return the same on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("x", "edge_index", "y", "nodes", "edges")}
        return replace(self, **moved)


def neighbour_batches(
    data: GraphData,
    seeds_mask: Tensor,
    fanout: Sequence[int] = (10, 10),
    batch: int = 256,
    generator: torch.Generator | None = None,
    *,
    compiled: bool | None = None,
) -> Iterator[Subgraph]:
    """Yield subgraphs until each node of a mask was a seed once, in random order.

    Every node of a batch is asked for neighbours once, at the hop it was first reached in; those of the last hop are
    not. Only the edges, and a few numbers a node, are held in memory: the features may be memory-mapped.

    Args:
        data: The graph, on any device; sampling is done on the CPU.
        seeds_mask: Which nodes the batches are of, ``[N]``, bool, as ``data.train``.
        fanout: At most how many incoming edges of a node to follow, hop by hop, without replacement; -1 for all.
        batch: At most how many seed nodes a subgraph has.
        generator: Of a CPU; by default PyTorch's own. It decides the order and the samples.
        compiled: Whether PyTorch Geometric's ``NeighborLoader`` samples. By default it does where the compiled
            extension that it needs, pyg-lib or torch-sparse, is installed; else plain PyTorch does, by the same rules.

    Raises:
        DataError: The mask does not fit or is empty; a fan-out or the batch is no number of nodes; or
            the compiled sampler is asked for, and not installed.
    """
    _check(data, seeds_mask, fanout, batch)
    seeds = seeds_mask.cpu().nonzero().flatten()
    order = seeds[torch.randperm(len(seeds), generator=generator)]
    edge_index = data.edge_index.cpu()
    there = compiled is not False and has_compiled_sampler()
    if compiled and not there:
        raise DataError("Expected pyg-lib or torch-sparse for the compiled sampler, found neither. Do leave it out.")
    sample = _compiled_sampler(edge_index, data.nodes, fanout) if there else _Sampler(edge_index, data.nodes).sample
    return (_subgraph(data, sample(part, fanout, generator)) for part in torch.split(order, batch))


def has_compiled_sampler() -> bool:
    """Return whether PyTorch Geometric can sample neighbours here."""
    if not (find_spec("torch_geometric") and (find_spec("pyg_lib") or find_spec("torch_sparse"))):
        return False
    from torch_geometric import typing as extensions  # an extension built for another PyTorch does not count

    return bool(extensions.WITH_PYG_LIB or extensions.WITH_TORCH_SPARSE)


def _check(data: GraphData, seeds_mask: Tensor, fanout: Sequence[int], batch: int) -> None:
    if seeds_mask.dtype != torch.bool or seeds_mask.shape != (data.nodes,):
        raise DataError(
            f"Expected a mask of shape [{data.nodes}] and dtype torch.bool, found {list(seeds_mask.shape)} and "
            f"{seeds_mask.dtype}. Do pass one such as `data.train`."
        )
    if not seeds_mask.any():
        raise DataError("Expected a mask with at least one node, found none. Do set some.")
    if not fanout or any(width == 0 or width < -1 for width in fanout):
        raise DataError(
            f"Expected a fan-out of 1 or more for each hop, or -1 for all neighbours, found {tuple(fanout)}. "
            "Do give one number a layer of the model."
        )
    if batch < 1:
        raise DataError(f"Expected at least 1 node in a batch, found {batch}. Do choose some hundreds.")


class _Sample(NamedTuple):
    """The nodes ``[n]``, the positions of the edges ``[e]``, the edges in new numbers ``[2, e]``, and the seeds."""

    nodes: Tensor
    edges: Tensor
    edge_index: Tensor
    seeds: int


def _subgraph(data: GraphData, sample: _Sample) -> Subgraph:
    device = data.x.device
    nodes, edges, edge_index = (part.to(device) for part in sample[:3])
    return Subgraph(data.x[nodes], edge_index, data.y[nodes], nodes, edges, sample.seeds)


def _compiled_sampler(edge_index: Tensor, nodes: int, fanout: Sequence[int]) -> Callable[..., _Sample]:
    from torch_geometric.data import Data
    from torch_geometric.loader import NeighborLoader

    loader = NeighborLoader(Data(edge_index=edge_index, num_nodes=nodes), num_neighbors=list(fanout))

    def sample(seeds: Tensor, fanout: Sequence[int], generator: torch.Generator | None) -> _Sample:
        # It draws from PyTorch's own generator, which is lent to it and given back as it was.
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found = loader(seeds)
        return _Sample(found.n_id, found.e_id, found.edge_index, len(seeds))

    return sample


class _Sampler:
    """The incoming edges of every node, and the new number of each node of the batch in work."""

    def __init__(self, edge_index: Tensor, nodes: int) -> None:
        self._edge_index = edge_index
        self._by_target = edge_index[1].argsort(stable=True)
        self._degree = edge_index[1].bincount(minlength=nodes)
        self._start = self._degree.cumsum(0) - self._degree
        self._number = torch.full((nodes,), -1)

    def sample(self, seeds: Tensor, fanout: Sequence[int], generator: torch.Generator | None) -> _Sample:
        """Return what the seeds see."""
        found, followed, count = [seeds], [], 0
        for width in fanout:
            self._number[found[-1]] = torch.arange(count, count + len(found[-1]))
            count += len(found[-1])
            followed.append(self._incoming(found[-1], width, generator))
            sources = torch.unique(self._edge_index[0, followed[-1]])
            found.append(sources[self._number[sources] < 0])
        self._number[found[-1]] = torch.arange(count, count + len(found[-1]))
        nodes, edges = torch.cat(found), torch.cat(followed)
        numbered = self._number[self._edge_index[:, edges]]
        self._number[nodes] = -1
        return _Sample(nodes, edges, numbered, len(seeds))

    def _incoming(self, nodes: Tensor, width: int, generator: torch.Generator | None) -> Tensor:
        """Return the positions of at most ``width`` incoming edges of each node, chosen at random."""
        degree = self._degree[nodes]
        owner = torch.arange(len(nodes)).repeat_interleave(degree)
        first = degree.cumsum(0) - degree
        rank = torch.arange(len(owner)) - first[owner]
        edges = self._by_target[self._start[nodes][owner] + rank]
        if width < 0:
            return edges
        shuffled = torch.rand(len(owner), generator=generator).argsort()
        # Sorted by owner again, the edges of each are in random order: its first ones are a sample.
        shuffled = shuffled[owner[shuffled].argsort(stable=True)]
        return edges[shuffled[rank < width]]
