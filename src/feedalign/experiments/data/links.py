"""Edges held out of a graph, to be told from pairs of nodes that are not linked: the task of an autoencoder.

References:
    Kipf & Welling, *Variational graph auto-encoders*, 2016.
"""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.experiments.data.graph_data import GraphData, both_directions, undirected_keys
from feedalign.experiments.errors import DataError


class LinkPart(NamedTuple):
    """Pairs of nodes ``[2, P]`` that are linked, and as many that are not; each pair once, smaller number first."""

    positive: Tensor
    negative: Tensor

    def to(self, device: torch.device | str) -> "LinkPart":
        """Return the same on a device."""
        return LinkPart(self.positive.to(device), self.negative.to(device))


@dataclass(frozen=True, eq=False)
class LinkData:
    """A graph of which some edges are held out. No pair is in two parts, and no negative is an edge of the graph.

    Attributes:
        name: Of the data set.
        x: Features ``[N, F]``.
        edge_index: The training edges in both directions ``[2, 2 P]``, over which messages flow.
        train: What is trained on.
        validation: What decides about epochs and settings.
        test: What decides about nothing.
    """

    name: str
    x: Tensor
    edge_index: Tensor
    train: LinkPart
    validation: LinkPart
    test: LinkPart

    @property
    def nodes(self) -> int:
        """How many nodes there are, N."""
        return self.x.shape[0]

    @property
    def features(self) -> int:
        """How many features a node has, F."""
        return self.x.shape[1]

    @property
    def counts(self) -> dict[str, int]:
        """Sizes for records. The parts count linked pairs; there are as many others."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        sizes = {name: part.positive.shape[1] for name, part in parts.items()}
        return {"nodes": self.nodes, "edges": sum(sizes.values()), "features": self.features, **sizes}

    def to(self, device: torch.device | str) -> "LinkData":
        """Return the same on a device."""
        return replace(
            self,
            x=self.x.to(device),
            edge_index=self.edge_index.to(device),
            train=self.train.to(device),
            validation=self.validation.to(device),
            test=self.test.to(device),
        )

    def fresh_negatives(self, generator: torch.Generator) -> Tensor:
        """Return pairs ``[2, P]`` for one step of training, as many as there are training edges and none of these.

        A held-out edge may be among them, for training may not know which these are.

        Args:
            generator: Of a CPU.
        """
        keys = undirected_keys(self.train.positive.cpu(), self.nodes)
        return unlinked_pairs(keys, self.nodes, len(keys), generator).to(self.x.device)


def link_split(data: GraphData, seed: int, *, validation: float = 0.05, test: float = 0.1) -> LinkData:
    """Hold out edges of a graph. Its directions, self-loops and repeated edges do not count.

    Args:
        data: The graph; its labels and masks are not used.
        seed: Decides which edges are held out, and which pairs are the negatives.
        validation: Fraction of the undirected edges for validation, rounded down.
        test: Likewise for the test.

    Raises:
        DataError: A part would have no edge, or there are fewer unlinked pairs than edges.
    """
    generator = torch.Generator().manual_seed(seed)
    keys = undirected_keys(data.edge_index.cpu(), data.nodes)
    keys = keys[keys // data.nodes != keys % data.nodes]
    edges = len(keys)
    held_out = [int(fraction * edges) for fraction in (validation, test)]
    sizes = [*held_out, edges - sum(held_out)]
    if min(sizes) < 1:
        raise DataError(
            f"Graph {data.name!r}: expected an edge for each of validation, test and training, found {sizes} of "
            f"{edges:,} edges. Do hold out other fractions than {validation:g} and {test:g}."
        )
    keys = keys[torch.randperm(edges, generator=generator)]
    positive = torch.stack([keys // data.nodes, keys % data.nodes]).to(data.x.device)
    negative = unlinked_pairs(keys, data.nodes, edges, generator).to(data.x.device)
    split = (torch.split(pairs, sizes, dim=1) for pairs in (positive, negative))
    parts = [LinkPart(*pair) for pair in zip(*split, strict=True)]
    return LinkData(
        name=data.name,
        x=data.x,
        edge_index=both_directions(parts[2].positive, data.nodes),
        train=parts[2],
        validation=parts[0],
        test=parts[1],
    )


def unlinked_pairs(keys: Tensor, nodes: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` distinct pairs of different nodes ``[2, count]``, uniformly among those that are not linked.

    Number all pairs u < v by ``v (v - 1) / 2 + u``. The r-th unlinked pair has the number ``r + (linked pairs before
    it)``, so no pair is ever drawn in vain, however dense the graph.

    Args:
        keys: The linked pairs as ``u N + v`` with u < v, distinct.
        nodes: N.
        count: How many to draw.
        generator: Of a CPU.

    Raises:
        DataError: There are not so many.
    """
    small, large = keys // nodes, keys % nodes
    linked = (large * (large - 1) // 2 + small).sort().values
    free = nodes * (nodes - 1) // 2 - len(linked)
    if count > free:
        raise DataError(
            f"Expected at least {count:,} pairs of nodes without an edge as negatives, found {free:,} in a graph of "
            f"{nodes:,} nodes and {len(linked):,} edges. Do use a sparser graph."
        )
    ranks = _distinct(free, count, generator)
    unlinked_before = linked - torch.arange(len(linked))
    numbers = ranks + torch.searchsorted(unlinked_before, ranks, right=True)
    large = ((1 + (1 + 8 * numbers.double()).sqrt()) / 2).long()
    large -= (large * (large - 1) // 2 > numbers).long()  # the root may have been rounded up
    return torch.stack([numbers - large * (large - 1) // 2, large])


def _distinct(end: int, count: int, generator: torch.Generator) -> Tensor:
    """Return ``count`` distinct numbers below ``end`` in random order, without a list of all where they are many."""
    if end <= 4 * count:
        return torch.randperm(end, generator=generator)[:count]
    drawn = torch.empty(0, dtype=torch.int64)
    while len(drawn) < count:
        drawn = torch.unique(torch.cat([drawn, torch.randint(end, (count,), generator=generator)]))
    return drawn[torch.randperm(len(drawn), generator=generator)[:count]]
