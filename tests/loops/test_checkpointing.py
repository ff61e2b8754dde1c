"""Activation checkpointing: the same gradients with less memory, or an error, never training on nothing."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

import feedalign as fa
from loops.oracle import backward, chain, samples


class Checkpointed(nn.Module):
    """A block that keeps only its input, and runs again in the backward pass."""

    def __init__(self, block: nn.Sequential, reentrant: bool) -> None:
        super().__init__()
        self.block, self.reentrant = block, reentrant
        self.runs = 0

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self._run, x, use_reentrant=self.reentrant)

    def _run(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.block(x)


def build(reentrant: bool) -> nn.Sequential:
    *blocks, head = chain()
    return nn.Sequential(*(Checkpointed(block, reentrant) for block in blocks), head)


def gradients(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor | None]:
    F.cross_entropy(model(x), y).backward()
    return [parameter.grad for parameter in model.parameters()]


def test_points_around_and_inside_checkpointed_blocks_equal_dfa_by_hand() -> None:
    x, y = samples(6)
    for points in ("[0-2]", "[0-2].block"):
        model, expected = build(reentrant=False), chain()
        handle = fa.attach(model, fa.DFA(seed=1), points)
        found = gradients(model, x, y)
        backward(expected[:3], expected[3], handle.planner.matrices(), x, lambda z: F.cross_entropy(z, y))
        for gradient, parameter in zip(found, expected.parameters(), strict=True):
            torch.testing.assert_close(gradient, parameter.grad, rtol=1e-10, atol=1e-13)
        for module in model[:3]:
            module.runs = 0
        assert all(map(torch.equal, gradients(model, x, y), found))  # now that it is known where rows lie
        assert [module.runs for module in model[:3]] == [2, 2, 2]


def test_points_in_the_middle_of_a_checkpointed_block() -> None:
    x, y = samples(6)
    plain = chain()
    fa.attach(plain, fa.DFA(seed=1, feedback=fa.Uniform()), ["*.1", "*.3"])
    model = build(reentrant=False)
    handle = fa.attach(model, fa.DFA(seed=1, feedback=fa.Uniform()), ["*.block.1", "*.block.3"])
    for gradient, expected in zip(gradients(model, x, y), gradients(plain, x, y), strict=True):
        assert gradient.abs().sum() > 0
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)
    assert len(handle.last.signals) == 6


def test_several_blocks_in_one_checkpoint() -> None:
    class Segments(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return checkpoint_sequential(list(self), 2, x, use_reentrant=False)

    x, y = samples(6)
    plain, model = chain(), Segments(*chain())
    fa.attach(plain, fa.DFA(seed=1), "[0-2]")
    fa.attach(model, fa.DFA(seed=1), "[0-2]")
    for gradient, expected in zip(gradients(model, x, y), gradients(plain, x, y), strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)


def test_two_forwards_before_their_backwards() -> None:
    first, second = samples(6), samples(3, seed=8)
    model, plain = build(reentrant=False), chain()
    for each in (model, plain):
        fa.attach(each, fa.DFA(seed=1, feedback=fa.Uniform()), "[0-2]")
    losses = [F.cross_entropy(model(x), y) for x, y in (first, second)]
    for loss in losses:
        loss.backward()
    for x, y in (first, second):
        F.cross_entropy(plain(x), y).backward()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-10, atol=1e-13)


def test_the_same_dropout_mask_when_run_again() -> None:
    x, y = samples(6)
    found = []
    for wrap in (lambda block: block, lambda block: Checkpointed(block, False)):
        *blocks, head = chain()
        model = nn.Sequential(*(wrap(nn.Sequential(*block, nn.Dropout(0.4))) for block in blocks), head)
        fa.attach(model, fa.DFA(seed=1), "[0-2]")
        torch.manual_seed(4)
        found.append(gradients(model, x, y))
    for gradient, expected in zip(*found, strict=True):
        torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-13)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")  # says torch too
def test_reentrant_checkpoints_with_points_inside_are_refused() -> None:
    x, y = samples(6)
    model = build(reentrant=True)
    fa.attach(model, fa.DFA(seed=1), "[0-2].block")
    with pytest.raises(fa.SignalError, match=r"ran under torch.no_grad\(\) .* write use_reentrant=False"):
        gradients(model, x, y)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad=True:UserWarning")  # says torch too
def test_reentrant_checkpoints_with_points_around_are_refused() -> None:
    """Their input is cut, so they would return tensors without a graph, and nothing in them would learn."""
    x, y = samples(6)
    model = build(reentrant=True)
    fa.attach(model, fa.DFA(seed=1), "[0-2]")
    with pytest.raises(fa.SignalError, match=r"Point '0' .* use_reentrant=False"):
        gradients(model, x, y)
