"""Where the language model is cut and its error tapped: names, shapes, and DFA by hand at every placement."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from closed_form.oracle_numbers import shared_uniform
from feedalign.experiments.models.attention import KINDS
from feedalign.experiments.models.transformer import TransformerConfig

VOCABULARY, WIDTH, HIDDEN = 23, 8, 12
SMALL = TransformerConfig(width=WIDTH, blocks=3, heads=4, hidden=HIDDEN, context=6, dropout=0.0)
PLACEMENTS = list(product(("post", "pre"), ("macro", "micro"), ("logits", "hidden")))
pytestmark = pytest.mark.usefixtures("float64")


def build(**changes):
    torch.manual_seed(1)
    return replace(SMALL, **changes).build(VOCABULARY)


def batch(count=2, length=5):
    generator = torch.Generator().manual_seed(2)
    return (torch.randint(VOCABULARY, (count, length), generator=generator) for _ in range(2))


def loss_of(model, tokens, targets):
    return cross_entropy(model(tokens).flatten(0, 1), targets.flatten())


def segments(model, kind):
    """The model as a list of ``(name, parts)``: each part maps the stream and the branch to themselves, up to a point.

    A part is written with what the publication says of a block, and not with the block's own forward.
    """
    pre, found = model.config.norm == "pre", []

    def attended(block):
        if pre:
            return lambda x, _: (x, block.attention(block.norm1(x)))
        return lambda x, _: (block.norm1(x + block.attention(x)), None)

    def widened(block):
        if pre:
            return lambda x, branch: (x + branch, block.hidden(block.norm2(x + branch)))
        return lambda x, _: (x, block.hidden(x))

    def ended(block):
        if pre:
            return lambda x, branch: (x + block.output(branch), None)
        return lambda x, branch: (block.norm2(x + block.output(branch)), None)

    for i, block in enumerate(model.blocks):
        parts = [attended(block), widened(block), ended(block)]
        names = [f"blocks.{i}.{'attention' if pre else 'norm1'}", f"blocks.{i}.hidden", f"blocks.{i}"]
        if kind == "macro":
            found.append((names[-1], parts))
        else:
            found += [(name, [part]) for name, part in zip(names, parts, strict=True)]
    return found


def by_hand(model, kind, error, tokens, targets, seed):
    """DFA's gradients: every segment differentiated apart, with ``e @ B`` at what it adds."""
    points, stream, branch = [], model.embedding(tokens), None
    carry = stream  # the embedding learns with the first segment
    for _, parts in segments(model, kind):
        x, side = carry, branch
        for part in parts:
            x, side = part(x, side)
        points.append(x if side is None else side)
        # What joins the stream later is cut before it does; the stream itself where the block ends.
        carry, branch = (x.detach(), None) if side is None else (x, side.detach())
    hidden = model.final(carry)
    logits = model.head(hidden)
    loss = cross_entropy(logits.flatten(0, 1), targets.flatten())
    (e,) = torch.autograd.grad(loss, logits, retain_graph=True)
    if error == "hidden":
        e = e @ model.head.weight
    loss.backward()
    widths = [point.shape[-1] for point in points]
    matrices = shared_uniform(seed, e.shape[-1], widths)
    signals = [e @ torch.from_numpy(matrix) for matrix in matrices]
    torch.autograd.backward(points, [signal.detach() for signal in signals])
    return loss.detach()


