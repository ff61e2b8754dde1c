"""Graph networks: points and dropout where they belong, DFA in closed form, and graphs that are awkward."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, nll_loss

import feedalign as fa
from closed_form.oracle_numbers import array, close, shared_uniform, softmax
from feedalign.experiments.models.gae import GAEConfig
from feedalign.experiments.models.graph import GraphModelConfig

KINDS = ["cheb", "gcn", "spline", "gat", "dna"]
NODES, FEATURES, CLASSES = 24, 18, 3


def graph(seed=0):
    """An undirected graph with self-loops on two nodes, and two nodes that have no edges."""
    generator = torch.Generator().manual_seed(seed)
    edges = torch.randint(0, NODES - 2, (2, 50), generator=generator)
    edges = torch.cat([edges[:, edges[0] != edges[1]], torch.tensor([[1, 2], [1, 2]])], 1)
    edges = torch.unique(torch.cat([edges, edges.flip(0)], 1), dim=1)
    x = torch.rand(NODES, FEATURES, generator=generator) * (torch.rand(NODES, FEATURES, generator=generator) < 0.2)
    return x.to(torch.get_default_dtype()), edges, torch.arange(NODES) % CLASSES


def build(kind, **changes):
    torch.manual_seed(1)
    return GraphModelConfig(kind, **changes).build(FEATURES, CLASSES)


def without_dropout(kind, **changes):
    return build(kind, dropout=0.0, attention_dropout=0.0, output_attention_dropout=0.0, **changes)


@pytest.mark.parametrize(
    ("kind", "points", "shapes"),
    [
        ("cheb", ["hidden"], [[16]]),
        ("gcn", ["hidden"], [[16]]),
        ("spline", ["hidden"], [[16]]),
        ("gat", ["hidden"], [[64]]),
        ("dna", [f"activations.{i}" for i in range(6)], [[128]] * 6),
    ],
)
def test_points_are_the_published_ones_and_everything_learns(kind, points, shapes):
    x, edges, y = graph()
    model = build(kind)
    seen = []
    for name in model.points:
        model.get_submodule(name).register_forward_hook(lambda module, args, out: seen.append(list(out.shape[1:])))
    handle = fa.attach(model, fa.DFA(), points=list(model.points))
    scores = model(x, edges)
    assert scores.shape == (NODES, CLASSES)
    assert [str(point) for point in handle.points] == list(model.points) == points
    assert seen == shapes
    cross_entropy(scores, y).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.get_submodule(model.hidden_layer) is model.get_submodule(points[-1])


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("cheb", 2 * FEATURES * 16 + 16 + 2 * 16 * CLASSES + CLASSES),
        ("gcn", FEATURES * 16 + 16 + 16 * CLASSES + CLASSES),
        ("spline", 3 * FEATURES * 16 + 16 + 3 * 16 * CLASSES + CLASSES),
        ("gat", FEATURES * 64 + 3 * 64 + 64 * CLASSES + 3 * CLASSES),
        ("dna", FEATURES * 128 + 128 + 5 * 3 * (128 * 128 // 16 + 128) + 128 * CLASSES + CLASSES),
    ],
)
def test_sizes_are_the_published_ones(kind, count):
    assert sum(parameter.numel() for parameter in build(kind).parameters()) == count


def test_weight_decay_is_on_the_first_convolution_of_spectral_networks_and_on_all_of_the_others():
    for kind in KINDS:
        model = build(kind)
        expected = model.conv1 if kind in ("cheb", "gcn") else model
        assert [id(parameter) for parameter in model.decayed()] == [
            id(parameter) for parameter in expected.parameters()
        ]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_move_with_the_nodes(kind):
    x, edges, _ = graph()
    model = build(kind).eval()
    order = torch.randperm(NODES)
    place = torch.argsort(order)
    torch.testing.assert_close(model(x[order], place[edges]), model(x, edges)[order], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_another_graph_and_a_changed_one_are_not_taken_for_the_last(kind):
    model = build(kind).eval()
    (x, edges, _), (other_x, other_edges, _) = graph(), graph(1)
    model(x, edges)
    fresh = build(kind).eval()
    torch.testing.assert_close(model(other_x, other_edges), fresh(other_x, other_edges), rtol=0, atol=0)
    other_x[0] += 1
    other_edges[:, 0] = torch.tensor([3, 4])
    fresh = build(kind).eval()
    torch.testing.assert_close(model(other_x, other_edges), fresh(other_x, other_edges), rtol=0, atol=0)
    torch.testing.assert_close(copy.deepcopy(model)(x, edges), model(x, edges), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("edges", [torch.empty(2, 0, dtype=torch.int64), torch.tensor([[3, 3], [3, 3]])])
def test_graphs_of_isolated_nodes_are_trained_on(kind, edges):
    x, _, y = graph()
    model = build(kind)
    fa.attach(model, fa.DFA(), points=list(model.points))
    cross_entropy(model(x, edges), y).backward()
    assert all(parameter.grad is None or parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_features_may_be_dense_and_may_want_a_gradient(kind):
    x, edges, y = graph()
    model = without_dropout(kind)
    wanted = x.clone().requires_grad_()
    torch.testing.assert_close(model(wanted, edges), model(x, edges))
    cross_entropy(model(wanted, edges), y).backward()
    assert wanted.grad.count_nonzero()
    assert model(torch.rand(NODES, FEATURES), edges).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_in_training_only(kind):
    x, edges, _ = graph()
    model = build(kind)
    assert not torch.equal(model(x, edges), model(x, edges))
    model.eval()
    assert torch.equal(model(x, edges), model(x, edges))
    assert torch.equal(without_dropout(kind)(x, edges), model(x, edges))


@pytest.mark.parametrize("kind", ["cheb", "gcn"])
def test_the_point_of_spectral_networks_is_behind_the_dropout(kind):
    x, edges, _ = graph()
    hidden = []
    model = build(kind, hidden=400)
    nn.init.ones_(model.conv1.bias)
    model.hidden.register_forward_hook(lambda module, args, out: hidden.append(out))
    model(x, edges)
    assert float((hidden[0] == 0).double().mean()) == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("kind", ["spline", "gat"])
def test_the_point_is_behind_the_elu_and_before_the_dropout(kind):
    _, edges, _ = graph()
    hidden, dropped = [], []
    model = build(kind, attention_dropout=0.0, output_attention_dropout=0.0)
    model.hidden.register_forward_hook(lambda module, args, out: hidden.append(out))
    model.dropout.register_forward_hook(lambda module, args, out: dropped.append(out))
    model.input_dropout.p = 0.0
    model(torch.rand(NODES, FEATURES), edges)
    rate = model.dropout.p
    assert rate == {"spline": 0.5, "gat": 0.6}[kind]
    assert hidden[0].count_nonzero() == hidden[0].numel()
    assert float((dropped[0] == 0).double().mean()) == pytest.approx(rate, abs=0.06)


@pytest.mark.parametrize("kind", ["spline", "gat"])
def test_features_are_dropped_too(kind):
    x, edges, _ = graph()
    seen = []
    model = build(kind)
    model.conv1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    model(torch.ones(NODES, 500)[:, :FEATURES], edges)
    assert float((seen[0] == 0).double().mean()) == pytest.approx(model.dropout.p, abs=0.1)
    model(x, edges)
    assert 0 < float((seen[1].values == 0).double().mean()) < 1


def test_dna_drops_behind_its_first_point_and_before_its_last_layer():
    x, edges, _ = graph()
    seen = {}
    model = build("dna", attention_dropout=0.0)
    nn.init.ones_(model.lin1.bias)
    for name in ("activations.0", "dropout"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda module, args, out, name=name: seen.setdefault(name, []).append(out))
    model(x, edges)
    assert float((seen["activations.0"][0] == 0).double().mean()) < 0.1
    assert [float((out == 0).double().mean()) > 0.4 for out in seen["dropout"]] == [True, True]


@pytest.mark.usefixtures("float64")
def test_dfa_of_a_gcn_is_the_formula():
    """Letters as in closed_form: A the normalised adjacency matrix, e error, B feedback, W weights."""
    x, edges, y = graph()
    chosen = torch.arange(0, NODES, 4)
    model = without_dropout("gcn")
    fa.attach(model, fa.DFA(seed=3), points=list(model.points))
    cross_entropy(model(x, edges)[chosen], y[chosen]).backward()

    A = np.eye(NODES)
    A[edges[1].numpy(), edges[0].numpy()] = 1
    A /= np.sqrt(A.sum(1)[:, None] * A.sum(1)[None])
    W1, W2 = array(model.conv1.lin.weight), array(model.conv2.lin.weight)
    a = A @ array(x) @ W1.T + array(model.conv1.bias)
    h = np.maximum(a, 0)
    z = A @ h @ W2.T + array(model.conv2.bias)
    e = np.zeros_like(z)
    e[chosen.numpy()] = (softmax(z) - np.eye(CLASSES)[y.numpy()])[chosen.numpy()] / len(chosen)
    (B,) = shared_uniform(3, CLASSES, [16])
    delta = (e @ B) * (a > 0)
    close(model.conv2.lin.weight.grad, (A.T @ e).T @ h)
    close(model.conv2.bias.grad, e.sum(0))
    close(model.conv1.lin.weight.grad, (A.T @ delta).T @ array(x))
    close(model.conv1.bias.grad, delta.sum(0))


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("published", [True, False])
def test_behind_log_softmax_the_error_is_minus_the_label(published):
    x, edges, y = graph()
    model = without_dropout("dna", log_softmax=published, layers=2, hidden=16, heads=2, groups=4)
    handle = fa.attach(model, fa.DFA(), points=list(model.points))
    seen = []
    scores = model(x, edges)
    scores.register_hook(seen.append)
    (nll_loss if published else cross_entropy)(scores, y).backward()
    minus_label = -torch.eye(CLASSES)[y] / NODES
    expected = minus_label if published else minus_label + torch.softmax(scores.detach(), 1) / NODES
    torch.testing.assert_close(seen[0], expected)
    torch.testing.assert_close(handle.last.error, expected.norm())


@pytest.mark.usefixtures("float64")
def test_with_backpropagation_attached_gradients_are_those_without():
    x, edges, y = graph()
    for kind in KINDS:
        model = without_dropout(kind)
        gradients = []
        for rule in (fa.Backprop(), None):
            model.zero_grad()
            handle = fa.attach(model, rule, points=list(model.points)) if rule else None
            cross_entropy(model(x, edges), y).backward()
            gradients.append([parameter.grad.clone() for parameter in model.parameters()])
            if handle:
                handle.remove()
        torch.testing.assert_close(*gradients)


@pytest.mark.usefixtures("float64")
def test_gae_encodes_decodes_and_is_taught_through_its_code():
    x, edges, _ = graph()
    torch.manual_seed(1)
    model = GAEConfig().build(FEATURES)
    handle = fa.attach(model, fa.DFA(seed=3), points=list(model.points))
    code = model.encode(x, edges)
    assert code.shape == (NODES, 16)
    pairs = torch.tensor([[5, 0, 3], [1, 2, 3]])
    logits = model.decode(code, pairs)
    torch.testing.assert_close(logits, (code @ code.T)[pairs[0], pairs[1]])
    negative = torch.randint(0, NODES, (2, 30))
    loss = model.reconstruction_loss(code, edges, negative)
    found, invented = model.decode(code, edges), model.decode(code, negative)
    torch.testing.assert_close(
        loss,
        binary_cross_entropy_with_logits(found, torch.ones_like(found))
        + binary_cross_entropy_with_logits(invented, torch.zeros_like(invented)),
    )
    (error,) = torch.autograd.grad(loss, code, retain_graph=True)
    loss.backward()
    torch.testing.assert_close(handle.last.error, error.norm())
    (B,) = shared_uniform(3, 16, [32])
    A = np.eye(NODES)
    A[edges[1].numpy(), edges[0].numpy()] = 1
    A /= np.sqrt(A.sum(1)[:, None] * A.sum(1)[None])
    a = A @ array(x) @ array(model.conv1.lin.weight).T + array(model.conv1.bias)
    close(model.conv1.bias.grad, ((array(error) @ B) * (a > 0)).sum(0))


def test_gae_loss_is_that_of_pytorch_geometric():
    from torch_geometric.nn import GAE

    x, edges, _ = graph()
    model = GAEConfig().build(FEATURES)
    code, negative = model(x, edges), torch.randint(0, NODES, (2, 30))
    expected = GAE(nn.Identity()).recon_loss(code, edges, negative)
    torch.testing.assert_close(model.reconstruction_loss(code, edges, negative), expected)


def test_what_is_no_network_or_no_graph_is_refused():
    with pytest.raises(ValueError, match="Expected a graph network out of cheb, gcn, spline, gat, dna, found 'sage'"):
        GraphModelConfig("sage")
    with pytest.raises(ValueError, match="Expected log_softmax with DNA only, found it with gcn"):
        GraphModelConfig("gcn", log_softmax=True)
    with pytest.raises(ValueError, match=r"Expected a dropout of at least 0 and less than 1, found 1\.0"):
        GraphModelConfig("gcn", dropout=1.0).build(3, 2)
    x, edges, _ = graph()
    for kind in KINDS:
        with pytest.raises(ValueError, match="Expected edges between nodes 0 to 9, found nodes 0 to 2"):
            build(kind)(x[:10], edges)


def test_published_values_fill_what_is_left_out():
    assert GraphModelConfig("gat", dropout=0.1).filled() == GraphModelConfig("gat", 8, 0.1, 0.6, 0.6)
