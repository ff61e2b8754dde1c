"""Alignment against formulas written out by hand, and against what other software reports."""

import copy
import gc
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from closed_form.oracle_numbers import array, shared_uniform
from zoo import ZOO, Siamese, batch, build, run

pytestmark = pytest.mark.usefixtures("float64")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.sqrt((a**2).sum(1) * (b**2).sum(1))


def two_layers() -> tuple[nn.Sequential, Tensor, Tensor]:
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))
    return model, torch.randn(20, 5), torch.randn(20, 3)


def test_points_and_blocks_by_hand() -> None:
    model, x, y = two_layers()
    handle = fa.attach(model, fa.DFA(seed=2))
    report = fa.alignment(handle, lambda: F.mse_loss(model(x), y), block_samples=32)
    w1, w2, w3 = (array(model[i].weight) for i in (0, 2, 4))
    b1, b2, b3 = (array(model[i].bias) for i in (0, 2, 4))
    h1 = np.tanh(array(x) @ w1.T + b1)
    h2 = np.tanh(h1 @ w2.T + b2)
    e = 2 * (h2 @ w3.T + b3 - array(y)) / 60
    B1, B2 = shared_uniform(2, 3, [8, 6])
    g2 = e @ w3
    g1 = (g2 * (1 - h2**2)) @ w2
    for name, signal, truth, h in (("1", e @ B1, g1, h1), ("3", e @ B2, g2, h2)):
        at_point, in_block = cosines(signal, truth), cosines(signal * (1 - h**2), truth * (1 - h**2))
        found = report.points[name]
        assert found.mean == pytest.approx(at_point.mean(), rel=1e-10)
        assert found.std == pytest.approx(at_point.std(), rel=1e-10)
        assert (found.n, found.zero_error, found.undefined) == (20, 0, 0)
        # One sample's weight gradient is an outer product, so its cosine is that of the pre-activations.
        assert report.blocks[name].mean == pytest.approx(in_block.mean(), rel=1e-10)
        assert report.blocks[name].n == 20
    assert "signal: mean" in repr(report)


def test_feedback_that_is_the_transposed_weights_aligns_exactly() -> None:
    model, x, y = two_layers()
    handle = fa.attach(model, fa.DFA(), points="3")
    B = handle.rule.feedback
    model(x)
    with torch.no_grad():
        model[4].weight.copy_(2.5 * handle.planner.matrices()[0])
    report = fa.alignment(handle, lambda: F.mse_loss(model(x), y), block_samples=5)
    assert report.points["3"].mean == pytest.approx(1)
    assert report.blocks["3"].mean == pytest.approx(1)
    assert report.blocks["3"].n == 5
    assert report.updates["3"] == pytest.approx(1)
    assert report.points["3"].std == pytest.approx(0, abs=1e-12)
    assert fa.Uniform() == B


def test_scaling_the_loss_changes_nothing() -> None:
    """Other software zeroes gradients under 1e-8 and then reports a cosine of one for every sample."""
    model, x, y = two_layers()
    model.float()
    x, y = x.float(), y.float()
    handle = fa.attach(model, fa.DFA())
    reports = [fa.alignment(handle, lambda s=s: s * F.mse_loss(model(x), y)) for s in (1.0, 1e-8, 1e-30, 1e6)]
    for report in reports[1:]:
        for name, cosine in report.points.items():
            assert cosine.mean == pytest.approx(reports[0].points[name].mean, abs=1e-5)
            assert cosine.n == 20


def test_samples_without_error_are_left_out_and_counted() -> None:
    """Masked nodes counted as a cosine of one turn a true -0.28 into a reported 0.84."""
    model, x, y = two_layers()
    handle = fa.attach(model, fa.DFA(seed=5))
    labelled = torch.arange(20) < 3
    report = fa.alignment(handle, lambda: F.mse_loss(model(x)[labelled], y[labelled]))
    alone = fa.alignment(handle, lambda: F.mse_loss(model(x[:3]), y[:3]))
    for name, cosine in report.points.items():
        assert (cosine.n, cosine.zero_error, cosine.undefined) == (3, 17, 0)
        assert cosine.mean == pytest.approx(alone.points[name].mean)
        inflated = (cosine.mean * 3 + 17) / 20
        assert inflated > cosine.mean + 0.2


def test_dead_samples_are_counted_apart() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    with torch.no_grad():
        model[2].weight.zero_()
        model[2].bias.fill_(-1)  # every unit of the second layer is dead: no true gradient reaches the first
    x = torch.randn(20, 5)
    handle = fa.attach(model, fa.DFA())
    report = fa.alignment(handle, lambda: model(x).square().sum())
    assert (report.points["1"].n, report.points["1"].undefined) == (0, 20)
    assert np.isnan(report.points["1"].mean)
    assert report.points["3"].n == 20


def test_dropout_masks_are_the_same_for_both() -> None:
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 3))
    x = torch.randn(20, 5)
    handle = fa.attach(model, fa.DFA(), points=nn.Tanh)
    model(x)
    with torch.no_grad():
        model[3].weight.copy_(handle.planner.matrices()[0])
    report = fa.alignment(handle, lambda: model(x).square().sum(), block_samples=32)
    assert report.points["2"].mean == pytest.approx(1)  # two masks would decorrelate the blocks' gradients
    assert report.blocks["2"].mean == pytest.approx(1)
    assert report.updates["2"] == pytest.approx(1)


