"""The training loop on a click log: shuffled batches, and an end where validation rows are no longer told better."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from feedalign.experiments.ctr.calibration import calibration
from feedalign.experiments.ctr.config import Config
from feedalign.experiments.ctr.optimiser import ClickOptimiser
from feedalign.experiments.data.clicks import PARTS, Clicks
from feedalign.experiments.errors import DataError
from feedalign.experiments.lines import lean
from feedalign.experiments.models.click_layers import ClickNetwork
from feedalign.experiments.progress import Progress
from feedalign.experiments.training import Training

EVALUATED = 8_192
"""Rows that are evaluated at a time."""
Numbers = NDArray[np.float64]


class ClickTraining(Training[Config]):
    """A run on a click log.

    Args:
        config: What is run.
        data: The click log.
        directory: The folder of the run.
        progress: Who is told.

    Raises:
        DataError: The validation or the test rows are all of one kind, so that there is nothing to rank.
    """

    experiment = "ctr"
    chosen_by = "validation_auc"
    reported = tuple(f"{part}_{what}" for part in PARTS for what in ("loss", "auc"))

    def __init__(self, config: Config, data: Clicks, directory: Path, progress: Progress) -> None:
        super().__init__(config, directory, progress)
        require_both(data)
        self.data = data
        self.network: ClickNetwork = config.model.build(data.sizes)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.handle = config.attach(self.network, data.batch(slice(2))[0])
        self.model = self.accelerator.prepare(self.network)
        self.optimiser = ClickOptimiser(config.optimiser, self.network, config.clip)
        self.steps = len(batch_sizes(len(data.train), config.batch))
        self.schedule = torch.optim.lr_scheduler.ConstantLR(self.optimiser.dense, factor=1.0)
        # As many training rows as are validated on tell how far the two have come apart.
        self.evaluated = {part: getattr(data, part) for part in PARTS}
        self.evaluated["train"] = data.train[: max(len(data.validation), 1)]

    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of each batch that is left, of rows in a new order every epoch."""
        order = torch.randperm(len(self.data.train), generator=self.generator)
        parts = torch.split(order, batch_sizes(len(order), self.config.batch))
        for part in islice(parts, self.step, None):
            # The order within a batch decides nothing, and a file is read faster from its front to its back.
            indices, labels = self.batch(self.data.train[part.sort().values.numpy()])
            self.handle.targets = labels[:, None]
            yield self.loss(self.model(indices), labels)

    def batch(self, rows: Any) -> tuple[Tensor, Tensor]:
        """Return the indices ``[B, F]`` and the labels ``[B]`` of some rows, on the device."""
        indices, labels = self.data.batch(rows)
        return indices.to(self.accelerator.device), labels.to(self.accelerator.device)

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits ``[B, 1]``."""
        return binary_cross_entropy_with_logits(logits[:, 0], labels)

    def over(self) -> bool:
        """Return whether the validation AUC has not grown for as many epochs as the patience lasts."""
        return super().over() or self.epoch - int(self.best["epoch"]) >= self.config.patience

    def evaluate(self) -> dict[str, Any]:
        """Return log loss and area under the ROC curve of every part, and how the test rows were calibrated.

        The training rows are as many as the validation rows, the first ones.
        """
        figures: dict[str, Any] = {}
        for part, rows in self.evaluated.items():
            probabilities, labels = self.predictions(rows)
            figures[f"{part}_loss"] = float(log_loss(labels, probabilities, labels=[0, 1]))
            figures[f"{part}_auc"] = float(roc_auc_score(labels, probabilities))
            if part == "test":
                figures["calibration"] = calibration(probabilities, labels)
        return figures

    @torch.no_grad()
    def predictions(self, rows: Any) -> tuple[Numbers, Numbers]:
        """Return the probabilities that the network gives some rows ``[B]``, and their labels."""
        self.network.eval()
        found: list[Tensor] = []
        for start in range(0, len(rows), EVALUATED):
            indices, labels = self.batch(rows[start : start + EVALUATED])
            found.append(torch.stack([self.network(indices)[:, 0].double().sigmoid(), labels.double()]))
        self.network.train()
        probabilities, told = torch.cat(found, dim=1).cpu().numpy()
        return probabilities, told

    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point under the loss of the first validation rows.

        Dropout is off, and batches are normalised by running statistics: the gradient of a row is then its own.
        """
        if not self.config.alignment or not self.network.points:
            return None
        indices, labels = self.batch(self.data.validation[: self.config.alignment])
        self.handle.targets = labels[:, None]
        self.network.eval()
        found = self.measured(lambda: self.loss(self.network(indices), labels))
        self.network.train()
        return found

    def counts(self) -> dict[str, Any]:
        """Return how large the log is, how many of its rows are clicks, and the best AUC where it is known."""
        known = {} if self.data.best_auc is None else {"best_auc": self.data.best_auc}
        return {**self.data.counts, "clicks": int(np.count_nonzero(self.data.labels)), **known}

    def written(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line without what is the same in all, with four digits a number: hundreds of runs are kept."""
        return lean({name: value for name, value in line.items() if name != "calibration"})

    def extras(self) -> dict[str, Any]:
        """Return how the test rows were calibrated at the best epoch."""
        return {"calibration": self.best["calibration"]}


def batch_sizes(rows: int, batch: int) -> list[int]:
    """Return how many rows each batch has; one row that is left over goes to the batch before it.

    Batch normalisation knows no spread of a single row.
    """
    sizes = [min(batch, rows - start) for start in range(0, rows, batch)]
    if len(sizes) > 1 and sizes[-1] == 1:
        sizes[-2:] = [sizes[-2] + 1]
    return sizes


def require_both(data: Clicks) -> None:
    """Raise unless there are clicks and other rows among those that are ranked, and enough to train on.

    Raises:
        DataError: There are not; it says where.
    """
    for part in PARTS:
        labels = data.labels[getattr(data, part)]
        clicks = int(np.count_nonzero(labels))
        if clicks in (0, len(labels)):
            raise DataError(
                f"Expected clicks and other rows among the {part} rows of {data.name}, found {clicks} clicks in "
                f"{len(labels)} rows: there is nothing to rank. Do use more rows."
            )
