"""A run on its way, whatever is learned: its clock, curve, checkpoints and record. A subclass says what a step is."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite, isnan
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

import feedalign as fa
from feedalign.experiments import checkpoint, records
from feedalign.experiments.errors import DivergedError, ExperimentError, Interrupted
from feedalign.experiments.files import append_line
from feedalign.experiments.progress import Progress, Stop
from feedalign.experiments.provenance import peak_memory_bytes, provenance
from feedalign.experiments.records import Record


class Configuration(Protocol):
    """What the configuration of every experiment holds."""

    @property
    def name(self) -> str:
        """Runs of one name belong into one table."""

    @property
    def data(self) -> Any:
        """Which data: hashable, with a ``name``."""

    @property
    def rule(self) -> str:
        """The learning rule, by its short name."""

    @property
    def seed(self) -> int:
        """Of all that is drawn."""

    @property
    def epochs(self) -> int:
        """How often the training data are seen."""

    @property
    def device(self) -> Literal["auto", "cpu"]:
        """Where to run."""


ConfigT = TypeVar("ConfigT", bound=Configuration)
PROGRESS = (
    "epoch", "step", "seconds", "order", "curve", "best", "last", "started", "wall_seconds", "provenance"
)  # fmt: skip
"""What a checkpoint says of where a run is: attributes of :class:`Training`."""


class Training(ABC, Generic[ConfigT]):
    """A run on its way: what has a state, and how far it has come.

    A subclass calls ``super().__init__`` first, then sets ``network``, ``model``, ``optimiser``, ``schedule``,
    ``handle``, ``parameters`` and ``steps``.

    Args:
        config: What is run.
        directory: The folder of the run.
        progress: Who is told.
        precision: ``"no"`` for float32, else mixed with ``"bf16"`` or ``"fp16"``.

    Attributes:
        network: What is trained; a checkpoint holds its state.
        model: The network as the loop calls it.
        handle: The rule at work on it.
        parameters: How many trainable numbers it has.
        steps: Steps an epoch.
        epoch: Epochs done.
        step: Steps done in the epoch on its way.
        seconds: Spent in training steps, without evaluation and checkpoints.
        curve: The lines written so far.
        best: The line with the highest validation figure so far, the first one of equals; the last where nothing was
            held out.
        last: The line of the last epoch done, if it is on the curve.
    """

    experiment: ClassVar[str]
    chosen_by: ClassVar[str] = "validation_accuracy"
    """The figure that decides which epoch is the best one."""
    reported: ClassVar[tuple[str, ...]]
    """The figures of a line that a record keeps."""

    network: nn.Module
    model: nn.Module
    optimiser: Any
    schedule: LRScheduler
    handle: fa.Attachment
    parameters: int
    steps: int

    def __init__(
        self, config: ConfigT, directory: Path, progress: Progress, precision: Literal["no", "bf16", "fp16"] = "no"
    ) -> None:
        self.config, self.directory, self.progress = config, directory, progress
        self.accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision=precision)
        if self.accelerator.num_processes > 1:
            raise ExperimentError("Expected one process, found several. Start this experiment without a launcher.")
        self.provenance = provenance(str(self.accelerator.device))
        set_seed(config.seed)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.started, self.began = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
        self.epoch, self.step, self.seconds, self.before = 0, 0, 0.0, 0.0
        self.order: Tensor = self.generator.get_state()
        self.curve: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {}
        self.last: dict[str, Any] = {}

    @abstractmethod
    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of each step that is left of an epoch; its order is decided by ``generator`` alone."""

    @abstractmethod
    def evaluate(self) -> dict[str, Any]:
        """Return losses and other figures for a line of the curve, ``train_loss`` among them."""

    @abstractmethod
    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point for a line of the curve; None where none is to be measured."""

    @abstractmethod
    def counts(self) -> dict[str, Any]:
        """Return what the record says of the data besides their name."""

    def measures(self, epoch: int) -> bool:
        """Return whether an epoch is evaluated: one that is not can neither be the best nor have a line."""
        return True

    def keeps(self, epoch: int) -> bool:
        """Return whether an epoch has a line on the curve."""
        return True

    def over(self) -> bool:
        """Return whether no epoch is left. A run that may end early has a line for every epoch."""
        return self.epoch >= self.config.epochs

    def written(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line as it stands on the curve."""
        return line

    def extras(self) -> dict[str, Any]:
        """Return further groups of figures for the record's metrics, and write what else lies beside it."""
        return {}

    @property
    def checkpoint_file(self) -> Path:
        """The file of the checkpoint."""
        return self.directory / checkpoint.CHECKPOINT

    @property
    def position(self) -> str:
        """How far the run has come, in words."""
        epochs = self.config.epochs
        return f"epoch {min(self.epoch + 1, epochs)} of {epochs}, step {self.step} of {self.steps}"

    @property
    def learning_rate(self) -> float:
        """The learning rate of the next step."""
        return float(self.schedule.get_last_lr()[0])

    @property
    def wall_seconds(self) -> float:
        """Time spent on this run, over all its resumptions."""
        return self.before + time.perf_counter() - self.began

    def fit(self, stop: Stop, checkpoint_seconds: float) -> None:
        """Train until the last epoch, checkpointing now and then, and at once when asked to stop."""
        saved = time.perf_counter()
        if not self.best:
            self.close_epoch()
        while not self.over():
            for _ in self.train_epoch():
                if stop.requested or time.perf_counter() - saved >= checkpoint_seconds:
                    self.save()
                    saved = time.perf_counter()
                if stop.requested:
                    raise Interrupted(self.checkpoint_file, self.position)
            self.epoch, self.step = self.epoch + 1, 0
            self.order = self.generator.get_state()
            if self.measures(self.epoch) or self.epoch == self.config.epochs:
                self.close_epoch()

    def train_epoch(self) -> Iterator[None]:
        """Train for what is left of an epoch, pausing after every step."""
        self.generator.set_state(self.order)
        began = time.perf_counter()
        for loss in self.batches():
            value = loss.item()
            self.require_finite(value)
            self.backward(loss)
            self.optimiser.step()
            self.schedule.step()
            self.optimiser.zero_grad()
            self.step += 1
            self.seconds += time.perf_counter() - began
            self.progress.step(self.epoch + 1, self.step, value)
            yield
            began = time.perf_counter()

    def backward(self, loss: Tensor) -> None:
        """Send a loss back. A subclass may do something with the gradients before the step, such as clip them."""
        self.accelerator.backward(loss)

    def require_finite(self, loss: float) -> None:
        """Raise if training has left the numbers.

        Raises:
            DivergedError: The loss is NaN or infinite.
        """
        if isfinite(loss):
            return
        kept = (
            f"The last good checkpoint is {self.checkpoint_file}."
            if self.checkpoint_file.exists()
            else "No checkpoint yet."
        )
        raise DivergedError(
            f"Expected a finite loss, found {loss} at {self.position}, learning rate {self.learning_rate:g}. {kept} "
            "Try a learning rate a tenth as large, or a smaller feedback gain, in a new output folder."
        )

    def close_epoch(self) -> None:
        """Evaluate, and write the epoch's line onto the curve where it is to have one."""
        line: dict[str, Any] = {
            "epoch": self.epoch,
            "step": self.epoch * self.steps,
            "seconds": self.seconds,
            "learning_rate": self.learning_rate,
            **self.evaluate(),
        }
        self.require_finite(line["train_loss"])
        if not self.best or isnan(line[self.chosen_by]) or line[self.chosen_by] > self.best[self.chosen_by]:
            self.best = line
        if self.keeps(self.epoch) or self.epoch == self.config.epochs:
            line["alignment"] = self.aligned()
            self.last = line
            self.curve.append(self.written(line))
            append_line(self.directory / records.CURVE, records.to_json(self.curve[-1]))
        self.progress.epoch(line)

    def release(self) -> None:
        """Take the rule off the network."""
        self.handle.remove()

    def measured(self, loss: Any, handle: fa.Attachment | None = None) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point under a loss, or None for rules that deliver no signal.

        Args:
            loss: A function that runs the model once and returns the loss.
            handle: The rule at work, if there are several; by default ``self.handle``.
        """
        handle = handle or self.handle
        if isinstance(handle.rule, fa.Backprop | fa.Shallow):
            return None
        report = fa.alignment(handle, loss, block_samples=0)
        return {point: asdict(cosine) for point, cosine in report.points.items()}

    @property
    def parts(self) -> dict[str, checkpoint.Stateful]:
        """What a checkpoint holds the state of."""
        parts: dict[str, checkpoint.Stateful] = {
            "model": self.network,
            "optimiser": self.optimiser,
            "schedule": self.schedule,
        }
        return parts if self.accelerator.scaler is None else {**parts, "scaler": self.accelerator.scaler}

    def save(self) -> None:
        """Write the checkpoint, unless the weights are no longer numbers."""
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.network.parameters()):
            return
        progress = {name: getattr(self, name) for name in PROGRESS}
        checkpoint.save(self.checkpoint_file, self.config, self.parts, progress)

    def restore(self) -> None:
        """Go back to the checkpoint.

        Raises:
            CheckpointError: It is damaged, or belongs to another configuration.
        """
        progress = checkpoint.restore(self.checkpoint_file, self.config, self.parts, PROGRESS)
        self.epoch, self.step, self.order = progress["epoch"], progress["step"], progress["order"]
        self.seconds, self.curve, self.started = progress["seconds"], progress["curve"], progress["started"]
        self.best, self.last = progress["best"], progress["last"]
        self.before, self.began = progress["wall_seconds"], time.perf_counter()
        self.progress.message(f"Going on from {self.position}: {self.checkpoint_file}")
        if different := records.differences(progress["provenance"], self.provenance):
            self.progress.message(
                "The checkpoint was written elsewhere, so the last bits may come out differently: "
                + "; ".join(different)
            )

    def finish(self) -> Record:
        """Write the record, and what else is to lie beside it."""
        config = self.config
        metrics = {"final": self._figures(self.last), "best": self._figures(self.best), **self.extras()}
        record = Record(
            experiment=self.experiment,
            name=config.name,
            rule=config.rule,
            seed=config.seed,
            config=records.describe(config),
            **self.provenance,
            started=self.started,
            wall_seconds=self.wall_seconds,
            peak_memory_bytes=peak_memory_bytes(self.accelerator.device),
            parameters=self.parameters,
            data={"name": config.data.name, **self.counts()},
            metrics=metrics,
            alignment=self.last["alignment"],
        )
        records.save(record, self.directory)
        return record

    def _figures(self, line: Mapping[str, Any]) -> dict[str, Any]:
        return {name: line[name] for name in ("epoch", *self.reported)}