@pytest.mark.parametrize(("norm", "kind", "error"), PLACEMENTS)
def test_every_parameter_learns_by_the_one_signal_of_its_part(norm, kind, error):
    model, plain, (tokens, targets) = build(norm=norm), build(norm=norm), batch()
    fa.attach(model, fa.DFA(seed=5), points=model.points(kind), output=model.tap(error))
    loss = loss_of(model, tokens, targets)
    loss.backward()
    torch.testing.assert_close(loss.detach(), by_hand(plain, kind, error, tokens, targets, 5))
    for (name, found), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(
            found.grad, expected.grad, rtol=1e-9, atol=1e-14, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_points_are_those_of_the_publication():
    model = TransformerConfig(width=8, heads=2, hidden=32).build(5)
    assert model.points("macro") == [f"blocks.{i}" for i in range(6)]
    micro = model.points("micro")
    assert len(micro) == 18
    assert micro[3:6] == ["blocks.1.norm1", "blocks.1.hidden", "blocks.1"]
    assert model.points("macro", embedding=True) == ["embedding", *model.points("macro")]
    assert model.points("micro", last=False) == micro[:-1]
    handle = fa.attach(model, fa.DFA(), points=micro)
    model(torch.zeros(2, 3, dtype=torch.int64))
    widths = {name: layout.site.width for name, layout in handle.planner.layouts.items()}
    assert widths == {name: 32 if name.endswith("hidden") else 8 for name in micro}


def test_the_hidden_point_of_a_block_is_behind_its_dropout():
    model, seen = build(dropout=0.5), []
    model.get_submodule(model.points("micro")[1]).register_forward_hook(lambda _, args, out: seen.append(out))
    model(next(batch()))
    assert (seen[0] == 0).double().mean() > 0.6  # half by the ReLU, and half of the rest


@pytest.mark.parametrize(("error", "width"), [("logits", VOCABULARY), ("hidden", WIDTH)])
def test_feedback_is_as_wide_as_the_error(error, width):
    model, (tokens, targets) = build(), batch()
    handle = fa.attach(model, fa.DFA(), points=model.points("micro"), output=model.tap(error))
    loss_of(model, tokens, targets).backward()
    assert handle.planner.error_width == width
    assert {tuple(matrix.shape) for matrix in handle.planner.matrices()} == {(width, WIDTH), (width, HIDDEN)}


@pytest.mark.parametrize(("norm", "error"), list(product(("post", "pre"), ("logits", "hidden"))))
def test_without_its_point_the_last_block_learns_by_backpropagation(norm, error):
    model, plain, (tokens, targets) = build(norm=norm), build(norm=norm), batch()
    loss_of(plain, tokens, targets).backward()
    fa.attach(model, fa.DFA(), points=model.points("macro", last=False), output=model.tap(error))
    loss_of(model, tokens, targets).backward()
    for part, same in (("blocks.2", True), ("final", True), ("head", True), ("blocks.1", False)):
        for found, true in zip(
            model.get_submodule(part).parameters(), plain.get_submodule(part).parameters(), strict=True
        ):
            assert torch.allclose(found.grad, true.grad, rtol=1e-9, atol=1e-14) is same


@pytest.mark.parametrize(("kind", "error"), list(product(("macro", "micro"), ("logits", "hidden"))))
def test_the_head_learns_by_the_error_itself_wherever_it_is_tapped(kind, error):
    model, plain, (tokens, targets) = build(), build(), batch()
    loss_of(plain, tokens, targets).backward()
    fa.attach(model, fa.DFA(), points=model.points(kind), output=model.tap(error))
    loss_of(model, tokens, targets).backward()
    torch.testing.assert_close(model.head.weight.grad, plain.head.weight.grad, rtol=1e-10, atol=1e-14)


def test_tied_weights_learn_as_head_and_as_embedding():
    model, apart, (tokens, targets) = build(tied=True), build(), batch()
    apart.load_state_dict({"head.bias": torch.zeros(VOCABULARY), **model.state_dict()})
    for each in (model, apart):
        fa.attach(each, fa.DFA(seed=5), points=each.points("macro"), output=each.tap("hidden"))
        loss_of(each, tokens, targets).backward()
    expected = apart.head.weight.grad + apart.embedding.tokens.weight.grad
    torch.testing.assert_close(model.head.weight.grad, expected, rtol=1e-10, atol=1e-14)


def test_a_point_behind_the_embedding_gives_it_a_signal_of_its_own():
    model, (tokens, targets) = build(), batch()
    fa.attach(model, fa.DFA(seed=5), points=model.points("macro", embedding=True), output=model.tap("logits"))
    loss_of(model, tokens, targets).backward()
    e = (build()(tokens).softmax(-1) - nn.functional.one_hot(targets, VOCABULARY)) / targets.numel()
    (matrix,) = shared_uniform(5, VOCABULARY, [WIDTH])
    signal = (e.detach() @ torch.from_numpy(matrix) * WIDTH**0.5).flatten(0, 1)
    expected = torch.zeros(VOCABULARY, WIDTH).index_add(0, tokens.flatten(), signal)
    torch.testing.assert_close(model.embedding.tokens.weight.grad, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize(("norm", "kind", "error"), PLACEMENTS)
@pytest.mark.parametrize("attention", KINDS)
def test_every_variant_learns_everywhere(attention, norm, kind, error):
    model, (tokens, targets) = build(attention=attention, norm=norm, dropout=0.1, positions="learned"), batch()
    fa.attach(model, fa.DFA(), points=model.points(kind, embedding=True), output=model.tap(error))
    loss_of(model, tokens, targets).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("name", ["dkp", "grape", "ifa", "fdfa"])
@pytest.mark.parametrize("error", ["logits", "hidden"])
def test_rules_that_learn_their_feedback_can_be_attached(name, error):
    model, (tokens, targets) = build(), batch()
    rule = fa.rule(name, feedback=fa.Uniform(shared=False)) if name != "ifa" else fa.rule(name)
    handle = fa.attach(model, rule, points=model.points("macro"), output=model.tap(error), example=tokens)
    loss_of(model, tokens, targets).backward()
    report = fa.alignment(handle, lambda: loss_of(model, tokens, targets))
    assert list(report.points) == model.points("macro")


def test_dfa_learns_to_count_and_beats_a_shallow_model():
    torch.set_default_dtype(torch.float32)
    tokens = (torch.arange(7) * 3 + torch.arange(VOCABULARY)[:, None]).square() % VOCABULARY

    def trained(rule, error):
        model = build()
        fa.attach(model, rule, points=model.points("macro"), output=model.tap(error))
        optimiser = torch.optim.Adam(model.parameters(), 0.01)
        for _ in range(40):
            loss = loss_of(model, tokens[:, :-1], tokens[:, 1:])
            loss.backward()
            optimiser.step()
            optimiser.zero_grad()
        return loss.item()

    floor = trained(fa.Shallow(), "logits")
    assert trained(fa.DFA(), "logits") < floor - 0.1
    assert trained(fa.DFA(), "hidden") < floor - 0.1


def test_places_that_do_not_exist_are_refused():
    model = build()
    with pytest.raises(ValueError, match="Expected a placement out of macro, micro, found 'all'"):
        model.points("all")
    with pytest.raises(ValueError, match="Expected the error at logits or hidden, found 'loss'"):
        model.tap("loss")


def test_the_copy_before_the_head_is_no_view():
    hidden = torch.randn(2, 3)
    copied = build().final(hidden)
    assert torch.equal(copied, hidden)
    assert copied.data_ptr() != hidden.data_ptr()
    assert isinstance(build(norm="pre").final, nn.LayerNorm)
