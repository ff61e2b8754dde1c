"""Graph layers against those of PyTorch Geometric with the same weights: outputs and gradients."""

import math

import pytest
import torch
from torch import nn
from torch_geometric import nn as pyg

from feedalign.experiments.models.convolutions import ChebConv, GATConv, GCNConv
from feedalign.experiments.models.dna import DNAConv, by_head
from feedalign.experiments.models.edges import laplacian, normalised, with_loops
from feedalign.experiments.models.features import sparsify

pytestmark = pytest.mark.usefixtures("float64")

NODES, FEATURES = 30, 12


@pytest.fixture
def edges():
    """Directed, with loops, edges given twice, and two nodes that have none."""
    return torch.cat([torch.randint(0, NODES - 2, (2, 80)), torch.tensor([[0, 1, 1], [0, 2, 2]])], 1)


@pytest.fixture
def x():
    return torch.randn(NODES, FEATURES) * (torch.rand(NODES, FEATURES) < 0.2)


def same(ours, theirs, our_output, their_output):
    """Compare outputs, and the gradients that one random gradient of the output gives."""
    torch.testing.assert_close(our_output, their_output, rtol=1e-12, atol=1e-13)
    gradient = torch.randn_like(our_output)
    our_output.backward(gradient)
    their_output.backward(gradient)
    expected = dict(theirs.named_parameters())
    assert [name for name, _ in ours.named_parameters()]
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("prepare", [sparsify, torch.clone], ids=["sparse", "dense"])
@pytest.mark.parametrize(
    ("ours", "theirs", "edges_of"),
    [
        (GCNConv(FEATURES, 4), pyg.GCNConv(FEATURES, 4), normalised),
        (ChebConv(FEATURES, 4), pyg.ChebConv(FEATURES, 4, K=2), laplacian),
        (GATConv(FEATURES, 4, 3), pyg.GATConv(FEATURES, 4, 3), lambda edges, nodes, _: with_loops(edges, nodes)),
    ],
    ids=["gcn", "cheb", "gat"],
)
def test_layers_are_those_of_pytorch_geometric(ours, theirs, edges_of, prepare, x, edges):
    ours, theirs = ours.double(), theirs.double()
    ours.zero_grad()
    theirs.zero_grad()
    ours.load_state_dict(theirs.state_dict())
    same(ours, theirs, ours(prepare(x), edges_of(edges, NODES, x.dtype)), theirs(x, edges))


@pytest.mark.parametrize("groups", [4, 8])
def test_dna_is_that_of_pytorch_geometric(groups, edges):
    ours, theirs = DNAConv(32, 4, groups), pyg.DNAConv(32, 4, groups)
    ours.load_state_dict(theirs.state_dict())
    our_layers = [torch.randn(NODES, 32, requires_grad=True) for _ in range(3)]
    their_layers = torch.stack([layer.detach() for layer in our_layers], 1).requires_grad_()
    our_output = ours([by_head(layer, 4) for layer in our_layers], normalised(edges, NODES, torch.float64))
    same(ours, theirs, our_output, theirs(their_layers, edges))
    found = torch.stack([layer.grad for layer in our_layers], 1)
    torch.testing.assert_close(found, their_layers.grad, rtol=1e-10, atol=1e-12)


def test_first_values_are_as_wide_as_those_of_pytorch_geometric():
    pairs = [
        (GCNConv(300, 100), pyg.GCNConv(300, 100)),
        (ChebConv(300, 100), pyg.ChebConv(300, 100, K=2)),
        (GATConv(300, 50, 8), pyg.GATConv(300, 50, 8)),
        (DNAConv(128, 8, 16), pyg.DNAConv(128, 8, 16)),
    ]
    for ours, theirs in pairs:
        expected = dict(theirs.named_parameters())
        for name, parameter in ours.named_parameters():
            width = float(expected[name].detach().abs().max())
            assert float(parameter.detach().abs().max()) == pytest.approx(width, rel=0.1), name


@pytest.mark.parametrize(
    ("edge_index", "message"),
    [
        (torch.tensor([[0, 5], [1, 2]]), "Expected edges between nodes 0 to 3, found nodes 0 to 5"),
        (torch.tensor([[0, -1], [1, 2]]), "Expected edges between nodes 0 to 3, found nodes -1 to 2"),
        (torch.tensor([[0, 1, 2]]), r"Expected edges \[2, E\], from and to, found a shape of \(1, 3\)"),
    ],
)
@pytest.mark.parametrize("make", [normalised, laplacian])
def test_what_is_no_graph_is_refused(edge_index, message, make):
    with pytest.raises(ValueError, match=message):
        make(edge_index, 4, torch.float32)


def test_channels_that_heads_cannot_share_are_refused():
    with pytest.raises(ValueError, match="a multiple of the heads, found 12 channels, 6 groups, 4 heads"):
        DNAConv(12, 4, 6)


def test_attention_drops_whole_edges_and_keeps_the_mean():
    layer = GATConv(3, 2, 1, dropout=0.5)
    nn.init.zeros_(layer.att_src)  # so that every neighbour has the same share
    nn.init.zeros_(layer.att_dst)
    star = torch.stack([torch.arange(1, 400), torch.zeros(399, dtype=torch.int64)])
    x = torch.ones(400, 3)
    means = torch.stack([layer(x, with_loops(star, 400))[0] for _ in range(200)]).mean(0)
    exact = layer.eval()(x, with_loops(star, 400))[0]
    assert means.tolist() == pytest.approx(exact.tolist(), rel=5 / math.sqrt(200 * 400))
