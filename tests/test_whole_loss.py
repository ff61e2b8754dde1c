"""All of the loss reaches the points, by named outputs, or an error says what is left out; any way to run a model."""

import copy
import pickle
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.taps import parse

pytestmark = pytest.mark.usefixtures("float64")


@dataclass
class Found:
    logits: Tensor
    boxes: Tensor
    memory: Tensor


class Detector(nn.Module):
    """Two heads over one trunk, and a tensor with other rows."""

    def __init__(self, kind: str = "dict", loss: bool = False) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU())
        self.boxes, self.classes = nn.Linear(8, 4), nn.Linear(8, 3)
        self.kind, self.loss = kind, loss

    def forward(self, x: Tensor) -> object:
        h = self.trunk(x)
        logits, boxes, memory = self.classes(h), self.boxes(h), h.new_zeros(7, 5) + h.mean()
        if self.loss:
            return {"loss": logits.square().sum() + boxes.tanh().sum(), "logits": logits, "boxes": boxes}
        if self.kind == "dataclass":
            return Found(logits, boxes, memory)
        return (logits, boxes, memory) if self.kind == "tuple" else {"logits": logits, "boxes": boxes, "memory": memory}


POINTS = ["trunk.1", "trunk.3"]


def parts(out: object) -> tuple[Tensor, Tensor]:
    if isinstance(out, dict):
        return out["logits"], out["boxes"]
    return (out[0], out[1]) if isinstance(out, tuple) else (out.logits, out.boxes)


def learnt(rule: fa.Rule, kind: str = "dict", **options: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model, x = Detector(kind), torch.randn(5, 6)
    fa.attach(model, rule, POINTS, example=x, **options)
    logits, boxes = parts(model(x))
    (logits.square().sum() + boxes.tanh().sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if not name.startswith("feedalign.")}


RULES = [fa.DFA(seed=1), fa.TernaryDFA(seed=1), fa.DKP(seed=1), fa.FDFA(seed=1), fa.IFA(seed=1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_modules_and_fields_are_two_names_of_one_error(rule: fa.Rule) -> None:
    """Also for rules that look at the whole error at once, though the modules run one after the other."""
    fields = learnt(rule, output=(".boxes", ".logits"))
    modules = learnt(rule, output=("classes", "boxes"))
    for name, gradient in fields.items():
        if name.startswith("trunk"):
            assert gradient.abs().sum() > 0
        if isinstance(rule, fa.DFA | fa.TernaryDFA | fa.DKP):
            # Side by side in the order of the model: the columns of the matrix are those of boxes, then classes.
            assert modules[name].shape == gradient.shape
    again = learnt(rule, output=("boxes", "classes"))
    assert all(torch.equal(modules[name], again[name]) for name in modules)


def test_the_error_of_two_modules_by_hand() -> None:
    torch.manual_seed(0)
    model, x = Detector(), torch.randn(5, 6)
    signals: dict[str, Tensor] = {}
    for name in POINTS:
        model.get_submodule(name).register_forward_hook(
            lambda m, a, o, n=name: o.register_hook(lambda g: signals.__setitem__(n, g.clone())) and None
        )
    handle = fa.attach(model, fa.DFA(seed=1), POINTS, output=("boxes", "classes"))
    assert handle.output == "boxes, classes"
    logits, boxes = parts(model(x))
    errors = torch.autograd.grad(logits.square().sum() + boxes.tanh().sum(), (boxes, logits), retain_graph=True)
    signals.clear()
    (logits.square().sum() + boxes.tanh().sum()).backward()
    numbers = fa.Uniform().matrix(1, "shared", 7, 9).double()
    for name, width in (("trunk.1", 9), ("trunk.3", 8)):
        torch.testing.assert_close(signals[name], torch.cat(errors, 1) @ numbers[:, :width] / width**0.5)
    assert "boxes, classes" in repr(handle)


@pytest.mark.parametrize("kind", ["dict", "tuple", "dataclass"])
def test_tensors_with_other_rows_are_errors_of_their_own(kind: str) -> None:
    """The heads form one error; the third tensor is no part of the loss, and does no harm."""
    assert all(g.abs().sum() > 0 for g in learnt(fa.DFA(seed=1), kind).values())
    fields = ("[0]", "[1]") if kind == "tuple" else (".logits", ".boxes")
    named, expected = learnt(fa.DFA(seed=1), kind, output=fields), learnt(fa.DFA(seed=1), output=(".logits", ".boxes"))
    assert all(torch.equal(named[name], expected[name]) for name in named)


def test_one_of_two_heads_is_not_enough() -> None:
    torch.manual_seed(0)
    model, x = Detector(), torch.randn(5, 6)
    fa.attach(model, fa.DFA(seed=1), POINTS, output="classes")
    logits, boxes = parts(model(x))
    with pytest.raises(fa.SignalError, match=r"(?s)part of the loss reaches point 'trunk\.3', from 'boxes'.*'classes'"):
        (logits.square().sum() + boxes.tanh().sum()).backward()


def test_a_loss_on_something_that_is_kept_aside_is_noticed() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 2))
    kept: list[Tensor] = []
    model[2].register_forward_hook(lambda m, a, o: kept.append(o))
    fa.attach(model, fa.DFA(seed=1), ["1", "3"])
    loss = model(torch.randn(3, 4)).square().sum()
    with pytest.raises(fa.SignalError, match=r"part of the loss reaches point '1'"):
        (loss + 0.01 * kept[0].square().sum()).backward()


def test_a_loss_inside_of_two_heads_is_found() -> None:
    torch.manual_seed(0)
    inside, outside, x = Detector(loss=True), Detector(), torch.randn(5, 6)
    outside.load_state_dict(inside.state_dict())
    handle = fa.attach(inside, fa.DFA(seed=1), POINTS)
    fa.attach(outside, fa.DFA(seed=1), POINTS, output=("boxes", "classes"))
    state = torch.get_rng_state()
    inside(x)["loss"].backward()
    assert torch.equal(torch.get_rng_state(), state)
    logits, boxes = parts(outside(x))
    (logits.square().sum() + boxes.tanh().sum()).backward()
    assert handle.output == "boxes, classes"
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(inside.parameters(), outside.parameters(), strict=True))


