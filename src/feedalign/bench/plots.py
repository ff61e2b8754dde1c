"""The pictures of benchmarks, made from their records."""

from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from feedalign.bench.cells import MIB
from feedalign.bench.click_tables import clicks_costs
from feedalign.bench.coprocessor_tables import coprocessor_costs
from feedalign.bench.ctr_tables import ctr_costs
from feedalign.bench.memory_tables import over
from feedalign.bench.methods import label
from feedalign.bench.nerf_tables import nerf_speeds
from feedalign.bench.pipeline_tables import pipeline_ratios
from feedalign.bench.products import BATCHED, STACKED
from feedalign.bench.tables import WORDS
from feedalign.bench.vocabulary_tables import vocabulary_costs
from feedalign.experiments import plots
from feedalign.experiments.panels import labelled, logarithmic, panels
from feedalign.experiments.styles import (
    BLUE,
    DASH_DOT,
    DASHED,
    DOTTED,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    SETTINGS,
    SKY,
    VERMILLION,
)  # fmt: skip

YELLOW = "#F0E442"
LOOKS: dict[str, tuple[str, Any, str]] = {
    "backprop": (BLUE, "-", "o"),
    "checkpointing": (SKY, DASH_DOT, "s"),
    "dfa": (VERMILLION, DASHED, "o"),
    "leaves": (ORANGE, DOTTED, "x"),
    "hooks": (YELLOW, DOTTED, "+"),
    "shallow": (GREY, DOTTED, "."),
    "backprop-compiled": ("#003B5C", "-", "o"),
    "dfa-compiled": ("#7A3600", DASHED, "o"),
    "two-pass": (PINK, DASHED, "^"),
    "two-pass-stepping": (GREEN, DASHED, "v"),
    "one-pass-stepping": (GREY, DASH_DOT, "D"),
    "dense": (BLUE, "-", "o"),
    "regenerated": (VERMILLION, DASHED, "^"),
    "hadamard": (GREEN, DASH_DOT, "s"),
    "sparse": (PINK, DOTTED, "D"),
}
"""Colour, line and marker of a method or family; others are black."""
OTHER = ("#000000", "-", ".")


def step_ratios(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return how many times as fast as backprop a step was, a bar a method and case."""
    return plots.step_ratios(record["cases"], stacked, label, lambda method: LOOKS.get(method, OTHER)[0])


def memory_and_time(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return peak memory and time over depth, width and batch, the roofline of backprop dotted."""
    sizes = [size for size in ("depth", "width", "batch") if len({case[size] for case in over(record, size)}) > 1]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2 * len(sizes), stacked, columns=2)
        for i, size in enumerate(sizes):
            cases = over(record, size)
            for axes, key, scale, title in (
                (grid[2 * i], "peak_memory_bytes", 1 / MIB, "peak MiB of a step"),
                (grid[2 * i + 1], "median_seconds", 1, "seconds of a step"),
            ):
                _lines(axes, cases, size, key, scale)
                axes.set(xlabel={"depth": "hidden layers", "width": "width", "batch": "batch"}[size], title=title)
            _roofline(grid[2 * i + 1], cases, size)
        _legend(figure, grid, stacked)
    return figure


