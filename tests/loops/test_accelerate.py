"""Accelerate: prepared model, optimiser and loader, accumulation, and state saved and loaded again."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import feedalign as fa
from loops.oracle import backward, chain, samples


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert not PartialState._shared_state


def loader() -> DataLoader[tuple[Tensor, ...]]:
    return DataLoader(TensorDataset(*samples(30)), batch_size=5)


def prepared(
    attach_first: bool = True, **options: object
) -> tuple[Accelerator, nn.Module, object, object, fa.Attachment]:
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2, **options)
    model = chain()
    if attach_first:
        handle = fa.attach(model, fa.DFA(seed=4), "[0-2]")
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model, optimizer, batches = accelerator.prepare(model, optimizer, loader())
    if not attach_first:
        handle = fa.attach(model, fa.DFA(seed=4), "[0-2]")
    return accelerator, model, optimizer, batches, handle


def train(accelerator: Accelerator, model: nn.Module, optimizer: object, batches: object, epochs: int) -> None:
    for _ in range(epochs):
        for x, y in batches:
            with accelerator.accumulate(model):
                accelerator.backward(F.cross_entropy(model(x), y))
                optimizer.step()
                optimizer.zero_grad()


@pytest.mark.parametrize("attach_first", [True, False])
def test_equals_the_plain_loop(attach_first: bool) -> None:
    accelerator, model, optimizer, batches, handle = prepared(attach_first)
    train(accelerator, model, optimizer, batches, epochs=2)
    expected, matrices = chain(), handle.planner.matrices()
    plain = torch.optim.SGD(expected.parameters(), 0.1, momentum=0.9)
    for _ in range(2):
        for i, (x, y) in enumerate(loader()):
            backward(expected[:3], expected[3], matrices, x, lambda z, y=y: F.cross_entropy(z, y) / 2)
            if i % 2:
                plain.step()
                plain.zero_grad()
    for found, parameter, start in zip(model.parameters(), expected.parameters(), chain().parameters(), strict=True):
        torch.testing.assert_close(found, parameter, rtol=1e-10, atol=1e-12)
        assert not torch.equal(found, start)


def test_saved_and_loaded_state_continues_identically(tmp_path: Path) -> None:
    accelerator, model, optimizer, batches, _ = prepared()
    train(accelerator, model, optimizer, batches, epochs=1)
    accelerator.save_state(str(tmp_path))
    train(accelerator, model, optimizer, batches, epochs=2)
    other_accelerator, other, other_optimizer, other_batches, _ = prepared()
    other_accelerator.load_state(str(tmp_path))
    train(other_accelerator, other, other_optimizer, other_batches, epochs=2)
    for found, expected in zip(other.parameters(), model.parameters(), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("attach_first", [True, False])
def test_mixed_precision_points_the_same_way(attach_first: bool) -> None:
    """Accelerate puts a forward of its own on the model for this; the rule is on all the same."""
    _, model, _, _, _ = prepared(attach_first, mixed_precision="bf16")
    plain = chain()
    fa.attach(plain, fa.DFA(seed=4), "[0-2]")
    x, y = samples(20)
    F.cross_entropy(plain(x), y).backward()
    F.cross_entropy(model.float()(x.float()), y).backward()
    for found, expected in zip(model.parameters(), plain.parameters(), strict=True):
        similarity = torch.cosine_similarity(found.grad.double().flatten(), expected.grad.flatten(), dim=0)
        assert 0.99 < similarity < 0.999999999  # near, and really in half precision
