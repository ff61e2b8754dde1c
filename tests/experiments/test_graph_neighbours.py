"""Batches of neighbours: each node once, only true edges, exact where every neighbour is taken."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch_geometric.nn import GATConv, GCNConv
from torch_geometric.nn.conv.gcn_conv import gcn_norm

import feedalign as fa
from feedalign.experiments.data.graphs import GraphConfig, load_graph, neighbour_batches
from feedalign.experiments.data.neighbours import has_compiled_sampler
from feedalign.experiments.errors import DataError
from feedalign.experiments.models.graph import GraphModelConfig

compiled_too = pytest.mark.parametrize(
    "compiled",
    [False, pytest.param(True, marks=pytest.mark.skipif(not has_compiled_sampler(), reason="needs pyg-lib"))],
)


@pytest.fixture
def club():
    return load_graph(GraphConfig("karate"))


@pytest.fixture(scope="module")
def cora(data_root):
    return load_graph(GraphConfig("cora"), data_root, download=False)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


class Two(torch.nn.Module):
    """Two layers of a kind, with a non-linearity between."""

    def __init__(self, data, kind, **options):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = kind(data.features, 8, **options), kind(8, data.classes, **options)

    def forward(self, x, *edges):
        return self.second(torch.tanh(self.first(x, *edges)), *edges)


def seed_outputs(data, model, fanout, generator, weights=None):
    """What the model says of each node when it is a seed: outputs [N, C]."""
    everyone = torch.ones(data.nodes, dtype=torch.bool)
    outputs = torch.full((data.nodes, data.classes), float("nan"))
    for part in neighbour_batches(data, everyone, fanout, 100, generator):
        extra = () if weights is None else (weights[part.edges],)
        outputs[part.nodes[: part.seeds]] = model(part.x, part.edge_index, *extra)[: part.seeds]
    return outputs


@compiled_too
def test_every_node_of_the_mask_is_a_seed_once(compiled, cora, generator):
    parts = list(neighbour_batches(cora, cora.train, (10, 10), 32, generator, compiled=compiled))
    assert [part.seeds for part in parts] == [32, 32, 32, 32, 12]
    seeds = torch.cat([part.nodes[: part.seeds] for part in parts])
    assert not torch.equal(seeds, cora.train.nonzero().flatten())  # in another order
    assert torch.equal(seeds.sort().values, cora.train.nonzero().flatten())


@compiled_too
def test_subgraphs_are_parts_of_the_graph(compiled, cora, generator):
    for part in neighbour_batches(cora, cora.validation, (4, 3), 100, generator, compiled=compiled):
        assert len(part.nodes.unique()) == len(part.nodes)
        assert len(part.edges.unique()) == len(part.edges)  # without replacement
        assert torch.equal(part.x, cora.x[part.nodes])
        assert torch.equal(part.y, cora.y[part.nodes])
        assert torch.equal(part.nodes[part.edge_index], cora.edge_index[:, part.edges])


@compiled_too
def test_the_fan_out_bounds_each_hop(compiled, cora, generator):
    degree = cora.edge_index[1].bincount(minlength=cora.nodes)
    for part in neighbour_batches(cora, cora.validation, (4, 2), 50, generator, compiled=compiled):
        incoming = part.edge_index[1].bincount(minlength=len(part.nodes))
        reached = torch.zeros(len(part.nodes), dtype=torch.bool)
        reached[part.edge_index[0, part.edge_index[1] < part.seeds]] = True
        reached[: part.seeds] = False
        whole = degree[part.nodes]
        assert torch.equal(incoming[: part.seeds], whole[: part.seeds].clamp(max=4))
        assert torch.equal(incoming[reached], whole[reached].clamp(max=2))
        reached[: part.seeds] = True
        assert (incoming[~reached] == 0).all()  # those of the last hop are not asked


@compiled_too
def test_neighbours_are_drawn_evenly(compiled, club, generator):
    hub = torch.zeros(34, dtype=torch.bool)
    hub[33] = True  # with 17 friends
    drawn = torch.zeros(34)
    for _ in range(2000):
        (part,) = neighbour_batches(club, hub, (5,), 1, generator, compiled=compiled)
        drawn[part.nodes[1:]] += 1
    friends = club.edge_index[0, club.edge_index[1] == 33]
    assert drawn.sum() == drawn[friends].sum() == 10_000
    mean = 10_000 / 17
    assert (drawn[friends] - mean).abs().max() < 4 * mean**0.5


@compiled_too
def test_the_generator_decides(compiled, cora):
    def drawn(seed):
        own = torch.Generator().manual_seed(seed)
        parts = neighbour_batches(cora, cora.train, (2, 2), 50, own, compiled=compiled)
        return torch.cat([part.nodes for part in parts])

    before = torch.random.get_rng_state()
    first, again, other = drawn(0), drawn(0), drawn(1)
    assert torch.equal(first, again)
    assert not torch.equal(first[:50], other[:50])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_with_all_neighbours_attention_is_exact(cora, generator):
    model = Two(cora, GATConv)
    with torch.no_grad():
        outputs = seed_outputs(cora, model, (-1, -1), generator)
        torch.testing.assert_close(outputs, model(cora.x, cora.edge_index))


def test_a_wide_fan_out_takes_all_neighbours(cora, generator):
    model = Two(cora, GATConv)
    with torch.no_grad():
        outputs = seed_outputs(cora, model, (200, 200), generator)  # no node has so many
        torch.testing.assert_close(outputs, model(cora.x, cora.edge_index))


@pytest.mark.parametrize(("kind", "more"), [("gcn", 1), ("cheb", 2)])
def test_with_more_hops_than_layers_degrees_are_exact(kind, more, cora, generator):
    torch.manual_seed(0)
    model = GraphModelConfig(kind).build(cora.features, cora.classes).eval()
    with torch.no_grad():
        whole = model(cora.x, cora.edge_index)
        torch.testing.assert_close(seed_outputs(cora, model, [-1] * (2 + more), generator), whole)
        nearly = seed_outputs(cora, model, [-1] * (1 + more), generator)  # the rim has lost edges that count
    assert not torch.allclose(nearly, whole, atol=1e-4)


def test_weights_of_the_whole_graph_make_gcn_exact_in_as_many_hops_as_layers(cora, generator):
    edge_index, weights = gcn_norm(cora.edge_index, None, cora.nodes)
    weighted = replace(cora, edge_index=edge_index)
    model = Two(cora, GCNConv, normalize=False)
    with torch.no_grad():
        outputs = seed_outputs(weighted, model, (-1, -1), generator, weights)
        torch.testing.assert_close(outputs, model(cora.x, edge_index, weights))


@pytest.mark.parametrize("rule", [fa.Backprop(), fa.DFA(seed=0)])
def test_gradients_of_batches_add_up_to_those_of_the_whole_graph(rule, cora, generator):
    torch.manual_seed(0)
    model = GraphModelConfig("gcn", dropout=0.0).build(cora.features, cora.classes)
    fa.attach(model, rule, points=list(model.points))

    def gradients(backward):
        model.zero_grad()
        backward()
        return [parameter.grad.clone() for parameter in model.parameters()]

    def whole():
        F.cross_entropy(model(cora.x, cora.edge_index)[cora.train], cora.y[cora.train]).backward()

    def batches():
        for part in neighbour_batches(cora, cora.train, (-1, -1, -1), 64, generator):
            loss = F.cross_entropy(model(part.x, part.edge_index)[: part.seeds], part.y[: part.seeds], reduction="sum")
            (loss / 140).backward()

    for found, expected in zip(gradients(batches), gradients(whole), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_isolated_nodes_loops_and_repeated_edges(club, generator):
    kept = (club.edge_index != 0).all(dim=0)
    more = torch.tensor([[5, 5, 6], [5, 5, 5]])  # node 0 has no edge now, node 5 two loops, and hears node 6 twice
    messy = replace(club, edge_index=torch.cat([club.edge_index[:, kept], more], dim=1)).check()
    parts = {
        int(part.nodes[0]): part for part in neighbour_batches(messy, messy.train | ~messy.train, (-1,), 1, generator)
    }
    assert parts[0].nodes.tolist() == [0]
    assert parts[0].edge_index.shape == (2, 0)
    heard = parts[5].nodes[parts[5].edge_index[0]]
    assert sorted(heard.tolist()) == [5, 5, 6, 6, 10, 16]


def test_edges_are_followed_against_their_direction(club, generator):
    chain = replace(club, edge_index=torch.tensor([[0, 1, 2], [1, 2, 3]]))
    end = torch.arange(34) == 3
    (part,) = neighbour_batches(chain, end, (-1, -1), 1, generator)
    assert part.nodes.tolist() == [3, 2, 1]
    assert part.edge_index.tolist() == [[1, 2], [0, 1]]


def test_features_may_stay_on_disk(cora, generator, tmp_path):
    stored = np.memmap(tmp_path / "features", np.float32, "w+", shape=tuple(cora.x.shape))
    stored[:] = cora.x.numpy()
    on_disk = replace(cora, x=torch.from_numpy(stored))
    again = torch.Generator().manual_seed(0)
    for part, expected in zip(
        neighbour_batches(on_disk, cora.train, (3, 3), 70, generator),
        neighbour_batches(cora, cora.train, (3, 3), 70, again),
        strict=True,
    ):
        assert torch.equal(part.x, expected.x)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"seeds_mask": torch.ones(33, dtype=torch.bool)},
            r"a mask of shape \[34\] and dtype torch.bool, found \[33\]",
        ),
        ({"seeds_mask": torch.arange(34)}, r"found \[34\] and torch.int64. Do pass one such as `data.train`"),
        ({"seeds_mask": torch.zeros(34, dtype=torch.bool)}, "a mask with at least one node, found none"),
        ({"fanout": ()}, r"a fan-out of 1 or more for each hop, or -1 for all neighbours, found \(\)"),
        ({"fanout": (10, 0)}, r"found \(10, 0\). Do give one number a layer"),
        ({"fanout": (-2,)}, r"found \(-2,\)"),
        ({"batch": 0}, "at least 1 node in a batch, found 0"),
    ],
)
def test_impossible_batches_are_refused_at_once(options, message, club):
    with pytest.raises(DataError, match=message):
        neighbour_batches(**{"data": club, "seeds_mask": club.train, **options})


@pytest.mark.skipif(has_compiled_sampler(), reason="it is installed")
def test_a_compiled_sampler_that_is_not_installed_is_named(club):
    with pytest.raises(DataError, match="Expected pyg-lib or torch-sparse for the compiled sampler, found neither"):
        neighbour_batches(club, club.train, compiled=True)
