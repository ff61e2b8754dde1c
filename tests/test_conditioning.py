"""The forecast of alignment against deep linear networks, where it is exact, and what cannot be forecast."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from feedalign.theory import linear

pytestmark = pytest.mark.usefixtures("float64")
SEPARATE = fa.Uniform(shared=False)


def chain(widths: list[int], scale: float) -> nn.Sequential:
    layers = [nn.Linear(a, b, bias=False) for a, b in pairwise(widths)]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_().mul_(scale)
    return model


def points(model: nn.Sequential) -> list[str]:
    return [str(number) for number in range(len(model) - 1)]


def squared(z: Tensor, y: Tensor) -> Tensor:
    return (z - y).square().sum() / 2


def task(outputs: int = 4) -> tuple[Tensor, Tensor]:
    """Inputs of uneven variance, targets that depend on them and on chance."""
    x = torch.randn(300, 6) * torch.linspace(0.8, 1.2, 6)
    teacher, _ = torch.linalg.qr(torch.randn(6, outputs))
    return x, x @ teacher + 0.3 * torch.randn(300, outputs)


def numpy(matrices: list[Tensor]) -> list[np.ndarray]:
    return [matrix.numpy() for matrix in matrices]


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_exact_from_zero_weights(depth: int) -> None:
    """Matrices as the theory of early times has them, and the alignment that training reaches at once."""
    model = chain([6, *[30] * (depth - 1), 4], 0.0)
    handle = fa.attach(model, fa.DFA(feedback=SEPARATE), points(model))
    x, y = task()
    found = fa.conditioning(handle, lambda: squared(model(x), y))
    A = linear.early((y.T @ x).numpy() / 300, linear.grams(numpy(handle.planner.matrices())))
    for point, expected in zip(found.points.values(), A[1:], strict=True):
        np.testing.assert_allclose(point.matrix.numpy(), expected / np.trace(expected), rtol=1e-9, atol=1e-12)
        assert point.condition == pytest.approx(linear.condition_number(expected), rel=1e-6)
        assert point.rank == 4
    H = linear.backward_matrices(A, linear.grams(numpy(handle.planner.matrices())))
    for point, matrix in zip(found.points.values(), H, strict=True):
        assert point.product == pytest.approx(linear.condition_number(matrix), rel=1e-5)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    for _ in range(60):
        squared(model(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    # Errors of all directions alike: one unit error a sample.
    inputs, errors = torch.randn(4, 6), torch.eye(4)
    measured = _alignment(model, handle, inputs, errors)
    assert [point.alignment for point in found.points.values()] == pytest.approx(measured, abs=0.02)
    assert found.alignment == pytest.approx(np.mean(measured), abs=0.02)


def _alignment(model: nn.Sequential, handle: fa.Attachment, x: Tensor, errors: Tensor) -> list[float]:
    """Return the cosine, over all samples at once, of what each point receives and its true gradient."""
    caught: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, args, out: caught.append(out), prepend=True) for layer in model[:-1]
    ]
    signals = torch.autograd.grad(model(x), caught, errors)
    caught.clear()
    with handle.off():
        truths = torch.autograd.grad(model(x), caught, errors)
    for hook in hooks:
        hook.remove()
    return [((a * b).sum() / (a.norm() * b.norm())).item() for a, b in zip(signals, truths, strict=True)]


def test_even_correlations_forecast_perfect_alignment_and_uneven_ones_less() -> None:
    forecasts = []
    for modes in ([1.0, 1.0, 1.0], [1.0, 0.5, 0.25]):
        model = chain([3, 50, 50, 3], 0.0)
        handle = fa.attach(model, fa.DFA(feedback=fa.Orthogonal(shared=False)), points(model))
        x = torch.randn(500, 3)
        x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T @ x)).T  # white
        found = fa.conditioning(handle, lambda m=model, x=x, s=modes: squared(m(x), x * torch.tensor(s)))
        forecasts.append(found.alignment)
        assert [point.condition for point in found.points.values()] == pytest.approx(
            [(modes[0] / modes[2]) ** 2, (modes[0] / modes[2]) ** 4]
        )
    assert forecasts[0] == pytest.approx(1)
    assert forecasts[1] < 0.97


def test_small_random_weights_are_near_the_limit() -> None:
    """What enters the blocks is then a random projection of the input, wide enough to keep its shape."""
    x, y = task()
    forecasts = []
    for scale in (0.0, 1e-3):
        torch.manual_seed(3)
        model = chain([6, 400, 4], scale)
        handle = fa.attach(model, fa.DFA(feedback=SEPARATE), points(model))
        forecasts.append(fa.conditioning(handle, lambda m=model: squared(m(x), y)).alignment)
    assert forecasts[0] == pytest.approx(forecasts[1], abs=1e-3)


def test_matrices_by_hand_on_a_net_with_tanh_and_softmax() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 3))
    handle = fa.attach(model, fa.DFA(seed=1))
    x, labels = torch.randn(40, 6), torch.randint(3, (40,))
    found = fa.conditioning(handle, lambda: F.cross_entropy(model(x), labels))
    with handle.off():
        h = [x, model[:2](x)]
    e = (model(x).softmax(1) - F.one_hot(labels, 3)).detach()
    B = [matrix.double() for matrix in handle.planner.matrices()]
    K = [(e.T @ each) @ (e.T @ each).T for each in h]
    for point, expected in zip(found.points.values(), K, strict=True):
        torch.testing.assert_close(point.matrix, (expected / expected.trace()).detach())
        assert point.rank == 2  # the errors of a sample add up to zero
        values = torch.linalg.eigvalsh(expected)
        assert point.condition == pytest.approx((values[2] / values[1]).item(), rel=1e-6)
    upper, lower = K[1], K[0].T @ B[1] @ B[1].T @ K[1]
    balanced = torch.tensor([[1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    balanced /= balanced.norm(dim=1, keepdim=True)
    for point, H, matrix in zip(found.points.values(), (lower, upper), B, strict=True):
        cosine = F.cosine_similarity((balanced @ matrix).flatten(), (balanced @ H.T @ matrix).flatten(), dim=0)
        assert point.alignment == pytest.approx(cosine.item(), rel=1e-6)
    assert "forecast alignment" in repr(found)
    assert repr(found).splitlines()[2].startswith("1 ")


def test_scaling_the_loss_changes_nothing_and_nothing_changes() -> None:
    model = nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(), nn.Linear(9, 3))
    handle = fa.attach(model, fa.DFA())
    x, labels = torch.randn(40, 6), torch.randint(3, (40,))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    forecasts = [
        fa.conditioning(handle, lambda s=scale: s * F.cross_entropy(model(x), labels)).alignment
        for scale in (1.0, 1e-20, 1e6)
    ]
    assert forecasts == pytest.approx([forecasts[0]] * 3)
    assert torch.equal(random, torch.get_rng_state())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any("enter" in repr(hook) for hook in model._forward_pre_hooks.values())


def test_tokens_and_images() -> None:
    """Inputs that are no numbers leave the lowest point to speak for itself; positions count as features."""
    tokens = nn.Sequential(nn.Embedding(11, 7), nn.Linear(7, 9), nn.Tanh(), nn.Linear(9, 8), nn.Tanh(), nn.Linear(8, 5))
    handle = fa.attach(tokens, fa.DFA())
    ids = torch.randint(11, (12, 4))
    found = fa.conditioning(handle, lambda: F.cross_entropy(tokens(ids).flatten(0, 1), ids.flatten() % 5))
    assert found.rows == 48
    matrices = [point.matrix for point in found.points.values()]
    assert torch.equal(matrices[0], matrices[1])  # both from what leaves the lowest point
    assert all(0 < point.alignment <= 1 for point in found.points.values())
    images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5))
    handle = fa.attach(images, fa.DFA(feedback=fa.Uniform(positions="repeat")))
    x, labels = torch.randn(30, 1, 8, 8), torch.randint(5, (30,))
    found = fa.conditioning(handle, lambda: F.cross_entropy(images(x), labels))
    assert len(found.points) == 2
    assert found.points["1"].rank == 4


def test_feedback_that_is_learned() -> None:
    model = chain([6, 12, 12, 4], 0.1)
    x, y = task()
    handle = fa.attach(model, fa.DKP(feedback=SEPARATE), points(model), example=x)
    assert 0 < fa.conditioning(handle, lambda: squared(model(x), y)).alignment <= 1


def test_deep_nets_stay_finite() -> None:
    model = chain([6, *[16] * 30, 4], 0.25)
    handle = fa.attach(model, fa.DFA(feedback=SEPARATE), points(model))
    x, y = task()
    found = fa.conditioning(handle, lambda: squared(model(x), y))
    assert all(np.isfinite(point.alignment) for point in found.points.values())
    lowest, *_, highest = found.points.values()
    assert lowest.product > highest.product


def test_what_cannot_be_forecast_is_said() -> None:
    model = chain([6, 12, 4], 0.1)
    x, y = task()
    handle = fa.attach(model, fa.FA())
    with pytest.raises(fa.SignalError, match="conditioning expected a rule that broadcasts, such as DFA, found FA"):
        fa.conditioning(handle, lambda: squared(model(x), y))
    handle.remove()
    handle = fa.attach(model, fa.DFA(), points(model))
    with (
        handle.off(),
        pytest.raises(fa.SignalError, match=r"The attachment is off or removed, .* Forecast while it is on"),
    ):
        fa.conditioning(handle, lambda: squared(model(x), y))
    fitted = model(x).detach()
    with pytest.raises(fa.SignalError, match="expected a batch on which an error reaches a point, found none"):
        fa.conditioning(handle, lambda: squared(model(x), fitted))
    with pytest.raises(fa.SignalError, match="must return the loss, a scalar tensor"):
        fa.conditioning(handle, lambda: model(x))
