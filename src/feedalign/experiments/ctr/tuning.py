"""What is tried for each network on each click log: the same for every rule."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from feedalign.experiments.ctr.config import Config
from feedalign.experiments.ctr.presets import cell, shared
from feedalign.experiments.ctr.runs import CTR
from feedalign.experiments.studies import Logarithmic, Space, Study

FIRST_SEED = 1_000
"""Of the runs of a trial. None of those that are reported is as large."""
RATES = Logarithmic(1e-4, 1e-2)
"""The published grid ends at 1e-3. Logs of thousands of rows give few steps, and the best rates lie above."""
DROPOUTS = (0.0, 0.1, 0.3, 0.5)
FIRST = (
    {"optimiser.learning_rate": 1e-3, "model.dropout": 0.0},
    {"optimiser.learning_rate": 1e-3, "model.dropout": 0.5},
)
"""Tried first under every rule: the upper end of the published grid of rates, with both ends of that of dropout."""


def space(kind: str) -> Space:
    """Return what may be tried for a network. The factorisation machine has nothing to drop."""
    rates: Space = {"optimiser.learning_rate": RATES}
    return rates if kind == "fm" else {**rates, "model.dropout": DROPOUTS}


def study(
    data: str,
    kind: str,
    rule: str,
    output: Path,
    *,
    trials: int = 12,
    runs: int = 1,
    epochs: int | None = None,
    device: str = "cpu",
) -> Study[Config]:
    """Return what is tried for a network on a click log under a rule.

    Args:
        data: Name of the log.
        kind: Of network.
        rule: A learning rule.
        output: Folder of the summaries.
        trials: How many settings.
        runs: How many runs a trial.
        epochs: Of a run at most; by default those of the runs that are reported.
        device: As in the configuration.

    Raises:
        ValueError: There is no rule of that name, or the network cannot learn by it.
    """
    plain = shared(data, kind)
    config = replace(
        plain,
        name=cell(data, kind),
        rule=rule,
        device=device,  # type: ignore[arg-type]
        epochs=epochs or plain.epochs,
        alignment=0,  # nothing is decided by it
    )
    tried = space(kind)
    first = [{name: value for name, value in settings.items() if name in tried} for settings in FIRST]
    # The factorisation machine has no dropout, which makes one of the two.
    first = [settings for number, settings in enumerate(first) if settings not in first[:number]]
    return Study(
        experiment=CTR,
        config=config,
        space=tried,
        first=first,
        trials=trials,
        seeds=tuple(FIRST_SEED + number for number in range(runs)),
        chosen_by="validation_auc",
        output=output,
    )


def studies(cells: Iterable[tuple[str, str, str]], output: Path, **options: Any) -> list[Study[Config]]:
    """Return the studies of several cells, a log, a network and a rule each; see :func:`study`."""
    return [study(data, kind, rule, output, **options) for data, kind, rule in cells]
