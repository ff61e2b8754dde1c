"""Models of PyTorch Geometric: one row of the error per node, and nodes that see each other."""

from collections.abc import Callable
from typing import Any

import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch.nn import functional as F

from contract.models.case import Case, Given, Sizes

# Letters: n nodes (or graphs), D width, C classes.

SIZES = (Sizes(n=6, d=8, c=4), Sizes(n=6, d=6, c=6))
ONE_WAY = [[0, 1, 2, 3, 4, 5, 0, 2], [1, 2, 3, 4, 5, 0, 3, 5]]


def edges() -> Tensor:
    """A ring of six nodes with two chords, both ways."""
    one_way = torch.tensor(ONE_WAY)
    return torch.cat([one_way, one_way.flip(0)], 1)


def one_graph(s: Sizes) -> Given:
    return {"x": torch.randn(s.n, s.d), "edge_index": edges()}


def stack(model: type, stated: tuple[bool, bool] = (False, False), **more: Any) -> Case:
    """One of the models in ``torch_geometric.nn.models``: its last convolution is its output, and no point."""
    return Case(
        f"{model.__name__}{', jk=' if 'jk' in more else ''}", "torch_geometric",
        lambda s: model(s.d, s.d, 3, s.c, **more), one_graph, ("n C",),
        {"convs.*" if "jk" in more else f"convs.{i}": "n D" for i in (0, 1)}, sizes=SIZES, coupled=True, stated=stated,
        notes="the convolutions are joined by a linear layer" if "jk" in more else "",
    )  # fmt: skip


class Layers(nn.Module):
    """Two convolutions of a kind with a non-linearity written as a function."""

    def __init__(self, s: Sizes, conv: Callable[[int, int], nn.Module]) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(s.d, s.d), conv(s.d, s.c)

    def forward(self, x: Tensor, edge_index: Tensor, **more: Tensor) -> Tensor:
        return self.conv2(F.elu(self.conv1(x, edge_index, **more)), edge_index, **more)


def layers(conv: type, **more: Any) -> Case:
    return Case(
        f"two layers of {conv.__name__}", "torch_geometric, own", lambda s: Layers(s, lambda i, o: conv(i, o, **more)),
        one_graph, ("n C",), {"conv1": "n D"}, arguments={"points": "conv1"}, sizes=SIZES, coupled=True,
    )  # fmt: skip


class Deep(nn.Module):
    """Pre-activation residual layers, ``DeepGCNLayer``, and a head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            pyg.DeepGCNLayer(pyg.GENConv(s.d, s.d, aggr="softmax"), nn.LayerNorm(s.d), nn.ReLU(), block="res+")
            for _ in range(2)
        )
        self.head = nn.Linear(s.d, s.c)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, edge_index)
        return self.head(x)


class Pooled(nn.Module):
    """A label per graph: convolutions over nodes, a mean per graph, a head."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.GCNConv(s.d, s.d), pyg.GCNConv(s.d, s.d)
        self.head = nn.Sequential(nn.Linear(s.d, s.d), nn.ReLU(), nn.Linear(s.d, s.c))

    def forward(self, x: Tensor, edge_index: Tensor, graph: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x, edge_index)), edge_index))
        return self.head(pyg.global_mean_pool(x, graph))


def some_graphs(s: Sizes) -> Given:
    """As many rings of six nodes as there are samples."""
    places = torch.arange(s.n).repeat_interleave(6)
    both = torch.cat([edges() + 6 * i for i in range(s.n)], 1)
    return {"x": torch.randn(6 * s.n, s.d), "edge_index": both, "graph": places}


class Citations(nn.Module):
    """Papers and authors; the papers are labelled."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            pyg.HeteroConv({
                ("author", "writes", "paper"): pyg.SAGEConv(s.d, s.d),
                ("paper", "written_by", "author"): pyg.SAGEConv(s.d, s.d),
            })
            for _ in range(2)
        )  # fmt: skip
        self.head = nn.Linear(s.d, s.c)

    def forward(self, papers: Tensor, authors: Tensor, writes: Tensor) -> Tensor:
        nodes = {"paper": papers, "author": authors}
        both = {("author", "writes", "paper"): writes, ("paper", "written_by", "author"): writes.flip(0)}
        for conv in self.convs:
            nodes = {kind: x.tanh() for kind, x in conv(nodes, both).items()}
        return self.head(nodes["paper"])


def citations(s: Sizes) -> Given:
    writes = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 0, 2]])
    return {"papers": torch.randn(s.n, s.d), "authors": torch.randn(s.s, s.d), "writes": writes}


class Encoder(nn.Module):
    """The encoder of a graph autoencoder."""

    def __init__(self, s: Sizes) -> None:
        super().__init__()
        self.conv1, self.conv2 = pyg.GCNConv(s.d, s.d), pyg.GCNConv(s.d, s.c)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.conv2(self.conv1(x, edge_index).relu(), edge_index)


def reconstruction(value: Any, tapped: Any, given: Given) -> Tensor:
    """The likelihood of the edges under products of the embeddings, as ``GAE.recon_loss`` has it."""
    absent = torch.tensor([[0, 1, 2], [2, 4, 4]])
    both = [pyg.InnerProductDecoder()(tapped[0], which, sigmoid=False) for which in (edges(), absent)]
    return F.softplus(-both[0]).mean() + F.softplus(both[1]).mean()


GRAPHS = [
    stack(pyg.GCN),
    stack(pyg.GraphSAGE),
    stack(pyg.GAT, (False, True), heads=2),
    stack(pyg.GIN),
    stack(pyg.PNA, aggregators=["mean", "max"], scalers=["identity", "amplification"], deg=torch.tensor([0, 0, 2, 4])),
    stack(pyg.EdgeCNN),
    stack(pyg.GCN, jk="cat"),
    layers(pyg.GATv2Conv),
    layers(pyg.TransformerConv),
    layers(pyg.ChebConv, K=2),
    Case("two layers of RGCNConv", "torch_geometric, own",
         lambda s: Layers(s, lambda i, o: pyg.RGCNConv(i, o, num_relations=2)),
         lambda s: {**one_graph(s), "edge_type": torch.arange(16) % 2}, ("n C",), {"conv1": "n D"},
         arguments={"points": "conv1"}, sizes=SIZES, coupled=True),
    Case("DeepGCNLayer", "torch_geometric, own", Deep, one_graph, ("n C",), {"layers.*": "n D"}, sizes=SIZES,
         coupled=True),
    Case("HeteroConv", "torch_geometric, own", Citations, citations, ("n C",),
         {"convs.*[0]": "n D", "convs.0[1]": "A D", "convs.1[1]": "-"},
         arguments={"points": "convs.*", "rows": {"convs.*[1]": (None,)}},
         sizes=(Sizes(n=6, s=4, d=8, c=3), Sizes(n=6, s=6, d=6, c=6)), coupled=True,
         notes="papers hear their own error, authors the sum over papers"),
    Case("graph classification", "torch_geometric, own", Pooled, some_graphs, ("n C",), {"head.1": "n D"},
         arguments={"points": "head.1"}, sizes=(Sizes(n=3, d=8, c=4), Sizes(n=6, d=6, c=6)),
         notes="nodes are no rows of an error per graph, so the points are behind the pooling"),
    Case("GAE", "torch_geometric", lambda s: pyg.GAE(Encoder(s)), one_graph, ("n C",), {"encoder.conv1": "n D"},
         loss=reconstruction, method="encode", arguments={"points": "encoder.conv1"}, sizes=SIZES, coupled=True),
]  # fmt: skip
