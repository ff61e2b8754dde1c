"""What is tried for language models: as many trials for every rule, from the same seed.

All rules share the learning rate, whether it falls, where a block normalises, and how rates differ from block to block.
Shallow training and rules that send an error to points also choose whether the last block is cut off from it; the
latter choose where it is tapped, and the gain of their feedback, too. They get no more trials for it.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from feedalign.experiments.lm.config import CHOSEN_BY, Config
from feedalign.experiments.lm.presets import preset, sends_targets, tuned_name, untuned_name
from feedalign.experiments.lm.runs import LM
from feedalign.experiments.models.transformer import Placement
from feedalign.experiments.names import FLOOR, full_name
from feedalign.experiments.studies import Logarithmic, Space, Study

FIRST_SEED = 1_000
"""Of the runs of a trial. None of those that are reported is as large."""
RATES = Logarithmic(5e-4, 1e-2)
SHARED: Space = {
    "optimiser.learning_rate": RATES,
    "schedule.name": ("constant", "cosine"),
    "model.norm": ("post", "pre"),
    "block_rate": (0.5, 1.0, 2.0),
}
OF_CUTS: Space = {"last": (True, False)}
OF_POINTS: Space = {"error": ("hidden", "logits"), **OF_CUTS, "feedback.gain": (1.0, 10.0)}


def space(config: Config) -> Space:
    """Return what may be tried under the rule of a configuration."""
    if not config.broadcasts:
        return {**SHARED, **OF_CUTS} if full_name(config.rule) == FLOOR else SHARED
    taps: Space = {**OF_POINTS, "error": ("logits",)} if config.sends_targets else OF_POINTS
    return {**SHARED, **taps}


def study(
    name: str,
    rule: str,
    output: Path,
    *,
    points: Placement = "macro",
    trials: int = 12,
    runs: int = 1,
    steps: int | None = None,
    device: str = "cpu",
) -> Study[Config]:
    """Return what is tried for a preset under a rule.

    Its own settings come first and then, where the last block may be left open, the same with that.

    Args:
        name: Of a preset.
        rule: A learning rule.
        output: Folder of the summaries.
        points: Where the backward pass is cut, for rules that send an error there.
        trials: How many settings, those of the preset counted.
        runs: How many runs a trial.
        steps: Of a run; by default half of the preset's.
        device: As in the configuration.

    Raises:
        ExperimentError: There is no preset of that name.
        ValueError: There is no rule of that name, or too few steps.
    """
    plain = preset(untuned_name(name), rule, points=points, error="logits" if sends_targets(rule) else None)
    whole = None if plain.every is None else max(1, plain.epochs * plain.every // 2)
    config = replace(
        plain,
        name=tuned_name(name, plain.points),
        device=device,  # type: ignore[arg-type]
        epochs=1,
        every=steps or whole,
        alignment=0,  # nothing is decided by it
    )
    tried = space(config)
    own = {dotted: _setting(config, dotted) for dotted in tried}
    return Study(
        experiment=LM,
        config=config,
        space=tried,
        first=[own, *([{**own, "last": False}] if "last" in own else [])],
        trials=trials,
        seeds=tuple(FIRST_SEED + number for number in range(runs)),
        chosen_by=CHOSEN_BY,
        output=output,
    )


def _setting(config: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        config = getattr(config, name)
    return config


def studies(names: Iterable[str], rules: Iterable[str], output: Path, **options: Any) -> list[Study[Config]]:
    """Return the studies of several presets under each rule; see :func:`study`."""
    rules = list(rules)
    return [study(name, rule, output, **options) for name in names for rule in rules]
