"""Every rule keeps every promise on every model of the zoo."""

import copy
import pickle

import pytest
import torch
from torch import nn

import feedalign as fa
from contract.rules import RULES
from zoo import ZOO, Exhibit, assert_same, batch, build, collect, gradients, run

CLOSE = {"rtol": 1e-9, "atol": 1e-11}  # float64, sums in another order


@pytest.fixture(params=ZOO, ids=lambda exhibit: exhibit.name)
def exhibit(request: pytest.FixtureRequest) -> Exhibit:
    return request.param


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> fa.Rule:
    return RULES[request.param]()


pytestmark = pytest.mark.usefixtures("float64")


def attached(exhibit: Exhibit, rule: fa.Rule, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, fa.Attachment]:
    model = build(exhibit, dtype)
    return model, fa.attach(model, rule, exhibit.points, exhibit.output)


def seeded(model: nn.Module, inputs: tuple[torch.Tensor, ...], scale: float = 1.0) -> dict[str, torch.Tensor | None]:
    torch.manual_seed(11)  # the same dropout masks
    return gradients(model, inputs, scale)


def cosine(found: dict[str, torch.Tensor | None], expected: dict[str, torch.Tensor | None]) -> float:
    """Return the cosine of all gradients as one vector."""
    names = [name for name, gradient in expected.items() if gradient is not None]
    a, b = (torch.cat([each[name].double().flatten() for name in names]) for each in (found, expected))
    return torch.cosine_similarity(a, b, dim=0).item()


