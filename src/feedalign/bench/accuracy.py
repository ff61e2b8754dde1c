"""What an accuracy costs: the seconds and the operations until a trained network reaches it, from its records."""

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.bench.cost import flops
from feedalign.bench.timing import Progress
from feedalign.experiments.comparison import Comparison, compare
from feedalign.experiments.errors import RecordError
from feedalign.experiments.models import CNNConfig, MLPConfig
from feedalign.experiments.records import Run, load_all

RULES = ("backprop", "dfa", "shallow")
MODELS = {"MLPConfig": MLPConfig, "CNNConfig": CNNConfig}
SAMPLES = {"mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}
CLASSES = 10


@dataclass(frozen=True)
class AccuracyConfig:
    """What to look for.

    Attributes:
        runs: Folder with the records of runs.
        names: Configurations; all that are there if none is named.
        targets: Test accuracies in percent.
        device: What the operations are counted on; the seconds are those of the records.
    """

    runs: str
    names: tuple[str, ...] = ()
    targets: tuple[float, ...] = (85.0, 90.0, 97.0, 98.0)
    device: str = "cpu"


def measure(config: AccuracyConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per configuration, target and rule; targets that not even backprop reached are left out.

    Args:
        config: What to look for.
        progress: Called as ``progress(configuration, 1, 1)``.

    Raises:
        RecordError: There is no such run.
    """
    runs = load_all(Path(config.runs), "vision")
    comparisons = [each for each in compare(runs) if not config.names or each.name in config.names]
    if missing := sorted(set(config.names) - {each.name for each in comparisons}):
        raise RecordError(f"Expected runs of {', '.join(missing)} at or below {config.runs}, found none.")
    if not comparisons:
        raise RecordError(f"Expected runs at or below {config.runs}, found none. `feedalign train vision` makes some.")
    entries = []
    for comparison in comparisons:
        entries += _measure_one(comparison, config)
        if progress is not None:
            progress(comparison.name, 1, 1)
    return entries


def _measure_one(comparison: Comparison, config: AccuracyConfig) -> list[dict[str, Any]]:
    found = {rule: comparison.runs[rule] for rule in RULES if rule in comparison.runs}
    costs = {rule: operations_a_step(runs[0]) for rule, runs in found.items()}
    return [
        {
            "name": comparison.name,
            "data": comparison.first.record.data["name"],
            "target": target,
            "rule": rule,
            "flops_a_step": costs[rule],
            **_reached(runs, target / 100, costs[rule]),
        }
        for target in config.targets
        if any(reached(run, target / 100) for run in found.get("backprop", []))
        for rule, runs in found.items()
    ]


def _reached(runs: list[Run], accuracy: float, flops_a_step: int) -> dict[str, Any]:
    lines = [line for run in runs if (line := reached(run, accuracy)) is not None]
    whole = bool(lines) and len(lines) == len(runs)  # a mean over the seeds that happened to get there would flatter
    return {
        "seeds": len(runs),
        "reached": len(lines),
        "epochs": fmean(line["epoch"] for line in lines) if whole else None,
        "seconds": fmean(line["seconds"] for line in lines) if whole else None,
        "flops": fmean(line["step"] for line in lines) * flops_a_step if whole else None,
    }


def reached(run: Run, accuracy: float) -> dict[str, Any] | None:
    """Return the line of the curve in which a test accuracy was reached for the first time, None if it never was."""
    return next((line for line in run.curve if line["test_accuracy"] >= accuracy), None)


def operations_a_step(run: Run) -> int:
    """Return the floating-point operations of one training step, counted on a network built as the run's was."""
    config = run.record.config
    settings = {key: tuple(v) if isinstance(v, list) else v for key, v in config["model"].items() if key != "type"}
    shape = SAMPLES[config["data"]["name"]]
    with torch.random.fork_rng():
        model: nn.Module = MODELS[config["model"]["type"]](**settings).build(shape, CLASSES)
        images = torch.randn(config["batch"], *shape)
    if (rule := fa.rule(run.record.rule)) != fa.Backprop():
        points = config["points"]
        # With an example, so that the step that is counted is like all others: the first one finds out where rows lie.
        fa.attach(model, rule, tuple(points) if isinstance(points, list) else points, example=images)
    targets = torch.zeros(len(images), dtype=torch.long)
    return flops(lambda: cross_entropy(model(images), targets).backward())  # type: ignore[no-untyped-call]
