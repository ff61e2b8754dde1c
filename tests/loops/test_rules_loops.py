"""The rules that learn or go from layer to layer, in loops with checkpointing, torch.func, autocast, accumulation."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import feedalign as fa
from loops.language import build, sentences
from loops.oracle import chain, samples
from loops.test_accumulation import loss_of
from zoo import WholeLSTM

LAYERWISE = {"fa": fa.FA, "usf": fa.USF, "brsf": fa.BRSF}
LEARNED = {"dkp": fa.DKP, "kp": fa.KolenPollack, "mirror": fa.WeightMirror, "grape": fa.GrAPE}
RULES = {**LAYERWISE, **LEARNED}


def attach(model: nn.Module, rule: fa.Rule, example: object = None) -> nn.Module:
    points = "auto" if isinstance(rule, fa.TransportRule) else "[0-2]"
    fa.attach(model, rule, points, example=samples(3)[0] if example is None else example)
    return model


def all_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Return the gradients, those of what is learned included."""
    assert all(parameter.grad is not None for parameter in model.parameters())
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=lambda m, n=name: f"{n}: {m}")


# ---- activation checkpointing ----------------------------------------------------------------------------------------


class Block(nn.Module):
    """A block that keeps only its input while ``again`` is on, and runs again in the backward pass."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.again, self.runs = inner, False, 0

    def forward(self, x: Tensor) -> Tensor:
        return checkpoint(self._run, x, use_reentrant=False) if self.again else self._run(x)

    def _run(self, x: Tensor) -> Tensor:
        self.runs += 1
        out = self.inner(x)
        return out[0] if isinstance(out, tuple) else out


def with_and_without(model: nn.Module, x: Tensor, fused: bool = False) -> list[dict[str, Tensor]]:
    found = []
    blocks = [module for module in model.modules() if isinstance(module, Block)]
    for again in (True, False):
        for block in blocks:
            block.again, block.runs = again, 0
        model.zero_grad()
        model(x).square().mean().backward()
        assert not again or fused or all(block.runs >= 2 for block in blocks)
        found.append(all_gradients(model))
    return found


@pytest.mark.parametrize("rule", RULES)
def test_checkpointed_blocks_give_the_same_gradients(rule: str) -> None:
    *blocks, head = chain()
    model = attach(nn.Sequential(*map(Block, blocks), head), RULES[rule](seed=1))
    assert_close(*with_and_without(model, samples(6)[0]))


@pytest.mark.parametrize("rule", ["fa", "mirror"])
def test_checkpointed_attention_and_recurrent_layers(rule: str) -> None:
    attention = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
    model = nn.Sequential(nn.Linear(6, 6), Block(nn.LSTM(6, 6, batch_first=True)), Block(attention)).double()
    x = torch.randn(4, 5, 6, dtype=torch.float64)
    # What a recurrent layer saves is exchanged before the checkpoint sees it, so that block is not run again.
    assert_close(*with_and_without(attach(model, RULES[rule](seed=1), example=x), x, fused=True))


# ---- torch.func ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["fa", "usf", "kp", "product"])
def test_gradients_per_sample(rule: str) -> None:
    made = {**RULES, "product": fa.ProductFA}[rule](seed=2)
    model, (x, y) = attach(chain(), made), samples(5)

    def loss(parameters: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, parameters, (x[None],)), y[None])

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = vmap(grad(loss), (None, 0, 0))(parameters, x, y)
    for i in range(len(x)):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        assert_close({name: gradient[i] for name, gradient in found.items()}, all_gradients(model))


def test_functional_call_carries_by_the_parameters_it_is_given() -> None:
    """USF has the signs of the weights that took part, not of those that the module holds."""
    model, (x, y) = attach(chain(), fa.USF(seed=2)), samples(5)
    other = {name: -p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss = F.cross_entropy(functional_call(model, other, (x,)), y)
    found = dict(zip(other, torch.autograd.grad(loss, list(other.values())), strict=True))
    twin = attach(chain(), fa.USF(seed=2))
    twin.load_state_dict({name: value.detach() for name, value in other.items()})
    F.cross_entropy(twin(x), y).backward()
    assert_close(found, all_gradients(twin))


def test_gradients_of_gradients() -> None:
    """A penalty on FA's gradient of the last layer, differentiated by the last bias, against finite differences."""
    model, (x, y) = attach(chain(), fa.FA(seed=2)), samples(5)
    head = model[3]

    def penalty(create_graph: bool) -> Tensor:
        loss = F.cross_entropy(model(x), y)
        return torch.autograd.grad(loss, [head.weight], create_graph=create_graph)[0].square().sum()

    (found,) = torch.autograd.grad(penalty(create_graph=True), [head.bias])
    for entry in range(4):
        values = []
        for change in (1e-5, -2e-5, 1e-5):
            with torch.no_grad():
                head.bias[entry] += change
            values.append(penalty(create_graph=False).item())
        assert found[entry].item() == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-5)


