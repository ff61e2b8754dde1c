"""Configurations by name: small ones that learn on a laptop, and the published one with every optimiser of its table.

The name of a run says where the backward pass is cut and where the error is tapped, if its rule sends one to points:
``wikitext-2-small-macro-hidden``.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from feedalign.experiments.data.texts import TextConfig
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.lm.config import Config
from feedalign.experiments.models.transformer import Placement, Tap, TransformerConfig
from feedalign.experiments.names import FLOOR, full_name
from feedalign.experiments.optimisation import AdamConfig, PaceConfig
from feedalign.experiments.settings import Preset, Settings, named, shipped_settings, with_settings

PAPER = "wikitext-103-paper"
PLACEMENTS: tuple[Placement, ...] = ("macro", "micro")
TAPS: tuple[Tap, ...] = ("hidden", "logits")

SMALL = Config(
    data=TextConfig("wikitext-2", 4_000),
    model=TransformerConfig(width=128, blocks=3, heads=4, hidden=512, context=128, dropout=0.0),
    optimiser=AdamConfig("adam", 2e-3, beta2=0.999, epsilon=1e-8, clip=None),
    schedule=PaceConfig("constant", warmup=100),
    epochs=6,
    every=250,
    batch=16,
)
DEMO = replace(
    SMALL,
    data=TextConfig("python", 2_000),
    model=TransformerConfig(width=64, blocks=2, heads=4, hidden=256, context=64, dropout=0.0),
    epochs=4,
    every=100,
)
PUBLISHED = Config(
    data=TextConfig("wikitext-103", 32_000, lowercase=True),
    model=TransformerConfig(),
    optimiser=AdamConfig(),
    schedule=PaceConfig("noam"),
    epochs=20,
    every=None,
    batch=64,
    order="streams",
)

Own = dict[str, Any]
"""What a rule changes in a configuration."""


def _rows(rate: float, warmup: int) -> dict[str, tuple[str, Settings]]:
    """Return the optimisers of table 5 of Launay et al. 2020, and two more of their code, with each rule's settings.

    Args:
        rate: Of Adam where it is constant; the others have a multiple of it, as in the publication.
        warmup: Steps, of Noam's schedule.
    """
    noam = PaceConfig("noam", warmup=warmup)
    first: Own = {"optimiser": AdamConfig(beta2=0.98), "schedule": noam}
    adam: Own = {"optimiser": AdamConfig("adam", rate, beta2=0.98), "schedule": PaceConfig("constant")}
    long = AdamConfig("adam", 2 * rate, beta2=0.999)
    plateau: Own = {"optimiser": long, "schedule": PaceConfig("plateau")}
    radam: Own = {"optimiser": replace(long, name="radam"), "schedule": PaceConfig("constant")}
    cycle: Own = {"optimiser": replace(long, learning_rate=10 * rate), "schedule": PaceConfig("one-cycle")}
    return {
        "noam": ("the published optimiser for all rules: Noam's schedule, beta2 0.98", {"bp": first, "dfa": first}),
        "adam": ("Adam at a constant rate, beta2 0.98", {"bp": adam, "dfa": adam}),
        "beta2": (
            "beta2 0.999: with Noam's schedule for backprop, constant for DFA",
            {
                "bp": {"optimiser": AdamConfig(beta2=0.999), "schedule": noam},
                "dfa": {**adam, "optimiser": AdamConfig("adam", rate, beta2=0.999)},
            },
        ),
        "plateau": (
            "beta2 0.999, the rate lowered on a plateau of the validation loss",
            {"bp": plateau, "dfa": plateau},
        ),
        "radam": ("RAdam; the rate is ours, no figure was published", {"bp": radam, "dfa": radam}),
        "one-cycle": ("one cycle; the highest rate is ours, no figure was published", {"bp": cycle, "dfa": cycle}),
    }


ROWS = _rows(5e-5, 4_000)
"""By name: what it is, and each rule's settings."""
SMALL_ROWS = _rows(1e-3, 400)
"""The same for the small model, whose runs are short: higher rates in the same proportions, and an earlier peak."""

