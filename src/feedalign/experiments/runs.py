"""Runs of any experiment, each in a folder of its own: started, resumed, or found finished."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from feedalign.experiments import records
from feedalign.experiments.errors import BusyError, RecordError
from feedalign.experiments.files import exclusive, writable_folder
from feedalign.experiments.progress import Progress, Silent, polite_stop
from feedalign.experiments.records import Record
from feedalign.experiments.training import ConfigT, Configuration, Training

DataT = TypeVar("DataT")


def run_folder(output: Path, config: Configuration) -> Path:
    """Return where a run lives under an output folder: ``<name>/<rule>-seed<seed>``."""
    return output / config.name / f"{config.rule}-seed{config.seed}"


@dataclass(frozen=True)
class Experiment(Generic[ConfigT, DataT]):
    """What the runs of one kind are made of.

    Attributes:
        load: Reads the data that a configuration names, ``load(config.data, root=...)``.
        rehearse: Builds the model and attaches the rule, so that a mistake is found out now and not after hours of
            other runs; raises ``ValueError``.
        training: Starts a run: ``training(config, data, directory, progress)``.
    """

    load: Callable[..., DataT]
    rehearse: Callable[[ConfigT, DataT], object]
    training: Callable[[ConfigT, DataT, Path, Progress], Training[ConfigT]]

    def reader(self, root: Path | str | None = None) -> Callable[[Any], DataT]:
        """Return what reads data from a data root, and remembers the last: runs one after another share theirs."""
        return lru_cache(maxsize=1)(partial(self.load, root=root))

    def sweep(
        self,
        configs: Iterable[ConfigT],
        output: Path,
        *,
        root: Path | str | None = None,
        progress: Progress | None = None,
        checkpoint_seconds: float = 30.0,
        shared: bool = False,
        keep_checkpoint: bool = False,
    ) -> list[Record]:
        """Run several configurations, each in its own folder under ``output``. Finished ones are not run again.

        Mistakes in any of them are found out before the first one is run.

        Args:
            configs: The runs.
            output: Each run gets the folder ``<name>/<rule>-seed<seed>`` below.
            root: The data root.
            progress: Who is told.
            checkpoint_seconds: Time between checkpoints.
            shared: Leave runs that another process is at to it, instead of raising.
            keep_checkpoint: Keep every run's ``checkpoint.pt``, with the final weights.

        Raises:
            ExperimentError: As :meth:`run` does.
        """
        progress, read = progress or Silent(), self.reader(root)
        configs, found = list(configs), []
        for config in configs:
            if finished(config, run_folder(output, config)) is None:
                self.rehearse(config, read(config.data))
        for config in configs:
            folder = run_folder(output, config)
            try:
                found.append(
                    self.run(
                        config,
                        folder,
                        read=read,
                        progress=progress,
                        checkpoint_seconds=checkpoint_seconds,
                        keep_checkpoint=keep_checkpoint,
                    )
                )
            except BusyError:
                if not shared:
                    raise
                progress.message(f"{folder}: left to the process that is at it.")
        return found

    def run(
        self,
        config: ConfigT,
        directory: Path,
        *,
        read: Callable[[Any], DataT] | None = None,
        progress: Progress | None = None,
        checkpoint_seconds: float = 30.0,
        keep_checkpoint: bool = False,
    ) -> Record:
        """Train and evaluate one configuration; write ``record.json`` and ``curve.jsonl`` into ``directory``.

        A run that is finished is returned as it is. One that was stopped or killed goes on from its checkpoint, to
        the same weights and curve, bit for bit, as if nothing had happened. (With other versions, another device or
        another number of threads the last bits may differ; ``progress`` is told so.)

        Args:
            config: What to run.
            directory: The folder of the run, made if need be.
            read: Reads the data, from the default data root unless it says otherwise.
            progress: Who is told.
            checkpoint_seconds: Time between checkpoints.
            keep_checkpoint: Keep ``checkpoint.pt``, with the final weights, beside the record.

        Raises:
            DataError: The data are unknown, missing or damaged.
            OutputError: The folder cannot be written, or the disk is full.
            BusyError: Another process is writing into the folder.
            RecordError: The folder holds a finished run of another configuration.
            CheckpointError: The folder holds an unfinished run of another configuration.
            DivergedError: The loss became NaN or infinite.
            Interrupted: Ctrl-C or SIGTERM. The message says how to go on.
        """
        progress = progress or Silent()
        if (found := finished(config, directory)) is not None:
            progress.message(f"{directory} holds this run already, finished. Delete the folder to run it again.")
            return found
        with exclusive(writable_folder(directory)):
            # Another process may have finished it since.
            if (found := finished(config, directory)) is not None:
                return found
            training = self.training(config, (read or self.load)(config.data), directory, progress)
            record = _trained(training, checkpoint_seconds)
            if keep_checkpoint:
                training.save()
            else:
                training.checkpoint_file.unlink(missing_ok=True)
        return record


def _trained(training: Training[ConfigT], checkpoint_seconds: float) -> Record:
    if training.checkpoint_file.exists():
        training.restore()
    records.write_curve(training.directory / records.CURVE, training.curve)
    config = training.config
    training.progress.start(config.name, config.rule, config.seed, config.epochs, training.steps)
    try:
        with polite_stop() as stop:
            training.fit(stop, checkpoint_seconds)
        return training.finish()
    finally:
        training.progress.finish()
        training.release()


def finished(config: Configuration, directory: Path) -> Record | None:
    """Return the record in a folder, None where there is none.

    Raises:
        RecordError: The folder holds a finished run of another configuration.
    """
    if not (directory / records.RECORD).exists():
        return None
    record = records.load(directory).record
    require_config(directory, record.config, config)
    return record


def require_config(directory: Path, found: dict[str, Any], config: Configuration) -> None:
    """Raise if what was run in a folder is not ``config``.

    Raises:
        RecordError: It says where the two differ.
    """
    if different := records.differences(found, records.describe(config)):
        raise RecordError(
            f"{directory} holds a finished run of another configuration:\n  "
            + "\n  ".join(different)
            + "\nChoose another output folder or name, or delete that one."
        )
