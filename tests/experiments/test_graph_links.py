"""Edges held out of a graph, and pairs that are no edges."""

from dataclasses import replace

import pytest
import torch
from sklearn.metrics import roc_auc_score

from feedalign.experiments.data.graphs import GraphConfig, link_split, load_graph
from feedalign.experiments.data.links import unlinked_pairs
from feedalign.experiments.errors import DataError

PARTS = ("train", "validation", "test")


@pytest.fixture
def club():
    return load_graph(GraphConfig("karate"))


@pytest.fixture(scope="module")
def cora(data_root):
    return load_graph(GraphConfig("cora"), data_root, download=False)


def pairs(edges):
    return [(min(u, v), max(u, v)) for u, v in edges.T.tolist()]


def test_positives_are_the_edges_each_in_one_part(cora):
    links = link_split(cora, seed=0)
    assert links.counts == {
        "nodes": 2708,
        "edges": 5278,
        "features": 1433,
        "train": 4488,
        "validation": 263,  # 5 % and 10 %, rounded down, as in PyTorch Geometric
        "test": 527,
    }
    found = [pair for part in PARTS for pair in pairs(getattr(links, part).positive)]
    assert len(found) == len(set(found)) == 5278
    assert set(found) == set(pairs(cora.edge_index))


def test_messages_flow_over_training_edges_only_and_both_ways(cora):
    links = link_split(cora, seed=0)
    flowing = [tuple(edge) for edge in links.edge_index.T.tolist()]
    assert len(flowing) == len(set(flowing)) == 2 * 4488
    assert set(pairs(links.edge_index)) == set(pairs(links.train.positive))
    assert {(v, u) for u, v in flowing} == set(flowing)


def test_negatives_are_distinct_and_no_edges(cora):
    links = link_split(cora, seed=0)
    edges = set(pairs(cora.edge_index))
    found = [pair for part in PARTS for pair in pairs(getattr(links, part).negative)]
    assert len(found) == len(set(found)) == 5278
    assert not edges & set(found)
    assert all(u != v and 0 <= u < v < 2708 for u, v in found)
    for part in PARTS:
        assert getattr(links, part).negative.shape == getattr(links, part).positive.shape


def test_fresh_negatives_avoid_training_edges_and_change(cora):
    links = link_split(cora, seed=0)
    generator = torch.Generator().manual_seed(0)
    first, second = links.fresh_negatives(generator), links.fresh_negatives(generator)
    trained = set(pairs(links.train.positive))
    for drawn in (first, second):
        assert drawn.shape == (2, 4488)
        assert not trained & set(pairs(drawn))
    assert len(set(pairs(first)) & set(pairs(second))) < 30
    again = links.fresh_negatives(torch.Generator().manual_seed(0))
    assert torch.equal(first, again)


def test_the_split_follows_its_seed_alone(club):
    torch.manual_seed(1)
    first = link_split(club, seed=0)
    torch.manual_seed(2)
    again, other = link_split(club, seed=0), link_split(club, seed=1)
    assert torch.equal(first.test.positive, again.test.positive)
    assert torch.equal(first.test.negative, again.test.negative)
    assert not torch.equal(first.test.positive, other.test.positive)


def test_every_unlinked_pair_is_as_likely_as_any_other():
    linked = torch.tensor([0 * 7 + 1, 2 * 7 + 3, 5 * 7 + 6, 0 * 7 + 6])
    generator = torch.Generator().manual_seed(0)
    drawn = torch.cat([unlinked_pairs(linked, 7, 3, generator) for _ in range(3000)], dim=1)
    counts = torch.bincount(drawn[0] * 7 + drawn[1], minlength=49)
    expected = {u * 7 + v for v in range(7) for u in range(v)} - set(linked.tolist())
    assert set(counts.nonzero().flatten().tolist()) == expected
    mean = 9000 / 17
    assert (counts[sorted(expected)] - mean).abs().max() < 4 * mean**0.5


def test_all_unlinked_pairs_can_be_asked_for():
    linked = torch.tensor([1, 2 * 5 + 4])
    found = unlinked_pairs(linked, 5, 8, torch.Generator().manual_seed(0))
    assert len(set(pairs(found))) == 8
    assert not {(0, 1), (2, 4)} & set(pairs(found))


def test_pairs_of_a_large_graph_are_numbered_exactly():
    nodes = 3_000_000  # 4.5 million million pairs: more than a float32 can count
    found = unlinked_pairs(torch.tensor([1]), nodes, 1000, torch.Generator().manual_seed(0))
    assert (found[0] >= 0).all()
    assert (found[0] < found[1]).all()
    assert (found[1] < nodes).all()
    assert found[1].double().mean() == pytest.approx(2 / 3 * nodes, rel=0.03)


def test_directions_loops_and_repetitions_do_not_count(club):
    one_way = club.edge_index[:, club.edge_index[0] < club.edge_index[1]]
    loops = torch.tensor([[3, 3], [3, 3]])
    messy = replace(club, edge_index=torch.cat([one_way.flip(0), loops, one_way[:, :20]], dim=1))
    assert torch.equal(link_split(messy, seed=4).train.positive, link_split(club, seed=4).train.positive)
    assert torch.equal(link_split(messy, seed=4).edge_index, link_split(club, seed=4).edge_index)


def test_neighbours_in_common_tell_links_from_others(cora):
    links = link_split(
        cora, seed=0
    )  # the parts mean what they say: a count, without any learning, does better than chance
    adjacency = torch.zeros(2708, 2708)
    adjacency[links.edge_index[0], links.edge_index[1]] = 1
    common = adjacency @ adjacency
    scores = [common[part[0], part[1]] for part in links.test]
    truth = torch.cat([torch.ones(527), torch.zeros(527)])
    assert roc_auc_score(truth, torch.cat(scores)) > 0.65


def test_too_few_edges_are_refused(club):
    with pytest.raises(
        DataError, match=r"an edge for each of validation, test and training, found \[0, 0, 3\] of 3 edges"
    ):
        link_split(replace(club, edge_index=club.edge_index[:, :3]), seed=0)
    with pytest.raises(
        DataError, match=r"found \[39, 39, 0\] of 78 edges. Do hold out other fractions than 0.5 and 0.5"
    ):
        link_split(club, seed=0, validation=0.5, test=0.5)


def test_a_graph_with_hardly_any_unlinked_pair_is_refused(club):
    complete = torch.combinations(torch.arange(34)).T
    with pytest.raises(
        DataError, match=r"at least 561 pairs of nodes without an edge as negatives, found 0 in a graph"
    ):
        link_split(replace(club, edge_index=complete), seed=0)
