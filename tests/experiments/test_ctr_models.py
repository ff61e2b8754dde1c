"""Networks for click logs: each layer against its formula, and which rule teaches which part."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

import feedalign as fa
from closed_form.oracle_numbers import array, close, shared_uniform
from feedalign.experiments.ctr import Config
from feedalign.experiments.models.afn import Logarithmic
from feedalign.experiments.models.autoint import Attention
from feedalign.experiments.models.click_layers import FirstOrder, Table
from feedalign.experiments.models.clicks import ClickModelConfig
from feedalign.experiments.models.dcn import CrossLayer
from feedalign.experiments.models.fm import FM, interactions

SIZES, ROWS = (3, 5, 2, 4), 12
SMALL = {
    "fm": {"width": 3},
    "deepfm": {"width": 3, "hidden": (8, 6)},
    "dcn": {"width": 3, "hidden": (8, 6), "cross": 3},
    "autoint": {"width": 3, "hidden": (8, 6), "attention": 4, "layers": 2},
    "afn": {"width": 3, "hidden": (8, 6), "units": 5},
}
DEEP = [kind for kind in SMALL if kind != "fm"]


def rows(count=ROWS):
    generator = torch.Generator().manual_seed(0)
    indices = torch.stack([torch.randint(0, size, (count,), generator=generator) for size in SIZES], 1)
    return indices, (torch.arange(count) % 3 == 0).to(torch.get_default_dtype())


def build(kind, **changes):
    torch.manual_seed(1)
    return ClickModelConfig(kind, **{**SMALL[kind], **changes}).build(SIZES)


def attached(kind, rule, **changes):
    """A network with a rule on it, as runs attach it, after one backward pass."""
    config = Config(model=ClickModelConfig(kind, **{**SMALL[kind], **changes}), rule=rule, seed=3)
    torch.manual_seed(1)
    model = config.model.build(SIZES)
    indices, labels = rows()
    handle = config.attach(model, indices)
    binary_cross_entropy_with_logits(model(indices)[:, 0], labels).backward()
    return model, handle


def test_pairs_of_fields_are_summed_as_a_double_loop_does():
    vectors = torch.randn(6, 5, 4, dtype=torch.float64)
    expected = [
        [sum(float(row[f] @ row[g]) for f in range(5) for g in range(f + 1, 5))] for row in vectors
    ]  # fmt: skip
    torch.testing.assert_close(interactions(vectors), torch.tensor(expected, dtype=torch.float64))


def test_every_category_of_every_field_has_a_vector_of_its_own():
    table = Table(SIZES, 2)
    nn.init.zeros_(table.weight)
    table.weight.data += torch.arange(sum(SIZES))[:, None]
    assert table(torch.tensor([[0, 0, 0, 0], [2, 4, 1, 3]]))[:, :, 0].tolist() == [[0, 3, 8, 10], [2, 7, 9, 13]]


def test_first_order_is_a_weight_a_category_and_starts_with_none():
    layer = FirstOrder(SIZES)
    indices, _ = rows()
    assert torch.equal(layer(indices), torch.zeros(ROWS, 1))
    layer.table.weight.data = torch.arange(sum(SIZES)).float()[:, None]
    layer.bias.data.fill_(0.5)
    assert layer(torch.tensor([[2, 4, 1, 3]])).item() == 2 + 7 + 9 + 13 + 0.5


@pytest.mark.usefixtures("float64")
def test_factorisation_machine_is_its_formula():
    model = build("fm")
    nn.init.normal_(model.first_order.table.weight)
    indices, _ = rows()
    w, v = array(model.first_order.table.weight), array(model.table.weight)
    starts = np.cumsum([0, *SIZES[:-1]])
    expected = []
    for row in indices.numpy():
        chosen = [int(start + index) for start, index in zip(starts, row, strict=True)]
        pairs = sum(v[i] @ v[j] for a, i in enumerate(chosen) for j in chosen[a + 1 :])
        expected.append([w[chosen, 0].sum() + pairs])
    np.testing.assert_allclose(array(model(indices)), expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_crossing_is_its_formula():
    layer = CrossLayer(5)
    nn.init.normal_(layer.bias)
    first, x = torch.randn(7, 5), torch.randn(7, 5)
    w, b = array(layer.weight.weight)[0], array(layer.bias)
    expected = [array(x0) * (w @ array(xl)) + b + array(xl) for x0, xl in zip(first, x, strict=True)]
    np.testing.assert_allclose(array(layer(first, x)), expected, rtol=1e-12)


@pytest.mark.usefixtures("float64")
def test_logarithmic_layer_is_a_product_of_powers():
    layer = Logarithmic(4, 6)
    vectors = torch.randn(7, 4, 3)
    weight, magnitudes = array(layer.powers.weight), 1 + np.abs(array(vectors)) + 1e-7
    expected = np.empty((7, 3, 6))
    for d in range(3):
        for unit in range(6):
            expected[:, d, unit] = np.maximum(0, np.prod(magnitudes[:, :, d] ** weight[unit], axis=1) - 1)
    found = array(layer(vectors))
    assert found.shape == (7, 18)
    assert 0.2 < (found == 0).mean() < 0.8  # both sides of the maximum are tried
    np.testing.assert_allclose(found.reshape(7, 3, 6), expected, rtol=1e-10, atol=1e-14)


@pytest.mark.usefixtures("float64")
def test_attention_is_softmax_of_products_and_that_of_pytorch():
    layer = Attention(8, 2)
    fields = torch.randn(5, 4, 8)
    theirs = nn.MultiheadAttention(8, 2, batch_first=True)
    theirs.in_proj_weight.data, theirs.in_proj_bias.data = layer.incoming.weight.data, layer.incoming.bias.data
    theirs.out_proj.weight.data, theirs.out_proj.bias.data = layer.outgoing.weight.data, layer.outgoing.bias.data
    torch.testing.assert_close(layer(fields), theirs(fields, fields, fields, need_weights=False)[0])

    queries, keys, values = layer.incoming(fields).chunk(3, dim=2)
    heads = []
    for head in (slice(0, 4), slice(4, 8)):
        scores = (queries[:, :, head] @ keys[:, :, head].mT / 2).exp()
        heads.append(scores / scores.sum(2, keepdim=True) @ values[:, :, head])
    torch.testing.assert_close(layer(fields), layer.outgoing(torch.cat(heads, 2)))


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match="Expected heads that divide the width of the attention, found 3 and 8"):
        Attention(8, 3)


@pytest.mark.parametrize(
    ("kind", "points"),
    [
        ("deepfm", ["mlp.0", "mlp.1", "mlp.2"]),
        ("dcn", ["features", *(f"cross.{i}" for i in range(5)), "mlp.0", "mlp.1", "stack"]),
        ("autoint", ["table", "projection", "attention.0", "attention.1", "attended", "mlp.0", "mlp.1", "mlp.2"]),
        ("afn", ["logarithmic", "mlp.0", "mlp.1", "mlp.2"]),
    ],
)
def test_points_and_sizes_are_the_published_ones(kind, points):
    model = ClickModelConfig(kind, units=7).build(SIZES)
    assert list(model.points) == points
    assert [layer[0].out_features for layer in model.mlp] == {"dcn": [1024, 1024]}.get(kind, [400, 400, 400])
    tables = [module for module in model.modules() if isinstance(module, Table) and module.weight.shape[1] > 1]
    assert [table.weight.shape[1] for table in tables] == [{"dcn": 16, "autoint": 16}.get(kind, 10)]


@pytest.mark.parametrize("kind", DEEP)
def test_points_are_cut_in_the_order_they_are_named_in(kind):
    model, handle = attached(kind, "dfa")
    assert model(rows()[0]).shape == (ROWS, 1)
    assert {str(point) for point in handle.points} == {*model.points, *model.sealed}
    assert [str(point) for point in handle.points if str(point) not in model.sealed] == list(model.points)


UNTAUGHT = {
    "deepfm": {"shallow": ("mlp",), "dfa": ()},
    "dcn": {"shallow": ("features", "cross", "mlp"), "dfa": ()},
    "autoint": {"shallow": ("table", "projection", "attention.", "residual", "mlp"), "dfa": ()},
    "afn": {"shallow": ("table", "logarithmic", "mlp"), "dfa": ()},
}
"""The parameters that get no gradient, by the beginnings of their names."""


@pytest.mark.parametrize("kind", DEEP)
@pytest.mark.parametrize("rule", ["bp", "dfa", "shallow"])
def test_rules_teach_the_stated_parts_and_no_others(kind, rule):
    model, _ = attached(kind, rule)
    untaught = UNTAUGHT[kind].get(rule, ())
    for name, parameter in model.named_parameters():
        if name.startswith(untaught or ("-",)):
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            # A linear bias before a batch normalisation has a gradient of zero, but for rounding.
            assert parameter.grad.abs().max() > 0, name


def test_published_afn_leaves_its_embeddings_as_they_are_drawn():
    for rule in ("dfa", "shallow"):
        model, _ = attached("afn", rule, frozen=True)
        assert model.table.weight.grad is None
        assert model.first_order.table.weight.grad is not None
        assert (model.logarithmic.powers.weight.grad is not None) == (rule == "dfa")
    model, _ = attached("afn", "bp", frozen=True)
    assert model.table.weight.grad.abs().max() > 0


@pytest.mark.usefixtures("float64")
def test_embeddings_of_deepfm_are_taught_by_the_factorisation_machine_alone():
    model, _ = attached("deepfm", "dfa")
    alone = FM(SIZES, 3)
    alone.table.weight.data = model.table.weight.data.clone()
    indices, labels = rows()
    error = (model(indices).sigmoid() - labels[:, None]).detach() / ROWS
    alone(indices).backward(error)
    torch.testing.assert_close(model.table.weight.grad, alone.table.weight.grad)
    torch.testing.assert_close(model.first_order.table.weight.grad, alone.first_order.table.weight.grad)


def deep_input_gradient(model, indices, signal):
    """What the block up to AFN's first point makes of a signal there, with no rule attached."""
    return torch.autograd.grad(model.logarithmic(model.table(indices)), [model.table.weight], signal)[0]


