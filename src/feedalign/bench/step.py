"""The time of a whole training step: backprop, DFA, shallow and peers in one process, interleaved round by round."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch

from feedalign.bench.cases import CASES, Case, select
from feedalign.bench.cost import Step, flops_of_a_later_step, peak_memory
from feedalign.bench.methods import METHODS, Trainee, check
from feedalign.bench.timing import Progress, check_device, check_rounds, interleaved, summed_up

USUAL = ("backprop", "dfa", "shallow", "checkpointing", "leaves", "hooks")
Precision = Literal["no", "bf16"]


@dataclass(frozen=True)
class StepConfig:
    """What to measure.

    Attributes:
        cases: Names of cases, or ``transformer`` for both of its placements.
        methods: Names of the ways to take a step.
        rounds: Timed rounds a case; each is one step of every method.
        warmup: Rounds before these, not counted.
        device: Where the step runs.
        precision: Of the forward pass: float32 (``"no"``) or autocast to bfloat16.
        seed: Seed of weights, inputs and feedback.
    """

    cases: tuple[str, ...] = tuple(case.name for case in CASES)
    methods: tuple[str, ...] = USUAL
    rounds: int = 30
    warmup: int = 3
    device: str = "cpu"
    precision: Precision = "no"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        select(self.cases)
        check(self.methods)
        check_device(self.device)


def measure(config: StepConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per case and method: times, ratio to backprop, arithmetic, memory.

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
    model, (inputs, targets) = case.model().to(device), (tensor.to(device) for tensor in case.batch())

    def built(name: str) -> Step:
        return METHODS[name].build(
            Trainee(deepcopy(model), inputs, targets, case.points, config.seed, config.precision)
        )

    steps = {name: built(name) for name in config.methods}
    seconds = interleaved(steps, case.name, config.rounds, config.warmup, device, progress)
    times = {name: summed_up(found) for name, found in seconds.items()}
    # A compiled step has the same products, but in a graph that the counter does not see.
    arithmetic = {name: flops_of_a_later_step(built(name.removesuffix("-compiled"))) for name in steps}
    return [
        {
            "name": case.name,
            "describe": case.describe,
            "rule": name,
            **times[name],
            "ratio_to_backprop": times["backprop"]["median_seconds"] / times[name]["median_seconds"],
            "flops": arithmetic[name],
            "arithmetic_limit": arithmetic["backprop"] / arithmetic[name],
            "peak_memory_bytes": peak_memory(step, device),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        for name, step in steps.items()
    ]
