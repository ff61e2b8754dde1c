"""Every rule keeps every promise on every model of the zoo."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import feedalign as fa
from contract.rules import LESS_PRECISE, RULES, refused
from zoo import ZOO, Exhibit, assert_same, batch, build, collect, gradients, run

CLOSE = {"rtol": 1e-9, "atol": 1e-11}  # float64, sums in another order


@pytest.fixture(params=ZOO, ids=lambda exhibit: exhibit.name)
def exhibit(request: pytest.FixtureRequest) -> Exhibit:
    return request.param


@pytest.fixture(params=RULES)
def rule(request: pytest.FixtureRequest) -> fa.Rule:
    return RULES[request.param]()


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture(autouse=True)
def _refused(exhibit: Exhibit, rule: fa.Rule, request: pytest.FixtureRequest) -> None:
    if (reason := refused(exhibit.name, rule)) is not None:
        request.applymarker(pytest.mark.xfail(strict=True, raises=fa.PointsError, reason=reason))


def attached(exhibit: Exhibit, rule: fa.Rule, dtype: torch.dtype = torch.float64) -> tuple[nn.Module, fa.Attachment]:
    model = build(exhibit, dtype)
    points = "auto" if isinstance(rule, fa.TransportRule) else exhibit.points
    handle = fa.attach(model, rule, points, exhibit.output, example=batch(exhibit, dtype=dtype))
    if getattr(rule, "targeted", False):
        model.register_forward_pre_hook(SendTargets(handle, *_rows_and_width(exhibit)), prepend=True)
    return model, handle


@dataclass
class SendTargets:
    """Sets targets before every forward pass, a function of each sample alone, so that batches can be split."""

    handle: fa.Attachment
    rows: int
    """Rows of the error for each sample."""
    width: int

    def __call__(self, module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        samples = args[0].double().reshape(len(args[0]), -1).sum(1, keepdim=True).repeat_interleave(self.rows, 0)
        self.handle.targets = torch.sin(samples * torch.arange(1, self.width + 1))


def _rows_and_width(exhibit: Exhibit) -> tuple[int, int]:
    model, inputs = build(exhibit), batch(exhibit)
    handle = fa.attach(model, fa.DFA(), exhibit.points, exhibit.output)
    gradients(model, inputs)
    ((_, (delivery, *_)), *_) = handle.planner._deliveries.values()
    return delivery.rows // len(inputs[0]), handle.planner.error_width


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
    weights = build(exhibit).state_dict()
    handle.remove()
    handle.remove()
    assert {name: (type(module), set(vars(module))) for name, module in model.named_modules()} == before
    left = [hook for m in model.modules() for hook in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert all(isinstance(hook, SendTargets) for hook in left)  # the test's own
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


def test_scale_equivariant(exhibit: Exhibit, rule: fa.Rule, request: pytest.FixtureRequest) -> None:
    if isinstance(rule, fa.DRTP):
        request.applymarker(pytest.mark.xfail(strict=True, reason="its signals are made of targets, not of the loss"))
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
    names = list(expected)
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
    learned = [key for key in model.state_dict() if key.startswith("feedalign.")]
    assert bool(learned) == (rule.learns and len(learned) > 0)
    assert [key for key in model.state_dict() if key not in learned] == list(build(exhibit).state_dict())
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


def test_float32_and_bfloat16_autocast(exhibit: Exhibit, rule: fa.Rule, request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["rule"]
    if (reason := LESS_PRECISE.get(name) or LESS_PRECISE.get(f"{exhibit.name}-{name}")) is not None:
        request.applymarker(pytest.mark.xfail(strict=True, reason=reason))
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
