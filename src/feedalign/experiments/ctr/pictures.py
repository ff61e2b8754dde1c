"""Pictures of runs on click logs: curves of the validation AUC, and reliability diagrams."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feedalign.experiments.ctr.cells import Cells
from feedalign.experiments.ctr.presets import DATA, MODELS, TITLES, cell
from feedalign.experiments.names import full_name, label
from feedalign.experiments.panels import band, epochs, labelled, panels
from feedalign.experiments.records import Run
from feedalign.experiments.styles import SETTINGS, style

COLUMNS = 3


def ctr_pictures(runs: Sequence[Run], stacked: bool = False) -> Iterator[tuple[str, Figure]]:
    """Yield the pictures of all logs of which there are runs with tuned settings, by the name of a file.

    Args:
        runs: Of any experiment.
        stacked: Panels below each other (for a phone).
    """
    cells = Cells.of(runs)
    for data in DATA:
        found = {kind: by_rule for kind in MODELS if (by_rule := cells.runs.get(cell(data, kind)))}
        if found:
            for what, (draw, words) in PICTURES.items():
                figure = draw(found, stacked)
                figure.set_label(f"{data}: {words}")
                yield f"ctr-{data}-{what}", figure


def curves(found: dict[str, dict[str, list[Run]]], stacked: bool = False) -> Figure:
    """Return the validation AUC against epochs, a panel a network: the mean over seeds and the range between them."""
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(found), stacked, columns=COLUMNS)
        for axes, (kind, by_rule) in zip(grid, found.items(), strict=True):
            for rule, runs in by_rule.items():
                band(axes, runs, lambda line: line["validation_auc"], label=label(rule), **style(full_name(rule)))
            epochs(axes, TITLES[kind])
            axes.set_ylabel("validation AUC")
        _legend(figure, grid, stacked)
    return figure


def reliability(found: dict[str, dict[str, list[Run]]], stacked: bool = False) -> Figure:
    """Return how many rows were clicks against how many were said to be, a panel a network, over bins of equal rows."""
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(found), stacked, height=3.4, columns=COLUMNS)
        for axes, (kind, by_rule) in zip(grid, found.items(), strict=True):
            for rule, runs in by_rule.items():
                predicted, observed = _bins([run.record.metrics["calibration"] for run in runs])
                axes.plot(predicted, observed, marker="o", markersize=3.5, label=label(rule), **style(full_name(rule)))
            _diagonal(axes)
            axes.set_title(TITLES[kind])
            axes.set_xlabel("mean probability said")
            axes.set_ylabel("share of clicks")
        _legend(figure, grid, stacked)
    return figure


def _bins(found: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return the means over seeds, bin by bin: the first tenth of one run beside the first tenth of another."""
    predicted = [fmean(values) for values in zip(*(one["predicted"] for one in found), strict=True)]
    return predicted, [fmean(values) for values in zip(*(one["observed"] for one in found), strict=True)]


def _diagonal(axes: Axes) -> None:
    end = max(*axes.get_xlim(), *axes.get_ylim())
    axes.plot([0, end], [0, end], color="#333333", linewidth=0.8, zorder=0)
    axes.set(xlim=(0, end), ylim=(0, end), aspect="equal")


def _legend(figure: Figure, grid: list[Axes], stacked: bool) -> None:
    found = labelled(grid)
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=1 if stacked else len(found))


PICTURES: dict[str, tuple[Callable[[dict[str, dict[str, list[Run]]], bool], Figure], str]] = {
    "curves": (curves, "validation AUC after every epoch, mean over seeds; the band is the range between seeds."),
    "reliability": (
        reliability,
        "the share of clicks among test rows against the probability that was said, in ten bins of equal numbers of "
        "rows. On the diagonal as many rows are clicks as were said to be.",
    ),
}
"""What is drawn of every log: by the end of a file's name, how, and what it says."""
