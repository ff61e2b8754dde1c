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