@pytest.mark.parametrize("exhibit", ZOO, ids=lambda exhibit: exhibit.name)
def test_measuring_changes_nothing(exhibit) -> None:
    model, twin = build(exhibit), build(exhibit)
    inputs = batch(exhibit)
    handles = [fa.attach(net, fa.DFA(seed=1), exhibit.points, exhibit.output) for net in (model, twin)]
    torch.manual_seed(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = fa.alignment(handles[0], lambda: run(model, inputs), block_samples=2)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert len(report.points) >= exhibit.count
    assert all(-1 <= cosine.mean <= 1 for cosine in report.points.values() if cosine.n)
    # The outputs of these layers are points already, so there is nothing in between.
    empty = ["encoder.layers.0", "encoder.layers.1"] if exhibit.name == "transformer-post-ln-micro" else []
    assert [name for name, update in report.updates.items() if not -1 <= update <= 1] == empty
    run(model, inputs).backward()
    torch.manual_seed(4)
    run(twin, inputs).backward()
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        assert a.grad is None or torch.equal(a.grad, b.grad), name


def test_backprop_through_the_gates_is_backprop() -> None:
    """A rule that delivered the true gradient would align exactly, also where streams share an encoder."""
    model = Siamese()
    handle = fa.attach(model, fa.DFA(), "encoder", "head")
    x, z = torch.randn(6, 6), torch.randn(6, 6)
    model(x, z)
    with torch.no_grad():
        model.head.weight.copy_(handle.planner.matrices()[0])
    report = fa.alignment(handle, lambda: model(x, z).square().sum())
    assert report.points["encoder"].mean == pytest.approx(1)
    assert report.points["encoder"].n == 12


def test_training_aligns_and_weights_come_to_resemble_the_feedback() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(10, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 4))
    x = torch.randn(256, 10)
    y = x[:, :4].argmax(1)
    handle = fa.attach(model, fa.DFA(seed=0))
    closure = lambda: F.cross_entropy(model(x), y)  # noqa: E731 - what a user writes
    before, weights_before = fa.alignment(handle, closure), fa.weight_alignment(handle)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(150):
        optimiser.zero_grad()
        closure().backward()
        optimiser.step()
    after, weights_after = fa.alignment(handle, closure), fa.weight_alignment(handle)
    for name in ("1", "3"):
        assert abs(before.points[name].mean) < 0.2
        assert after.points[name].mean > 0.4
    assert list(weights_after) == ["2", "4"]
    assert all(weights_after[name] > weights_before[name] + 0.2 for name in weights_after)


def test_weight_alignment_by_hand() -> None:
    model, x, _ = two_layers()
    handle = fa.attach(model, fa.DFA(seed=3))
    model(x)
    B1, B2 = shared_uniform(3, 3, [8, 6])
    found = fa.weight_alignment(handle)
    w2, w3 = array(model[2].weight), array(model[4].weight)
    assert found["2"] == pytest.approx(cosines(w2.reshape(1, -1), (B2.T @ B1).reshape(1, -1))[0])
    assert found["4"] == pytest.approx(cosines(w3.reshape(1, -1), B2.reshape(1, -1))[0])
    assert fa.weight_alignment(handle, ["2", "4"]) == found


def test_errors() -> None:
    model, x, y = two_layers()
    handle = fa.attach(model, fa.DFA())
    with pytest.raises(fa.SignalError, match=r"an attached DFA model that has run"):
        fa.weight_alignment(handle)
    with pytest.raises(fa.SignalError, match=r"must run Sequential once with gradients enabled, and did not run it"):
        fa.alignment(handle, lambda: y.sum())
    with pytest.raises(fa.SignalError, match=r"and ran it several times"):
        fa.alignment(handle, lambda: model(x).sum() + model(x).sum())
    with pytest.raises(fa.SignalError, match=r"must return the loss, a scalar.*found a tensor of shape \(20, 3\)"):
        fa.alignment(handle, lambda: model(x))
    with handle.off(), pytest.raises(fa.SignalError, match="The attachment is off or removed"):
        fa.alignment(handle, lambda: model(x).sum())
    model(x)
    with pytest.raises(fa.SignalError, match=r"(?s)expected linear layers of shapes \[\(6, 8\), \(3, 6\)\].*layers="):
        fa.weight_alignment(handle, ["4", "2"])
    handle.remove()
    with pytest.raises(fa.SignalError, match=r"expected a rule that delivers signals, such as DFA, and found Shallow"):
        fa.alignment(fa.attach(copy.deepcopy(model), fa.Shallow()), lambda: model(x).sum())


@pytest.mark.parametrize(
    "rule",
    [fa.DFA(), fa.IFA(), fa.DKP(), fa.GrAPE(), fa.FA(), fa.KolenPollack(), fa.WeightMirror()],
    ids=lambda rule: type(rule).__name__,
)
def test_nothing_is_left_alive(rule: fa.Rule) -> None:
    """Attaching with an example, measuring and training leave no graph behind that would keep the model in memory."""

    def used() -> "weakref.ref[nn.Module]":
        model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        x = torch.randn(7, 4)
        handle = fa.attach(model, rule, example=x)
        model(x).square().mean().backward()
        fa.alignment(handle, lambda: model(x).square().mean())
        fa.audit(handle, lambda: model(x).square().mean())
        if isinstance(rule, fa.DFA | fa.DKP):
            fa.two_pass(handle, lambda: model(x).square().mean())
        return weakref.ref(model)

    alive = used()
    gc.collect()
    assert alive() is None
