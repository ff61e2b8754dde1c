"""A run that cannot deliver its signal raises and says what to do; it never trains silently on zeros."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from zoo import ZOO, ManyOutputs, TransformerClassifier, WholeLSTM, assert_same, build, gradients, mlp


class Net(nn.Module):
    """A body, a head and a side branch; ``use`` is what forward does with them."""

    def __init__(self, use: Callable[["Net", Tensor], object]) -> None:
        super().__init__()
        self.body, self.head, self.side = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 2)
        self.use = use

    def forward(self, x: Tensor) -> object:
        return self.use(self, x)


def test_loss_inside_the_model_is_traced_to_the_module_it_is_computed_from() -> None:
    x = torch.randn(3, 6)
    found, named = (
        build(next(e for e in ZOO if e.name == "loss-inside")),
        build(next(e for e in ZOO if e.name == "loss-inside")),
    )
    handle = fa.attach(found, fa.DFA(), "body")
    fa.attach(named, fa.DFA(), "body", "head")
    for model in (found, named):
        model(x.double())[0].backward()
    assert handle.output == "head"
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(found.parameters(), named.parameters(), strict=True))


def test_loss_inside_the_model_that_no_module_leads_to() -> None:
    model = Net(lambda net, x: net.body(x).square().sum())
    fa.attach(model, fa.DFA(), "body")
    with pytest.raises(fa.SignalError, match=r"(?s)scalar: a loss.*name the module.*output='head'"):
        model(torch.randn(3, 4))


def test_output_that_does_not_run() -> None:
    model = Net(lambda net, x: net.head(net.body(x)))
    fa.attach(model, fa.DFA(), "body", "side")
    with pytest.raises(fa.SignalError, match=r"(?s)The output 'side' did not run.*The modules are.*head  \(Linear\)"):
        model(torch.randn(3, 4))


def test_output_that_runs_but_never_receives_an_error() -> None:
    def use(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        h = net.body(x)
        return net.head(h), net.side(h)

    model = Net(use)
    fa.attach(model, fa.DFA(), "body", "side")
    with pytest.raises(fa.SignalError, match=r"no error reached the output 'side', so its points would have learned"):
        model(torch.randn(3, 4))[0].sum().backward()
    # Either output may lead there: an error that arrives at the second is in order.
    first, second = model(torch.randn(3, 4))
    (first.sum() + second.sum()).backward()
    assert model.body.weight.grad.abs().sum() > 0


def test_gradients_of_the_head_alone_are_no_reason_to_complain() -> None:
    model = Net(lambda net, x: net.head(net.body(x)) * 1.0)
    fa.attach(model, fa.DFA(), "body", "head")
    (gradient,) = torch.autograd.grad(model(torch.randn(3, 4)).sum(), [model.head.weight])
    assert gradient.abs().sum() > 0


def test_point_behind_the_output() -> None:
    model = Net(lambda net, x: (net.head(net.body(x)), net.side(net.body(x)))[0])
    fa.attach(model, fa.DFA(), ["body", "side"], "head")
    with pytest.raises(fa.SignalError, match=r"Point 'body' ran after the output that carries its error"):
        model(torch.randn(3, 4))


def test_calls_that_cannot_be_paired() -> None:
    def use(net: Net, x: Tensor) -> Tensor:
        a, b, c = (net.body(x * i) for i in (1, 2, 3))
        return net.head(a + b).sum() + net.head(c).sum()

    model = Net(use)
    fa.attach(model, fa.DFA(), "body", "head")
    with pytest.raises(fa.SignalError, match=r"Point 'body' ran 3 times and the output 2 times.*cannot be paired"):
        model(torch.randn(3, 4))


def test_no_point_ran() -> None:
    model = Net(lambda net, x: net.head(net.body(x)))
    fa.attach(model, fa.DFA(), "side")
    with pytest.raises(fa.SignalError, match=r"None of the points ran.*would train by backpropagation: side"):
        model(torch.randn(3, 4))


def test_rows_that_cannot_be_matched() -> None:
    model = Net(lambda net, x: net.head(net.body(x)[:2]))
    fa.attach(model, fa.DFA(), "body")
    with pytest.raises(fa.SignalError, match=r"has 2 rows.*'body' of shape \(3, 5\).*feedalign\.splice in your own"):
        model(torch.randn(3, 4))

    class LastState(WholeLSTM):
        def forward(self, x: Tensor) -> Tensor:
            outputs, (last, _) = self.lstm(x)
            return self.head(outputs) + last.sum()

    lstm = LastState()
    fa.attach(lstm, fa.DFA(), "lstm")
    with pytest.raises(fa.SignalError, match=r"(?s)point 'lstm\[1\]' of shape \(1, 6, 7\).*points='lstm\[0\]'"):
        lstm(torch.randn(6, 5, 3))


def test_outputs_whose_rows_differ() -> None:
    def use(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
        h = net.body(x)
        return net.head(h), net.side(h)[:2]

    model = Net(use)
    fa.attach(model, fa.DFA(), "body")
    first, _ = model(torch.randn(3, 4))
    first.sum().backward()  # the tensor whose rows do not fit is not part of the loss
    with pytest.raises(
        fa.SignalError, match=r"error has 2 rows \(row dimensions \(2,\)\) and cannot .* point 'body' of shape \(3, 5\)"
    ):
        sum(each.sum() for each in model(torch.randn(3, 4))).backward()


def test_output_without_tensors() -> None:
    model = Net(lambda net, x: {"argmax": net.head(net.body(x)).argmax(1)})
    fa.attach(model, fa.DFA(), "body")
    with pytest.raises(fa.SignalError, match=r"return value expected at least one floating-point tensor, found dict"):
        model(torch.randn(3, 4))


def test_features_that_change_their_number() -> None:
    model = TransformerClassifier(False)
    fa.attach(model, fa.DFA())
    model(torch.randint(11, (2, 5)))
    with pytest.raises(fa.SignalError, match=r"had 40 features.*now has 24.*Uniform\(positions='repeat'\)"):
        model(torch.randint(11, (2, 3)))
    varying = TransformerClassifier(False)
    fa.attach(varying, fa.DFA(feedback=fa.Uniform(positions="repeat")))
    for length in (5, 3):
        varying(torch.randint(11, (2, length))).sum().backward()


def test_point_that_runs_outside_of_the_model() -> None:
    model = mlp()
    handle = fa.attach(model, fa.DFA())
    with pytest.raises(fa.SignalError, match=r"Point '1' ran outside of Sequential\.forward.*Attach to the module"):
        model[1](model[0](torch.randn(3, 6)))
    with handle.off():
        model[1](model[0](torch.randn(3, 6)))
    with torch.no_grad():
        model[1](model[0](torch.randn(3, 6)))


def test_reentrant_checkpointing_raises_instead_of_training_on_nothing() -> None:
    class Checkpointed(nn.Module):
        def __init__(self, reentrant: bool) -> None:
            super().__init__()
            self.first, self.second = mlp()[:2], nn.Sequential(nn.Linear(12, 9), nn.ReLU())
            self.head, self.reentrant = nn.Linear(9, 4), reentrant

        def forward(self, x: Tensor) -> Tensor:
            h = checkpoint(self.second, self.first(x), use_reentrant=self.reentrant)
            return self.head(h)

    model = Checkpointed(True)
    fa.attach(model, fa.DFA(), "second.1")
    with pytest.raises(fa.SignalError, match=r"ran under torch\.no_grad\(\).*write use_reentrant=False"):
        model(torch.randn(3, 6, requires_grad=True))


def test_an_exception_in_mid_forward_leaves_no_points_behind() -> None:
    def use(net: Net, x: Tensor) -> Tensor:
        h = net.body(x)
        if len(x) == 1:
            raise KeyError("in mid-forward")
        return net.head(h)

    model, plain = Net(use), Net(use)
    plain.load_state_dict(model.state_dict())
    for net in (model, plain):
        fa.attach(net, fa.DFA(), "body")
    x = torch.randn(3, 4)
    with pytest.raises(KeyError):
        model(torch.randn(1, 4))
    with torch.no_grad():
        model.body(x)  # not mistaken for a part of the forward pass that failed
    assert_same(gradients(model, (x,)), gradients(plain, (x,)))


def test_a_way_around_the_points_is_a_warning() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.inner, self.outer, self.relu = (*(nn.Linear(4, 4) for _ in range(3)), nn.ReLU())
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            return self.head(x + self.outer(self.relu(self.inner(x))))

    model = Residual()
    fa.attach(model, fa.DFA(), nn.ReLU)
    with pytest.warns(
        UserWarning, match=r"below 'relu' by backpropagation.*skip connection.*on modules that return the"
    ):
        model(torch.randn(3, 4)).sum().backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model(torch.randn(3, 4)).sum().backward()  # said once


def test_wrong_options() -> None:
    with pytest.raises(
        TypeError, match=r"rule expected a rule such as feedalign\.DFA\(seed=0\), its short .*, or a dict .* found 3"
    ):
        fa.attach(mlp(), 3)
    with pytest.raises(
        TypeError, match=r"feedback expected a Feedback such as feedalign\.Uniform\(\), found 'uniform'"
    ):
        fa.DFA(feedback="uniform")
    with pytest.raises(ValueError, match=r"scale must be one of 'point', 'widest'; found 'narrowest'"):
        fa.Uniform(scale="narrowest")
    with pytest.raises(ValueError, match="gain must be a number other than 0, which would deliver nothing; found 0"):
        fa.Uniform(gain=0)
    with pytest.raises(ValueError, match=r"There is no rule 'dfaa'\. Did you mean 'dfa'\? The rules are: backprop, sh"):
        fa.rule("dfaa")
    assert isinstance(fa.rule("bp"), fa.Backprop)
    assert fa.rule("dfa", seed=4) == fa.DFA(seed=4)


def test_splice_says_what_is_wrong_with_its_signals() -> None:
    h = torch.randn(3, 4, requires_grad=True)
    y = torch.randn(3, 2)
    with pytest.raises(fa.SignalError, match="expected 1, found 2"):
        fa.splice(y, [h], lambda e: [e @ torch.ones(2, 4)] * 2).sum().backward()
    with pytest.raises(fa.SignalError, match=r"point 0 must have the point's shape \(3, 4\), found \(4, 3\)"):
        fa.splice(y, [h], lambda e: [torch.ones(4, 3)]).sum().backward()
    with pytest.raises(fa.SignalError, match=r"at least one floating-point tensor and found int"):
        fa.splice(3, [h], lambda e: [e])


def test_splice_in_the_users_own_forward_takes_odd_rows() -> None:
    """A graph-level output over node-level points: the rows are mapped in ``pull``."""
    torch.manual_seed(0)
    lin, head, graph = nn.Linear(4, 5), nn.Linear(5, 2), torch.tensor([0, 0, 1, 1, 1])
    h = lin(torch.randn(5, 4)).tanh()
    pooled = torch.zeros(2, 5).index_add(0, graph, h.detach())
    B = torch.randn(2, 5)
    y = fa.splice({"y": head(pooled), "n": 2}, [h], lambda e: [(e["y"] @ B)[graph]])
    F.mse_loss(y["y"], torch.zeros(2, 2)).backward()
    assert y["n"] == 2
    assert lin.weight.grad.abs().sum() > 0


def test_unused_output_of_a_tuple_is_a_zero_error() -> None:
    model = ManyOutputs("tuple")
    handle = fa.attach(model, fa.DFA())
    model(torch.randn(3, 6))[0].sum().backward()
    assert handle.last.error == pytest.approx(3.0)  # nine ones, and zeros for the other output
