"""Attention in its four ways: against formulas in NumPy, blind to the future, and complete from the start."""

import numpy as np
import pytest
import torch
from torch import nn

from closed_form.oracle_numbers import array, close, softmax
from feedalign.experiments.models.attention import KINDS, Fixed, attention, patterns

WIDTH, HEADS, CONTEXT = 12, 4, 7
pytestmark = pytest.mark.usefixtures("float64")


def build(kind, dropout=0.0, context=CONTEXT):
    torch.manual_seed(1)
    module = attention(kind, WIDTH, HEADS, context, dropout)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)  # biases too, so that a forgotten one shows
    return module


def causal(scores):
    """Softmax over what is not ahead, row by row."""
    weights = np.zeros(scores.shape)
    for t in range(scores.shape[-2]):
        weights[..., t, : t + 1] = softmax(scores[..., t, : t + 1])
    return weights


def linear(layer, x):
    return x @ array(layer.weight).T + array(layer.bias)


def heads(x):
    return [x[..., h * WIDTH // HEADS : (h + 1) * WIDTH // HEADS] for h in range(HEADS)]


def dot(module, x):
    query, key, value = np.split(linear(module.inputs, x), 3, axis=-1)
    gathered = [
        causal(q @ k.swapaxes(-1, -2) / np.sqrt(WIDTH / HEADS)) @ v
        for q, k, v in zip(heads(query), heads(key), heads(value), strict=True)
    ]
    return linear(module.output, np.concatenate(gathered, -1))


def dense(module, x):
    length, hidden = x.shape[1], np.maximum(linear(module.hidden, x), 0)
    weight, bias, gathered = array(module.weight), array(module.bias), []
    for h, (own, v) in enumerate(zip(heads(hidden), heads(linear(module.values, x)), strict=True)):
        gathered.append(causal((own @ weight[h] + bias[h])[..., :length]) @ v)
    return linear(module.output, np.concatenate(gathered, -1))


def random(module, x):
    length = x.shape[1]
    weights = causal(array(module.scores)[:, :length, :length])
    gathered = [w @ v for w, v in zip(weights, heads(linear(module.values, x)), strict=True)]
    return linear(module.output, np.concatenate(gathered, -1))


def fixed(module, x):
    values, out = linear(module.values, x), np.zeros(x.shape)
    for t in range(x.shape[1]):
        past = list(range(t - 1)) or [0]  # what is before the previous token
        cubes = np.array([(j + 1.0) ** 3 for j in past])
        itself, previous, even, decaying = (head[:, : t + 1] for head in heads(values))
        parts = [
            itself[:, t],
            previous[:, max(t - 1, 0)],
            even[:, past].mean(1),
            np.einsum("j,njd->nd", cubes / cubes.sum(), decaying[:, past]),
        ]
        out[:, t] = np.concatenate(parts, -1)
    return out


ORACLES = {"dot": dot, "dense": dense, "random": random, "fixed": fixed}


@pytest.mark.parametrize("length", [1, 2, 5, CONTEXT])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_formula(kind, length):
    module, x = build(kind), torch.randn(3, length, WIDTH)
    close(module(x), ORACLES[kind](module, array(x)))


@pytest.mark.parametrize("kind", KINDS)
def test_no_token_sees_those_behind_it(kind):
    module, x = build(kind), torch.randn(2, CONTEXT, WIDTH, requires_grad=True)
    for t in range(CONTEXT):
        (gradient,) = torch.autograd.grad(module(x)[:, t].square().sum(), x)
        assert not gradient[:, t + 1 :].any()
        assert gradient[:, t].any()  # itself it sees
        assert gradient[:, 0].any()  # and the first one, by some head


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimiser_made_at_once_trains_every_parameter(kind):
    torch.manual_seed(1)
    module = attention(kind, WIDTH, HEADS, CONTEXT, 0.0)
    optimiser = torch.optim.SGD(module.parameters(), 0.1)
    before = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    module(torch.randn(2, CONTEXT, WIDTH)).pow(3).sum().backward()
    optimiser.step()
    after = dict(module.named_parameters())
    assert after.keys() == before.keys()
    assert all(not torch.equal(after[name], value) for name, value in before.items())


def test_synthesizers_compare_no_tokens():
    """Where a dense one looks depends on the token alone; where a random one looks, on nothing."""
    x, other = torch.randn(1, CONTEXT, WIDTH), torch.randn(1, CONTEXT, WIDTH)
    other[:, -1] = x[:, -1]
    for kind, here, there in (("dense", x, other), ("random", x, torch.randn(1, CONTEXT, WIDTH))):
        module = build(kind)
        nn.init.zeros_(module.values.weight)
        # With values that do not depend on tokens but on places, the last output shows the weights themselves.
        module.values.register_forward_hook(lambda *_: torch.eye(CONTEXT, WIDTH)[None])
        torch.testing.assert_close(module(here)[:, -1], module(there)[:, -1])


def test_fixed_patterns_are_never_learned_and_never_saved():
    module = build("fixed")
    assert [name for name, _ in module.named_parameters()] == ["values.weight", "values.bias"]
    assert set(module.state_dict()) == {"values.weight", "values.bias"}
    weights = array(patterns(5))
    np.testing.assert_allclose(weights.sum(-1), 1)
    np.testing.assert_allclose(weights[2, 4], [1 / 3, 1 / 3, 1 / 3, 0, 0])
    np.testing.assert_allclose(weights[3, 4], [1 / 36, 8 / 36, 27 / 36, 0, 0])


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_for_training_alone(kind):
    module, x = build(kind, dropout=0.5), torch.randn(3, CONTEXT, WIDTH)
    assert not torch.equal(module(x), module(x))
    module.eval()
    close(module(x), ORACLES[kind](module, array(x)))


def test_what_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"Expected 4 heads .* one a pattern, found 8\. Set heads=4"):
        Fixed(16, 8, 4, 0.0)
    with pytest.raises(ValueError, match="Expected attention out of dot, dense, random, fixed, found 'sparse'"):
        attention("sparse", WIDTH, HEADS, CONTEXT, 0.0)
