"""An update per micro-batch: bitwise one process that keeps every version of the weights, and traps that are "
"refused."""

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.func import functional_call

import feedalign as fa
from feedalign import pipelining as fp
from pipelining.models import SYSTEMS, System, differing
from pipelining.processes import run

MICRO_BATCHES, COUNT, STEPS = 6, 24, 2
RULE = fa.DFA(seed=3, feedback=fa.Uniform(gain=3.0))
Bits = dict[str, Tensor]
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda weights: torch.optim.SGD(weights, 0.05),
    "adamw": lambda weights: torch.optim.AdamW(weights, 1e-2),
}
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    f"{system}-{ahead}-{weights}": (system, "adamw", {"ahead": ahead, "weights": weights})
    for system in ("growing", "transformer")
    for ahead in (0, "flat")
    for weights in ("copy", "recompute")
}
CASES |= {
    "growing-0-current": ("growing", "sgd", {"ahead": 0, "weights": "current"}),
    "cnn-0-copy": ("cnn", "sgd", {"ahead": 0, "weights": "copy", "send": "product"}),
}


def train(case: str, rank: int, world: int) -> Bits:
    name, kind, options = CASES[case]
    system = SYSTEMS[name]
    part = system.build(rank, world)
    own = fp.Stage(part, RULE, system.names(part), index=rank, stages=world)
    optimizer = OPTIMIZERS[kind](part.parameters())
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss, updates="micro-batch", optimizer=optimizer, **options)
    assert schedule.delay == world - 1 - rank + (0 if options["ahead"] == 0 else rank)
    for step in range(STEPS):
        x, y = system.batch(COUNT, step)
        schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
    return {name: value.detach() for name, value in part.state_dict().items()}


def versions(case: str, stages: int) -> Bits:
    """One process, without the library's pipelines, that keeps all versions of the weights of every stage.

    A forward pass sees, on stage s, what has been learned from the micro-batches more than delay(s) before it, or in an
    earlier step. Its gradients are those of the weights that it saw; they are added to the newest. With "recompute"
    they are those of the newest weights, on the same inputs of the stage and for the same error.
    """
    name, kind, options = CASES[case]
    system = SYSTEMS[name]
    model = system.build()
    handle = fa.attach(model, RULE, system.names(model))
    starts = [*system.splits[stages], len(system.layers)]
    layers = [range(a, b) for a, b in itertools.pairwise(starts)]
    parameters = dict(model.named_parameters())
    stage_of = {n: next(s for s, own in enumerate(layers) if int(n.split(".")[0]) in own) for n in parameters}
    optimizers = [OPTIMIZERS[kind]([p for n, p in parameters.items() if stage_of[n] == s]) for s in range(stages)]
    delays = [stages - 1 - s + (s if options["ahead"] == "flat" else 0) for s in range(stages)]
    history = [{n: p.detach().clone() for n, p in parameters.items()}]
    for step in range(STEPS):
        x, y = system.batch(COUNT, step)
        base = len(history) - 1
        for m, (part, target) in enumerate(zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True)):
            seen = {n: history[base + max(0, m - delays[s])][n].clone().requires_grad_() for n, s in stage_of.items()}
            output = functional_call(model, seen, (part,))
            if options["weights"] == "recompute":
                gradients = recomputed(system, handle, model, seen, layers, (part, target), output)
            else:
                system.loss(output, target).backward()
                gradients = {n: p.grad for n, p in seen.items()}
            for n, parameter in parameters.items():
                parameter.grad = gradients[n]
            for optimizer in optimizers:
                optimizer.step()
            history.append({n: p.detach().clone() for n, p in parameters.items()})
    return {n: value.detach() for n, value in model.state_dict().items()}


def recomputed(
    system: System,
    handle: Any,
    model: Any,
    seen: Bits,
    layers: list[range],
    batch: tuple[Tensor, Tensor],
    output: Tensor,
) -> dict[str, Tensor]:
    """The gradients of the weights of now, layer by layer, from what entered each stage and the error as they were."""
    leaf = output.detach().requires_grad_()
    system.loss(leaf, batch[1]).backward()
    rows = leaf.grad.reshape(-1, leaf.shape[-1])
    matrices = dict(zip(handle.planner.layouts, handle.planner.matrices(), strict=True))
    gradients: dict[str, Tensor] = {}
    model.zero_grad()
    with handle.off(), torch.no_grad():
        entering = []
        x = batch[0]
        for i, layer in enumerate(model):
            entering.append(x)
            own = {n.split(".", 1)[1]: value for n, value in seen.items() if n.split(".")[0] == str(i)}
            x = functional_call(layer, own, (x,))
    with handle.off():
        for own in layers:
            x = entering[own[0]]
            for i in own:
                layer = model[i]
                x = layer(x)
                weights = {f"{i}.{n}": p for n, p in layer.named_parameters()}
                if str(i) in matrices:
                    x.backward((rows @ matrices[str(i)].to(rows.dtype)).reshape(x.shape), retain_graph=False)
                    gradients |= {n: p.grad.clone() for n, p in weights.items()}
                    below = [n for n in parameters_of(model, own, i) if n not in gradients]
                    gradients |= {n: dict(model.named_parameters())[n].grad.clone() for n in below}
                    x = x.detach()
            if own is layers[-1]:
                x.backward(leaf.grad)
                gradients |= {n: p.grad.clone() for n, p in model.named_parameters() if n not in gradients}
    model.zero_grad()
    return gradients


