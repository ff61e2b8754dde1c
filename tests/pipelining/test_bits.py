"""Stages on several processes train to the bits of one process with an ordinary attachment."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any
from weakref import ref

import pytest
import torch
from torch import Tensor

import feedalign as fa
from feedalign import pipelining as fp
from feedalign.pipelining import schedule as schedules
from feedalign.pipelining.agreement import Card
from feedalign.rules import Broadcast
from pipelining.models import SYSTEMS, differing, one_process, staged
from pipelining.processes import run

MICRO_BATCHES, COUNT = 4, 16
Bits = dict[str, Tensor]


class Token:
    """Something to refer to."""


@dataclass(frozen=True)
class Half(fa.BroadcastRule):
    """A rule of a user's own, which is not linear in the error."""

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        return sent.project(sent.error.tanh() / 2)


def uniform(shared: bool = True, **options: Any) -> fa.DFA:
    return fa.DFA(seed=3, feedback=fa.Uniform(shared=shared, gain=3.0, **options))


SENT = {"shared-error": (True, "error"), "shared-product": (True, "product"), "own-error": (False, "error")}
GRID: dict[str, tuple[str, Any, dict[str, Any]]] = {
    f"{system}-{sent}-{ahead}": (system, uniform(shared), {"send": send, "ahead": ahead})
    for system, (sent, (shared, send)), ahead in product(SYSTEMS, SENT.items(), (0, "flat", "all"))
}
RULES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "auto": ("shrinking", uniform(), {}),
    "one-ahead": ("growing", uniform(), {"ahead": 1}),
    "scaled-by-the-widest": ("growing", uniform(scale="widest"), {"send": "product"}),
    "repeated": ("cnn", uniform(positions="repeat"), {"send": "product"}),
    "sign": ("shrinking", fa.SignDFA(seed=3), {"send": "product"}),
    "sign-error": ("growing", fa.SignDFA(seed=3), {}),
    "ternary": ("transformer", fa.TernaryDFA(seed=3), {"send": "product"}),
    "drtp": ("growing", fa.DRTP(seed=3), {}),
    "drtp-transformer": ("transformer", fa.DRTP(seed=3), {}),
    "own-rule": ("growing", Half(seed=3), {}),
    "hadamard": ("shrinking", fa.DFA(seed=3, feedback=fa.Hadamard()), {"send": "product"}),
    "sparse": ("growing", fa.DFA(seed=3, feedback=fa.Sparse()), {"send": "product"}),
    "regenerated": ("transformer", fa.DFA(seed=3, feedback=fa.Regenerated()), {"send": "product"}),
}


def train(name: str, rank: int, world: int) -> Bits:
    system, rule, options = (GRID | RULES)[name]
    return staged(SYSTEMS[system], rule, MICRO_BATCHES, COUNT, rank, world, **options)


def without_agreement(rank: int, world: int) -> Bits:
    """Every stage takes its own points for all there are."""
    gather = schedules.gather

    def alone(own: Any, group: Any) -> list[Any]:
        return gather(own, group) if isinstance(own, Card) else [own]

    schedules.gather = alone  # type: ignore[assignment]
    try:
        return staged(SYSTEMS["growing"], uniform(), MICRO_BATCHES, COUNT, rank, world, send="error")
    finally:
        schedules.gather = gather


def held(rank: int, world: int) -> dict[str, list[int]]:
    """How many micro-batches' activations are alive after each forward pass."""
    system, found = SYSTEMS["growing"], {}
    for ahead in (0, "flat", "all"):
        part = system.build(rank, world)
        own = fp.Stage(part, uniform(), system.names(part), index=rank, stages=world)
        schedule = fp.ScheduleDFA(own, 6, system.loss, ahead=ahead)
        alive: list[Any] = []
        counts: list[int] = []

        def look(module: Any, args: Any, output: Tensor, alive: list[Any] = alive, counts: list[int] = counts) -> None:
            if torch.is_grad_enabled():
                output.grad_fn.metadata["token"] = token = Token()  # which lives as long as the graph does
                alive.append(ref(token))
                counts.append(sum(each() is not None for each in alive))

        # What the first layer made before its ReLU hangs on the graph of the micro-batch alone.
        next(part.children())[0].register_forward_hook(look)
        x, y = system.batch(24, 0)
        for _ in range(2):
            schedule.step(*([x] if own.is_first else []), **({"target": y} if own.is_last else {}))
        found[str(ahead)] = counts
    return found