def feedback_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return memory and time of a projection over the width of the error, at the widest point."""
    width = max(case["width"] for case in record["cases"])
    cases = [
        {**case, "memory": case["kept_bytes"] + case["peak_memory_bytes"]}
        for case in record["cases"]
        if case["width"] == width
    ]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2, stacked)
        for axes, key, scale, title in (
            (grid[0], "memory", 1 / MIB, "MiB: kept, and taken by a projection"),
            (grid[1], "median_seconds", 1000, "milliseconds of a projection"),
        ):
            _lines(axes, cases, "classes", key, scale)
            axes.set(xlabel=f"width C of the error (D = {width})", title=title)
        _legend(figure, grid, stacked)
    return figure


def alignment_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return how many training steps each measurement of alignment takes, a bar a measurement and case."""
    names = list(dict.fromkeys(case["name"] for case in record["cases"]))
    kinds = [kind for kind in WORDS if kind not in ("dfa", "backprop")]
    colours = dict(zip(kinds, (VERMILLION, ORANGE, BLUE), strict=True))
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2 if stacked else 7.5, 1.6 + 0.8 * len(names)), layout="constrained")
        axes = figure.subplots()
        for case in (case for case in record["cases"] if case["rule"] in kinds):
            place = names.index(case["name"]) + 0.27 * (kinds.index(case["rule"]) - 1)
            name = WORDS[case["rule"]] if case["name"] == names[0] else None
            axes.barh(place, case["ratio_to_step"], 0.24, color=colours[case["rule"]], label=name)
        axes.axvline(1, color="#333333", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("time (a training step of DFA = 1)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return figure


def product_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return how many times as fast as one by one batched products were, a bar a way and system."""
    names = list(dict.fromkeys(case["name"] for case in record["cases"]))
    ways = {STACKED: VERMILLION, BATCHED: BLUE}
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2 if stacked else 7.5, 1.6 + 0.5 * len(names)), layout="constrained")
        axes = figure.subplots()
        for number, (way, colour) in enumerate(ways.items()):
            cases = [case for case in record["cases"] if case["rule"] == way]
            places = [names.index(case["name"]) + 0.36 * (number - 0.5) for case in cases]
            axes.barh(places, [case["ratio_to_one_by_one"] for case in cases], 0.34, color=colour, label=way)
        axes.axvline(1, color="#333333", linewidth=0.8)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("speed (one by one = 1)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


def accuracy_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return the operations until an accuracy is reached, a panel a configuration and a line a rule."""
    names = list(dict.fromkeys(case["name"] for case in record["cases"]))
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(names), stacked)
        for axes, name in zip(grid, names, strict=True):
            cases = [
                {**case, "flops": case["flops"] or float("nan")} for case in record["cases"] if case["name"] == name
            ]
            _lines(axes, cases, "target", "flops", 1e-12)
            axes.set_xscale("linear")
            axes.set(xlabel="test accuracy (%)", title=f"{name}: TFLOP")
        _legend(figure, grid, stacked)
    return figure


Draw = Callable[[dict[str, Any], bool], Figure]
PICTURES: dict[str, tuple[Draw, str, str, str]] = {
    "bench-step": (
        step_ratios,
        "Time of a training step",
        "Speed of a training step relative to backprop, per system; the table above holds the numbers.",
        "Medians over rounds, whiskers are quartiles. The black mark is the limit that the count of operations sets.",
    ),
    "bench-memory": (
        memory_and_time,
        "Memory of a training step",
        "Peak memory and time of a training step over depth, width and batch; the tables above hold the numbers.",
        "The dotted black line is backprop's roofline: its operations at the rate of one product by itself.",
    ),
    "bench-feedback": (
        feedback_costs,
        "Cost of a projection",
        "Memory and time of a projection over the width of the error; the table above holds the numbers.",
        "Dense feedback keeps its matrix; the others keep little or nothing.",
    ),
    "bench-alignment": (
        alignment_costs,
        "Cost of measuring alignment",
        "Time of measurements of alignment, in training steps; the table above holds the numbers.",
        "Medians over rounds.",
    ),
    "bench-products": (
        product_costs,
        "Batched weight gradients",
        "Speed of forming all layers' weight gradients at once, against one by one; the table above holds the numbers.",
        "Layers x width x batch. Medians over rounds.",
    ),
    "bench-accuracy": (
        accuracy_costs,
        "Cost of an accuracy",
        "Operations until a test accuracy is reached, per configuration; the table above holds the numbers.",
        "Means over seeds; no mark where not every seed got there.",
    ),
    "bench-nerf": (
        nerf_speeds,
        "Rays of radiance fields",
        "Speed of training under DFA and shallow, and of skipping empty space; the table above holds the numbers.",
        "Medians over rounds. The black mark is the limit that the count of operations sets.",
    ),
    "bench-vocabulary": (
        vocabulary_costs,
        "Size of the vocabulary",
        "Speed of a language model's training step relative to backprop; the table above holds the numbers.",
        "Medians over rounds, whiskers are quartiles. The black mark is the limit that the count of operations sets.",
    ),
    "bench-ctr": (
        ctr_costs,
        "Categories of click logs",
        "Time of a training step over the number of categories; the table above holds the numbers.",
        "Medians over rounds. A step with sparse tables grows with the categories of its batch alone.",
    ),
    "bench-pipeline": (
        pipeline_ratios,
        "Steps of a pipeline",
        "Speed of a pipeline's first step and period, relative to 1F1B; the table above holds the numbers.",
        "Medians over rounds. The black mark is the limit that the times of the passes in the same run set.",
    ),
    "bench-coprocessor": (
        coprocessor_costs,
        "When light pays",
        "Time and energy that leaving out products saves, over parameters, against a projection by light and by a GPU; "
        "the table above holds the numbers.",
        "Computed, not measured. Light pays to the right of where a line crosses a dotted level.",
    ),
    "bench-clicks": (
        clicks_costs,
        "Cache of a click log",
        "Time and peak memory of making the cache of a click log, over its rows; the table above holds the numbers.",
        "Foretold: the 45.8 million rows of Criteo Kaggle, from the two longest files.",
    ),
}
"""By kind of record: how it is drawn, a heading, what the picture says to those who cannot see it, and a caption."""


def _lines(axes: Axes, cases: list[dict[str, Any]], size: str, key: str, scale: float) -> None:
    for method in dict.fromkeys(case["rule"] for case in cases):
        found = sorted((case[size], scale * case[key]) for case in cases if case["rule"] == method)
        color, line, marker = LOOKS.get(method, OTHER)
        x, y = zip(*found, strict=True)
        axes.plot(x, y, color=color, linestyle=line, marker=marker, markersize=5, label=label(method))
    axes.set_xscale("log")
    axes.set_xticks(sorted({case[size] for case in cases}))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    logarithmic(axes)


def _roofline(axes: Axes, cases: list[dict[str, Any]], size: str) -> None:
    found = sorted((case[size], case["roofline_seconds"]) for case in cases if case["rule"] == "backprop")
    x, y = zip(*found, strict=True)
    axes.plot(x, y, "k:", linewidth=1, label="roofline of backprop")


def _legend(figure: Figure, grid: list[Axes], stacked: bool) -> None:
    found = labelled(grid)
    columns = 2 if stacked else 3
    figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=columns, handlelength=3.2)
