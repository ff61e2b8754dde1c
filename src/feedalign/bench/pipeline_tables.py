"""The table and the picture of ``bench pipeline``, made from its record."""

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from feedalign.bench.cells import Case, mib, where
from feedalign.experiments.panels import panels
from feedalign.experiments.styles import BLUE, GREEN, ORANGE, PINK, SETTINGS, SKY, VERMILLION
from feedalign.experiments.tables import Table

LABELS: dict[str, str] = {
    "gpipe": "GPipe, backprop",
    "1f1b": "1F1B, backprop",
    "zbv": "ZBV, backprop",
    "dfa-0": "DFA, 0 ahead",
    "dfa-flat": "DFA, flat",
    "dfa-all": "DFA, all ahead",
}
COLOURS = {
    "gpipe": SKY,
    "1f1b": BLUE,
    "zbv": GREEN,
    "dfa-0": ORANGE,
    "dfa-flat": VERMILLION,
    "dfa-all": PINK,
}


def pipeline_table(record: dict[str, Any]) -> Table:
    """Return one row per system, number of micro-batches and schedule."""
    stages = record["config"]["stages"]
    return Table(
        title=f"A step of a pipeline of {stages} processes, {where(record)} each",
        headings=(
            "system", "schedule", "step, ms", "quartiles", "1F1B = 1 (limit)", "period, ms", "quartiles",
            "1F1B = 1 (limit)", "bubble", "sent MiB", "peak MiB a stage", "held",
        ),
        rows=tuple(_row(case) for case in record["cases"]),
        notes=(
            "Step: the first of some steps in a row, from a barrier to the end of the slowest process. Period: one "
            "more of them. The limit is what the simulator makes of the passes of the same run, if nothing else cost "
            "time. Bubble: the share of a period in which a process computes nothing. Held: micro-batches, at most.",
            f"{record['config']['rounds']} rounds; in each, every schedule ran {record['config']['row']} steps. "
            + _described(record),
        ),
        text_columns=2,
    )  # fmt: skip


def _row(case: Case) -> tuple[str, ...]:
    peaks = [mib(size) for size in case["peak_memory_bytes"]]
    return (
        case["name"],
        LABELS[case["rule"]],
        *_milliseconds(case),
        f"{case['ratio']:.2f} ({case['limit']['step']:.2f})",
        *_milliseconds(case["period"]),
        f"{case['period_ratio']:.2f} ({case['limit']['period']:.2f})",
        f"{100 * case['bubble']:.0f} %",
        mib(case["sent_bytes"]),
        peaks[0] if len(set(peaks)) == 1 else f"{peaks[0]} to {peaks[-1]}",
        str(max(case["held"])),
    )


def _milliseconds(times: dict[str, Any]) -> tuple[str, str]:
    low, high = (1000 * seconds for seconds in times["quartiles"])
    return f"{1000 * times['median_seconds']:.1f}", f"{low:.1f} to {high:.1f}"


def _described(record: dict[str, Any]) -> str:
    return "; ".join(dict.fromkeys(case["describe"] for case in record["cases"])) + "."


def pipeline_ratios(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return how many times as fast as 1F1B a step and a period are, with their limits as black marks."""
    names = list(dict.fromkeys(case["name"] for case in record["cases"]))
    rules = list(dict.fromkeys(case["rule"] for case in record["cases"]))
    found = {(case["name"], case["rule"]): case for case in record["cases"]}
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2, stacked)
        for axes, (ratio, limit, title) in zip(
            grid, (("ratio", "step", "First step"), ("period_ratio", "period", "Period")), strict=True
        ):
            width = 0.8 / len(rules)
            for place, rule in enumerate(rules):
                at = [number - 0.4 + (place + 0.5) * width for number in range(len(names))]
                cases = [found[name, rule] for name in names]
                axes.bar(at, [case[ratio] for case in cases], width, color=COLOURS[rule], label=LABELS[rule])
                axes.plot(at, [case["limit"][limit] for case in cases], "_", color="black", markersize=9)
            axes.axhline(1, color="black", linewidth=0.8)
            axes.set_xticks(range(len(names)), names)
            axes.set(title=title, ylabel="times as fast as 1F1B")
            axes.grid(visible=False, axis="x")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure
