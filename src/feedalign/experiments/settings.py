"""Configurations by name, and copies of a configuration with some settings changed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from importlib.resources import files
from typing import Any, Generic, TypeVar

from feedalign.errors import nearest
from feedalign.experiments.errors import ExperimentError

ConfigT = TypeVar("ConfigT")
Settings = Mapping[str, Mapping[str, Any]]
"""What each rule changes in a configuration: dotted names to values, as for :func:`with_settings`."""


@dataclass(frozen=True)
class Preset(Generic[ConfigT]):
    """A configuration, and what each rule changes in it.

    Attributes:
        about: What it is, in a sentence.
        config: The configuration that the rules share.
        rules: Per rule, the settings found by tuning: dotted names to values, as for :func:`with_settings`.
        variants: Rules with other feedback that belong into a comparison of all rules.
    """

    about: str
    config: ConfigT
    rules: Settings = field(default_factory=dict)
    variants: tuple[str, ...] = ()


def named(presets: Mapping[str, Preset[ConfigT]], name: str) -> Preset[ConfigT]:
    """Return the preset called ``name``.

    Raises:
        ExperimentError: There is none of that name.
    """
    if name not in presets:
        raise ExperimentError(f"There is no preset {name!r}.{nearest(name, presets)} There are: {', '.join(presets)}.")
    return presets[name]


def configured(presets: Mapping[str, Preset[ConfigT]], name: str, rule: str, seed: int) -> ConfigT:
    """Return the configuration called ``name`` for a rule and a seed, with what the rule changes in it.

    Raises:
        ExperimentError: There is no preset of that name.
        ValueError: There is no rule of that name.
    """
    row = named(presets, name)
    config: Any = replace(row.config, name=name, rule=rule, seed=seed)  # type: ignore[type-var]
    changed: ConfigT = with_settings(config, row.rules.get(config.rule, {}))
    return changed


def configured_as_tuned(presets: Mapping[str, Preset[ConfigT]], name: str, rule: str, seed: int) -> ConfigT:
    """Return the configuration called ``name``, which every rule must have its own settings of, or those of DFA.

    Raises:
        ExperimentError: There is no preset of that name, or it was not tuned.
        ValueError: There is no rule of that name, or the configuration does not go with it.
    """
    row = named(presets, name)
    config: Any = replace(row.config, name=name, rule=rule, seed=seed)  # type: ignore[type-var]
    settings = row.rules.get(config.rule) or row.rules.get("dfa")
    if not settings:
        raise ExperimentError(
            f"Expected settings of {config.rule} for {name}, found none: it was not tuned. Do tune it first, or choose "
            "the published ones: --settings published."
        )
    changed: ConfigT = with_settings(config, settings)
    return changed


@cache
def shipped_settings(package: str) -> dict[str, Settings]:
    """Return what tuning chose, by configuration, from ``tuned.json`` as it comes with a package."""
    found: dict[str, Settings] = json.loads(files(package).joinpath("tuned.json").read_text(encoding="utf-8"))
    return found


def with_settings(config: ConfigT, settings: Mapping[str, Any]) -> ConfigT:
    """Return a copy of a configuration with settings changed, named as in ``{"optimiser.learning_rate": 0.1}``.

    Raises:
        ExperimentError: The configuration has no such setting.
    """
    for dotted, value in settings.items():
        name, _, rest = dotted.partition(".")
        known = [f.name for f in fields(config)]  # type: ignore[arg-type]
        if name not in known:
            raise ExperimentError(
                f"{type(config).__name__} has no setting {name!r}.{nearest(name, known)} It has: {', '.join(known)}."
            )
        changed = with_settings(getattr(config, name), {rest: value}) if rest else value
        config = replace(config, **{name: changed})  # type: ignore[type-var]
    return config
