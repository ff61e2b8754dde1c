"""The table and the picture of ``feedalign bench nerf``."""

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from feedalign.bench.cells import descriptions, milliseconds, where
from feedalign.bench.nerf import RENDER, SKIPPING
from feedalign.experiments.names import label
from feedalign.experiments.styles import GREEN, ORANGE, PINK, SETTINGS, SKY, style
from feedalign.experiments.tables import Table


def way(name: str) -> str:
    """Return what a table writes for a way to treat rays."""
    plain = name.removesuffix(SKIPPING)
    what = "rendering" if plain == RENDER else f"training: {label(plain)}"
    return what if plain == name else f"{what}, empty space skipped"


def nerf_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench nerf`` record: rays per second and ratios, a system and way a row."""
    rows = [
        (
            case["name"],
            way(case["rule"]),
            *milliseconds(case),
            f"{case['rays_per_second']:,.0f}",
            f"{case['ratio']:.2f}",
            f"{case['arithmetic_limit']:.2f}",
        )
        for case in record["cases"]
    ]
    shares = {case["occupied_share"] for case in record["cases"] if case["occupied_share"] is not None}
    full = f" Skipping: {100 * max(shares):.0f} % of the box's cells are not empty." if shares else ""
    return Table(
        title=f"Radiance fields on {where(record)}, steps of {record['config']['rays']:,} rays",
        headings=("field", "what", "ms", "quartiles", "rays per second", "times as fast", "limit"),
        rows=tuple(rows),
        notes=(
            "Times as fast: training as backprop, rendering as where every sample is asked about. Limit: what the "
            f"count of operations in matrix products allows.{full}",
            descriptions(record),
        ),
        text_columns=2,
    )


def nerf_speeds(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return how many times as fast as the usual way each other way was, a bar a system and way."""
    names = list(dict.fromkeys(case["name"] for case in record["cases"]))
    ways = {
        "dfa": style("dfa")["color"],
        "shallow": style("shallow")["color"],
        "backprop" + SKIPPING: ORANGE,
        "dfa" + SKIPPING: PINK,
        RENDER + SKIPPING: GREEN,
    }
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(4.2 if stacked else 7.5, 1.6 + 1.1 * len(names)), layout="constrained")
        axes = figure.subplots()
        for number, (rule, colour) in enumerate(ways.items()):
            cases = [case for case in record["cases"] if case["rule"] == rule]
            places = [names.index(case["name"]) + 0.17 * (number - (len(ways) - 1) / 2) for case in cases]
            axes.barh(places, [case["ratio"] for case in cases], 0.15, color=colour, label=way(rule))
            axes.plot([case["arithmetic_limit"] for case in cases], places, "k|", markersize=10)
        axes.axvline(1, color=SKY, linewidth=1.2)
        axes.plot([], [], "k|", label="limit by count of operations")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("speed (backprop, or asking about every sample = 1)")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=1 if stacked else 2)
    return figure