# ---- accumulation and autocast ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["fa", "dkp", "mirror"])
@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float16], ids=["float32", "bfloat16", "float16"])
def test_the_usual_loop_trains(rule: str, dtype: torch.dtype | None) -> None:
    model = build()
    example = sentences(2)[0]
    handle = fa.attach(model, RULES[rule](seed=0), example=example)
    begun = {} if handle.learned is None else {n: p.detach().clone() for n, p in handle.learned.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.0)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype == torch.float16, init_scale=2.0**10)
    losses = []
    for step in range(40):
        for micro_step in range(2):
            with nullcontext() if dtype is None else torch.autocast("cpu", dtype):
                loss = loss_of(model, *sentences(8, seed=10 * step + micro_step)) / 2
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        assert torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).isfinite()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(2 * loss.item())
    assert losses[0] > 2.3  # about the logarithm of the vocabulary
    assert losses[-1] < 0.7 * losses[0]
    for name, matrix in begun.items():
        assert not torch.equal(handle.learned.get_parameter(name), matrix), f"{name} has not learned"


@pytest.mark.parametrize("rule", ["fa", "brsf", "dkp", "kp", "product"])
def test_micro_batches_add_up_to_the_batch(rule: str) -> None:
    made = {**RULES, "product": fa.ProductFA}[rule](seed=2)
    model, (x, y) = attach(chain(), made), samples(12)
    F.cross_entropy(model(x), y).backward()
    whole = all_gradients(model)
    model.zero_grad()
    for part in (slice(0, 4), slice(4, 5), slice(5, 12)):
        (F.cross_entropy(model(x[part]), y[part]) * len(x[part]) / 12).backward()
    assert_close(all_gradients(model), whole)


@pytest.mark.parametrize("rule", ["dkp", "kp"])
def test_scaling_the_loss_scales_what_is_learned(rule: str) -> None:
    """So a GradScaler that unscales all gradients of the optimiser leaves the lessons as they should be."""
    model, (x, y) = attach(chain(), RULES[rule](seed=2)), samples(6)
    F.cross_entropy(model(x), y).backward()
    once = all_gradients(model)
    model.zero_grad()
    (F.cross_entropy(model(x), y) * 2.0**12).backward()
    assert_close({name: gradient / 2.0**12 for name, gradient in all_gradients(model).items()}, once)


def test_recurrent_layers_under_autocast_go_back_by_the_feedback() -> None:
    found = []
    for cast in (False, True):
        torch.manual_seed(0)
        model = WholeLSTM()
        x = torch.randn(4, 5, 3, requires_grad=True)
        fa.attach(model, fa.FA(seed=1))
        with torch.autocast("cpu", torch.bfloat16, enabled=cast):
            loss = model(x).float().square().sum()
        loss.backward()
        found.append(x.grad.flatten())
    assert torch.cosine_similarity(*found, dim=0) > 0.99
