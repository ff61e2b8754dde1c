"""The training loop of image classification: what a step is, and what an epoch is measured by."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from feedalign.experiments import records
from feedalign.experiments.batches import evaluate, loader
from feedalign.experiments.data import ImageData, Samples
from feedalign.experiments.embedding import embed, hidden
from feedalign.experiments.progress import Progress
from feedalign.experiments.training import Training
from feedalign.experiments.vision.config import Config

TRAIN_EVALUATION = 10_000
"""Training loss and accuracy are those of this many training samples, the same ones after every epoch."""


class VisionTraining(Training[Config]):
    """A run on images, in shuffled batches.

    Args:
        config: What is run.
        data: The images.
        directory: The folder of the run.
        progress: Who is told.
    """

    experiment = "vision"
    reported = tuple(f"{part}_{what}" for part in ("train", "validation", "test") for what in ("loss", "accuracy"))

    def __init__(self, config: Config, data: ImageData, directory: Path, progress: Progress) -> None:
        super().__init__(config, directory, progress, config.precision)
        self.data = _on_device(data, self.accelerator.device)
        self.network = config.model.build(data.shape, data.classes)
        # Counted first: feedback that is learned adds parameters which the network's output does not depend on.
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.handle = config.attach(self.network, data.train.images[:2])
        optimiser = config.optimiser.build(self.network)
        self.model, self.optimiser = self.accelerator.prepare(self.network, optimiser)
        self.loader = loader(self.data.train, config.batch, self.generator)
        self.steps = len(self.loader)
        self.schedule = config.schedule.build(optimiser, config.epochs, self.steps)

    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of each batch that is left of an epoch."""
        for images, labels in islice(self.loader, self.step, None):
            yield self.loss(images, labels)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a training step, after telling the labels to rules that send them in the error's place."""
        self.handle.targets = labels
        return cross_entropy(self.model(images), labels)

    def evaluate(self) -> dict[str, Any]:
        """Return loss and accuracy of every part."""
        figures: dict[str, Any] = {}
        train = Samples(*(part[:TRAIN_EVALUATION] for part in self.data.train))
        for name, part in (("train", train), ("validation", self.data.validation), ("test", self.data.test)):
            figures[f"{name}_loss"], figures[f"{name}_accuracy"] = evaluate(self.model, part)
        return figures

    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point on the first training samples."""
        if not self.config.alignment:
            return None
        images, labels = (part[: self.config.alignment] for part in self.data.train)
        return self.measured(lambda: self.loss(images, labels))

    def counts(self) -> dict[str, Any]:
        """Return how many images there are."""
        return self.data.counts

    def extras(self) -> dict[str, Any]:
        """Write the embedding where one is wanted."""
        if self.config.embedding:
            records.write_json(self.directory / records.EMBEDDING, self.embedding())
        return {}

    def embedding(self) -> dict[str, Any]:
        """Return t-SNE of the last hidden layer on test samples, always the same ones."""
        count = len(self.data.test.labels)
        chosen = torch.randperm(count, generator=torch.Generator().manual_seed(0))[: self.config.embedding]
        samples = Samples(self.data.test.images[chosen], self.data.test.labels[chosen])
        *_, (name, _) = self.network.get_submodule("layers").named_children()
        activities = hidden(self.network, self.network.get_submodule("head"), samples.images)
        return embed(activities, samples, f"layers.{name}", self.config.rule)


def _on_device(data: ImageData, device: torch.device) -> ImageData:
    def moved(samples: Samples) -> Samples:
        return Samples(*(part.to(device) for part in samples))

    return replace(data, train=moved(data.train), validation=moved(data.validation), test=moved(data.test))
