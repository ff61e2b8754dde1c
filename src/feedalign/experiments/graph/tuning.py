"""What is tried for each graph network and for the autoencoder: the same for every rule."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from feedalign.experiments.graph.presets import (
    AUTOENCODER,
    autoencoder_presets,
    cell,
    own,
    presets,
    published_autoencoder,
    published_settings,
)
from feedalign.experiments.graph.runs import AUTOENCODER as OF_LINKS
from feedalign.experiments.graph.runs import GRAPH as OF_NODES
from feedalign.experiments.settings import with_settings
from feedalign.experiments.studies import Logarithmic, Space, Study

FIRST_SEED = 1_000
"""Of the runs of a trial. None of those that are reported is as large."""
RATES = Logarithmic(0.002, 0.05)
DECAYS = (0.0, 1e-4, 5e-4, 2e-3, 5e-3, 1e-2)
DROPOUTS = (0.0, 0.1, 0.3, 0.5, 0.6)
GAINS = (1.0, 3.0, 10.0, 30.0)
"""Of DFA's feedback. It gets no more trials for it. Under Adam it weighs the signal against the weight decay."""
EPOCHS = {"dna": 60, "gat": 150, AUTOENCODER: 200}
"""Of a trial: enough to tell settings apart. 200 for the other networks."""
LARGE = {"dna": 40, "gat": 100}
"""The same on pubmed, which has seven times the nodes of the others."""


def _space(kind: str, rule: str) -> Space:
    shared: dict[str, Any] = {"optimiser.learning_rate": RATES, "optimiser.weight_decay": DECAYS}
    if kind == AUTOENCODER:
        return shared
    shared["model.dropout"] = DROPOUTS
    if rule == "dfa":
        shared["feedback.gain"] = GAINS
    if kind in ("gat", "dna"):
        shared["model.attention_dropout"] = (0.0, 0.3, 0.6, 0.8)
    if kind == "gat":
        shared["model.output_attention_dropout"] = (0.0, 0.3, 0.6)
    return shared


def trial_epochs(graph: str, kind: str) -> int:
    """Return how many epochs a trial has unless told otherwise."""
    usual = EPOCHS.get(kind, 200)
    return LARGE.get(kind, usual) if graph == "pubmed" else usual


def study(
    graph: str,
    kind: str,
    rule: str,
    output: Path,
    *,
    trials: int = 12,
    runs: int = 2,
    epochs: int | None = None,
    device: str = "cpu",
) -> Study[Any]:
    """Return what is tried for a network, or the autoencoder, on a graph under a rule.

    The published settings of backpropagation and of DFA are tried first, whatever the rule.

    Args:
        graph: Name of the graph.
        kind: Of network, or ``"gae"``.
        rule: A learning rule.
        output: Folder of the summaries.
        trials: How many settings, the published ones counted.
        runs: How many runs a trial.
        epochs: Of a run; by default :func:`trial_epochs`.
        device: As in the configuration.
    """
    name = cell(graph, kind)
    links = kind == AUTOENCODER
    rows: Any = autoencoder_presets({}) if links else presets({})
    published = published_autoencoder(graph) if links else published_settings(kind)
    space, alone = _space(kind, rule), {} if links else own(rule)
    gain = {"feedback.gain": 1.0} if "feedback.gain" in space else {}
    both = dict.fromkeys(tuple(published[known].items()) for known in ("bp", "dfa"))
    first = [{**dict(settings), **gain} for settings in both]
    measured = {"alignment": False} if links else {"alignment": False, "embedding": 0}  # nothing is decided by these
    plain = replace(rows[name].config, name=name, rule=rule, device=device, epochs=epochs or trial_epochs(graph, kind))
    return Study(
        experiment=OF_LINKS if links else OF_NODES,
        config=with_settings(plain, {**measured, **alone}),
        space=space,
        first=first,
        trials=trials,
        seeds=tuple(FIRST_SEED + number for number in range(runs)),
        chosen_by="validation_auc" if links else "validation_accuracy",
        output=output,
    )


def studies(cells: Iterable[tuple[str, str]], rules: Iterable[str], output: Path, **options: Any) -> list[Study[Any]]:
    """Return the studies of several cells, a graph and a network each, under each rule; see :func:`study`."""
    rules = list(rules)
    return [study(graph, kind, rule, output, **options) for graph, kind in cells for rule in rules]
