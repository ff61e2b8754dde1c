"""Configurations by name: ``cora-gcn`` with settings tuned per rule, ``cora-gcn-published`` with the published ones.

What was tuned, and how each trial did, is in ``results/graph/<name>/tuning.json``; ``tuned.json`` beside this file
holds what that chose.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeVar

import feedalign as fa
from feedalign.experiments.data.graphs import GraphConfig
from feedalign.experiments.graph.autoencoder import AutoencoderConfig
from feedalign.experiments.graph.config import Config
from feedalign.experiments.models.graph import GraphModelConfig
from feedalign.experiments.optimisation import OptimiserConfig
from feedalign.experiments.settings import Preset, Settings, configured_as_tuned, shipped_settings

CITATIONS = ("cora", "citeseer", "pubmed")
KARATE = "karate"
MODELS = ("cheb", "gcn", "spline", "gat", "dna")
TITLES = {"cheb": "ChebNet", "gcn": "GCN", "spline": "SplineNet", "gat": "GAT", "dna": "DNA"}
AUTOENCODER = "gae"
EMBEDDED = "cora-gcn"
"""Whose hidden layer is pictured."""
ConfigT = TypeVar("ConfigT")
EPOCHS = {"cora-dna": 100, "citeseer-dna": 100, "pubmed-dna": 60}
"""250 were published for every network. DNA learns from a fifth of the nodes, and each epoch takes it far longer."""


def _settings(rate: float, decay: float, **model: Any) -> dict[str, Any]:
    shared = {"optimiser.learning_rate": rate, "optimiser.weight_decay": decay}
    return {**shared, **{f"model.{name}": value for name, value in model.items()}}


PUBLISHED: dict[str, Settings] = {
    "cheb": {"bp": _settings(0.01, 5e-4, dropout=0.5), "dfa": _settings(0.01, 1e-4, dropout=0.0)},
    "gcn": {"bp": _settings(0.01, 5e-4, dropout=0.5), "dfa": _settings(0.01, 1e-4, dropout=0.1)},
    "spline": {"bp": _settings(0.01, 5e-3, dropout=0.5), "dfa": _settings(0.01, 5e-3, dropout=0.5)},
    "gat": {
        "bp": _settings(0.005, 5e-4, dropout=0.6, attention_dropout=0.6, output_attention_dropout=0.6),
        "dfa": _settings(0.005, 1e-4, dropout=0.1, attention_dropout=0.6, output_attention_dropout=0.0),
    },
    "dna": {
        "bp": _settings(0.005, 5e-4, dropout=0.5, attention_dropout=0.8),
        "dfa": _settings(0.01, 0.0, dropout=0.0, attention_dropout=0.0),
    },
}
"""Per model and rule, from the code that Launay et al. 2020 published. For shallow training that is DFA's."""


def published_settings(kind: str) -> Settings:
    """Return the published settings of a model by rule, those of shallow training included."""
    return {**PUBLISHED[kind], "shallow": PUBLISHED[kind]["dfa"]}


def cell(graph: str, kind: str) -> str:
    """Return the name of the tuned configuration of a model on a graph."""
    return f"{graph}-{kind}"


def presets(tuned: Mapping[str, Settings]) -> dict[str, Preset[Config]]:
    """Return the presets of networks that classify nodes.

    Args:
        tuned: Per name of a configuration and rule, the settings that tuning chose.
    """
    rows: dict[str, Preset[Config]] = {}
    for graph in (*CITATIONS, KARATE):
        for kind in MODELS:
            name, about = cell(graph, kind), f"{TITLES[kind]} on {graph}"
            published = published_settings(kind)
            config = _shared(graph, kind)
            if graph == KARATE:
                rows[name] = Preset(f"{about}: seconds, no download", config, published)
                continue
            found = {rule: {**own(rule), **settings} for rule, settings in tuned.get(name, {}).items()}
            rows[name] = Preset(f"{about}, tuned per rule", config, found)
            whole = replace(config, epochs=250)
            rows[f"{name}-published"] = Preset(f"{about}, settings as published", whole, published)
    return {**rows, **_others(rows)}


