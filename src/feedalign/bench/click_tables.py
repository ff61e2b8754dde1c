"""The table and the picture of what caches of click logs cost, made from their record."""

from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from feedalign.bench.cells import MIB, mib, where
from feedalign.bench.clicks import WHOLE, foretold
from feedalign.experiments.panels import panels
from feedalign.experiments.styles import SETTINGS
from feedalign.experiments.tables import Table


def clicks_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench clicks`` record: time and memory a length."""
    cases = record["cases"]
    seconds, peak = foretold(cases)
    return Table(
        title=f"Making the cache of a click log in Criteo's format on {where(record)}",
        headings=("rows", "file MiB", "cache MiB", "CPU seconds", "rows a second", "counting", "writing", "peak MiB"),
        rows=tuple(
            (
                f"{case['rows']:,}",
                mib(case["file_bytes"]),
                mib(case["cache_bytes"]),
                f"{case['cpu_seconds']:.1f}",
                f"{case['rows'] / case['cpu_seconds']:,.0f}",
                f"{case['counting_cpu_seconds']:.1f}",
                f"{case['writing_cpu_seconds']:.1f}",
                mib(case["peak_memory_bytes"]),
            )
            for case in cases
        ),
        notes=(
            "Real rows repeated, with new categories among them as often as in the whole file. Seconds, and rows a "
            "second, are of the CPU, all threads together. Counting: to hash the file and count rows and categories. "
            f"Peak: of the process, which holds {mib(max(case['memory_before_bytes'] for case in cases))} MiB before.",
            f"The two longest files foretell {seconds / 60:.0f} CPU minutes and {peak / 2**30:.1f} GiB for the "
            f"{WHOLE:,} rows of Criteo Kaggle, if time and memory go on as they grew between them.",
        ),
        text_columns=0,
    )


def clicks_costs(record: dict[str, Any], stacked: bool) -> Figure:
    """Draw time and peak memory over rows, with what they foretell of the whole file."""
    cases = sorted(record["cases"], key=lambda case: int(case["rows"]))
    lengths = [case["rows"] / 1e6 for case in cases]
    seconds, peak = foretold(cases)
    values = (
        ("CPU minutes", [case["cpu_seconds"] / 60 for case in cases], seconds / 60),
        ("peak memory, GiB", [case["peak_memory_bytes"] / MIB / 1024 for case in cases], peak / 2**30),
    )
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(values), stacked)
        for axes, (title, measured, expected) in zip(grid, values, strict=True):
            axes.plot(lengths, measured, "o-", label="measured")
            axes.plot([lengths[-1], WHOLE / 1e6], [measured[-1], expected], "o--", fillstyle="none", label="foretold")
            axes.set(xlabel="million rows", title=title, ylim=(0, None))
            axes.legend()
    return figure
