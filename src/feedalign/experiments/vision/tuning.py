"""Tuning with equal budgets: every rule tries the very same settings, and validation accuracy decides."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from feedalign.experiments import records
from feedalign.experiments.errors import DivergedError, ExperimentError
from feedalign.experiments.progress import Progress, Silent
from feedalign.experiments.records import SCHEMA, write_json
from feedalign.experiments.vision.config import Config
from feedalign.experiments.vision.presets import with_settings
from feedalign.experiments.vision.runs import sweep

TUNING = "tuning.json"
Space = Mapping[str, Sequence[Any]]


def settings_to_try(space: Space, trials: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return distinct combinations of the values in ``space``: all of them, or a random choice of ``trials``."""
    combinations = [dict(zip(space, values, strict=True)) for values in product(*space.values())]
    return random.Random(seed).sample(combinations, min(trials, len(combinations)))


def tune(
    config: Config,
    rules: Sequence[str],
    space: Space,
    output: Path,
    *,
    trials: int,
    seed: int = 1_000,
    root: Path | str | None = None,
    progress: Progress | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the best settings found for each rule, and write all trials to ``output/tuning.json``.

    The test part decides nothing here, and its figures are not in the file. A trial that diverges counts, with
    an accuracy of None. Trials are runs in folders of their own: finished ones are not run again.

    Args:
        config: What the trials share.
        rules: Each gets the same trials.
        space: Dotted names of settings to the values to try, as in ``{"optimiser.learning_rate": [0.01, 0.1]}``.
        output: Folder of the runs and of the summary.
        trials: How many settings to try per rule.
        seed: Of the runs, and of the choice of settings. Not one of the seeds to be reported later.
        root: The data root.
        progress: Who is told.

    Raises:
        ExperimentError: As :func:`feedalign.experiments.vision.run` does, but for diverged trials.
    """
    if config.data.validation == 0:
        raise ExperimentError("Tuning expected images held out for validation, found none. Set data.validation.")
    tried: list[dict[str, Any]] = []
    for number, settings in enumerate(settings_to_try(space, trials, seed)):
        for rule in rules:
            trial = replace(config, name=f"trial{number:03}", rule=rule, seed=seed)
            outcome = _outcome(with_settings(trial, settings), output, root, progress or Silent())
            tried.append({"rule": trial.rule, "settings": settings, **outcome})
    chosen = {rule: _best(tried, rule) for rule in dict.fromkeys(trial["rule"] for trial in tried)}
    write_json(
        output / TUNING,
        {
            "schema": SCHEMA,
            "experiment": "vision-tuning",
            "name": config.name,
            "config": records.describe(config),
            "seed": seed,
            "space": {name: list(values) for name, values in space.items()},
            "trials_per_rule": len(tried) // len(rules),
            "trials": tried,
            "chosen": chosen,
        },
    )
    return chosen


def _outcome(config: Config, output: Path, root: Path | str | None, progress: Progress) -> dict[str, Any]:
    try:
        (record,) = sweep([config], output, root=root, progress=progress)
    except DivergedError as error:
        progress.message(str(error))
        return {"validation_accuracy": None, "epoch": None}
    best = record.metrics["best"]
    return {"validation_accuracy": best["validation_accuracy"], "epoch": best["epoch"]}


def _best(tried: list[dict[str, Any]], rule: str) -> dict[str, Any]:
    of_rule = [trial for trial in tried if trial["rule"] == rule]
    return max(of_rule, key=lambda trial: trial["validation_accuracy"] or 0.0)["settings"]  # type: ignore[no-any-return]
