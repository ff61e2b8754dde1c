"""The graph networks of Launay et al. 2020, which classify the nodes of one graph.

Every network takes features ``[N, F]`` and edges ``[2, E]`` and returns class scores ``[N, C]``. It names its feedback
points in ``points`` and the module whose output is pictured in ``hidden_layer``. What it makes of a graph, and of
features most of which are zero, it makes once, and again when it is given another tensor.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from feedalign.experiments.models.convolutions import ChebConv, GATConv, GCNConv
from feedalign.experiments.models.dna import DNA
from feedalign.experiments.models.edges import Edges, check, laplacian, normalised, with_loops
from feedalign.experiments.models.features import Dropout, Features
from feedalign.experiments.models.network import GraphNetwork
from feedalign.experiments.models.remembered import Remembered
from feedalign.experiments.models.spline import SplineConv, knotted, target_degree

__all__ = ["DNA", "GAT", "GraphKind", "GraphModelConfig", "GraphNetwork", "Spectral", "Spline"]

GraphKind = Literal["cheb", "gcn", "spline", "gat", "dna"]


class Spectral(GraphNetwork):
    """Two graph convolutions, with a ReLU and dropout between them: GCN, or ChebNet with K = 2.

    The point is behind the dropout. Weight decay is on the first layer only, as Kipf & Welling have it.

    Args:
        layer: The convolution.
        edges: What its edges are made with.
        features: ``F``.
        hidden: Width between the layers.
        classes: ``C``.
        dropout: Probability of zeroing a unit between the layers.
    """

    def __init__(
        self,
        layer: type[GCNConv] | type[ChebConv],
        edges: Callable[[Tensor, int, torch.dtype], Edges],
        features: int,
        hidden: int,
        classes: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self._edges = Remembered(edges)
        self.conv1 = layer(features, hidden)
        self.hidden = nn.Sequential(nn.ReLU(), Dropout(dropout))
        self.conv2 = layer(hidden, classes)

    def classify(self, x: Features, edge_index: Tensor) -> Tensor:
        """Return the class scores of all nodes."""
        edges = self._edges(edge_index, len(x), x.dtype)
        return self.conv2(self.hidden(self.conv1(x, edges)), edges)  # type: ignore[no-any-return]

    def decayed(self) -> Iterator[nn.Parameter]:
        """Return the parameters that the published settings put weight decay on: those of the first layer."""
        return self.conv1.parameters()


class Spline(GraphNetwork):
    """Two spline convolutions over the degree of the node that an edge leads to, with an ELU between them.

    The point is behind the ELU, before the dropout.

    Args:
        features: ``F``.
        hidden: Width between the layers.
        classes: ``C``.
        dropout: Probability of zeroing a feature, and a unit between the layers.
        knots: Of the kernel.
    """

    def __init__(self, features: int, hidden: int, classes: int, dropout: float, knots: int = 2) -> None:
        super().__init__()
        self._edges = Remembered(partial(_by_degree, knots))
        self.input_dropout = Dropout(dropout)
        self.conv1 = SplineConv(features, hidden, (knots,))
        self.hidden = nn.ELU()
        self.dropout = Dropout(dropout)
        self.conv2 = SplineConv(hidden, classes, (knots,))

    def classify(self, x: Features, edge_index: Tensor) -> Tensor:
        """Return the class scores of all nodes."""
        edges = self._edges(edge_index, len(x), x.dtype)
        hidden = self.hidden(self.conv1(self.input_dropout(x), edges))
        return self.conv2(self.dropout(hidden), edges)  # type: ignore[no-any-return]


def _by_degree(knots: int, edge_index: Tensor, nodes: int, dtype: torch.dtype) -> Edges:
    check(edge_index, nodes)
    return knotted(edge_index, target_degree(edge_index, nodes, dtype), nodes, (knots,), (True,))


class GAT(GraphNetwork):
    """Two layers of attention, with an ELU between them.

    The point is behind the ELU, before the dropout.

    Args:
        features: ``F``.
        hidden: Width of a head of the first layer.
        heads: Of the first layer. The second has one.
        classes: ``C``.
        dropout: Probability of zeroing a feature, and a unit between the layers.
        attention_dropout: Probability of dropping an edge from a head: in the first layer, and in the second.
    """

    def __init__(
        self,
        features: int,
        hidden: int,
        heads: int,
        classes: int,
        dropout: float,
        attention_dropout: tuple[float, float],
    ) -> None:
        super().__init__()
        self._edges = Remembered(with_loops)
        self.input_dropout = Dropout(dropout)
        self.conv1 = GATConv(features, hidden, heads, attention_dropout[0])
        self.hidden = nn.ELU()
        self.dropout = Dropout(dropout)
        self.conv2 = GATConv(heads * hidden, classes, 1, attention_dropout[1])

    def classify(self, x: Features, edge_index: Tensor) -> Tensor:
        """Return the class scores of all nodes."""
        edges = self._edges(edge_index, len(x))
        hidden = self.hidden(self.conv1(self.input_dropout(x), edges))
        return self.conv2(self.dropout(hidden), edges)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class GraphModelConfig:
    """A graph network. What is ``None`` is as published for training by backpropagation, see :meth:`filled`.

    Attributes:
        kind: ChebNet (``"cheb"``, K = 2), GCN, SplineNet (one dimension, two knots), GAT or DNA.
        hidden: Width of the hidden layer; of one head of it for GAT.
        dropout: Probability of zeroing a unit (and, for SplineNet and GAT, a feature).
        attention_dropout: For GAT the probability of dropping an edge from a head of the first layer, for DNA of
            dropping a layer of a neighbour from a head.
        output_attention_dropout: The same for the second layer of GAT.
        heads: Of attention, for GAT and DNA.
        layers: Of DNA.
        groups: Of the projections of DNA.
        log_softmax: Let DNA return log-probabilities, for a negative log-likelihood loss, as published. The error is
            then minus the label, and what trains is DRTP rather than DFA.
    """

    kind: GraphKind = "gcn"
    hidden: int | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    output_attention_dropout: float | None = None
    heads: int = 8
    layers: int = 5
    groups: int = 16
    log_softmax: bool = False

    def __post_init__(self) -> None:
        if self.kind not in DEFAULTS:
            raise ValueError(f"Expected a graph network out of {', '.join(DEFAULTS)}, found {self.kind!r}.")
        if self.log_softmax and self.kind != "dna":
            raise ValueError(f"Expected log_softmax with DNA only, found it with {self.kind}. Leave it out.")

    def filled(self) -> "GraphModelConfig":
        """Return the configuration with the published values in place of ``None``."""
        missing = {name: value for name, value in DEFAULTS[self.kind].items() if getattr(self, name) is None}
        return replace(self, **missing)

    def build(self, features: int, classes: int) -> GraphNetwork:
        """Return a new network, drawn from the global random number generator.

        Args:
            features: Of a node, ``F``.
            classes: ``C``.
        """
        return _build(self.filled(), features, classes)


DEFAULTS: dict[str, dict[str, Any]] = {
    "cheb": {"hidden": 16, "dropout": 0.5, "attention_dropout": 0.0, "output_attention_dropout": 0.0},
    "gcn": {"hidden": 16, "dropout": 0.5, "attention_dropout": 0.0, "output_attention_dropout": 0.0},
    "spline": {"hidden": 16, "dropout": 0.5, "attention_dropout": 0.0, "output_attention_dropout": 0.0},
    "gat": {"hidden": 8, "dropout": 0.6, "attention_dropout": 0.6, "output_attention_dropout": 0.6},
    "dna": {"hidden": 128, "dropout": 0.5, "attention_dropout": 0.8, "output_attention_dropout": 0.0},
}


def _build(config: GraphModelConfig, features: int, classes: int) -> GraphNetwork:
    hidden, dropout, attention = config.hidden, config.dropout, config.attention_dropout
    output_attention = config.output_attention_dropout
    assert hidden is not None
    assert dropout is not None
    assert attention is not None
    assert output_attention is not None
    match config.kind:
        case "cheb":
            return Spectral(ChebConv, laplacian, features, hidden, classes, dropout)
        case "gcn":
            return Spectral(GCNConv, normalised, features, hidden, classes, dropout)
        case "spline":
            return Spline(features, hidden, classes, dropout)
        case "gat":
            return GAT(features, hidden, config.heads, classes, dropout, (attention, output_attention))
        case "dna":
            return DNA(
                features,
                hidden,
                config.layers,
                classes,
                config.heads,
                config.groups,
                dropout,
                attention,
                config.log_softmax,
            )
