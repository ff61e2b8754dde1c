"""Pictures of language models: perplexity over training, by rule and by optimiser, and which layers align, and when."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feedalign.experiments.lm.presets import SMALL_NAME
from feedalign.experiments.lm.rows import Family, Row, apart, families
from feedalign.experiments.lm.tables import place
from feedalign.experiments.names import full_name
from feedalign.experiments.panels import LEGEND_LINE, labelled, logarithmic, panels
from feedalign.experiments.records import Run
from feedalign.experiments.styles import SETTINGS, style

SHADES = ("#D55E00", "#E69F00", "#CC79A7", "#009E73", "#56B4E9", "#000000", "#6A3D9A", "#8C510A")
MARKS = ("o", "s", "^", "v", "D", "P", "X")  # one fewer, so that no pair comes again before all have been
OVER_TRAINING = "validation perplexity over training. Mean over seeds; the band is the range between them."


def lm_pictures(runs: Sequence[Run], stacked: bool = False) -> Iterator[tuple[str, Figure]]:
    """Yield the pictures of every preset of which there are runs, by the name of a file.

    Several optimisers of the small model share one.

    Args:
        runs: Of any experiment.
        stacked: Panels below each other (for a phone).
    """
    alone, together = apart(families(runs))
    for name, rows in alone.items():
        figure = curves(rows, stacked)
        figure.set_label(f"{name}: {OVER_TRAINING}")
        yield f"{name}-perplexity", figure
        if (aligned := alignment(rows, stacked)) is not None:
            aligned.set_label(
                f"{name}: which layers align with backpropagation, and when. Each row is a point, the input at the "
                "bottom; the colour is the mean cosine over tokens and seeds."
            )
            yield f"{name}-alignment", aligned
    if together:
        figure = by_optimiser(together, stacked)
        figure.set_label(f"{SMALL_NAME} by optimiser: {OVER_TRAINING} Each panel has a scale of its own.")
        yield f"{SMALL_NAME}-optimisers", figure


def curves(rows: Family, stacked: bool = False) -> Figure:
    """Return the validation perplexity against tokens seen: the mean over seeds and the range between them."""
    with mpl.rc_context(SETTINGS):
        figure, (axes,) = panels(1, stacked, height=3.4 + LEGEND_LINE * len(rows))
        looks = zip(cycle(SHADES), cycle(MARKS), strict=False)
        for row, runs in rows.items():
            color, mark = next(looks) if row.points else (style(full_name(row.rule))["color"], "x" if row.more else "")
            line = "--" if row.points == "macro" else "-." if row.points else style(full_name(row.rule))["linestyle"]
            _draw(axes, runs, label=row.words, color=color, linestyle=line, marker=mark)
        _finish(axes, "Validation perplexity")
        figure.legend(loc="outside lower center", handlelength=3.6)
    return figure


def by_optimiser(together: Mapping[str, Family], stacked: bool = False) -> Figure:
    """Return the same with a panel a rule and placement, and a line an optimiser.

    Args:
        together: Runs by optimiser and row.
        stacked: Panels below each other (for a phone).
    """
    with mpl.rc_context(SETTINGS):
        rows = sorted({row for family in together.values() for row in family})
        figure, grid = panels(len(rows), stacked, height=3.0, columns=2)
        for axes, row in zip(grid, rows, strict=True):
            for name, color, mark in zip(together, SHADES, MARKS, strict=False):
                if row in together[name]:
                    _draw(axes, together[name][row], label=name, color=color, linestyle="-", marker=mark)
            _finish(axes, row.words)
        found = labelled(grid)
        figure.legend(
            [found[name] for name in together], together, loc="outside lower center", ncols=3, title="optimiser"
        )
    return figure


def _draw(axes: Axes, runs: Sequence[Run], *, color: str, **line: Any) -> None:
    seen = _by_step(runs)
    millions = [step / 1e6 for step in seen]
    axes.plot(millions, [fmean(found) for found in seen.values()], color=color, markersize=4, **line)
    if any(len(found) > 1 for found in seen.values()):
        low, high = [min(found) for found in seen.values()], [max(found) for found in seen.values()]
        axes.fill_between(millions, low, high, color=color, alpha=0.18, linewidth=0)


def _finish(axes: Axes, title: str) -> None:
    logarithmic(axes)
    axes.set_title(title)
    axes.set_xlabel("tokens seen (millions)")


def _by_step(runs: Sequence[Run]) -> dict[int, list[float]]:
    """Return the validation perplexities of runs by how many tokens had been seen, without those of first weights."""
    found: dict[int, list[float]] = {}
    for run in runs:
        config = run.record.config
        tokens = config["batch"] * config["model"]["context"]
        for line in run.curve:
            if line["epoch"] and line["validation_perplexity"] is not None:
                found.setdefault(line["step"] * tokens, []).append(line["validation_perplexity"])
    return found


def alignment(rows: Family, stacked: bool = False) -> Figure | None:
    """Return the mean cosine at every point over training, a panel a placement; None where none was measured."""
    measured = {row: runs for row, runs in rows.items() if any(line["alignment"] for run in runs for line in run.curve)}
    if not measured:
        return None
    most = max(len(_cosines(runs)[1]) for runs in measured.values())
    with mpl.rc_context({**SETTINGS, "axes.grid": False}):
        figure, grid = panels(len(measured), stacked, height=2.4 + 0.22 * most, columns=2)
        for axes, (row, runs) in zip(grid, measured.items(), strict=True):
            image = _map(axes, row, runs)
        figure.colorbar(image, ax=grid, label="cosine", shrink=0.9)
    return figure


def _map(axes: Axes, row: Row, runs: Sequence[Run]) -> mpl.image.AxesImage:
    steps, points, cosines = _cosines(runs)
    image = axes.imshow(cosines, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", origin="lower", interpolation="nearest")
    axes.set_title(row.words.replace(", ", "\n", 1))  # on two lines: panels are narrow
    axes.set_xlabel("step")
    axes.set_xticks(range(len(steps)), [f"{step:,}" for step in steps], rotation=45)
    axes.set_yticks(range(len(points)), points)
    for i, j in np.ndindex(cosines.shape):
        if not np.isnan(cosines[i, j]):
            words = f"{cosines[i, j]:.2f}".replace("-0.00", "0.00")
            dark = abs(cosines[i, j]) > 0.6
            axes.text(j, i, words, ha="center", va="center", fontsize=7, color="w" if dark else "k")
    return image


def _cosines(runs: Sequence[Run]) -> tuple[list[int], list[str], "np.ndarray[tuple[int, int], np.dtype[np.float64]]"]:
    """Return steps, points from input to output, and the mean cosine over seeds ``[points, steps]``."""
    found: dict[tuple[str, int], list[float]] = {}
    for run in runs:
        for line in run.curve:
            for point, cosine in (line["alignment"] or {}).items():
                if cosine["mean"] is not None:
                    found.setdefault((point, line["step"]), []).append(cosine["mean"])
    steps = sorted({step for _, step in found})
    points = sorted({point for point, _ in found}, key=place)
    cosines = np.full((len(points), len(steps)), np.nan)
    for (point, step), values in found.items():
        cosines[points.index(point), steps.index(step)] = fmean(values)
    return steps, points, cosines
