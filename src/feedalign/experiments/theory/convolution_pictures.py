"""The pictures of the study of convolutions."""

from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from feedalign.experiments.names import label
from feedalign.experiments.styles import GREY, SETTINGS, style
from feedalign.experiments.tables import Interval
from feedalign.experiments.theory.convolution_tables import (
    ALIGNED,
    Part,
    accuracy,
    by_layer,
    chosen,
    nets,
    parts,
    rules,
    weights,
)

MARKERS = ("s", "^", "o")


def alignment_picture(record: dict[str, Any]) -> Figure:
    """Return accuracy and alignment by net and rule, a row a part."""
    found = parts(record)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(9.2, 2.7 * len(found) + 0.7), layout="constrained")
        grid = figure.subplots(len(found), 2, squeeze=False)
        for (left, right), part in zip(grid, found, strict=True):
            _accuracies(left, record, part)
            _alignments(right, record, part)
        figure.legend(handles=_names(record), loc="outside lower center", ncols=7, handletextpad=0.3, columnspacing=1.2)
        figure.set_label(
            "Left: test accuracy. Right: cosine between DFA's signals and the true gradients, layers from the input. "
            "Bars: 95 % intervals over seeds. Under DFA convolutions align least; feedback repeated over positions "
            "brings most of the alignment back."
        )
    return figure


def _accuracies(axes: Axes, record: dict[str, Any], part: Part) -> None:
    for place, net in enumerate(nets(record)):
        for i, rule in enumerate(rules(record)):
            found = accuracy(chosen(record, part, net, rule))
            _point(axes, place + (i - 1.5) * 0.14, found, 100, style(rule)["color"], MARKERS[place])
    axes.set_xticks(range(len(nets(record))), nets(record))
    axes.set_xlim(-0.5, len(nets(record)) - 0.5)
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, 0), min(high, 100))  # intervals over few seeds may reach beyond what there is
    axes.set_title(f"{part[0]}, {part[1]}: test accuracy (%)")
    axes.grid(visible=False, axis="x")


def _alignments(axes: Axes, record: dict[str, Any], part: Part) -> None:
    for place, net in enumerate(nets(record)):
        for rule in ALIGNED:
            layers = by_layer(chosen(record, part, net, rule))
            middle = (len(nets(record)) - 1) / 2
            across = [i + 1 + (place - middle) * 0.12 + (rule != "dfa") * 0.05 for i in range(len(layers))]
            look: dict[str, Any] = {**style(rule), "linewidth": 0.8, "alpha": 0.6}
            axes.plot(across, [layer.mean for layer in layers], **look)
            for x, layer in zip(across, layers, strict=True):
                _point(axes, x, layer, 1, style(rule)["color"], MARKERS[place])
    axes.axhline(0, color="#333333", linewidth=0.8)
    axes.set_ylim(-0.15, 1.0)
    axes.set_xticks(range(1, len(layers) + 1), [f"layer {i}" for i in range(1, len(layers) + 1)])
    axes.set_title(f"{part[0]}, {part[1]}: alignment")


def _point(axes: Axes, x: float, found: Interval, scale: float, color: str, marker: str) -> None:
    axes.errorbar(
        x, scale * found.mean, scale * (found.half_width or 0), color=color, marker=marker, markersize=5, linewidth=1
    )


def _names(record: dict[str, Any]) -> list[Line2D]:
    shown: dict[str, Any] = {"linestyle": "none", "markersize": 7}
    of_rules = [Line2D([], [], marker="D", color=style(r)["color"], label=label(r), **shown) for r in rules(record)]
    of_nets = [
        Line2D([], [], marker=marker, color="none", markeredgecolor="#000000", label=net, **shown)
        for marker, net in zip(MARKERS, nets(record), strict=False)
    ]
    return [*of_rules, *of_nets]


def weights_picture(record: dict[str, Any]) -> Figure:
    """Return the cosine between weights and feedback, and the largest that each form of layer allows."""
    found = parts(record)
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(max(4.6, 3.1 * len(found)), 3.4), layout="constrained")
        grid = figure.subplots(1, len(found), squeeze=False, sharey=True)[0]
        for axes, part in zip(grid, found, strict=True):
            for place, net in enumerate(nets(record)):
                _against_bound(axes, record, part, place, net)
            axes.set_xticks(range(len(nets(record))), [net.replace(" ", "\n") for net in nets(record)])
            axes.set_title(f"{part[0]}, {part[1]}")
            axes.grid(visible=False, axis="x")
        grid[0].set_ylim(-0.2, 1.05)
        grid[0].set_ylabel("cosine of weights with feedback")
        bound = Line2D([], [], color=GREY, marker="_", linestyle="none", markersize=12, label="largest possible")
        handles = [h for h in _names(record) if h.get_label() in [label(rule) for rule in ALIGNED]]
        figure.legend(handles=[*handles, bound], loc="outside lower center", ncols=3)
        figure.set_label(
            "Dots: cosine between a layer's weights and the product of feedback that they would align with, layer 2 "
            "left of layer 3. Dashes: the largest that the form of the layer allows."
        )
    return figure


def _against_bound(axes: Axes, record: dict[str, Any], part: Part, place: int, net: str) -> None:
    for i, rule in enumerate(ALIGNED):
        runs = chosen(record, part, net, rule)
        pairs = list(zip(weights(runs, "cosine"), weights(runs, "best"), strict=True))
        for layer, (got, best) in enumerate(pairs):
            x = place + (i - 0.5) * 0.4 + (layer - (len(pairs) - 1) / 2) * 0.14
            axes.plot(x, best.mean, color=GREY, marker="_", markersize=11, markeredgewidth=2, linestyle="none")
            _point(axes, x, got, 1, style(rule)["color"], "o")
