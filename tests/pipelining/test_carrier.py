"""torch's own schedules train to the bits of one process, with the error in place of gradients."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, distributed
from torch.distributed import pipelining as torch_pipelining
from torch.distributed.pipelining.schedules import PipelineScheduleSingle, get_schedule_class

import feedalign as fa
from feedalign import pipelining as fp
from pipelining.models import SYSTEMS, differing, gradients, one_process
from pipelining.processes import run

MICRO_BATCHES, COUNT = 4, 16
Bits = dict[str, Tensor]
SCHEDULES = ("GPipe", "1F1B", "Interleaved1F1B", "LoopedBFS", "InterleavedZeroBubble", "ZBVZeroBubble")
CASES: dict[str, tuple[str, Any, str]] = {
    "growing": ("growing", fa.DFA(seed=3, feedback=fa.Uniform(gain=3.0)), "auto"),
    "shrinking-product": ("shrinking", fa.SignDFA(seed=3), "product"),
    "transformer": ("transformer", fa.DFA(seed=3), "error"),
    "cnn-own": ("cnn", fa.DFA(seed=3, feedback=fa.Normal(shared=False)), "error"),
}


def train(schedule: str, case: str, rank: int, world: int) -> Bits:
    name, rule, send = CASES[case]
    system, kind, device = SYSTEMS[name], get_schedule_class(schedule), torch.device("cpu")
    single = issubclass(kind, PipelineScheduleSingle)
    stages = world if single else 2 * world
    last = stages - 1 - rank if schedule == "ZBVZeroBubble" else rank + world
    parts = {index: system.build(index, stages) for index in ([rank] if single else [rank, last])}
    x, y = system.batch(COUNT, 0)
    points = {str(i) for i in system.points}
    micro_batch = x[: COUNT // MICRO_BATCHES]
    carried = fp.carry(parts, rule, lambda name, module: name in points, stages=stages, example=micro_batch, send=send)
    own = [
        torch_pipelining.PipelineStage(carried[i], i, stages, device, dw_builder=carried[i].dw_builder) for i in parts
    ]
    runner = kind(own[0] if single else own, MICRO_BATCHES, loss_fn=system.loss)
    weights = [parameter for part in parts.values() for parameter in part.parameters()]
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9)
    for step in range(2):
        optimizer.zero_grad()
        x, y = system.batch(COUNT, step)
        runner.step(*([x] if 0 in parts else []), **({"target": y} if stages - 1 in parts else {}))
        optimizer.step()
    found: Bits = {}
    for part in parts.values():
        found |= {f"gradient of {name}": value for name, value in gradients(part).items()}
        found |= {name: value.detach() for name, value in part.state_dict().items()}
    return found


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    pairs = [("growing", schedule) for schedule in SCHEDULES]
    pairs += [(case, schedule) for case in CASES if case != "growing" for schedule in ("1F1B", "ZBVZeroBubble")]
    return run(2, tmp_path_factory.mktemp("two"), {f"{c}-{s}": partial(train, s, c) for c, s in pairs})


def test_a_schedule_that_takes_micro_batches_in_reverse(two: Callable[[str], list[Any]]) -> None:
    """LoopedBFS adds them up in another order than one process does."""
    name, rule, _ = CASES["growing"]
    expected = one_process(SYSTEMS[name], rule, MICRO_BATCHES, COUNT)
    together = {name: value for part in two("growing-LoopedBFS") for name, value in part.items()}
    assert together.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(together[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("schedule", [name for name in SCHEDULES if name != "LoopedBFS"])
def test_every_schedule(two: Callable[[str], list[Any]], schedule: str) -> None:
    name, rule, _ = CASES["growing"]
    expected = one_process(SYSTEMS[name], rule, MICRO_BATCHES, COUNT)
    assert differing(two(f"growing-{schedule}"), expected) == []


@pytest.mark.parametrize("schedule", ["1F1B", "ZBVZeroBubble"])
@pytest.mark.parametrize("case", [case for case in CASES if case != "growing"])
def test_every_model(two: Callable[[str], list[Any]], case: str, schedule: str) -> None:
    name, rule, _ = CASES[case]
    expected = one_process(SYSTEMS[name], rule, MICRO_BATCHES, COUNT)
    # torch learns shapes by a forward pass of its own, which batch statistics count.
    differ = differing(two(f"{case}-{schedule}"), expected)
    assert [key for key in differ if "running" not in key and "tracked" not in key] == []


@pytest.fixture
def alone() -> Any:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_what_a_carrier_refuses(alone: None) -> None:
    part, (x, _) = SYSTEMS["growing"].build(), SYSTEMS["growing"].batch(4, 0)
    with pytest.raises(
        fa.PointsError, match="DRTP sends targets, which torch's schedules give to the last stage alone"
    ):
        fp.carry({0: part}, fa.DRTP(), ["0"], stages=1, example=x)
    part = SYSTEMS["growing"].build()
    with pytest.raises(ValueError, match="send='product' expected"):
        fp.carry({0: part}, fa.DFA(feedback=fa.Uniform(shared=False)), ["0"], stages=1, example=x, send="product")
    part = SYSTEMS["growing"].build()
    with pytest.raises(fa.SignalError, match=r"each of the stages 0 to 1 on one process, found \[\[0\]\]"):
        fp.carry({0: part}, fa.DFA(), ["0"], stages=2, example=x)
