"""Graphs by name.

========  ======  ======  ========  =======  =====  ==========  =====  =====
name      nodes   edges   features  classes  train  validation  test   files
========  ======  ======  ========  =======  =====  ==========  =====  =====
karate    34      78      34        4        4      11          19     none
cora      2,708   5,278   1,433     7        140    500         1,000  8
citeseer  3,327   4,552   3,703     6        120    500         1,000  8
pubmed    19,717  44,324  500       3        60     500         1,000  8
========  ======  ======  ========  =======  =====  ==========  =====  =====

A graph is looked for under the data root, in the upstream layout or in that of PyTorch Geometric, and else
downloaded. Every file is checked by its known hash before it is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from feedalign.errors import nearest
from feedalign.experiments.data import karate, planetoid
from feedalign.experiments.data.graph_data import GraphData
from feedalign.experiments.data.links import LinkData, LinkPart, link_split
from feedalign.experiments.data.neighbours import Subgraph, neighbour_batches
from feedalign.experiments.data.root import data_root
from feedalign.experiments.data.splits import stratified
from feedalign.experiments.errors import DataError

__all__ = [
    "GRAPHS",
    "GraphConfig",
    "GraphData",
    "GraphSource",
    "LinkData",
    "LinkPart",
    "Subgraph",
    "graph_source",
    "link_split",
    "load_graph",
    "neighbour_batches",
]


@dataclass(frozen=True)
class GraphSource:
    """One row of the table of graphs.

    Attributes:
        title: Its name as people write it.
        read: Reads the graph with its public split from a data root; ``download=False`` raises where a file is missing.
        places: Where its files are looked for under the data root, the first being where a download goes.
        nodes: How many nodes there are.
        edges: How many undirected edges.
    """

    title: str
    read: Callable[..., GraphData]
    places: tuple[str, ...]
    nodes: int
    edges: int


def _planetoid(title: str, nodes: int, edges: int) -> GraphSource:
    name = title.lower()
    files = planetoid.files(name, title).values()
    places = tuple(place.path for form in zip(*(file.places for file in files), strict=True) for place in form)
    return GraphSource(title, planetoid.reader(name, title), places, nodes, edges)


GRAPHS: dict[str, GraphSource] = {
    "karate": GraphSource("Zachary's karate club", karate.read, (), 34, 78),
    "cora": _planetoid("Cora", 2_708, 5_278),
    "citeseer": _planetoid("CiteSeer", 3_327, 4_552),
    "pubmed": _planetoid("PubMed", 19_717, 44_324),
}


@dataclass(frozen=True)
class GraphConfig:
    """Which graph, and how its nodes are split.

    Attributes:
        name: A name of the table above.
        split: The public one, or 20 % of each class for training, 20 % for validation and 60 % for testing.
        normalise: Whether each node's features are scaled to sum to one.
    """

    name: Literal["karate", "cora", "citeseer", "pubmed"] = "karate"
    split: Literal["public", "stratified"] = "public"
    normalise: bool = True


def graph_source(name: str) -> GraphSource:
    """Return the row of the graph called ``name``.

    Raises:
        DataError: There is none of that name.
    """
    if name not in GRAPHS:
        raise DataError(f"There is no graph {name!r}.{nearest(name, GRAPHS)} There are: {', '.join(GRAPHS)}.")
    return GRAPHS[name]


def load_graph(
    config: GraphConfig, root: Path | str | None = None, seed: int = 0, *, download: bool = True
) -> GraphData:
    """Return the graph, checked, split and normalised.

    Args:
        config: Which one, and how it is split.
        root: The data root; see :func:`~feedalign.experiments.data.root.data_root`.
        seed: Of the stratified split; the public one has none. Published are figures of
            ``StratifiedKFold(5)``, whose first fold trains, second validates, and the other three test; in the example
            of PyTorch Geometric that this follows, it is shuffled with ``random_state=55``, which is seed 55 here.
        download: Whether a missing file may be downloaded.

    Raises:
        DataError: The graph is unknown, missing or damaged, or cannot be split like that.
    """
    if config.split not in ("public", "stratified"):
        raise DataError(f"Expected the split 'public' or 'stratified', found {config.split!r}. Do choose one of them.")
    data = graph_source(config.name).read(data_root(root), download=download)
    if config.split == "stratified":
        data = stratified(data, seed)
    if config.normalise:
        data = replace(data, x=normalised(data.x))
    return data.check()


def normalised(x: Tensor) -> Tensor:
    """Return features ``[N, F]`` of which each row sums to one, or to less where it did so before.

    Exactly what PyTorch Geometric's ``NormalizeFeatures`` does: the smallest feature of the whole graph becomes zero,
    and rows that sum to less than one (rows of zeros too) stay as they are.
    """
    shifted = x - x.min()
    return shifted / shifted.sum(dim=1, keepdim=True).clamp(min=1)