def evaluated(rank: int, world: int) -> dict[str, Any]:
    """Outputs and losses of evaluation and of a step, and whether evaluation leaves gradients."""
    system = SYSTEMS["cnn"]
    part = system.build(rank, world).eval()
    own = fp.Stage(part, uniform(), system.names(part), index=rank, stages=world)
    schedule = fp.ScheduleDFA(own, MICRO_BATCHES, system.loss)
    x, y = system.batch(COUNT, 0)
    given, target = ([x] if own.is_first else []), ({"target": y} if own.is_last else {})
    losses: list[Tensor] = []
    output = schedule.eval(*given, **target, losses=losses)
    untouched = all(parameter.grad is None for parameter in part.parameters())
    trained: list[Tensor] = []
    again = schedule.step(*given, **target, losses=trained)
    silent = schedule.step(*given, **target, return_outputs=False)
    return {
        "output": output, "losses": losses, "untouched": untouched,
        "again": again, "trained": trained, "silent": silent,
    }  # fmt: skip


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    scenarios: dict[str, Any] = {name: partial(train, name) for name in GRID | RULES}
    scenarios |= {"without-agreement": without_agreement, "held": held, "evaluated": evaluated}
    return run(2, tmp_path_factory.mktemp("two"), scenarios)


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Any]]:
    flat = {name: partial(train, name) for name in GRID if name.endswith("flat")}
    return run(4, tmp_path_factory.mktemp("four"), {**flat, "held": held})


def expected(name: str) -> Bits:
    system, rule, _ = (GRID | RULES)[name]
    return one_process(SYSTEMS[system], rule, MICRO_BATCHES, COUNT)


@pytest.mark.parametrize("name", GRID | RULES)
def test_two_stages_train_to_the_bits_of_one_process(two: Callable[[str], list[Any]], name: str) -> None:
    assert differing(two(name), expected(name)) == []


@pytest.mark.parametrize("name", [name for name in GRID if name.endswith("flat")])
def test_four_stages_train_to_the_bits_of_one_process(four: Callable[[str], list[Any]], name: str) -> None:
    assert differing(four(name), expected(name)) == []


def test_every_weight_has_been_trained() -> None:
    for system in SYSTEMS.values():
        before = dict(system.build().named_parameters())
        after = one_process(system, uniform(), MICRO_BATCHES, COUNT)
        assert [name for name, value in before.items() if torch.equal(after[name], value)] == []


def test_stages_that_do_not_know_each_others_widths_learn_something_else(two: Callable[[str], list[Any]]) -> None:
    name = "gradient of 0.0.weight"
    found, right = two("without-agreement")[0][name], expected("growing-shared-error-flat")[name]
    assert (found - right).norm() > 0.3 * right.norm()


@pytest.mark.parametrize("world", [2, 4])
def test_no_stage_holds_more_micro_batches_than_its_order_says(
    two: Callable[[str], list[Any]], four: Callable[[str], list[Any]], world: int
) -> None:
    for rank, found in enumerate({2: two, 4: four}[world]("held")):
        assert max(found["0"]) == world - rank
        assert max(found["flat"]) == world
        assert max(found["all"]) == 6


def test_evaluation_and_what_a_step_returns(two: Callable[[str], list[Any]]) -> None:
    first, last = two("evaluated")
    system = SYSTEMS["cnn"]
    model = system.build().eval()
    x, y = system.batch(COUNT, 0)
    with torch.no_grad():
        outputs = [model(part) for part in x.chunk(MICRO_BATCHES)]
    losses = [system.loss(output, part) for output, part in zip(outputs, y.chunk(MICRO_BATCHES), strict=True)]
    assert first["output"] is None
    assert first["losses"] == []
    assert first["untouched"]
    assert last["untouched"]
    for output, found in ((last["output"], last["losses"]), (last["again"], last["trained"])):
        assert torch.equal(output, torch.cat(outputs))
        assert torch.equal(torch.stack(found), torch.stack(losses))
        assert not output.requires_grad
        assert not found[0].requires_grad
    assert last["silent"] is None
