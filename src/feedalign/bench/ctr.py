"""The time of a training step on clicks over the number of categories: dense and sparse tables, backprop and DFA."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from feedalign.bench.cost import Step, peak_memory
from feedalign.bench.timing import Progress, check_device, check_rounds, interleaved, summed_up
from feedalign.experiments.ctr.config import Config
from feedalign.experiments.ctr.optimiser import ClickOptimiser
from feedalign.experiments.models.clicks import ClickKind, ClickModelConfig
from feedalign.experiments.optimisation import OptimiserConfig

FIELDS = 39  # as Criteo has
BATCHES = 8  # that take turns, so that no step finds its rows in a cache
BACKPROP = "backprop"
WAYS = {
    "backprop": ("bp", False),
    "dfa": ("dfa", False),
    "backprop-sparse": ("bp", True),
    "dfa-sparse": ("dfa", True),
}
"""The ways to take a step: the rule, and whether tables have sparse gradients."""


@dataclass(frozen=True)
class CtrConfig:
    """What to measure.

    Attributes:
        categories: Of all fields together; each number once.
        model: The network, of its published size.
        batch: Rows in a step.
        rounds: Timed rounds; each is one step of every size in every way.
        warmup: Rounds before these, not counted.
        device: Where the step runs.
        seed: Seed of weights, rows and feedback.
    """

    categories: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    model: ClickKind = "deepfm"
    batch: int = 2_048
    rounds: int = 10
    warmup: int = 2
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        check_device(self.device)
        ClickModelConfig(self.model)
        if self.model == "fm":
            raise ValueError("Expected a network with hidden layers, found fm, which learns by backprop alone.")
        if not self.categories or min(self.categories) < FIELDS or self.batch < 2:
            raise ValueError(
                f"Expected at least one category for each of {FIELDS} fields and 2 rows in a batch, found "
                f"{self.categories} and {self.batch}."
            )
        if len(set(self.categories)) < len(self.categories):
            raise ValueError(f"Expected every number of categories once, found {self.categories}.")


def measure(config: CtrConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per number of categories and way: times, ratio to backprop with dense tables, memory.

    All take turns, those of different numbers too, so that a slow spell of the machine is not taken for growth.

    Args:
        config: What to measure.
        progress: Called as ``progress(model, rounds done, rounds)``.
    """
    device = torch.device(config.device)
    steps: dict[str, Step] = {}
    for categories in config.categories:
        sizes = shared_out(categories)
        batches = rows(sizes, config.batch, config.seed, device)
        for way, (rule, sparse) in WAYS.items():
            steps[_key(categories, way)] = training_step(config, sizes, batches, rule, sparse)
    seconds = interleaved(steps, config.model, config.rounds, config.warmup, device, progress)
    times = {key: summed_up(found) for key, found in seconds.items()}
    return [
        {
            "name": f"{categories:,} categories",
            "categories": categories,
            "rule": way,
            **times[key],
            "ratio_to_backprop": times[_key(categories, BACKPROP)]["median_seconds"] / times[key]["median_seconds"],
            "peak_memory_bytes": peak_memory(steps[key], device),
        }
        for categories in config.categories
        for way in WAYS
        for key in [_key(categories, way)]
    ]


def _key(categories: int, way: str) -> str:
    return f"{way}, {categories}"


def shared_out(categories: int) -> tuple[int, ...]:
    """Return how many categories each field has, as equal as they can be."""
    return tuple((categories + field) // FIELDS for field in range(FIELDS))


def rows(sizes: tuple[int, ...], batch: int, seed: int, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """Return some batches of indices ``[B, F]`` and labels ``[B]``.

    As in real logs, few categories are common and many are rare: the logarithm of a category's number is uniform.
    """
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.tensor(sizes, dtype=torch.float64)
    found = []
    for _ in range(BATCHES):
        uniform = torch.rand(batch, len(sizes), generator=generator, dtype=torch.float64)
        indices = ((numbers + 1) ** uniform - 1).long()
        labels = (torch.rand(batch, generator=generator) < 0.25).float()
        found.append((indices.to(device), labels.to(device)))
    return found


def training_step(
    config: CtrConfig, sizes: tuple[int, ...], batches: list[tuple[Tensor, Tensor]], rule: str, sparse: bool
) -> Step:
    """Return a whole training step: look-ups, forward, backward, Adam."""
    torch.manual_seed(config.seed)
    run = Config(
        model=ClickModelConfig(config.model, sparse=sparse),
        rule=rule,
        seed=config.seed,
        optimiser=OptimiserConfig("adam", 1e-3),
    )
    network = run.model.build(sizes).to(config.device)
    run.attach(network, batches[0][0][:2])
    optimiser = ClickOptimiser(run.optimiser, network)
    upcoming: Iterator[tuple[Tensor, Tensor]] = cycle(batches)

    def taken() -> None:
        indices, labels = next(upcoming)
        loss = binary_cross_entropy_with_logits(network(indices)[:, 0], labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        optimiser.zero_grad()

    return taken
