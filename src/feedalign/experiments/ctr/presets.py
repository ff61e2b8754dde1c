"""Configurations by name: ``criteo-dcn`` with settings tuned per rule, ``criteo-dcn-published`` with published ones.

What was tuned, and how each trial did, is in ``results/ctr/<name>/tuning.json``; ``tuned.json`` beside this file holds
what that chose.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, get_args

from feedalign.experiments.ctr.config import Config
from feedalign.experiments.data.clicks import ClickConfig, ClickName
from feedalign.experiments.models.clicks import ClickModelConfig
from feedalign.experiments.settings import Preset, Settings, configured_as_tuned, shipped_settings

DATA: tuple[str, ...] = get_args(ClickName)
PLANTED = "planted"
REAL = ("criteo-indexed", "criteo-sample", "movielens-100k")
"""The logs of the recorded tables: real rows, few enough for one core."""
LARGE = ("criteo", "avazu", "movielens-1m")
"""Logs with millions of rows, for which networks have the published sizes."""
MODELS = ("fm", "deepfm", "dcn", "autoint", "afn")
TITLES = {"fm": "FM", "deepfm": "DeepFM", "dcn": "Deep & Cross", "autoint": "AutoInt", "afn": "AFN"}

SMALL: dict[str, dict[str, Any]] = {
    "fm": {},
    "deepfm": {"hidden": (128, 128, 128)},
    "dcn": {"hidden": (256, 256)},
    "autoint": {"hidden": (128, 128, 128), "attention": 16, "layers": 2},
    "afn": {"hidden": (128, 128, 128), "units": 64},
}
"""Sizes for logs of thousands of rows, which published sizes would learn by heart within an epoch."""
BATCHES = {PLANTED: 512, "movielens-100k": 512}
"""Of small logs; 256 for the others. A published batch would leave a handful of steps an epoch."""
CLIP = {"dcn": 100.0}
UNTUNED: Settings = {rule: {"optimiser.learning_rate": 0.003} for rule in ("bp", "dfa", "shallow")}
"""Of the planted log, so that it can be run before anything was tuned."""


def _settings(rate: float, dropout: float = 0.0, **own: Any) -> dict[str, Any]:
    return {"optimiser.learning_rate": rate, "model.dropout": dropout, **own}


LONGER = {"patience": 5, "epochs": 30}
PUBLISHED: dict[str, Settings] = {
    "fm": {"bp": _settings(1e-4)},
    "deepfm": {
        "bp": _settings(3e-4, 0.5, **LONGER),
        "dfa": _settings(5e-5, 0.5, **LONGER),
        "shallow": _settings(1e-4, 0.1, **LONGER),
    },
    "dcn": {
        "bp": _settings(2e-4, batch=512),
        "dfa": _settings(5e-5, batch=512),
        "shallow": _settings(1e-3, **LONGER),
    },
    "autoint": {"bp": _settings(1e-4), "dfa": _settings(5e-5), "shallow": _settings(4e-4, 0.5, **LONGER)},
    "afn": {"bp": _settings(4e-4, 0.3), "dfa": _settings(3e-4), "shallow": _settings(4e-4, **LONGER)},
}
"""Per network and rule, from the code that Launay et al. 2020 published."""


def cell(data: str, kind: str) -> str:
    """Return the name of the tuned configuration of a network on a log."""
    return f"{data}-{kind}"


def presets(tuned: Mapping[str, Settings]) -> dict[str, Preset[Config]]:
    """Return the presets.

    Args:
        tuned: Per name of a configuration and rule, the settings that tuning chose.
    """
    rows: dict[str, Preset[Config]] = {}
    for data in DATA:
        for kind in MODELS:
            name, about = cell(data, kind), f"{TITLES[kind]} on {data}"
            found = tuned.get(name) or (UNTUNED if data == PLANTED else {})
            rows[name] = Preset(f"{about}, tuned per rule", shared(data, kind), found)
            rows[f"{name}-published"] = Preset(
                f"{about}, sizes and settings as published", published(data, kind), PUBLISHED[kind]
            )
        rows |= _afn(data, rows)
    return rows


def _afn(data: str, rows: Mapping[str, Preset[Config]]) -> dict[str, Preset[Config]]:
    """Return AFN with embeddings that the other preset freezes, and the other way round."""
    name = cell(data, "afn")
    tuned, as_published = rows[name], rows[f"{name}-published"]
    return {
        f"{name}-frozen": Preset(
            f"{tuned.about}, its embeddings left as they are drawn, as published", _frozen(tuned.config), tuned.rules
        ),
        f"{name}-corrected": Preset(
            f"{as_published.about}, but its embeddings learn",
            _frozen(as_published.config, frozen=False),
            as_published.rules,
        ),
    }


def _frozen(config: Config, frozen: bool = True) -> Config:
    return replace(config, model=replace(config.model, frozen=frozen))


def shared(data: str, kind: str) -> Config:
    """Return what all rules share in a tuned configuration: the log, the network, and when to stop."""
    large = data in LARGE
    return Config(
        data=ClickConfig(data),  # type: ignore[arg-type]
        model=ClickModelConfig(kind, **({} if large else SMALL[kind])),  # type: ignore[arg-type]
        rule="bp",
        batch=2_048 if large else BATCHES.get(data, 256),
        epochs=15 if large else 30,
        clip=CLIP.get(kind),
        alignment=1_024,
    )


def published(data: str, kind: str) -> Config:
    """Return what all rules share in a published configuration."""
    model = ClickModelConfig(kind, frozen=kind == "afn")  # type: ignore[arg-type]
    return Config(
        data=ClickConfig(data),  # type: ignore[arg-type]
        model=model,
        rule="bp",
        clip=CLIP.get(kind),
        alignment=1_024,
    )


def shipped() -> dict[str, Settings]:
    """Return what tuning chose, by configuration and rule, as it comes with the package."""
    return shipped_settings(__package__)


def preset(rows: Mapping[str, Preset[Config]], name: str, rule: str = "dfa", seed: int = 0) -> Config:
    """Return the configuration called ``name`` for a rule and a seed.

    Args:
        rows: The presets, as :func:`presets` returns them.
        name: Of one of them.
        rule: A learning rule. One that has no settings of its own is given those of DFA.
        seed: Of the run.

    Raises:
        ExperimentError: There is no preset of that name, or it was not tuned.
        ValueError: There is no rule of that name, or the network cannot learn by it.
    """
    return configured_as_tuned(rows, name, rule, seed)
