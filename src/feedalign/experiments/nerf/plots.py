"""Scenes on pages: what each rule made of the same views, an epipolar strip of each, and PSNR over time."""

from collections.abc import Sequence

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from feedalign.experiments.names import full_name, label
from feedalign.experiments.nerf.pictures import DEPTH, SEEN, STRIP, TRUTH, view_file
from feedalign.experiments.nerf.tables import sorted_runs
from feedalign.experiments.panels import panels
from feedalign.experiments.records import Run
from feedalign.experiments.styles import SETTINGS, style

INCHES = 1.9
"""Width of a picture in a grid."""
PicturesOf = dict[str, Run]
"""By rule, the run whose pictures are shown."""


def nerf_pictures(runs: Sequence[Run], stacked: bool = False) -> list[tuple[str, Figure]]:
    """Return every picture of runs on scenes with its name; each is labelled with what it says.

    Args:
        runs: Any runs; those of other experiments are left out.
        stacked: For a phone: panels below each other.
    """
    drawn: list[tuple[str, Figure]] = []
    shown = pictured(runs)
    for name, rules in sorted_runs(runs).items():
        if name in shown:
            drawn.append((f"nerf-{name}-views", views_figure(shown[name], name)))
            drawn.append((f"nerf-{name}-strips", strips_figure(shown[name], name)))
        every = [run for some in rules.values() for run in some]
        drawn.append((f"nerf-{name}-psnr", psnr_curves(every, name, stacked)))
    return drawn


def pictured(runs: Sequence[Run]) -> dict[str, PicturesOf]:
    """Return, by configuration and rule, the first run that has pictures beside its record."""
    found: dict[str, PicturesOf] = {}
    for name, rules in sorted_runs(runs).items():
        for rule, some in rules.items():
            if shown := next((run for run in some if (run.directory / view_file(0, SEEN)).exists()), None):
                found.setdefault(name, {})[rule] = shown
    return found


def views_figure(runs: PicturesOf, name: str) -> Figure:
    """Return test views: the photograph, and beside it what each rule made of it, with depths below."""
    first = next(iter(runs.values()))
    numbers = [i for i in range(100) if (first.directory / view_file(i, TRUTH)).exists()]
    columns = 1 + len(runs)
    height, width, *_ = _read(first, view_file(0, TRUTH)).shape
    size = (INCHES * columns, 2 * len(numbers) * INCHES * height / width + 0.3)
    with rc_context(SETTINGS):
        figure = Figure(figsize=size, layout="constrained")
        figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)  # type: ignore[union-attr, call-arg]
        grid = figure.subplots(2 * len(numbers), columns, squeeze=False)
        for row, number in enumerate(numbers):
            _show(grid[2 * row, 0], _read(first, view_file(number, TRUTH)))
            _show(grid[2 * row + 1, 0], None)
            for column, run in enumerate(runs.values(), start=1):
                _show(grid[2 * row, column], _read(run, view_file(number, SEEN)))
                _show(grid[2 * row + 1, column], _read(run, view_file(number, DEPTH)))
        for axes, title in zip(grid[0], ("photograph", *map(label, runs)), strict=True):
            axes.set_title(title)
    figure.set_label(
        f"{name}: views that were held out. The photograph, and what each rule made of it, with depths below: dark is "
        "near, white is where little is seen."
    )
    return figure


def strips_figure(runs: PicturesOf, name: str) -> Figure:
    """Return the epipolar strips of the rules, one below the other."""
    with rc_context(SETTINGS):
        figure = Figure(figsize=(4.2, 0.2 + 2.3 * len(runs)), layout="constrained")
        grid = figure.subplots(len(runs), 1, squeeze=False)[:, 0]
        for axes, (rule, run) in zip(grid, runs.items(), strict=True):
            axes.imshow(_read(run, STRIP), aspect="auto", interpolation="nearest")
            axes.set(xticks=[], yticks=[], title=label(rule))
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
        grid[-1].set_xlabel("camera along the path")
    figure.set_label(
        f"{name}: epipolar strips, the middle column of pixels of each camera along a path. Edges run on smoothly "
        "where the views agree on what is where."
    )
    return figure


def psnr_curves(runs: Sequence[Run], name: str, stacked: bool = False) -> Figure:
    """Return PSNR on training and validation rays against iterations, a line a run.

    Args:
        runs: Of one configuration.
        name: Its name.
        stacked: Panels below each other (for a phone) instead of side by side.
    """
    (rules,) = sorted_runs(runs).values()
    with rc_context(SETTINGS):
        figure, grid = panels(2, stacked)
        for axes, part in zip(grid, ("train", "validation"), strict=True):
            for rule, some in rules.items():
                for number, run in enumerate(some):
                    steps = [line["step"] for line in run.curve]
                    found = [line[f"{part}_psnr"] for line in run.curve]
                    axes.plot(steps, found, label=label(rule) if number == 0 else None, **style(full_name(rule)))
            axes.set_title({"train": "Training", "validation": "Validation"}[part] + " PSNR (dB)")
            axes.set_xlabel("iteration")
        grid[0].legend()
    figure.set_label(f"{name}: PSNR of rays of training and of validation views over iterations, a line a seed.")
    return figure


def _show(axes: Axes, picture: NDArray[np.uint8] | None) -> None:
    axes.set_axis_off()
    if picture is not None:
        axes.imshow(picture, interpolation="nearest")


def _read(run: Run, name: str) -> NDArray[np.uint8]:
    with Image.open(run.directory / name) as image:
        return np.asarray(image.convert("RGB"))
