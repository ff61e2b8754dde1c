"""Radiance fields: the encoding, the shapes that were published, and where a rule cuts them."""

import math

import pytest
import torch
from torch.nn.functional import linear, relu

import feedalign as fa
from feedalign.experiments.models.encoding import encode, encoded_width
from feedalign.experiments.models.nerf import FieldConfig

PAPER = FieldConfig()
PUBLISHED = FieldConfig(128, 4, skip=None, feature="relu")
TINY = FieldConfig(128, 2, skip=None, directions=False)
SHAPES = {"paper": PAPER, "published": PUBLISHED, "tiny": TINY}


def inputs(rays=5, samples=3):
    generator = torch.Generator().manual_seed(1)
    directions = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=-1)
    return torch.randn(rays, samples, 3, generator=generator), directions


def test_coordinates_become_waves_of_doubling_frequency():
    x = torch.tensor([0.3, -1.2])
    expected = [0.3, -1.2]
    expected += [math.sin(2**k * value) for k in range(3) for value in (0.3, -1.2)]
    expected += [math.cos(2**k * value) for k in range(3) for value in (0.3, -1.2)]
    assert encode(x, 3).tolist() == pytest.approx(expected, abs=1e-6)
    assert encode(torch.zeros(4, 7, 3), 10).shape == (4, 7, encoded_width(3, 10)) == (4, 7, 63)
    assert encode(x, 0) is x


@pytest.mark.parametrize(
    ("config", "count"),
    [
        (PAPER, 595_844),  # what implementations of Mildenhall et al. have for each of the two networks
        (PUBLISHED, 63 * 128 + 128 + 4 * (128 * 128 + 128) + 129 + (128 + 27) * 64 + 64 + 64 * 3 + 3),
        (TINY, 63 * 128 + 128 + 128 * 128 + 128 + 128 * 4 + 4),
    ],
)
def test_shapes_are_those_that_were_published(config, count):
    field = config.build()
    assert sum(p.numel() for p in field.parameters()) == count
    assert field(*inputs()).shape == (5, 3, 4)


def side_by_side(field, positions, directions):
    """The same network written with copies beside each other, as in the paper."""
    config = field.config
    place = encode(positions, config.position_octaves)
    hidden = place
    for i, layer in enumerate(field.layers):
        joined = torch.cat([hidden, place], dim=-1) if i == config.skip else hidden
        hidden = relu(linear(joined, layer.weight, layer.bias))
    if not config.directions:
        return field.head(hidden)
    feature = linear(hidden, field.feature.weight, field.feature.bias)
    feature = relu(feature) if config.feature == "relu" else feature
    view = encode(directions, config.direction_octaves)[:, None].expand(*positions.shape[:-1], -1)
    seen = relu(linear(torch.cat([feature, view], dim=-1), field.view.weight, field.view.bias))
    return torch.cat([field.colour(seen), field.density(hidden)], dim=-1)


@pytest.mark.parametrize("name", SHAPES)
def test_inputs_that_are_not_copied_beside_each_other_give_the_same(name):
    torch.manual_seed(0)
    field = SHAPES[name].build().double()
    positions, directions = (values.double() for values in inputs())
    torch.testing.assert_close(field(positions, directions), side_by_side(field, positions, directions))


@pytest.mark.parametrize("name", SHAPES)
def test_points_are_the_hidden_layers(name):
    field = SHAPES[name].build()
    assert field.points == [f"layers.{i}" for i in range(SHAPES[name].depth)] + (
        ["feature", "view"] if SHAPES[name].directions else []
    )
    assert len(PUBLISHED.build().points) == 6  # as many as the published code has


def gradients(field, rule):
    handle = fa.attach(field, rule, points=field.points)
    raw = field(*inputs(40, 6))
    (raw * torch.linspace(-1, 2, raw.numel()).reshape(raw.shape)).mean().backward()
    handle.remove()
    found = {name: p.grad for name, p in field.named_parameters()}
    field.zero_grad()
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_heads_get_their_exact_gradient_and_hidden_layers_the_rules_own(name):
    torch.manual_seed(0)
    field = SHAPES[name].build()
    exact, direct = gradients(field, fa.Backprop()), gradients(field, fa.DFA(seed=0))
    shallow = gradients(field, fa.Shallow())
    for parameter, gradient in exact.items():
        if parameter.split(".")[0] in ("head", "density", "colour"):
            torch.testing.assert_close(direct[parameter], gradient)
            torch.testing.assert_close(shallow[parameter], gradient)
        else:
            assert shallow[parameter] is None or not shallow[parameter].any()
            assert direct[parameter].any()
            assert not torch.allclose(direct[parameter], gradient, rtol=0.1)


def test_the_view_layer_gets_the_projected_error():
    torch.manual_seed(0)
    field = PUBLISHED.build().double()
    handle = fa.attach(field, fa.DFA(seed=3), points=field.points)
    positions, directions = (values.double() for values in inputs(7, 2))
    raw = field(positions, directions)
    error = torch.randn(raw.shape, generator=torch.Generator().manual_seed(2)).double()
    raw.backward(error)
    matrix = handle.planners[0].matrices()[field.points.index("view")].double()
    hidden = encode(positions, 10)
    for layer in field.layers:
        hidden = relu(linear(hidden, layer.weight, layer.bias))
    feature = relu(linear(hidden, field.feature.weight, field.feature.bias))
    view = encode(directions, 4)[:, None].expand(7, 2, -1)
    joined = torch.cat([feature, view], dim=-1).reshape(14, -1)
    active = linear(joined, field.view.weight, field.view.bias) > 0
    signal = (error.reshape(14, 4) @ matrix) * active
    torch.testing.assert_close(field.view.weight.grad, signal.T @ joined, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", SHAPES)
def test_no_field_starts_without_any_density(name):
    positions, directions = inputs(20, 8)
    for seed in range(10):
        torch.manual_seed(seed)
        with torch.no_grad():
            density = SHAPES[name].build()(2 * positions, directions)[..., 3]
        assert (density > 0).float().mean() > 0.9, seed


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"width": 1}, "Expected a width of at least 2"),
        ({"depth": 0}, "a depth of at least 1"),
        ({"depth": 4, "skip": 4}, "Expected a skip between 1 and 3, found 4"),
    ],
)
def test_impossible_shapes_are_refused(changed, words):
    with pytest.raises(ValueError, match=words):
        FieldConfig(**changed)
