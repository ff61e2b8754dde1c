"""Batches of samples in memory, for training and for evaluation."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, Sampler

from feedalign.experiments.data import Samples


class Batches(Sampler[Tensor]):
    """Shuffled indices in batches, the last one as small as it comes out.

    Args:
        samples: How many there are.
        batch: How many go into a batch.
        generator: Decides the order; its state before an epoch decides that epoch.
    """

    def __init__(self, samples: int, batch: int, generator: torch.Generator) -> None:
        self.samples = samples
        self.batch = batch
        self.generator = generator

    def __iter__(self) -> Iterator[Tensor]:
        return iter(torch.split(torch.randperm(self.samples, generator=self.generator), self.batch))

    def __len__(self) -> int:
        return math.ceil(self.samples / self.batch)


class InMemory(Dataset[tuple[Tensor, Tensor]]):
    """Samples in memory: a whole batch is one indexing operation."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, chosen: Any) -> tuple[Tensor, Tensor]:
        return self.samples.images[chosen], self.samples.labels[chosen]

    def __len__(self) -> int:
        return len(self.samples.labels)


def loader(samples: Samples, batch: int, generator: torch.Generator) -> DataLoader[tuple[Tensor, Tensor]]:
    """Return shuffled batches of samples in memory."""
    sampler = Batches(len(samples.labels), batch, generator)
    return DataLoader(InMemory(samples), batch_size=None, sampler=sampler, generator=generator)


@torch.no_grad()
def evaluate(model: nn.Module, samples: Samples, batch: int = 250) -> tuple[float, float]:
    """Return the mean cross-entropy and the accuracy, in evaluation mode; NaN for no samples."""
    if len(samples.labels) == 0:
        return math.nan, math.nan
    model.eval()
    loss, correct = 0.0, 0
    for images, labels in zip(*(torch.split(part, batch) for part in samples), strict=True):
        scores = model(images).float()
        loss += cross_entropy(scores, labels, reduction="sum").item()
        correct += int((scores.argmax(1) == labels).sum())
    model.train()
    return loss / len(samples.labels), correct / len(samples.labels)