@pytest.mark.usefixtures("float64")
def test_embeddings_of_afn_are_taught_by_one_vector_times_the_error():
    model, handle = attached("afn", "dfa")
    indices, labels = rows()
    e = array(model(indices).sigmoid() - labels[:, None]) / ROWS
    b, *_ = shared_uniform(3, 1, [15, 8, 6])
    handle.remove()
    signal = torch.from_numpy(e @ b)
    close(model.table.weight.grad, array(deep_input_gradient(model, indices, signal)))


@pytest.mark.usefixtures("float64")
def test_embeddings_of_deep_cross_all_move_along_one_vector():
    model, _ = attached("dcn", "dfa")
    indices, labels = rows()
    e = array(model(indices).sigmoid() - labels[:, None]) / ROWS
    b, *_ = shared_uniform(3, 1, [12, 12, 12, 8, 6, 18])
    expected = np.zeros((sum(SIZES), 3))
    starts = np.cumsum([0, *SIZES[:-1]])
    for row, error in zip(indices.numpy(), e[:, 0], strict=True):
        for field, index in enumerate(row):
            expected[starts[field] + index] += error * b[0, 3 * field : 3 * field + 3]
    close(model.features[0].weight.grad, expected)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("kind", DEEP)
def test_the_cosine_of_a_row_is_that_of_one_vector_with_the_gradient_of_its_logit(kind):
    """The error is one number a row: it cancels out of the cosine, sign and all."""
    config = Config(model=ClickModelConfig(kind, **SMALL[kind]), seed=3)
    torch.manual_seed(1)
    model = config.model.build(SIZES).eval()
    indices, labels = rows()
    deepest, top = model.points[0], model.points[-1]
    handle = config.attach(model, indices)
    found = fa.alignment(handle, lambda: binary_cross_entropy_with_logits(model(indices)[:, 0], labels)).points
    turned = fa.alignment(handle, lambda: binary_cross_entropy_with_logits(model(indices)[:, 0], 1 - labels)).points
    handle.remove()

    seen = {}
    for name in model.points:
        model.get_submodule(name).register_forward_hook(lambda m, a, out, name=name: seen.setdefault(name, out))
    logits = model(indices)
    widths = [out[0].numel() for out in seen.values()]
    feedback = dict(zip(seen, shared_uniform(3, 1, widths), strict=True))
    for name in (deepest, top):
        g = array(torch.autograd.grad(logits.sum(), seen[name], retain_graph=True)[0]).reshape(ROWS, -1)
        b = feedback[name][0]
        g = g[np.linalg.norm(g, axis=1) > 0]  # a row may switch off all that lies above
        cosines = g @ b / (np.linalg.norm(g, axis=1) * np.linalg.norm(b))
        assert (found[name].n, found[name].undefined) == (len(g), ROWS - len(g))
        assert found[name].mean == pytest.approx(cosines.mean())
        assert found[name].std == pytest.approx(cosines.std(), abs=1e-9)
        assert (turned[name].mean, turned[name].std) == pytest.approx((found[name].mean, found[name].std), abs=1e-12)
    assert found[top].std == pytest.approx(0, abs=1e-9)  # a linear layer above: all gradients are parallel


