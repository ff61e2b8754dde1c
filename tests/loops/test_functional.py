"""torch.func, double backward and inference mode: per-sample gradients and gradients of gradients."""

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

import feedalign as fa
from loops.oracle import backward, chain, samples

POINTS = "[0-2]"


@pytest.fixture(params=[True, False], ids=["shared", "separate"])
def attached(request: pytest.FixtureRequest) -> tuple[nn.Module, fa.Attachment]:
    model = chain()
    return model, fa.attach(model, fa.DFA(seed=2, feedback=fa.Uniform(shared=request.param)), POINTS)


def per_sample(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    return vmap(grad(loss), (None, 0, 0))(parameters, x, y)


def assert_by_hand(found: dict[str, Tensor], handle: fa.Attachment, x: Tensor, y: Tensor) -> None:
    matrices = handle.planner.matrices()
    for i in range(len(x)):
        model = chain()
        backward(model[:3], model[3], matrices, x[i : i + 1], lambda z, i=i: F.cross_entropy(z, y[i : i + 1]))
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(found[name][i], parameter.grad, rtol=1e-10, atol=1e-13)


def test_gradients_per_sample_before_an_eager_call(attached: tuple[nn.Module, fa.Attachment]) -> None:
    model, handle = attached
    x, y = samples(5)
    assert_by_hand(per_sample(model, x, y), handle, x, y)
    F.cross_entropy(model(x), y).backward()  # the matrices kept from torch.func serve here too
    expected = chain()
    backward(expected[:3], expected[3], handle.planner.matrices(), x, lambda z: F.cross_entropy(z, y))
    for found, parameter in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.grad, parameter.grad, rtol=1e-10, atol=1e-13)


def test_gradients_per_sample_after_an_eager_call(attached: tuple[nn.Module, fa.Attachment]) -> None:
    model, handle = attached
    x, y = samples(5)
    F.cross_entropy(model(x[:1]), y[:1]).backward()
    assert_by_hand(per_sample(model, x, y), handle, x, y)


def test_norms_of_an_eager_backward_outlive_a_transform(attached: tuple[nn.Module, fa.Attachment]) -> None:
    model, handle = attached
    x, y = samples(5)
    F.cross_entropy(model(x), y).backward()
    expected = handle.last.error.item()
    per_sample(model, x, y)  # batched tensors may not be seen outside of vmap
    assert handle.last.error.item() == expected
    assert f"{expected:.3g}" in repr(handle)


def test_inference_mode_before_training(attached: tuple[nn.Module, fa.Attachment]) -> None:
    model, handle = attached
    x, y = samples(5)
    with torch.inference_mode():
        y_inferred = model(x)
    torch.testing.assert_close(y_inferred, chain()(x).detach())
    F.cross_entropy(model(x), y).backward()
    expected = chain()
    backward(expected[:3], expected[3], handle.planner.matrices(), x, lambda z: F.cross_entropy(z, y))
    for found, parameter in zip(model.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found.grad, parameter.grad, rtol=1e-10, atol=1e-13)


def test_matrices_made_in_inference_mode_serve_in_training() -> None:
    model = chain()
    handle = fa.attach(model, fa.DFA(seed=2), POINTS)
    x, y = samples(5)
    loss = F.cross_entropy(model(x), y)
    with torch.inference_mode():
        handle.planner.matrices()
    (gradient,) = torch.autograd.grad(loss, [model[0][0].weight], create_graph=True)
    (second,) = torch.autograd.grad(gradient.square().sum(), [model[3].weight])
    assert second.abs().sum() > 0


def test_gradients_of_gradients(attached: tuple[nn.Module, fa.Attachment]) -> None:
    """The penalty on DFA's gradients in a block, differentiated by the head's weights, against finite differences.

    The two must agree there, since a block depends on the head through the error alone, and no cut is in that way.
    """
    model, _ = attached
    x, y = samples(5)

    def penalty(create_graph: bool) -> Tensor:
        gradients = torch.autograd.grad(F.cross_entropy(model(x), y), [model[1][2].weight], create_graph=create_graph)
        return gradients[0].square().sum()

    step, weight = 1e-5, model[3].weight
    (found,) = torch.autograd.grad(penalty(create_graph=True), [weight])
    for entry in range(0, weight.numel(), 5):
        values = []
        for change in (step, -2 * step, step):
            with torch.no_grad():
                weight.view(-1)[entry] += change
            values.append(penalty(create_graph=False).item())
        assert found.view(-1)[entry].item() == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
    assert found.abs().sum() > 0


# ---- gradients of gradients that are not defined ---------------------------------------------------------------------


def critic() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1)).double()