class Towers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.actor = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
        self.critic = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(x), self.critic(x)


@pytest.mark.parametrize("error", ["reachable", "global"])
def test_towers_that_share_nothing(error: str) -> None:
    torch.manual_seed(0)
    model, x = Towers(), torch.randn(7, 4)
    signals: list[Tensor] = []
    model.actor[1].register_forward_hook(lambda m, a, o: o.register_hook(lambda g: signals.append(g.clone())) and None)
    fa.attach(model, fa.DFA(seed=1), error=error)
    action, value = model(x)
    ends = torch.autograd.grad(action.sum() ** 2 + value.square().sum(), (action, value), retain_graph=True)
    signals.clear()
    (action.sum() ** 2 + value.square().sum()).backward()
    numbers = fa.Uniform().matrix(1, "shared", 3, 6).double() / 6**0.5
    heard = torch.cat([ends[0], ends[1] if error == "global" else 0 * ends[1]], 1)
    torch.testing.assert_close(signals[0], heard @ numbers)


def test_wrong_outputs_are_named() -> None:
    model = Detector()
    with pytest.raises(fa.PointsError, match="names the same tensors twice"):
        fa.attach(model, fa.DFA(), POINTS, output=("boxes", "boxes"))
    with pytest.raises(fa.PointsError, match=r"is no field: write '\.logits'"):
        fa.attach(model, fa.DFA(), POINTS, output=".lo gits[")
    fa.attach(model, fa.DFA(), POINTS, output=".logit")
    with pytest.raises(fa.PointsError, match=r"(?s)field '\.logit'.*Did you mean 'logits'\?.*logits, boxes, memory"):
        model(torch.randn(5, 6))
    assert [str(tap) for tap in parse(model, ("boxes[0]", "[1]"))] == ["boxes[0]", "[1]"]
    with pytest.raises(ValueError, match="error must be 'reachable' or 'global'; found 'all'"):
        fa.attach(Detector(), fa.DFA(), POINTS, error="all")


def test_parameters_that_would_get_no_gradient_are_named() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.both, self.head = Several(), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            first, second = self.both(x)
            return self.head(first * second)

    model, x = Net(), torch.randn(5, 3)
    handle = fa.attach(model, fa.DFA(), "both[0]")
    with pytest.raises(fa.SignalError, match=r"(?s)would get no gradient.*both\.b\.bias\n  both\.b\.weight"):
        model(x)
    handle.remove()
    fa.attach(model, fa.DFA(), "both")
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_tensor_that_is_returned_twice_is_one_point() -> None:
    class Twice(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.f, self.times = nn.Linear(4, 4), times

        def forward(self, x: Tensor) -> object:
            h = x + self.f(x).relu()
            return (h,) * self.times

    class Net(nn.Module):
        def __init__(self, times: int) -> None:
            super().__init__()
            self.blocks, self.head = nn.ModuleList(Twice(times) for _ in range(2)), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x)[-1]
            return self.head(x)

    found = []
    for times in (1, 2, 3):
        torch.manual_seed(0)
        model = Net(times)
        handle = fa.attach(model, fa.DFA(seed=1), "blocks.*")
        model(torch.ones(3, 4)).square().sum().backward()
        assert len(handle.last.signals) == 2
        found.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, found[0], found[1]))
    assert all(map(torch.equal, found[0], found[2]))


# Any way of running the model.


