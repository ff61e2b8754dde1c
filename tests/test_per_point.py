"""A rule for each group of points: a dict of rules, against models written out by hand."""

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from closed_form.oracle_numbers import array, close, of_weight, shared_uniform, uniform
from zoo import assert_same, gradients, mlp

pytestmark = pytest.mark.usefixtures("float64")


def four_layers() -> nn.Sequential:
    """Return [N, 5] to [N, 3]; ``a`` and ``b`` are linear, then ``c`` and ``d``."""
    torch.manual_seed(3)
    return nn.Sequential(
        OrderedDict(
            a=nn.Linear(5, 8), a_out=nn.Tanh(), b=nn.Linear(8, 7), b_out=nn.Tanh(),
            c=nn.Linear(7, 6), c_out=nn.Tanh(), d=nn.Linear(6, 3),
        )
    )  # fmt: skip


def values(model: nn.Sequential, x: Tensor) -> list:
    """Return the input and the three hidden values."""
    h = [array(x)]
    for layer in (model.a, model.b, model.c):
        h.append(torch.tanh(torch.as_tensor(h[-1] @ array(layer.weight).T + array(layer.bias))).numpy())
    return h


def step(model: nn.Sequential, **attached: object) -> tuple[fa.Attachment, Tensor, Tensor]:
    x, e = torch.randn(6, 5), torch.randn(6, 3)
    handle = fa.attach(model, example=x, **attached)
    (model(x) * e).sum().backward()
    return handle, x, e


def test_direct_feedback_to_one_point_and_from_layer_to_layer_below() -> None:
    """Convolutions by FA and the top by DFA, as hybrids do: here linear layers stand for both."""
    model = four_layers()
    handle, x, e = step(model, rule={("a", "b"): fa.FA(seed=1), ("c_out", "b_out"): fa.DFA(seed=2)})
    assert [str(point) for point in handle.points] == ["b_out", "c_out"]
    h0, h1, h2, h3 = values(model, x)
    e = array(e)
    to_b, to_c = shared_uniform(2, 3, [7, 6])
    d3 = (e @ to_c) * (1 - h3**2)
    d2 = (e @ to_b) * (1 - h2**2)  # cut: nothing comes down from d3
    d1 = (d2 @ of_weight(1, "b.weight", model.b.weight)) * (1 - h1**2)
    for layer, delta, below in ((model.d, e, h3), (model.c, d3, h2), (model.b, d2, h1), (model.a, d1, h0)):
        close(layer.weight.grad, delta.T @ below)
        close(layer.bias.grad, delta.sum(0))


def test_layers_of_a_rule_between_two_cuts_use_it() -> None:
    """FA within the block that ends at a point of DFA."""
    model = four_layers()
    _, x, e = step(model, rule={"b_out": fa.DFA(seed=2), "*": fa.FA(seed=1)})
    h0, h1, h2, h3 = values(model, x)
    e = array(e)
    (to_b,) = shared_uniform(2, 3, [7])
    d3 = (e @ of_weight(1, "d.weight", model.d.weight)) * (1 - h3**2)
    d2 = (e @ to_b) * (1 - h2**2)
    d1 = (d2 @ of_weight(1, "b.weight", model.b.weight)) * (1 - h1**2)
    for layer, delta, below in ((model.d, e, h3), (model.c, d3, h2), (model.b, d2, h1), (model.a, d1, h0)):
        close(layer.weight.grad, delta.T @ below)


def test_convolutions_and_classifier_by_names() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(2, 3, 1), act1=nn.Tanh(), conv2=nn.Conv2d(3, 4, 1), act2=nn.Tanh(), flat=nn.Flatten(),
            fc1=nn.Linear(16, 5), act3=nn.Tanh(), fc2=nn.Linear(5, 3),
        )
    )  # fmt: skip
    x, e = torch.randn(6, 2, 2, 2), torch.randn(6, 3)
    fa.attach(model, {"conv*": fa.FA(seed=1), "fc1": fa.DFA(seed=2)})
    (model(x) * e).sum().backward()
    with torch.no_grad():
        h1 = model.conv1(x).tanh()
        h2 = model.conv2(h1).tanh()
        a3 = model.fc1(h2.flatten(1))
    (B,) = shared_uniform(2, 3, [5])
    d3 = array(e) @ B  # the point is the layer itself, before its non-linearity
    close(model.fc1.weight.grad, d3.T @ array(h2.flatten(1)))
    close(model.fc2.weight.grad, array(e).T @ array(a3.tanh()))
    # fc1 has the whole of its gradient, but what lies below it gets that by W: DFA's cut is above fc1.
    d2 = (d3 @ array(model.fc1.weight)).reshape(h2.shape) * (1 - array(h2) ** 2)
    B2 = of_weight(1, "conv2.weight", model.conv2.weight)[:, :, 0, 0]
    d1 = (d2.transpose(0, 2, 3, 1) @ B2).transpose(0, 3, 1, 2) * (1 - array(h1) ** 2)
    for layer, delta, below in ((model.conv2, d2, array(h1)), (model.conv1, d1, array(x))):
        rows, seen = delta.transpose(1, 0, 2, 3).reshape(delta.shape[1], -1), below.transpose(1, 0, 2, 3)
        close(layer.weight.grad[:, :, 0, 0], rows @ seen.reshape(below.shape[1], -1).T)