TUNED, OPEN, EMBEDDED = "-tuned", "open", "embedding"
MICRO_TUNED = f"-micro{TUNED}"
SMALL_NAME = "wikitext-2-small"
_OWN: dict[str, Preset[Config]] = {
    "python-small": Preset("two blocks on Python's own sources: about a minute, no download", DEMO),
    SMALL_NAME: Preset("three blocks on WikiText-2, one pass of 3 M tokens: minutes on one core", SMALL),
}
PRESETS: dict[str, Preset[Config]] = {
    **_OWN,
    **{f"{name}{TUNED}": Preset(f"{row.about}; settings tuned per rule", row.config) for name, row in _OWN.items()},
    **{
        f"{name}{MICRO_TUNED}": Preset(
            f"{row.about}; settings tuned per rule, a point behind every sub-layer", replace(row.config, points="micro")
        )
        for name, row in _OWN.items()
    },
    **{
        f"{SMALL_NAME}-{name}": Preset(f"three blocks on WikiText-2, {words}", replace(SMALL, alignment=0), own)
        for name, (words, own) in SMALL_ROWS.items()
    },
    **{
        f"{PAPER}-{name}": Preset(f"the published model, {words}", PUBLISHED, own)
        for name, (words, own) in ROWS.items()
    },
}


def tuned_name(name: str, points: Placement = "macro") -> str:
    """Return the name of the preset with the settings that tuning chose for another one at such points."""
    return untuned_name(name) + (MICRO_TUNED if points == "micro" else TUNED)


def untuned_name(name: str) -> str:
    """Return the name of the preset that was tuned."""
    return name.removesuffix(MICRO_TUNED).removesuffix(TUNED)


def cell(name: str, config: Config) -> str:
    """Return the name of a run of a preset: with placement and tap, for rules that send an error to points.

    What shallow training learns depends on whether the last block is cut off, and on no other point.
    """
    if not config.broadcasts:
        return f"{name}-{OPEN}" if config.rule == "shallow" and not config.last else name
    marks = ["", *([EMBEDDED] if config.embedding else []), *([] if config.last else [OPEN])]
    return f"{name}-{config.points}-{config.error}" + "-".join(marks)


def preset(
    name: str,
    rule: str = "dfa",
    seed: int = 0,
    *,
    points: Placement | None = None,
    error: Tap | None = None,
    last: bool | None = None,
    tuned: Mapping[str, Settings] | None = None,
) -> Config:
    """Return the configuration called ``name`` for a rule and a seed.

    Args:
        name: Of a preset.
        rule: A learning rule. One that has no settings of its own is given those of DFA.
        seed: Of the run.
        points: Where the backward pass is cut; by default as the preset has it. Of no account to rules without points.
        error: Where the error is tapped, likewise.
        last: Whether the output of the last block is a point too, likewise.
        tuned: What tuning chose, by preset and rule; by default what comes with the package. Tap and last block were
            chosen too, and what is asked for here takes their place.

    Raises:
        ExperimentError: There is no preset of that name, or it was not tuned for that rule or such points.
        ValueError: There is no rule of that name.
    """
    row = named(PRESETS, name)
    config = replace(row.config, rule="bp", seed=seed)
    asked = {"points": points, "error": error, "last": last}
    given: dict[str, Any] = {option: value for option, value in asked.items() if value is not None}
    if not sends(rule):
        given = {option: value for option, value in given.items() if option == "last" and full_name(rule) == FLOOR}
    config = replace(config, rule=rule, **given)
    if name.endswith(TUNED):
        if config.points != row.config.points:
            raise ExperimentError(
                f"Expected points {row.config.points} for {name}, whose settings were tuned for them, found "
                f"{config.points}. Do: --preset {tuned_name(name, config.points)}."
            )
        found = (shipped() if tuned is None else tuned).get(name, {}).get(config.rule)
        if found is None:
            raise ExperimentError(
                f"Expected settings of {config.rule} for {name}, found none: it was not tuned. Do tune it first: "
                f"`feedalign tune lm --preset {untuned_name(name)} --rule {config.rule} --points {config.points}`."
            )
        config = with_settings(replace(config, name=name), found)
        asked_for = replace(config, **given)
        return config if asked_for == config else replace(asked_for, name=cell(name, asked_for))
    config = replace(config, name=cell(name, config))
    return with_settings(config, row.rules.get(config.rule) or row.rules.get("dfa") or {})


def sends(rule: str) -> bool:
    """Return whether a rule sends an error to points, so that it matters where they are and where it is tapped.

    Raises:
        ValueError: There is no rule of that name.
    """
    return replace(SMALL, error="logits", rule=rule).broadcasts


def sends_targets(rule: str) -> bool:
    """Return whether a rule sends the token in the error's place, and so needs the error at the logits.

    Raises:
        ValueError: There is no rule of that name.
    """
    return replace(SMALL, error="logits", rule=rule).sends_targets


def shipped() -> dict[str, Settings]:
    """Return what tuning chose, by preset and rule, as it comes with the package."""
    return shipped_settings(__package__)