class Density(nn.Module):
    """Trained by a method that never calls forward."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def log_prob(self, x: Tensor) -> Tensor:
        """Return one number per sample and class."""
        return self.head(self.body(2 * x)).log_softmax(1)


def test_what_trains_unseen_raises() -> None:
    model, x = Density(), torch.randn(4, 3)

    class Parts(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)

    whole = Parts(model)
    fa.attach(whole, fa.DFA(), "inner.body")  # a point that does run, outside of what was attached to
    with pytest.raises(fa.SignalError, match=r"ran outside of Parts\.forward.*register_forward_method"):
        model.log_prob(x)
    loose = nn.ModuleDict({"first": nn.Linear(3, 4), "block": nn.Sequential(nn.Tanh(), nn.Linear(4, 2))})
    handle = fa.attach(loose, fa.DFA(), "block")
    with pytest.raises(fa.SignalError, match=r"A gradient arrived in ModuleDict, but no forward pass of it was seen"):
        loose["block"][1](loose["block"][0](loose["first"](x))).sum().backward()
    handle.remove()
    loose["block"][1](loose["block"][0](loose["first"](x))).sum().backward()


def test_meant_backpropagation_is_not_complained_about() -> None:
    model, x = Density(), torch.randn(4, 3)
    handle = fa.attach(model, fa.DFA(), "body.1")
    with handle.off():
        loss = model.log_prob(x).sum()
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_method_is_a_forward_pass() -> None:
    torch.manual_seed(0)
    model, x = Density(), torch.randn(4, 3)
    plain = copy.deepcopy(model)
    plain.forward = plain.log_prob
    handle = fa.attach(model, fa.DFA(seed=2), ["body.1", "body.3"])
    fa.attach(plain, fa.DFA(seed=2), ["body.1", "body.3"])
    handle.register_forward_method("log_prob")
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    for net in (model, twin):
        for _ in range(2):
            net.zero_grad()
            net.log_prob(x).square().sum().backward()
    plain(x).square().sum().backward()
    assert len(fa.attached(twin).last.signals) == 2
    for net in (model, twin):
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(net.parameters(), plain.parameters(), strict=True))
    model(x).square().sum().backward()  # forward goes on to be one
    handle.remove()
    assert "log_prob" not in vars(model)


def test_a_method_under_rules_that_run_it_again() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3)
    for make in (fa.IFA, fa.DFA):
        model, plain = Density(), Density()
        plain.load_state_dict(model.state_dict())
        plain.forward = plain.log_prob
        handle, other = (fa.attach(net, make(seed=2), ["body.1", "body.3"]) for net in (model, plain))
        handle.register_forward_method("log_prob")
        if make is fa.DFA:
            fa.two_pass(handle, lambda net=model: net.log_prob(x).square().sum())
            fa.two_pass(other, lambda net=plain: net(x).square().sum())
        else:
            model.log_prob(x).square().sum().backward()
            plain(x).square().sum().backward()
        assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_block_of_code_is_a_forward_pass() -> None:
    torch.manual_seed(0)
    model, x = Density(), torch.randn(4, 3)
    plain = copy.deepcopy(model)
    handle = fa.attach(model, fa.DFA(seed=2), "body.1", "head")
    fa.attach(plain, fa.DFA(seed=2), "body.1", "head")
    for _ in range(2):
        model.zero_grad()
        with handle.forward():
            loss = model.head(model.body(x)).square().sum()
        loss.backward()
    plain(x).square().sum().backward()
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_what_a_block_of_code_or_a_method_needs() -> None:
    model, x = Density(), torch.randn(4, 3)
    handle = fa.attach(model, fa.DFA(), "body.1")
    with pytest.raises(fa.SignalError, match=r"expected output= to name the modules"), handle.forward():
        model.log_prob(x)
    with pytest.raises(fa.PointsError, match=r"Density has no method 'log_probs'\. Did you mean 'log_prob'\?"):
        handle.register_forward_method("log_probs")
    handle.remove()
    handle = fa.attach(model, fa.IFA(), "body.1", "head")
    with pytest.raises(fa.SignalError, match=r"cannot be run again, as IFA needs"), handle.forward():
        model.head(model.body(x))
    handle.remove()
    handle = fa.attach(model, fa.DFA(), "body.1", "head")
    with pytest.raises(RuntimeError, match="mat1 and mat2"), handle.forward():
        model.head(x)
    model(x).sum().backward()  # nothing is left of what failed


def test_several_outputs_where_they_are_not_supported() -> None:
    model, x = Detector(), torch.randn(5, 6)
    handle = fa.attach(model, fa.DFA(), POINTS, output=("boxes", "classes"))
    with pytest.raises(fa.SignalError, match=r"two_pass expected one output, found boxes, classes"):
        fa.two_pass(handle, lambda: sum(part.sum() for part in parts(model(x))))