def test_forward_is_unchanged(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    plain, (model, _) = build(exhibit), attached(exhibit, rule)
    for mode in (True, False):
        torch.manual_seed(11)
        expected = run(plain.train(mode), inputs)
        torch.manual_seed(11)
        assert torch.equal(run(model.train(mode), inputs), expected)


def test_no_grad_is_untouched(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    plain, (model, _) = build(exhibit).eval(), attached(exhibit, rule)
    with torch.no_grad():
        torch.testing.assert_close(run(model.eval(), inputs), run(plain, inputs), rtol=1e-12, atol=1e-12)


def test_remove_is_bitwise_backprop(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs, plain = batch(exhibit), build(exhibit)
    before = {name: (type(module), set(vars(module))) for name, module in plain.named_modules()}
    expected = seeded(plain, inputs)
    model, handle = attached(exhibit, rule)
    weights = copy.deepcopy(model.state_dict())
    handle.remove()
    handle.remove()
    assert {name: (type(module), set(vars(module))) for name, module in model.named_modules()} == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert list(model.state_dict()) == list(weights)
    assert all(torch.equal(model.state_dict()[key], value) for key, value in weights.items())
    assert_same(seeded(model, inputs), expected)


def test_off_is_bitwise_backprop_and_comes_back_on(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    expected = seeded(build(exhibit), inputs)
    model, handle = attached(exhibit, rule)
    ruled = seeded(copy.deepcopy(model), inputs)
    with handle.off():
        assert_same(seeded(model, inputs), expected)
    fresh, _ = attached(exhibit, rule)
    assert_same(seeded(fresh, inputs), ruled)
    if rule.cuts:
        assert any(a is None or not torch.equal(a, expected[name]) for name, a in ruled.items())


def test_scale_equivariant(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    model, _ = attached(exhibit, rule)
    model.eval()
    once = seeded(model, inputs)
    # A power of two only shifts exponents, so not one bit of the mantissa may differ.
    assert_same(
        seeded(model, inputs, scale=2.0**-20),
        {name: None if g is None else g * 2.0**-20 for name, g in once.items()},
    )


# Where samples see each other, no rule's batches can be split.
@pytest.mark.parametrize("exhibit", [e for e in ZOO if not e.coupled], ids=lambda exhibit: exhibit.name)
def test_additive_over_micro_batches(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit, 6)
    model, _ = attached(exhibit, rule)
    model.eval()
    whole = gradients(model, inputs)
    model.zero_grad()
    for part in (slice(0, 1), slice(1, 6)):  # a batch of one, and a last batch of another size
        run(model, tuple(x[part] for x in inputs)).backward()
    assert_same(collect(model), whole, **CLOSE)


def test_two_forwards_then_two_backwards(exhibit: Exhibit, rule: fa.Rule) -> None:
    first, second = batch(exhibit, seed=3), batch(exhibit, seed=4)
    model, _ = attached(exhibit, rule)
    model.eval()
    model.zero_grad()
    for inputs in (first, second):
        run(model, inputs).backward()
    expected = collect(model)
    model.zero_grad()
    losses = [run(model, inputs) for inputs in (first, second)]
    for loss in losses:
        loss.backward()
    assert_same(collect(model), expected, **CLOSE)


def test_stray_forward_changes_nothing(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs, stray = batch(exhibit), batch(exhibit, 3, seed=5)
    model, _ = attached(exhibit, rule)
    model.eval()
    expected = gradients(model, inputs)
    model.zero_grad()
    loss = run(model, inputs)
    run(model, stray)
    with torch.no_grad():
        run(model, stray)
    loss.backward()
    assert_same(collect(model), expected)


def test_frozen_parameters(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    model, _ = attached(exhibit, rule)
    model.eval()
    expected = gradients(model, inputs)
    names = [name for name, _ in model.named_parameters()]
    for frozen in (names[0], names[-1]):
        parameter = model.get_parameter(frozen).requires_grad_(False)
        parameter.grad = None
        left = {name: gradient for name, gradient in expected.items() if name != frozen}
        if all(gradient is None for gradient in left.values()):  # shallow, and its one layer is frozen
            with pytest.raises(RuntimeError, match="does not require grad"):
                gradients(model, inputs)
        else:
            found = gradients(model, inputs)
            assert found.pop(frozen) is None
            assert_same(found, left, **CLOSE)
        parameter.requires_grad_(True)


def test_gradients_reach_what_they_should(exhibit: Exhibit, rule: fa.Rule) -> None:
    """Shallow leaves something below the points without gradient; every other rule trains all, and not on zeros."""
    inputs = batch(exhibit)
    expected = gradients(build(exhibit).eval(), inputs)
    model, _ = attached(exhibit, rule)
    found = gradients(model.eval(), inputs)
    used = [name for name, gradient in expected.items() if gradient is not None and gradient.abs().sum() > 0]
    missing = [name for name in used if found[name] is None]
    if isinstance(rule, fa.Shallow):
        assert missing
        assert set(missing) < set(used) or exhibit.name == "lm-tied"
    else:
        assert missing == []
        assert all(found[name].abs().sum() > 0 for name in used)


def test_copies_and_pickles_carry_the_rule(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    model, _ = attached(exhibit, rule)
    twin = copy.deepcopy(model)
    expected = seeded(model, inputs)
    assert_same(seeded(twin, inputs), expected)
    assert_same(seeded(copy.deepcopy(model).eval(), inputs), seeded(model.eval(), inputs))
    assert list(model.state_dict()) == list(build(exhibit).state_dict())
    if exhibit.name in ("mlp", "resnet-groupnorm", "lstm-cell-in-time"):  # picklable: no lambda inside
        assert_same(seeded(pickle.loads(pickle.dumps(model.train())), inputs), seeded(model.train(), inputs))


def test_global_randomness_changes_nothing(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    torch.manual_seed(1)
    model, _ = attached(exhibit, rule)
    torch.manual_seed(2)
    other, _ = attached(exhibit, rule)
    torch.rand(5)
    before = torch.get_rng_state()
    expected = gradients(model.eval(), inputs)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same(gradients(other.eval(), inputs), expected)


def test_float32_and_bfloat16_autocast(exhibit: Exhibit, rule: fa.Rule) -> None:
    precise, _ = attached(exhibit, rule)
    expected = gradients(precise.eval(), batch(exhibit))
    model, _ = attached(exhibit, rule, torch.float32)
    inputs = batch(exhibit, dtype=torch.float32)
    single = gradients(model.eval(), inputs)
    with torch.autocast("cpu", torch.bfloat16):
        loss = run(model, inputs)
    model.zero_grad()
    loss.backward()
    half = collect(model)
    assert cosine(single, expected) > 0.999999
    # Eight bits of mantissa, and a bias that a normalisation cancels is all rounding: so the whole, not each.
    assert cosine(half, expected) > 0.97


def test_points_and_last(exhibit: Exhibit, rule: fa.Rule) -> None:
    inputs = batch(exhibit)
    model, handle = attached(exhibit, rule)
    gradients(model.eval(), inputs)
    if isinstance(rule, fa.BroadcastRule):
        assert len(handle.last.signals) == exhibit.count
        assert handle.last.error > 0
        assert all(norm > 0 for norm in handle.last.signals.values())
        assert all(name in repr(handle) for name in handle.last.signals)
    else:
        assert handle.last is None
