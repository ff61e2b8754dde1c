"""What a convolution can be: against its written-out matrix, least squares and the law of the square root."""

import math
from statistics import fmean

import pytest
import torch
from torch import nn

from feedalign.theory.local import Dense, LocallyConnected, positions
from feedalign.theory.toeplitz import freedom, matrix, overlap

LAYERS = {
    "1-D": (lambda: nn.Conv1d(3, 4, 3), (3, 9)),
    "2-D": (lambda: nn.Conv2d(2, 3, 3), (2, 5, 6)),
    "stride and padding": (lambda: nn.Conv2d(2, 3, 5, stride=2, padding=2), (2, 6, 5)),
    "dilation": (lambda: nn.Conv2d(2, 3, (2, 3), dilation=2), (2, 6, 7)),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 4, 4)),
    "padding beyond the image": (lambda: nn.Conv2d(2, 2, 5, padding=2), (2, 2, 2)),
    "3-D": (lambda: nn.Conv3d(1, 2, 2, bias=False), (1, 3, 3, 3)),
    "locally connected": (lambda: LocallyConnected((2, 5, 4), 3, (3, 3), (1, 2), (0, 1)), (2, 5, 4)),
    "linear": (lambda: nn.Linear(5, 4), (5,)),
    "dense": (lambda: Dense((2, 3, 1), (3, 2, 2)), (2, 3, 1)),
}


def feedback(layer: nn.Module, shape: tuple[int, ...], classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    below = torch.randn(classes, *shape, dtype=torch.float64)
    with torch.no_grad():
        above = torch.randn_like(layer(below.float()), dtype=torch.float64)
    return below, above


@pytest.fixture(params=LAYERS)
def case(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    make, shape = LAYERS[request.param]
    return make(), shape


def test_the_matrix_does_what_the_layer_does(case) -> None:
    layer, shape = case
    inputs = torch.randn(7, *shape)
    bias = layer(torch.zeros(1, *shape))
    expected = (layer(inputs) - bias).flatten(1).double()
    torch.testing.assert_close(inputs.flatten(1).double() @ matrix(layer, shape).T, expected, atol=1e-5, rtol=1e-5)


def test_the_best_cosine_is_that_of_least_squares(case) -> None:
    """Every matrix of the layer is a combination of those with one weight at one; the nearest one is least squares."""
    layer, shape = case
    below, above = feedback(layer, shape)
    target = (above.flatten(1).T @ below.flatten(1)).flatten()
    present = matrix(layer, shape).flatten()
    columns = []
    for i in range(layer.weight.numel()):
        with torch.no_grad():
            layer.weight.zero_().view(-1)[i] = 1
        columns.append(matrix(layer, shape).flatten())
    basis = torch.stack(columns, dim=1)
    solution = torch.linalg.lstsq(basis, target, driver="gelsd").solution
    best = torch.cosine_similarity(basis @ solution, target, dim=0).item()
    with torch.no_grad():
        layer.weight.copy_(solution.reshape(layer.weight.shape))
    found = overlap(layer, below, above)
    assert found.best == pytest.approx(best, abs=1e-6)
    assert found.cosine == pytest.approx(best, abs=1e-6)  # the weights are the best ones now
    torch.testing.assert_close(found.weights, layer.weight.detach().double(), atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        layer.weight.copy_((basis.T @ present / basis.square().sum(0).clamp(min=1)).reshape(layer.weight.shape))
    expected = torch.cosine_similarity(present, target, dim=0).item()
    assert overlap(layer, below, above).cosine == pytest.approx(expected, abs=1e-6)


def test_freedom_counts_the_matrix(case) -> None:
    layer, shape = case
    with torch.no_grad():
        layer.weight.copy_(1 + torch.arange(layer.weight.numel()).reshape(layer.weight.shape))
    written = matrix(layer, shape)
    found = freedom(layer, shape)
    assert found.size == written.numel()
    assert found.entries == int((written != 0).sum())
    assert found.parameters == len(written.unique()) - int((written == 0).any())


@pytest.mark.parametrize(("channels", "length", "kernel", "law"), [(8, 16, 3, 0.1157), (16, 32, 5, 0.0747)])
def test_random_feedback_meets_the_law_of_the_square_root(channels, length, kernel, law) -> None:
    """Check 15: sqrt(p / D) within 8 %, sqrt(k / n) within 2 % without sharing, and exactly that where B repeats."""
    torch.manual_seed(0)
    layer = nn.Conv1d(channels, channels, kernel)
    local = LocallyConnected((channels, 1, length), channels, (1, kernel))
    shape = (channels, length)
    assert freedom(layer, shape).bound == pytest.approx(law, abs=1e-4)
    found, unshared, repeated = [], [], []
    for _ in range(10):
        below, above = feedback(layer, shape, classes=10)
        found.append(overlap(layer, below, above).best)
        unshared.append(overlap(local, below.unsqueeze(2), above.unsqueeze(2)).best)
        same = overlap(layer, below[..., :1].expand_as(below), above[..., :1].expand_as(above))
        repeated.append(same.best)
    assert fmean(found) == pytest.approx(law, rel=0.08)
    locality = math.sqrt(kernel / length)
    assert fmean(unshared) == pytest.approx(locality, rel=0.02)
    assert repeated == pytest.approx([locality] * len(repeated), abs=1e-9)
    assert freedom(layer, shape).locality == pytest.approx(locality)


def test_the_factors_of_the_bound() -> None:
    found = freedom(nn.Conv2d(3, 8, 3), (3, 32, 32))
    assert found.bound == pytest.approx(math.sqrt(9 / (32 * 32) / (30 * 30)))
    assert found.bound == pytest.approx(found.locality * found.sharing)
    assert freedom(nn.Linear(5, 4), (5,)).bound == 1


def test_a_dense_layer_can_be_anything() -> None:
    layer = nn.Linear(6, 5)
    assert overlap(layer, *feedback(layer, (6,))).best == pytest.approx(1)


def test_without_sharing_a_convolution_is_locally_connected() -> None:
    torch.manual_seed(0)
    convolution = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
    local = LocallyConnected((2, 6, 5), 3, (3, 3), (2, 2), (1, 1))
    with torch.no_grad():
        local.weight.copy_(convolution.weight.flatten(1).T.expand_as(local.weight))
    images = torch.randn(4, 2, 6, 5)
    torch.testing.assert_close(local(images), convolution(images))


def test_errors_say_what_to_do() -> None:
    layer = nn.Conv2d(1, 1, 3, padding=1, padding_mode="reflect")
    with pytest.raises(ValueError, match=r"pads with zeros, found padding_mode='reflect'.*Take padding_mode='zeros'"):
        freedom(layer, (1, 4, 4))
    with pytest.raises(ValueError, match=r"kernel that fits into an image of \(2, 2\).*found \(3, 3\)"):
        positions((2, 2), (3, 3), (1, 1), (0, 0))
