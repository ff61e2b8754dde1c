"""What a backward pass costs, counted in matrix products and floating-point operations, against theory."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import feedalign as fa
from zoo import ResNet

PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


class Count(TorchDispatchMode):
    """Counts matrix products and their operations (2 m n k), and convolution gradients by what they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.products, self.operations = 0, 0
        self.convolutions: list[tuple[bool, bool]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        packet = func.overloadpacket
        if packet in PRODUCTS:
            a, b = args[-2:]
            self.products += 1
            self.operations += 2 * a.numel() * b.shape[-1]
        if packet is torch.ops.aten.convolution_backward:
            self.convolutions.append(tuple(args[-1][:2]))
        return func(*args, **(kwargs or {}))


def backward(model: nn.Module, x: torch.Tensor, rule: fa.Rule, **where: object) -> Count:
    fa.attach(model, rule, **where)
    for _ in range(2):  # the first may draw matrices
        loss = model(x).square().mean()
        with Count() as count:
            loss.backward()
    return count


def tanh_mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths[:-1]):
        layers += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*layers, nn.Linear(*widths[-2:]))


def test_the_published_comparison() -> None:
    """20-32-32-32-5, batch 16: backprop 7 products; other software 8 to 10; here one a layer and one projection."""
    x = torch.randn(16, 20)
    count = backward(tanh_mlp([20, 32, 32, 32, 5]), x, fa.Backprop())
    assert (count.products, count.operations) == (7, 161_792)
    count = backward(tanh_mlp([20, 32, 32, 32, 5]), x, fa.DFA())
    assert (count.products, count.operations) == (5, 96_256)
    count = backward(tanh_mlp([20, 32, 32, 32, 5]), x, fa.Shallow())
    assert (count.products, count.operations) == (1, 2 * 16 * 32 * 5)


@pytest.mark.parametrize("depth", [2, 8, 32])
def test_one_product_per_layer_and_one_projection_at_any_depth(depth: int) -> None:
    x, widths = torch.randn(8, 6), [6] + [10] * depth + [3]
    layers = depth + 1
    assert backward(tanh_mlp(widths), x, fa.Backprop()).products == 2 * layers - 1  # dW and dX, no dX for the first
    assert backward(tanh_mlp(widths), x, fa.DFA()).products == layers + 1
    separate = fa.DFA(feedback=fa.Normal(shared=False))
    assert backward(tanh_mlp(widths), x, separate).products == layers + 1  # side by side, still one product
    assert backward(tanh_mlp(widths), x, fa.Shallow()).products == 1


def test_forward_costs_what_it_did() -> None:
    x = torch.randn(8, 6)
    for rule in (fa.Backprop(), fa.DFA(), fa.Shallow()):
        model = tanh_mlp([6, 10, 10, 3])
        fa.attach(model, rule)
        with Count() as count:
            model(x)
        assert count.products == 3


def test_a_convolution_behind_a_cut_computes_no_input_gradient() -> None:
    x = torch.randn(2, 3, 8, 8)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    assert backward(plain, x, fa.DFA()).convolutions == [(False, True)] * 2
    # Of the two convolutions of a residual block, only the upper one passes a gradient down.
    residual = backward(ResNet(lambda width: nn.GroupNorm(2, width)), x, fa.DFA())
    assert sorted(residual.convolutions) == [(False, True)] * 3 + [(True, True)] * 4


def test_one_projection_for_all_tokens_and_points_of_a_transformer() -> None:
    def model() -> nn.Module:
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        encoder = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        return nn.Sequential(encoder, nn.Linear(16, 11))

    x = torch.randn(4, 5, 16)
    backprop = backward(model(), x, fa.Backprop()).products
    macro = backward(model(), x, fa.DFA(), points="macro").products
    micro = backward(model(), x, fa.DFA(), points="micro").products
    assert micro < macro < backprop
