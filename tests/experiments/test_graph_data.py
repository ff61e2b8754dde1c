"""Graphs by name, their splits, and what makes a graph unfit for training: works, or a clear error."""

from dataclasses import replace

import networkx
import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch_geometric.datasets import KarateClub
from torch_geometric.nn import GCNConv

from feedalign.experiments.data.graph_data import both_directions
from feedalign.experiments.data.graphs import GRAPHS, GraphConfig, GraphData, load_graph, normalised
from feedalign.experiments.errors import DataError


@pytest.fixture
def club():
    return load_graph(GraphConfig("karate"))


def trained_on(data: GraphData) -> torch.Tensor:
    """The loss of a graph convolution on the training nodes, after its gradient was taken."""
    torch.manual_seed(0)
    layer = GCNConv(data.features, data.classes)
    loss = torch.nn.functional.cross_entropy(layer(data.x, data.edge_index)[data.train], data.y[data.train])
    loss.backward()
    assert layer.lin.weight.grad.isfinite().all()
    return loss


def test_the_karate_club_is_the_one_of_networkx(club):
    theirs = networkx.karate_club_graph()
    ours = {(int(u), int(v)) for u, v in club.edge_index.T}
    assert ours == set(theirs.edges) | {(v, u) for u, v in theirs.edges}
    assert len(ours) == club.edge_index.shape[1] == 156
    assert club.counts == {"nodes": 34, "edges": 78, "features": 34, "train": 4, "validation": 11, "test": 19}


def test_its_communities_and_training_nodes_are_those_of_pytorch_geometric(club):
    theirs = KarateClub()[0]
    assert torch.equal(club.y, theirs.y)
    assert torch.equal(club.train, theirs.train_mask)
    assert torch.equal(club.x, theirs.x)
    assert club.y[club.test].unique().tolist() == club.y[club.validation].unique().tolist() == [0, 1, 2, 3]


def test_the_karate_club_needs_no_file_and_no_luck(tmp_path, club):
    torch.manual_seed(1)
    again = load_graph(GraphConfig("karate"), tmp_path, seed=3, download=False)
    assert torch.equal(again.test, club.test)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (GraphConfig("corra"), r"There is no graph 'corra'. Did you mean 'cora'\? There are: karate, cora, citeseer"),
        (GraphConfig("karate", split="random"), "Expected the split 'public' or 'stratified', found 'random'"),
    ],
)
def test_unknown_names_are_refused(config, message):
    with pytest.raises(DataError, match=message):
        load_graph(config)


def test_the_stratified_split_has_each_class_in_proportion(data_root):
    data = load_graph(GraphConfig("cora", split="stratified"), data_root, seed=55, download=False)
    everything = data.train.int() + data.validation.int() + data.test.int()
    assert (everything == 1).all()
    sizes = data.y.bincount()
    for part, share in ((data.train, 0.2), (data.validation, 0.2), (data.test, 0.6)):
        assert ((data.y[part].bincount() - share * sizes).abs() <= 2).all()


def test_the_stratified_split_deals_the_published_folds(data_root):
    data = load_graph(GraphConfig("cora", split="stratified"), data_root, seed=55, download=False)
    folds = [fold for _, fold in StratifiedKFold(5, shuffle=True, random_state=55).split(data.y, data.y)]
    assert data.train.nonzero().flatten().tolist() == folds[0].tolist()
    assert data.validation.nonzero().flatten().tolist() == folds[1].tolist()
    other = load_graph(GraphConfig("cora", split="stratified"), data_root, seed=0, download=False)
    assert not torch.equal(data.train, other.train)


def test_a_class_of_four_can_still_be_split():
    data = load_graph(GraphConfig("karate", split="stratified"))  # warnings are errors here
    assert data.counts["train"] + data.counts["validation"] + data.counts["test"] == 34


def test_classes_too_small_for_folds_are_refused(club):
    from feedalign.experiments.data.splits import stratified

    with pytest.raises(DataError, match=r"a class of at least 5 nodes for a stratified split, found 1 in the largest"):
        stratified(replace(club, y=torch.arange(34), classes=34), seed=0)


