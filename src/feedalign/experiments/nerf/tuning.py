"""What is tried for each scene: learning rates, the same for every rule."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.presets import PRESETS
from feedalign.experiments.nerf.runs import NERF
from feedalign.experiments.settings import named
from feedalign.experiments.studies import Study

FIRST_SEED = 1_000
"""Of the runs of a trial. None of those that are reported is as large."""
RATES = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05)
LINES = 2
"""Of the curve of a trial: it is judged by the best of them."""


def study(
    name: str,
    rule: str,
    output: Path,
    *,
    iterations: int = 1_000,
    runs: int = 1,
    device: Literal["auto", "cpu"] = "cpu",
) -> Study[Config]:
    """Return what is tried for a preset under a rule: each of the learning rates once, whatever the rule.

    A trial is a short run, judged by PSNR on rays of validation views; no test view is rendered.

    Args:
        name: Of the preset.
        rule: A learning rule.
        output: Folder of the summaries.
        iterations: Of a trial; an odd one is rounded down.
        runs: How many runs a trial.
        device: As in the configuration.

    Raises:
        ExperimentError: There is no preset of that name.
        ValueError: There is no rule of that name, or there are too few iterations.
    """
    if iterations < LINES or runs < 1:
        raise ValueError(f"Expected at least {LINES} iterations and one run, found {iterations} and {runs}.")
    every = iterations // LINES
    config = replace(
        named(PRESETS, name).config,
        name=name,
        rule=rule,
        device=device,
        iterations=LINES * every,
        every=every,
        alignment=0,
        tested=0,
    )
    return Study(
        experiment=NERF,
        config=config,
        space={"optimiser.learning_rate": RATES},
        first=[{"optimiser.learning_rate": rate} for rate in RATES],
        trials=len(RATES),
        seeds=tuple(FIRST_SEED + number for number in range(runs)),
        chosen_by="validation_psnr",
        output=output,
    )


def studies(
    names: Iterable[str],
    rules: Iterable[str],
    output: Path,
    *,
    iterations: int = 1_000,
    runs: int = 1,
    device: Literal["auto", "cpu"] = "cpu",
) -> list[Study[Config]]:
    """Return the studies of several presets under each rule; see :func:`study`."""
    rules = list(rules)
    return [
        study(name, rule, output, iterations=iterations, runs=runs, device=device) for name in names for rule in rules
    ]
