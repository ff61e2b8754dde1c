"""A training loop with all that is usual for language models: accumulation, autocast, scaling, clipping."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from loops.language import build, sentences


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def vector(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad.double().flatten() for name, parameter in model.named_parameters()}


def train(rule: fa.Rule, dtype: torch.dtype | None) -> list[float]:
    model = build()
    fa.attach(model, rule)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**10)
    context = nullcontext() if dtype is None else torch.autocast("cpu", dtype)
    losses = []
    for step in range(60):
        for micro_step in range(2):
            with context:
                loss = loss_of(model, *sentences(8, seed=10 * step + micro_step)) / 2
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.grad is not None], 1.0)
        assert norm.isfinite()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(2 * loss.item())
    return losses


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_the_usual_loop_trains(dtype: torch.dtype | None) -> None:
    losses = train(fa.DFA(seed=0), dtype)
    assert losses[0] > 2.3  # about the logarithm of the vocabulary
    assert losses[-1] < 0.5 * losses[0]


def test_micro_batches_add_up_to_the_batch() -> None:
    model = build(torch.float64)
    fa.attach(model, fa.DFA(seed=0))
    x, y = sentences(12)
    loss_of(model, x, y).backward()
    whole = vector(model)
    model.zero_grad()
    for part in (slice(0, 4), slice(4, 5), slice(5, 12)):
        (loss_of(model, x[part], y[part]) * len(x[part]) / 12).backward()
    for name, gradient in vector(model).items():
        torch.testing.assert_close(gradient, whole[name], rtol=1e-10, atol=1e-13)
    exact = build(torch.float64)
    loss_of(exact, x, y).backward()
    below = "encoder.layers.0.linear1.weight"
    assert torch.cosine_similarity(whole[below], vector(exact)[below], dim=0).abs() < 0.9  # it was not backpropagation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_points_the_same_way(dtype: torch.dtype) -> None:
    x, y = sentences(12)
    precise, model = build(), build()
    for each in (precise, model):
        fa.attach(each, fa.DFA(seed=0))
    loss_of(precise, x, y).backward()
    with torch.autocast("cpu", dtype):
        loss = loss_of(model, x, y)
    loss.backward()
    expected = vector(precise)
    for name, gradient in vector(model).items():
        if expected[name].norm() > 1e-6:
            assert torch.cosine_similarity(gradient, expected[name], dim=0) > 0.99, name


def test_scaling_the_loss_changes_nothing_after_unscaling() -> None:
    x, y = sentences(12)
    model, scaled = build(), build()
    for each in (model, scaled):
        fa.attach(each, fa.DFA(seed=0))
    optimizer = torch.optim.SGD(scaled.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    loss_of(model, x, y).backward()
    scaler.scale(loss_of(scaled, x, y)).backward()
    scaler.unscale_(optimizer)
    for found, expected in zip(vector(scaled).values(), vector(model).values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