@pytest.mark.parametrize("kind", SMALL)
@pytest.mark.parametrize("rule", ["bp", "dfa"])
def test_sparse_gradients_are_the_dense_ones(kind, rule):
    if (kind, rule) == ("fm", "dfa"):
        return
    dense, _ = attached(kind, rule)
    sparse, _ = attached(kind, rule, sparse=True)
    held = {id(table) for table in sparse.sparse_tables()}
    assert len(held) == sum(isinstance(module, Table) for module in sparse.modules())
    assert dense.sparse_tables() == []
    for one, other in zip(dense.parameters(), sparse.parameters(), strict=True):
        assert other.grad.is_sparse == (id(other) in held)
        torch.testing.assert_close(other.grad.to_dense() if other.grad.is_sparse else other.grad, one.grad)


@pytest.mark.parametrize("kind", DEEP)
def test_alignment_with_sparse_tables_is_that_with_dense_ones(kind):
    indices, labels = rows()
    found = []
    for sparse in (False, True):
        model, handle = attached(kind, "dfa", sparse=sparse)
        model.eval()
        found.append(
            fa.alignment(handle, lambda m=model: binary_cross_entropy_with_logits(m(indices)[:, 0], labels), 2)
        )
    dense, sparse = found
    for point, cosine in dense.points.items():
        assert sparse.points[point].mean == pytest.approx(cosine.mean, abs=1e-5)
        assert sparse.updates[point] == pytest.approx(dense.updates[point], abs=1e-5)
        assert sparse.blocks[point].mean == pytest.approx(dense.blocks[point].mean, abs=1e-5)
    assert not any(math.isnan(update) for update in sparse.updates.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "lr"}, "Expected a network for clicks out of fm, deepfm, dcn, autoint, afn, found 'lr'"),
        ({"kind": "dcn", "frozen": True}, "Expected frozen embeddings with afn only, found them with dcn"),
        ({"kind": "dcn", "hidden": ()}, "Expected at least one hidden layer for dcn, found none"),
        ({"kind": "dcn", "cross": 0}, "Expected sizes of at least 1, found 0"),
        ({"kind": "deepfm", "hidden": (8, 0)}, "Expected sizes of at least 1, found 0"),
    ],
)
def test_networks_that_do_not_exist_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ClickModelConfig(**options)
