"""What it costs to measure alignment, against the training steps of the rule and of backprop."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.bench.cases import Case, select
from feedalign.bench.cost import Step, peak_memory
from feedalign.bench.methods import METHODS, Trainee
from feedalign.bench.timing import Progress, check_device, check_rounds, interleaved, summed_up

STEP, BACKPROP, DEFAULT, BLOCKS, COPIED = "dfa", "backprop", "alignment", "with blocks", "with a second model"
SAMPLES = 32


@dataclass(frozen=True)
class AlignmentConfig:
    """What to measure.

    Attributes:
        cases: Names of cases, or ``transformer`` for both of its placements.
        rounds: Timed rounds a case; each is one step of DFA, one of backprop, and one of each measurement.
        warmup: Rounds before these, not counted.
        device: Where it runs.
        seed: Seed of weights, inputs and feedback.
    """

    cases: tuple[str, ...] = ("mlp-8x1024", "transformer-macro", "cnn")
    rounds: int = 10
    warmup: int = 2
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        check_device(self.device)
        select(self.cases)


def measure(config: AlignmentConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per case and measurement: times, ratios to training steps, and peak memory.

    Args:
        config: What to measure.
        progress: Called as ``progress(case, rounds done, rounds)``.
    """
    entries = []
    for case in select(config.cases):
        entries += _measure_case(case, config, progress)
    return entries


def _measure_case(case: Case, config: AlignmentConfig, progress: Progress | None) -> list[dict[str, Any]]:
    device = torch.device(config.device)
    torch.manual_seed(config.seed)
    model, (inputs, targets) = case.model().to(device), (tensor.to(device) for tensor in case.batch())

    def trainee() -> Trainee:
        return Trainee(deepcopy(model), inputs, targets, case.points, config.seed)

    steps: dict[str, Step] = {
        STEP: METHODS["dfa"].build(trainee()),
        BACKPROP: METHODS["backprop"].build(trainee()),
        DEFAULT: _alignment(trainee(), block_samples=0),
        BLOCKS: _alignment(trainee(), block_samples=SAMPLES),
        COPIED: _by_a_second_model(trainee()),
    }
    seconds = interleaved(steps, case.name, config.rounds, config.warmup, device, progress)
    times = {name: summed_up(found) for name, found in seconds.items()}
    return [
        {
            "name": case.name,
            "describe": case.describe,
            "rule": name,
            **times[name],
            "ratio_to_step": times[name]["median_seconds"] / times[STEP]["median_seconds"],
            "ratio_to_backprop": times[name]["median_seconds"] / times[BACKPROP]["median_seconds"],
            "peak_memory_bytes": peak_memory(step, device),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
        }
        for name, step in steps.items()
    ]


def _alignment(trainee: Trainee, block_samples: int) -> Step:
    handle = fa.attach(trainee.model, fa.DFA(seed=trainee.seed), points=trainee.points)
    return lambda: fa.alignment(handle, lambda: trainee.forward(trainee.model), block_samples)


def _by_a_second_model(trainee: Trainee) -> Step:
    """Measure the usual way: the rule on a copy, backpropagation on the model, and the weights' gradients compared."""

    def gradients(model: nn.Module) -> list[Tensor]:
        return list(torch.autograd.grad(trainee.forward(model), list(model.parameters())))

    def measurement() -> list[float]:
        copy = deepcopy(trainee.model)
        fa.attach(copy, fa.DFA(seed=trainee.seed), points=trainee.points)
        pairs = zip(gradients(copy), gradients(trainee.model), strict=True)
        return [torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in pairs]

    return measurement
