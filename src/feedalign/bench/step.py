"""The time of a whole training step: backprop, DFA and shallow in one process, interleaved round by round.

One round times one step of every rule, in an order that rotates, so that a slow spell of the machine falls on
all of them alike. What is reported are medians over rounds and the ratio of backprop's median to the rule's.
"""

import gc
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.cases import CASES, Case, select
from feedalign.bench.cost import Step, flops, peak_memory

RULES = ("backprop", "dfa", "shallow")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StepConfig:
    """What to measure.

    Attributes:
        cases: Names of cases, or ``transformer`` for both of its placements.
        rounds: Timed rounds a case; each is one step of every rule.
        warmup: Rounds before these, not counted.
        device: Where the step runs.
        seed: Seed of weights, inputs and feedback.
    """

    cases: tuple[str, ...] = tuple(case.name for case in CASES)
    rounds: int = 30
    warmup: int = 3
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        # Quartiles need two rounds; a median of fewer than two would not be a measurement.
        if self.rounds < 2 or self.warmup < 1:
            raise ValueError(f"rounds must be at least 2 and warmup at least 1; found {self.rounds} and {self.warmup}.")
        select(self.cases)
        _require_device(self.device)


def _require_device(name: str) -> None:
    here = ["cpu"]
    if torch.accelerator.is_available() and (accelerator := torch.accelerator.current_accelerator()) is not None:
        here.append(accelerator.type)
    if name.partition(":")[0] not in here:
        raise ValueError(f"Expected a device of this machine ({' or '.join(here)}), found {name!r}.")


def measure(config: StepConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per case and rule: times, ratio to backprop, arithmetic, memory.

    Args:
        config: What to measure.
        progress: Called as ``progress(case, rounds done, rounds)``.
    """
    entries = []
    for case in select(config.cases):
        entries += _measure_case(case, config, progress)
    return entries


def _measure_case(case: Case, config: StepConfig, progress: Progress | None) -> list[dict[str, Any]]:
    device = torch.device(config.device)
    torch.manual_seed(config.seed)
    model, batch = case.model().to(device), tuple(tensor.to(device) for tensor in case.batch())
    steps = {rule: _step(case, deepcopy(model), rule, batch, config.seed) for rule in RULES}
    seconds = _time(steps, case.name, config, device, progress)
    arithmetic = {rule: flops(step) for rule, step in steps.items()}
    memory = {rule: peak_memory(step, device) for rule, step in steps.items()}
    base = median(seconds["backprop"])
    return [
        {
            "name": case.name,
            "describe": case.describe,
            "rule": rule,
            "median_seconds": median(seconds[rule]),
            "quartiles": [quantiles(seconds[rule])[0], quantiles(seconds[rule])[2]],
            "ratio_to_backprop": base / median(seconds[rule]),
            "flops": arithmetic[rule],
            "arithmetic_limit": arithmetic["backprop"] / arithmetic[rule],
            "peak_memory_bytes": memory[rule],
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        for rule in RULES
    ]


def _step(case: Case, model: nn.Module, rule: str, batch: tuple[Tensor, ...], seed: int) -> Step:
    """Return a closure that runs one whole training step and leaves the gradients set to None."""
    options = {"seed": seed} if rule == "dfa" else {}
    if rule != "backprop":
        fa.attach(model, fa.rule(rule, **options), points=case.points)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    inputs, targets = batch

    def step() -> None:
        loss = cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def _time(
    steps: dict[str, Step], name: str, config: StepConfig, device: torch.device, progress: Progress | None
) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {rule: [] for rule in steps}
    order = list(steps)
    gc.collect()
    gc.disable()
    try:
        for done in range(config.warmup + config.rounds):
            for rule in order[done % len(order) :] + order[: done % len(order)]:
                elapsed = _seconds(steps[rule], device)
                if done >= config.warmup:
                    seconds[rule].append(elapsed)
            if progress is not None:
                progress(name, max(0, done + 1 - config.warmup), config.rounds)
    finally:
        gc.enable()
    return seconds


def _seconds(step: Step, device: torch.device) -> float:
    start = time.perf_counter()
    step()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter() - start
