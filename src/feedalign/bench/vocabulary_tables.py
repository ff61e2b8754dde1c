"""The table and the picture of ``feedalign bench vocabulary``."""

from typing import Any

from matplotlib.figure import Figure

from feedalign.bench.cells import PEAK, mib, milliseconds, where
from feedalign.bench.vocabulary import WAYS
from feedalign.experiments import plots
from feedalign.experiments.names import label as rule_label
from feedalign.experiments.styles import BLUE, GREEN, GREY, ORANGE, PINK, SKY, VERMILLION
from feedalign.experiments.tables import Table

COLOURS = dict(zip(WAYS, (BLUE, SKY, "#7A3600", VERMILLION, GREY, ORANGE, PINK, GREEN), strict=True))


def way_label(name: str) -> str:
    """Return how the table and the legend write a way."""
    way = WAYS.get(name)
    return rule_label(name) if way is None else way.label


def vocabulary_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench vocabulary`` record: time and memory against backprop, a size and way a row."""
    config = record["config"]
    base = {case["name"]: case["peak_memory_bytes"] for case in record["cases"] if case["rule"] == "backprop"}
    rows = [
        (
            case["name"],
            way_label(case["rule"]),
            *milliseconds(case),
            f"{1 / case['ratio_to_backprop']:.2f}",
            f"{1 / case['arithmetic_limit']:.2f}",
            mib(case["peak_memory_bytes"]),
            mib(case["kept_bytes"]),
            f"{(case['peak_memory_bytes'] + case['kept_bytes']) / base[case['name']]:.2f}",
        )
        for case in record["cases"]
    ]
    return Table(
        title=f"A training step of a language model over the size of its vocabulary, {where(record)}",
        headings=(
            "vocabulary", "way", "ms a step", "quartiles", "of backprop's time", "of its operations",
            "peak MiB a step", "kept MiB", "of its memory",
        ),
        rows=tuple(rows),
        notes=(
            f"{config['blocks']} blocks, {config['chunks']} x {config['context']} tokens, {config['rounds']} rounds, "
            f"interleaved. {PEAK} Kept: of feedback, from step to step; it counts as memory too. Operations: of matrix "
            "products; what it takes to draw feedback anew is not among them.",
        ),
        text_columns=2,
    )  # fmt: skip


def vocabulary_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return how many times as fast as backprop a step was, a bar a way and size."""
    return plots.step_ratios(record["cases"], stacked, way_label, lambda name: COLOURS.get(name, "#000000"))