def test_rows_sum_to_one_unless_they_summed_to_less():
    x = torch.tensor([[2.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.25, 0.5, 0.0]])
    assert normalised(x).tolist() == [[0.5, 0.0, 0.5], [0.0, 0.0, 0.0], [0.25, 0.5, 0.0]]


def test_edges_run_both_ways_once_and_never_to_themselves():
    pairs = torch.tensor([[0, 2, 1, 1, 0], [1, 1, 2, 1, 1]])
    assert both_directions(pairs, 3).tolist() == [[1, 0, 2, 1], [0, 1, 1, 2]]


def test_the_table_of_graphs_tells_the_truth(data_root):
    for row in GRAPHS.values():
        counts = row.read(data_root, download=False).counts
        assert (counts["nodes"], counts["edges"]) == (row.nodes, row.edges)


# What works.


def test_isolated_nodes_work(club):
    kept = (club.edge_index != 5).all(dim=0) & (club.edge_index != 0).all(dim=0)  # node 0 is a training node
    assert trained_on(replace(club, edge_index=club.edge_index[:, kept]).check()).isfinite()


def test_a_graph_without_edges_works(club):
    empty = replace(club, edge_index=torch.empty(2, 0, dtype=torch.int64)).check()
    assert empty.counts["edges"] == 0
    assert trained_on(empty).isfinite()


def test_self_loops_and_repeated_edges_work(club):
    loops = torch.tensor([[3, 3, 7], [3, 3, 7]])
    data = replace(club, edge_index=torch.cat([club.edge_index, loops, club.edge_index[:, :9]], dim=1)).check()
    assert data.counts["edges"] == 80  # two loops more, each once
    assert trained_on(data).isfinite()


def test_a_class_missing_from_training_works(club):
    data = replace(club, train=club.train & (club.y != 2)).check()
    assert trained_on(data).isfinite()


# What is refused.


def with_value(tensor, value, *index):
    changed = tensor.clone()
    changed[index] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: {"x": with_value(d.x, float("nan"), 7, 3)},
            r"'karate': expected finite features, found NaN or infinity in `x` of 1 of 34 nodes, .* node 7",
        ),
        (
            lambda d: {"x": with_value(d.x, float("inf"), slice(4, 6))},
            "in `x` of 2 of 34 nodes, the first being node 4",
        ),
        (
            lambda d: {"edge_index": with_value(d.edge_index, 34, 0, 0)},
            r"expected `edge_index` within 0 and 33, found 0 to 34. Number the nodes from 0",
        ),
        (
            lambda d: {"edge_index": with_value(d.edge_index, -1, 1, 5)},
            "expected `edge_index` within 0 and 33, found -1",
        ),
        (
            lambda d: {"edge_index": d.edge_index.T},
            r"`edge_index` of shape \[2, N\] and dtype torch.int64, found \[156",
        ),
        (lambda d: {"edge_index": d.edge_index.int()}, r"dtype torch.int64, found \[2, 156\] and torch.int32"),
        (lambda d: {"x": d.x.double()}, r"`x` of shape \[N, N\] and dtype torch.float32, found .* torch.float64"),
        (lambda d: {"x": d.x[0]}, r"expected `x` of shape \[N, N\]"),
        (lambda d: {"y": d.y[:-1]}, r"expected `y` of shape \[34\] and dtype torch.int64, found \[33\]"),
        (lambda d: {"y": d.y.float()}, r"expected `y` .* found \[34\] and torch.float32"),
        (lambda d: {"classes": 3}, r"expected `y` within 0 and 2, found 0 to 3. Number the classes from 0, or set"),
        (
            lambda d: {"train": d.train.long()},
            r"`train` of shape \[34\] and dtype torch.bool, found \[34\] and torch.int",
        ),
        (lambda d: {"train": d.train & False}, "at least one node in the mask `train`, found none"),
        (lambda d: {"test": d.test & False}, "at least one node in the mask `test`, found none"),
        (lambda d: {"test": d.test | d.train}, "masks `train` and `test` to share no node, found 4 in both"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(change, message, club):
    with pytest.raises(DataError, match=message):
        replace(club, **change(club)).check()
