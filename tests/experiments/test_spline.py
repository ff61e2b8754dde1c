"""Spline convolution against the formula of B-splines, and against PyTorch Geometric's where that can run."""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch_geometric.typing
from torch_geometric import nn as pyg
from torch_geometric.data import Data
from torch_geometric.transforms import TargetIndegree

from feedalign.experiments.models.features import sparsify
from feedalign.experiments.models.spline import SplineConv, basis, target_degree

pytestmark = pytest.mark.usefixtures("float64")

KERNELS = [
    ((2,), (True,)),
    ((5,), (True,)),
    ((4,), (False,)),
    ((1,), (False,)),
    ((3, 2), (True, True)),
    ((3, 4), (False, True)),
    ((2, 3, 2), (True, False, True)),
]


def hat(distance):
    """The B-spline of degree 1, centred: a hat as wide as two steps between knots."""
    return max(0.0, 1 - abs(distance))


def spline(u, p, knots, opened):
    """B_p(u) along one dimension: hats over the knots, those of a closed spline also one period away."""
    at = u * (knots - 1 if opened else knots)
    return hat(at - p) if opened else sum(hat(at - p + period * knots) for period in (-1, 0, 1))


def oracle(layer, x, edge_index, pseudo):
    """The layer edge by edge and knot by knot, in NumPy."""
    weight, root, bias = (tensor.detach().numpy() for tensor in (layer.weight, layer.lin.weight, layer.bias))
    out = np.zeros((len(x), weight.shape[2]))
    for i in range(len(x)):
        incoming = [e for e in range(edge_index.shape[1]) if edge_index[1, e] == i]
        for e in incoming:
            for knot in product(*map(range, layer.sizes)):
                share = math.prod(map(spline, pseudo[e], knot, layer.sizes, layer.opened))
                number = sum(k * math.prod(layer.sizes[:d]) for d, k in enumerate(knot))
                out[i] += share * (x[edge_index[0, e]] @ weight[number]) / len(incoming)
        out[i] += x[i] @ root.T + bias
    return out


@pytest.fixture
def graph():
    """Fifteen nodes, two of them without edges, some coordinates exactly on 0 and 1."""
    edge_index = torch.randint(0, 13, (2, 40))
    return torch.randn(15, 6) * (torch.rand(15, 6) < 0.3), edge_index


def coordinates(dimensions):
    pseudo = torch.rand(40, dimensions)
    pseudo[0], pseudo[1], pseudo[2] = 0, 1, 0.5
    return pseudo


@pytest.mark.parametrize(("sizes", "opened"), KERNELS)
@pytest.mark.parametrize("prepare", [sparsify, torch.clone], ids=["sparse", "dense"])
def test_layer_is_the_formula(sizes, opened, prepare, graph):
    x, edge_index = graph
    pseudo = coordinates(len(sizes))
    layer = SplineConv(6, 4, sizes, opened)
    torch.nn.init.normal_(layer.bias)
    found = layer(prepare(x), layer.edges(edge_index, pseudo, 15))
    expected = oracle(layer, x.numpy(), edge_index.numpy(), pseudo.numpy())
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("sizes", "opened"), KERNELS)
def test_shares_sum_to_one(sizes, opened):
    shares, knots = basis(coordinates(len(sizes)), sizes, opened)
    torch.testing.assert_close(shares.sum(1), torch.ones(40))
    assert shares.min() >= 0
    assert 0 <= int(knots.min()) <= int(knots.max()) < math.prod(sizes)


def test_gradients_are_right(graph):
    x, edge_index = graph
    layer = SplineConv(6, 2, (3, 2))
    edges = layer.edges(edge_index, coordinates(2), 15)

    def run(x, weight, root, bias):
        parameters = {"weight": weight, "lin.weight": root, "bias": bias}
        return torch.func.functional_call(layer, parameters, (x, edges))

    inputs = [each.detach().requires_grad_() for each in (x, layer.weight, layer.lin.weight, layer.bias)]
    assert torch.autograd.gradcheck(run, inputs)


def test_coordinates_are_those_of_target_indegree(graph):
    x, edge_index = graph
    expected = TargetIndegree()(Data(x=x, edge_index=edge_index)).edge_attr
    torch.testing.assert_close(target_degree(edge_index, 15, torch.float64), expected.double())


@pytest.mark.skipif(not torch_geometric.typing.WITH_SPLINE, reason="PyTorch Geometric's needs pyg-lib")
@pytest.mark.filterwarnings("ignore:We do not recommend")
@pytest.mark.parametrize(("sizes", "opened"), KERNELS)
def test_layer_is_that_of_pytorch_geometric(sizes, opened, graph):
    x, edge_index = graph
    pseudo = coordinates(len(sizes))
    theirs = pyg.SplineConv(6, 4, len(sizes), list(sizes), list(opened)).double()
    ours = SplineConv(6, 4, sizes, opened)
    ours.load_state_dict({name: tensor for name, tensor in theirs.state_dict().items() if name in ours.state_dict()})
    torch.testing.assert_close(ours(x, ours.edges(edge_index, pseudo, 15)), theirs(x, edge_index, pseudo))


def test_what_is_no_kernel_or_coordinate_is_refused(graph):
    _, edge_index = graph
    with pytest.raises(ValueError, match=r"at least 2 knots along every open dimension .* sizes of \(1,\)"):
        SplineConv(3, 2, (1,))
    layer = SplineConv(3, 2, (2, 2))
    with pytest.raises(ValueError, match=r"Expected pseudo-coordinates \[E, 2\], found a shape of \(40, 1\)"):
        layer.edges(edge_index, coordinates(1), 15)
    with pytest.raises(ValueError, match=r"Expected pseudo-coordinates in \[0, 1\], found .* to 2\.0\. Scale them"):
        layer.edges(edge_index, coordinates(2) * 2, 15)
    with pytest.raises(ValueError, match="Expected edges between nodes 0 to 9, found nodes 0 to 12"):
        layer.edges(edge_index, coordinates(2), 10)