def penalised(model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the loss of a WGAN critic and its gradient penalty, which differentiates a gradient of the input."""
    x = x.detach().requires_grad_()
    score = model(x)
    (gradient,) = torch.autograd.grad(score.sum(), x, create_graph=True)
    return score.mean(), (gradient.norm(dim=1) - 1).square().mean()


CRITICS = {
    "dfa": fa.DFA(seed=1), "separate": fa.DFA(seed=1, feedback=fa.Uniform(shared=False)), "sign": fa.SignDFA(seed=1),
    "ifa": fa.IFA(seed=1), "fa": fa.FA(seed=1), "usf": fa.USF(seed=1), "dkp": fa.DKP(seed=1),
    "kp": fa.KolenPollack(seed=1),
}  # fmt: skip
UNDEFINED = r"create_graph=True.*not defined below the points.*`with handle\.off\(\):`"


@pytest.mark.parametrize("rule", CRITICS.values(), ids=CRITICS)
def test_a_gradient_penalty_is_refused_under_a_rule_and_right_while_off(rule: fa.Rule) -> None:
    x = torch.randn(6, 4, dtype=torch.float64)
    plain = critic()
    sum(penalised(plain, x)).backward()
    model = critic()
    handle = fa.attach(model, rule, example=x.clone().requires_grad_())
    with pytest.raises(fa.SignalError, match=UNDEFINED):
        sum(penalised(model, x)).backward()
    model(x).mean().backward()  # the attachment works on
    model.zero_grad()
    with handle.off():
        sum(penalised(model, x)).backward()
    own = [parameter for name, parameter in model.named_parameters() if not name.startswith("feedalign.")]
    for found, expected in zip(own, plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-12, atol=1e-14)


def test_the_loss_by_the_rule_and_the_penalty_by_backpropagation() -> None:
    """What the error message advises, in one step: the gradients are those of the two, added up."""
    x = torch.randn(6, 4, dtype=torch.float64)
    apart = [critic(), critic()]
    fa.attach(apart[0], fa.DFA(seed=1))
    apart[0](x).mean().backward()
    penalised(apart[1], x)[1].backward()
    model = critic()
    handle = fa.attach(model, fa.DFA(seed=1))
    with handle.off():
        penalty = penalised(model, x)[1]
    (model(x).mean() + penalty).backward()
    for found, rule, bp in zip(model.parameters(), *(each.parameters() for each in apart), strict=True):
        expected = rule.grad + (torch.zeros_like(rule) if bp.grad is None else bp.grad)
        torch.testing.assert_close(found.grad, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("rule", [fa.DFA(seed=1), fa.FA(seed=1)], ids=["dfa", "fa"])
@pytest.mark.parametrize("ask", ["backward", "block", "input"])
def test_gradients_of_gradients_below_the_points_raise(rule: fa.Rule, ask: str) -> None:
    """A penalty on the gradients of a block, differentiated by what would have to pass a cut."""
    model = critic()
    fa.attach(model, rule)
    for _ in range(2):
        x = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
        loss = model(x).square().sum()  # an error that depends on the output
        (gradient,) = torch.autograd.grad(loss, [model[2].weight], create_graph=True)
        penalty = gradient.square().sum()
        asks = {
            "backward": penalty.backward,
            "block": lambda penalty=penalty: torch.autograd.grad(penalty, [model[0].weight]),
            "input": lambda penalty=penalty, x=x: torch.autograd.grad(penalty, [x]),
        }
        with pytest.raises(fa.SignalError, match=UNDEFINED):
            asks[ask]()


def test_several_outputs_raise_too() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.act, self.a, self.b = nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            h = self.act(self.body(x))
            return self.a(h), self.b(h)

    model = Two().double()
    fa.attach(model, fa.DFA(seed=1), ["act"], output=("a", "b"))
    for _ in range(2):
        loss = sum(y.square().sum() for y in model(torch.randn(6, 4, dtype=torch.float64)))
        (gradient,) = torch.autograd.grad(loss, [model.body.weight], create_graph=True)
        with pytest.raises(fa.SignalError, match=UNDEFINED):
            gradient.square().sum().backward()


def test_a_graph_of_gradients_that_nobody_differentiates_is_no_reason_to_complain() -> None:
    model, plain = critic(), critic()
    fa.attach(model, fa.DFA(seed=1))
    fa.attach(plain, fa.DFA(seed=1))
    x = torch.randn(6, 4, dtype=torch.float64)
    found = torch.autograd.grad(model(x).square().sum(), list(model.parameters()), create_graph=True)
    expected = torch.autograd.grad(plain(x).square().sum(), list(plain.parameters()))
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_attention_under_a_layer_wise_rule_is_not_differentiated_twice() -> None:
    model = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True).double()
    fa.attach(model, fa.FA(seed=1))
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    with pytest.raises(fa.SignalError, match=UNDEFINED):
        torch.autograd.grad(model(x).square().sum(), x, create_graph=True)


def test_nested_transforms_raise() -> None:
    model = critic()
    fa.attach(model, fa.DFA(seed=1))
    x = torch.randn(4, dtype=torch.float64)

    def score(x: Tensor) -> Tensor:
        return model(x[None]).square().sum()

    assert grad(score)(x).shape == vmap(grad(score))(x[None])[0].shape == torch.func.jacrev(score)(x).shape == (4,)
    assert torch.func.vjp(lambda x: model(x[None]).sum(), x)[1](torch.ones_like(x[0]))[0].shape == (4,)
    for twice in (lambda x: grad(lambda x: grad(score)(x).sum())(x), torch.func.jacrev(torch.func.jacrev(score))):
        with pytest.raises(fa.SignalError, match=UNDEFINED):
            twice(x)
    with pytest.raises(fa.SignalError, match=UNDEFINED):
        torch.autograd.functional.hessian(score, x)
    torch.autograd.functional.jacobian(score, x)


def test_a_transform_inside_of_a_backward_pass_raises() -> None:
    """As in meta-learning: the inner gradient by torch.func, the outer one by backward()."""
    model, x = critic(), torch.randn(7, 4, dtype=torch.float64)
    fa.attach(model, fa.DFA(seed=1))
    own = dict(model.named_parameters())
    inner = grad(lambda parameters: functional_call(model, parameters, (x,)).square().sum())(own)
    with pytest.raises(fa.SignalError, match=UNDEFINED):
        sum(gradient.square().sum() for gradient in inner.values()).backward()
