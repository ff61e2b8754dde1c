"""The table and the picture of steps on clicks over the number of categories, made from their record."""

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from feedalign.bench.cells import PEAK, mib, milliseconds, where
from feedalign.bench.ctr import FIELDS
from feedalign.experiments.ctr.presets import TITLES
from feedalign.experiments.panels import panels
from feedalign.experiments.styles import BLUE, DASHED, SETTINGS, VERMILLION
from feedalign.experiments.tables import Table

WORDS = {
    "backprop": ("dense", "backprop"),
    "dfa": ("dense", "DFA"),
    "backprop-sparse": ("sparse", "backprop"),
    "dfa-sparse": ("sparse", "DFA"),
}


def ctr_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench ctr`` record: time and memory a number of categories and way."""
    fewest = min(case["categories"] for case in record["cases"])
    base = {case["rule"]: case["median_seconds"] for case in record["cases"] if case["categories"] == fewest}
    config = record["config"]
    return Table(
        title=f"A training step of {TITLES[config['model']]} on {config['batch']:,} rows over the number of "
        f"categories, {where(record)}, {config['rounds']} interleaved rounds",
        headings=(
            "categories", "tables", "rule", "ms a step", "quartiles", f"times that of {fewest:,}",
            "times as fast as dense backprop", "peak MiB a step",
        ),
        rows=tuple(
            (
                f"{case['categories']:,}",
                *WORDS[case["rule"]],
                *milliseconds(case),
                f"{case['median_seconds'] / base[case['rule']]:.2f}",
                f"{case['ratio_to_backprop']:.2f}",
                mib(case["peak_memory_bytes"]),
            )
            for case in record["cases"]
        ),
        notes=(
            f"{FIELDS} fields with equally many categories each, of which few are common and many rare. Dense tables "
            "have a gradient for every category, and Adam moves them all; sparse ones have those of the batch, and the "
            f"lazy Adam moves these. {PEAK}",
        ),
        text_columns=3,
    )  # fmt: skip


def ctr_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return the time of a step over the number of categories, a line a way to take it."""
    with mpl.rc_context(SETTINGS):
        figure, (axes,) = panels(1, stacked)
        for way, (tables, rule) in WORDS.items():
            cases = sorted(
                (case["categories"], case["median_seconds"]) for case in record["cases"] if case["rule"] == way
            )
            if not cases:
                continue
            axes.plot(
                [categories for categories, _ in cases],
                [1000 * seconds for _, seconds in cases],
                color=BLUE if rule == "backprop" else VERMILLION,
                linestyle="-" if tables == "dense" else DASHED,
                marker="o",
                label=f"{rule}, {tables} tables",
            )
        axes.set(xscale="log", xlabel="categories", title="milliseconds of a step", ylim=(0, None))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.legend()
    return figure
