"""The language model: against PyTorch's own layers, blind to the future, and of the published size."""

import math
from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from feedalign.experiments.models.attention import KINDS
from feedalign.experiments.models.positions import positions
from feedalign.experiments.models.transformer import TransformerConfig

VOCABULARY = 23
SMALL = TransformerConfig(width=8, blocks=2, heads=4, hidden=12, context=6, dropout=0.0)


def build(vocabulary=VOCABULARY, **changes):
    torch.manual_seed(1)
    return replace(SMALL, **changes).build(vocabulary)


def chunks(count=3, length=6):
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    ("norm", "kind", "where"), list(product(("post", "pre"), KINDS, ("sinusoidal", "learned")))
)  # fmt: skip
def test_the_past_does_not_see_the_future(norm, kind, where):
    model, tokens = build(norm=norm, attention=kind, positions=where).double(), chunks()
    before = model(tokens)
    for t in range(1, tokens.shape[1]):
        changed = tokens.clone()
        changed[:, t:] = (tokens[:, t:] + 1) % VOCABULARY
        after = model(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], rtol=1e-12, atol=1e-12)
        assert (after[:, t] - before[:, t]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_a_shorter_chunk_is_the_beginning_of_a_longer_one(kind):
    model, tokens = build(attention=kind).double(), chunks()
    torch.testing.assert_close(model(tokens[:, :4]), model(tokens)[:, :4], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_blocks_are_those_of_pytorch(norm):
    model = build(norm=norm).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.4)
    hidden, mask = model.embedding(chunks()), nn.Transformer.generate_square_subsequent_mask(6, dtype=torch.float64)
    for block in model.blocks:
        twin = nn.TransformerEncoderLayer(8, 4, 12, 0.0, batch_first=True, norm_first=norm == "pre").double()
        twin.load_state_dict(
            {
                "self_attn.in_proj_weight": block.attention.inputs.weight,
                "self_attn.in_proj_bias": block.attention.inputs.bias,
                **{f"self_attn.out_proj.{name}": value for name, value in block.attention.output.state_dict().items()},
                **{f"linear1.{name}": value for name, value in block.hidden[0].state_dict().items()},
                **{f"linear2.{name}": value for name, value in block.output[0].state_dict().items()},
                **{f"norm1.{name}": value for name, value in block.norm1.state_dict().items()},
                **{f"norm2.{name}": value for name, value in block.norm2.state_dict().items()},
            }
        )
        torch.testing.assert_close(block(hidden), twin(hidden, src_mask=mask), rtol=1e-10, atol=1e-12)
        hidden = block(hidden)
    if norm == "pre":
        hidden = nn.functional.layer_norm(hidden, (8,), model.final.weight, model.final.bias)
    torch.testing.assert_close(model(chunks()), model.head(hidden), rtol=1e-12, atol=1e-12)


def test_sinusoidal_positions_are_the_formula():
    found = positions("sinusoidal", 9, 5)(7)
    assert found.shape == (7, 5)
    for t in range(7):
        for feature in range(5):
            angle = t / 10000 ** (2 * (feature // 2) / 5)
            expected = math.sin(angle) if feature % 2 == 0 else math.cos(angle)
            assert found[t, feature].item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("where", ["sinusoidal", "learned"])
def test_the_embedding_is_scaled_and_told_its_place(where):
    model, tokens = build(positions=where), chunks()
    expected = model.embedding.tokens.weight[tokens] * 8**0.5 + model.embedding.positions(6)
    torch.testing.assert_close(model.embedding(tokens), expected)
    learned = [name for name, _ in model.embedding.positions.named_parameters()]
    assert learned == (["weight"] if where == "learned" else [])


def test_the_published_model_has_the_published_size_and_first_values():
    model = TransformerConfig(blocks=1).build(1000)
    block = 4 * 512 * 512 + 4 * 512 + 2 * 512 * 2048 + 2048 + 512 + 2 * 2 * 512
    assert sum(parameter.numel() for parameter in model.parameters()) == 2 * 1000 * 512 + 1000 + block
    assert TransformerConfig() == TransformerConfig(512, 6, 8, 2048, 128, 0.1, "post", "dot", "sinusoidal", False)
    for weight in (model.embedding.tokens.weight, model.head.weight):
        assert weight.abs().max() <= 0.1
        assert weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert not model.head.bias.any()


def test_tied_weights_are_one_and_the_same():
    model = build(tied=True)
    assert model.head.weight is model.embedding.tokens.weight
    assert model.head.bias is None
    assert sum(p.numel() for p in build().parameters()) - sum(p.numel() for p in model.parameters()) == 9 * VOCABULARY


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_brings_back_the_same_model(kind):
    model, other = build(attention=kind), replace(SMALL, attention=kind).build(VOCABULARY)
    assert not torch.equal(model(chunks()), other(chunks()))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(chunks()), other(chunks()))


@pytest.mark.parametrize(("norm", "kind"), [("pre", "dot"), *(("post", kind) for kind in KINDS)])
def test_it_learns_to_count_in_float32_and_under_autocast(norm, kind):
    model, tokens = build(norm=norm, attention=kind), (torch.arange(7) + torch.arange(VOCABULARY)[:, None]) % VOCABULARY
    optimiser, losses = torch.optim.Adam(model.parameters(), 0.01), []
    for step in range(40):
        with torch.autocast("cpu", torch.bfloat16, enabled=step % 2 == 1):
            logits = model(tokens[:, :-1])
            loss = cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[-2] + 0.1  # bfloat16 beside float32
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "Expected a width that 3 heads can share evenly, found 8"),
        ({"attention": "fixed", "heads": 8}, "Expected 4 heads with fixed attention, one a pattern, found 8"),
        ({"norm": "both"}, "Expected norm out of post, pre, found 'both'"),
        ({"attention": "full"}, "Expected attention out of dot, dense, random, fixed, found 'full'"),
        ({"positions": "rotary"}, "Expected positions out of sinusoidal, learned, found 'rotary'"),
        ({"blocks": 0}, "Expected blocks of at least 1, found 0"),
        ({"dropout": 1.0}, "Expected a dropout of at least 0 and below 1, found 1.0"),
    ],
)
def test_a_model_that_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **changes)


def test_chunks_that_do_not_fit_are_refused():
    for shape in ((2, 7), (5,), (2, 3, 4)):
        with pytest.raises(ValueError, match=r"Expected chunks of at most 6 tokens, \[N, T\], found \[.*Cut the text"):
            build()(torch.zeros(shape, dtype=torch.int64))
    with pytest.raises(ValueError, match="Expected a vocabulary of at least 1 token, found 0"):
        SMALL.build(0)