def parameters_of(model: Any, own: range, last: int) -> list[str]:
    """Parameters of a stage's layers up to one of them: an embedding learns through the block above it."""
    return [n for n, _ in model.named_parameters() if own[0] <= int(n.split(".")[0]) <= last]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    return run(2, tmp_path_factory.mktemp("two"), {case: partial(train, case) for case in CASES})


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    cases = {case: partial(train, case) for case in CASES if case.startswith("transformer")}
    return run(4, tmp_path_factory.mktemp("four"), cases)


@pytest.mark.parametrize("case", CASES)
def test_two_stages_are_one_process_that_keeps_versions(two: Callable[[str], list[Any]], case: str) -> None:
    check(two(case), versions(case, 2), case)


@pytest.mark.parametrize("case", [case for case in CASES if case.startswith("transformer")])
def test_four_stages_are_one_process_that_keeps_versions(four: Callable[[str], list[Any]], case: str) -> None:
    check(four(case), versions(case, 4), case)


def check(found: list[Bits], expected: Bits, case: str) -> None:
    if "recompute" not in case:
        differ = differing(found, expected)
        assert [n for n in differ if "running" not in n] == []
        return
    together = {n: value for part in found for n, value in part.items()}
    for n, value in expected.items():
        torch.testing.assert_close(together[n], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=n: f"{n}: {m}")


def test_delay_is_felt() -> None:
    """The first stage learns something else with delay than without, so that the comparison means something."""
    name, kind, _ = CASES["transformer-0-copy"]
    delayed = versions("transformer-0-copy", 2)
    assert not torch.equal(one_by_one(name, kind)["1.qkv.weight"], delayed["1.qkv.weight"])


def one_by_one(name: str, kind: str) -> Bits:
    system = SYSTEMS[name]
    model = system.build()
    fa.attach(model, RULE, system.names(model))
    optimizer = OPTIMIZERS[kind](model.parameters())
    for step in range(STEPS):
        x, y = system.batch(COUNT, step)
        for part, target in zip(x.chunk(MICRO_BATCHES), y.chunk(MICRO_BATCHES), strict=True):
            system.loss(model(part), target).backward()
            optimizer.step()
            optimizer.zero_grad()
    return {n: value.detach() for n, value in model.state_dict().items()}


# ---- one stage: what is refused --------------------------------------------------------------------------------------


@pytest.fixture
def alone() -> Any:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def schedule_of(name: str, optimizer: Any = torch.optim.SGD, **options: Any) -> tuple[fp.ScheduleDFA, Any]:
    system = SYSTEMS[name]
    part = system.build()
    own = fp.Stage(part, RULE, system.names(part), index=0, stages=1)
    made = optimizer(part.parameters(), 0.1) if isinstance(optimizer, type) else optimizer
    given = {"updates": "micro-batch", "optimizer": made, "ahead": "all", **options}
    return fp.ScheduleDFA(own, 4, system.loss, **given), part


def test_one_stage_without_delay_is_an_ordinary_loop(alone: None) -> None:
    system = SYSTEMS["transformer"]
    part = system.build()
    own = fp.Stage(part, RULE, system.names(part), index=0, stages=1)
    optimizer = OPTIMIZERS["adamw"](part.parameters())
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss, updates="micro-batch", optimizer=optimizer, ahead=0)
    assert schedule.delay == 0
    for step in range(STEPS):
        x, y = system.batch(COUNT, step)
        schedule.step(x, target=y)
    assert differing([dict(part.state_dict())], one_by_one("transformer", "adamw")) == []


@pytest.mark.parametrize("name", ["transformer", "cnn"])
def test_weights_that_a_backward_pass_reads_cannot_change_under_it(alone: None, name: str) -> None:
    schedule, _ = schedule_of(name, weights="current")
    x, y = SYSTEMS[name].batch(16, 0)
    with pytest.raises(fp.StageError, match="modified by an inplace operation"):
        schedule.step(x, target=y)


class ByData(torch.optim.SGD):
    """Replaces what parameters hold, so that autograd does not notice."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data = parameter.data - group["lr"] * parameter.grad


class InData(torch.optim.SGD):
    """Writes into `.data`, in place."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.data.sub_(group["lr"] * parameter.grad)


@pytest.mark.parametrize("optimizer", [ByData, InData])
def test_optimisers_that_write_behind_autograds_back(alone: None, optimizer: Any) -> None:
    schedule, _ = schedule_of("growing", optimizer, weights="current")
    x, y = SYSTEMS["growing"].batch(16, 0)
    with pytest.raises(fp.StageError, match=f"{optimizer.__name__} writes weights by `.data`"):
        schedule.step(x, target=y)
    schedule, part = schedule_of("growing", optimizer, weights="copy")
    before = part[0][0].weight.detach().clone()
    schedule.step(x, target=y)
    assert not torch.equal(part[0][0].weight, before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"updates": "batch"}, "updates must be 'step' or 'micro-batch'"),
        ({"weights": "old"}, "'copy', 'recompute' or 'current'; found 'micro-batch' and 'old'"),
        ({"updates": "step"}, "updates='step' leaves its steps to you"),
        ({"optimizer": None}, "expected the optimizer of this stage's parameters"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1, requires_grad=True)], 0.1)}, "found none called '0.0.weight'"),
    ],
)
def test_options(alone: None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schedule_of("growing", **options)