def test_two_rules_that_broadcast() -> None:
    model, x, e = four_layers(), torch.randn(6, 5), torch.randn(6, 3)
    handle = fa.attach(model, {"a_out": fa.DFA(seed=1), "b_out": fa.DRTP(seed=2), "c_out": fa.SignDFA(seed=3)})
    handle.targets = targets = torch.randn(6, 3)
    (model(x) * e).sum().backward()
    h0, h1, h2, h3 = values(model, x)
    signs = e.sign() * e.abs().mean(1, keepdim=True)
    sent = (array(e), array(targets) / 6, array(signs))
    for layer, below, h, rows, seed in zip(
        (model.a, model.b, model.c), (h0, h1, h2), (h1, h2, h3), sent, (1, 2, 3), strict=True
    ):
        (B,) = shared_uniform(seed, 3, [h.shape[1]])  # each rule's matrix is as wide as its own widest point
        close(layer.weight.grad, ((rows @ B) * (1 - h**2)).T @ below)
    assert set(handle.last.signals) == {"a_out", "b_out", "c_out"}
    with pytest.raises(fa.SignalError, match=r"Several rules broadcast on this model.*handle\.planners"):
        handle.planner  # noqa: B018 - the property raises


def test_shallow_on_some_points() -> None:
    model = four_layers()
    _, x, e = step(model, rule={"a_out": fa.Shallow(), "c_out": fa.DFA(seed=1)})
    h0, h1, h2, h3 = values(model, x)
    (B,) = shared_uniform(1, 3, [6])
    d3 = (array(e) @ B) * (1 - h3**2)
    d2 = (d3 @ array(model.c.weight)) * (1 - h2**2)
    assert model.a.weight.grad is None
    close(model.b.weight.grad, d2.T @ h1)
    close(model.c.weight.grad, d3.T @ h2)
    close(model.d.weight.grad, array(e).T @ h3)
    assert h0.shape == (6, 5)


def test_rules_that_learn_beside_rules_that_do_not() -> None:
    model = four_layers()
    handle, x, e = step(model, rule={"a_out": fa.DKP(seed=1), "c_out": fa.DFA(seed=2), "*": fa.KolenPollack(seed=3)})
    h0, h1, h2, h3 = values(model, x)
    e = array(e)
    learned = {name.replace("/", "."): p for name, p in handle.learned.named_parameters()}
    # The input of b and that of d come from a cut, whose signal is the rule's; c's comes from b.
    assert "a_out" in learned
    assert "c.weight" in learned
    close(learned["a_out"].grad, e.T @ h1)
    (to_c,) = shared_uniform(2, 3, [6])
    d3 = (e @ to_c) * (1 - h3**2)
    d2 = (d3 @ of_weight(3, "c.weight", model.c.weight)) * (1 - h2**2)
    d1 = (e @ uniform(1, "a_out", 3, 8)) * (1 - h1**2)
    close(learned["c.weight"].grad, array(model.c.weight.grad))
    for layer, delta, below in ((model.c, d3, h2), (model.b, d2, h1), (model.a, d1, h0)):
        close(layer.weight.grad, delta.T @ below)


def test_one_rule_in_a_dict_is_that_rule() -> None:
    x, found = (torch.randn(6, 6),), []
    for rule, points in ((fa.DFA(seed=1), nn.ReLU), ({nn.ReLU: fa.DFA(seed=1)}, "auto")):
        torch.manual_seed(0)
        model = mlp()
        fa.attach(model, rule, points)
        found.append(gradients(model, x))
    assert_same(*found)


def test_backprop_beside_another_rule_leaves_its_places_alone() -> None:
    model = four_layers()
    handle, x, e = step(model, rule={"a": fa.Backprop(), "c_out": fa.DFA(seed=1)})
    assert [str(point) for point in handle.points] == ["c_out"]
    h0, h1, h2, h3 = values(model, x)
    (B,) = shared_uniform(1, 3, [6])
    d3 = (array(e) @ B) * (1 - h3**2)
    d2 = (d3 @ array(model.c.weight)) * (1 - h2**2)
    d1 = (d2 @ array(model.b.weight)) * (1 - h1**2)
    close(model.a.weight.grad, d1.T @ h0)


# ---- what is refused -------------------------------------------------------------------------------------------------


def test_a_place_with_two_rules() -> None:
    with pytest.raises(fa.PointsError, match=r"'a_out' is named for two rules of one kind: each place has one"):
        fa.attach(four_layers(), {"a_out": fa.DFA(), ("a_out", "b_out"): fa.DRTP()})
    with pytest.raises(fa.PointsError, match=r"'b' is named for two rules of one kind"):
        fa.attach(four_layers(), {"[ab]": fa.FA(), "b": fa.USF()})
    with pytest.raises(fa.PointsError, match=r"'a_out' is named for two rules"):
        fa.attach(four_layers(), {"a_out": fa.Shallow(), "*_out": fa.DFA()})


def test_points_given_as_well() -> None:
    with pytest.raises(fa.PointsError, match=r"points are the keys: attach\(model, .*\). Leave out points='a_out'"):
        fa.attach(four_layers(), {"a_out": fa.DFA()}, "a_out")


def test_a_pattern_that_matches_nothing() -> None:
    for rule in (fa.DFA(), fa.FA()):
        with pytest.raises(fa.PointsError, match=r"(?s)No module matches points='a_uot'.*'a_out'.*c_out  \(Tanh\)"):
            fa.attach(four_layers(), {"a_uot": rule})


def test_values_that_are_no_rules() -> None:
    with pytest.raises(TypeError, match=r"rule expected a rule such as feedalign.DFA.*, or a dict .* found <class"):
        fa.attach(four_layers(), {"a_out": fa.DFA})


def test_a_model_that_was_refused_is_as_it_was() -> None:
    model = four_layers()
    with pytest.raises(fa.PointsError, match="DKP"):
        fa.attach(model, {"a_out": fa.DKP(), "b_out": fa.DFA()})
    assert not hasattr(model, "feedalign")
    assert not model._forward_hooks
    fa.attach(model, fa.DFA())
