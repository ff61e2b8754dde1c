"""The record of a benchmark."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feedalign.bench import (
    accuracy,
    alignment,
    clicks,
    coprocessor,
    ctr,
    feedback,
    memory,
    nerf,
    pipeline,
    products,
    step,
    vocabulary,
)
from feedalign.bench.timing import Progress
from feedalign.experiments.files import writable_folder
from feedalign.experiments.provenance import provenance, threads_bound
from feedalign.experiments.records import RECORD, SCHEMA, describe, write_json

Config = (
    step.StepConfig
    | memory.MemoryConfig
    | feedback.FeedbackConfig
    | alignment.AlignmentConfig
    | products.ProductsConfig
    | accuracy.AccuracyConfig
    | clicks.ClicksConfig
    | nerf.NerfConfig
    | vocabulary.VocabularyConfig
    | ctr.CtrConfig
    | pipeline.PipelineConfig
    | coprocessor.CoprocessorConfig
)
Measure = Callable[[Any, Progress | None], list[dict[str, Any]]]
KINDS: dict[type[Config], tuple[str, Measure]] = {
    step.StepConfig: ("bench-step", step.measure),
    memory.MemoryConfig: ("bench-memory", memory.measure),
    feedback.FeedbackConfig: ("bench-feedback", feedback.measure),
    alignment.AlignmentConfig: ("bench-alignment", alignment.measure),
    products.ProductsConfig: ("bench-products", products.measure),
    accuracy.AccuracyConfig: ("bench-accuracy", accuracy.measure),
    clicks.ClicksConfig: ("bench-clicks", clicks.measure),
    nerf.NerfConfig: ("bench-nerf", nerf.measure),
    vocabulary.VocabularyConfig: ("bench-vocabulary", vocabulary.measure),
    ctr.CtrConfig: ("bench-ctr", ctr.measure),
    pipeline.PipelineConfig: ("bench-pipeline", pipeline.measure),
    coprocessor.CoprocessorConfig: ("bench-coprocessor", coprocessor.measure),
}


def run(config: Config, folder: Path, progress: Progress | None = None) -> dict[str, Any]:
    """Measure, write ``record.json`` into ``folder``, and return what was written.

    Raises:
        OutputError: The folder cannot be written; found out before measuring.
    """
    writable_folder(folder)
    experiment, measure = KINDS[type(config)]
    record = {
        "schema": SCHEMA,
        "experiment": experiment,
        "config": describe(config),
        **provenance(config.device),
        "threads_bound": threads_bound(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": measure(config, progress),
    }
    write_json(folder / RECORD, record)
    return record