def own(rule: str) -> dict[str, Any]:
    """Return what tuned configurations have for one rule alone: DFA's feedback, which is orthogonal there.

    The published feedback is uniform. With as few units as these networks have it is badly conditioned.
    """
    return {"feedback": fa.Orthogonal()} if rule == "dfa" else {}


def _shared(graph: str, kind: str) -> Config:
    """Return what all rules share: the graph, its split and features, and the network."""
    own_split = kind == "dna" and graph != KARATE
    return Config(
        data=GraphConfig(graph, "stratified" if own_split else "public", normalise=kind in ("cheb", "gcn", "gat")),  # type: ignore[arg-type]
        model=GraphModelConfig(kind),  # type: ignore[arg-type]
        optimiser=OptimiserConfig("adam", 0.01),
        epochs=EPOCHS.get(cell(graph, kind), 250),
        alignment=graph in ("cora", KARATE),
        embedding=1_000 if cell(graph, kind) == EMBEDDED else 0,
    )


def _others(rows: Mapping[str, Preset[Config]]) -> dict[str, Preset[Config]]:
    sampled, label = rows["pubmed-gcn-published"], rows["cora-dna-published"]
    return {
        "pubmed-gcn-sampled": Preset(
            "GCN on pubmed in batches of 20 training nodes with a sample of their neighbours, settings as published",
            replace(sampled.config, neighbours=(10, 10, 10), batch=20, epochs=100),
            sampled.rules,
        ),
        "cora-dna-label": Preset(
            "DNA on cora with the error taken after the log-softmax, as published: the error is then minus the label",
            replace(label.config, model=replace(label.config.model, log_softmax=True)),
            label.rules,
        ),
    }


AUTOENCODER_EPOCHS = {"citeseer": 200}
AUTOENCODER_RATES = {"citeseer": 0.02}
"""As published: of other graphs there are 400 epochs, and DFA's learning rate is backpropagation's."""


def autoencoder_presets(tuned: Mapping[str, Settings]) -> dict[str, Preset[AutoencoderConfig]]:
    """Return the presets of the graph autoencoder.

    Args:
        tuned: Per name of a configuration and rule, the settings that tuning chose.
    """
    rows: dict[str, Preset[AutoencoderConfig]] = {}
    for graph in (*CITATIONS, KARATE):
        name, about = cell(graph, AUTOENCODER), f"Graph autoencoder on {graph}"
        config = AutoencoderConfig(
            data=GraphConfig(graph),  # type: ignore[arg-type]
            epochs=AUTOENCODER_EPOCHS.get(graph, 400),
            alignment=graph in ("cora", KARATE),
        )
        published = published_autoencoder(graph)
        if graph == KARATE:
            rows[name] = Preset(f"{about}: seconds, no download", config, published)
            continue
        rows[name] = Preset(f"{about}, tuned per rule", config, tuned.get(name, {}))
        rows[f"{name}-published"] = Preset(f"{about}, settings as published", config, published)
    return rows


def published_autoencoder(graph: str) -> Settings:
    """Return the published settings of the autoencoder by rule, those of shallow training being DFA's."""
    of_dfa = _settings(AUTOENCODER_RATES.get(graph, 0.01), 0.0)
    return {"bp": _settings(0.01, 0.0), "dfa": of_dfa, "shallow": of_dfa}


def shipped() -> dict[str, Settings]:
    """Return what tuning chose, by configuration and rule, as it comes with the package."""
    return shipped_settings(__package__)


def preset(rows: Mapping[str, Preset[ConfigT]], name: str, rule: str = "dfa", seed: int = 0) -> ConfigT:
    """Return the configuration called ``name`` for a rule and a seed.

    Args:
        rows: The presets, as :func:`presets` returns them.
        name: Of one of them.
        rule: A learning rule. One that has no settings of its own is given those of DFA.
        seed: Of the run.

    Raises:
        ExperimentError: There is no preset of that name, or it was not tuned.
        ValueError: There is no rule of that name.
    """
    return configured_as_tuned(rows, name, rule, seed)
