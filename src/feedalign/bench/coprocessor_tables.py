"""The tables and the picture of ``feedalign bench coprocessor``."""

from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from feedalign.bench.coprocessor import GPUS, HADAMARD_BYTES, OPUS, CoprocessorConfig, claims, crossovers
from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.styles import BLACK, BLUE, DASH_DOT, DASHED, DOTTED, GREEN, ORANGE, SETTINGS, SKY, VERMILLION
from feedalign.experiments.tables import Table

WAYS = {"backprop": "backprop", "dfa": "DFA, dense", "hadamard": "DFA, Hadamard"}
NOTE = (
    "Computed, not measured: operations from the library's count of products, rates and powers as stated, and these "
    "assumptions: "
)


def _config(record: dict[str, Any]) -> CoprocessorConfig:
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in record["config"].items()
    }
    del given["type"]
    return CoprocessorConfig(**given)


def way(name: str) -> str:
    """Return what a table writes for a way to take a step."""
    return WAYS.get(name) or f"DFA, light, {OPUS[name].name}"


def steps_table(record: dict[str, Any]) -> Table:
    """Return the time and energy of a step, a system, GPU and way a row."""
    base = {(c["gpu"], c["name"], c["vocabulary"], c["rows"]): c for c in record["cases"] if c["rule"] == "backprop"}
    rows = []
    for case in record["cases"]:
        other = base[case["gpu"], case["name"], case["vocabulary"], case["rows"]]
        rows.append(
            (
                f"{case['name']}, {case['vocabulary']:,} tokens",
                GPUS[case["gpu"]].name,
                way(case["rule"]),
                f"{case['parameters'] / 1e9:.3g}",
                f"{case['seconds']:.3g}",
                f"{case['joules'] / 1000:.3g}",
                f"{other['seconds'] / case['seconds']:.2f}",
                f"{other['joules'] / case['joules']:.2f}",
            )
        )
    config = _config(record)
    share = record["cases"][0]["share"]
    return Table(
        title=f"A training step of {', '.join(f'{rows:,}' for rows in config.rows)} tokens, by arithmetic",
        headings=("width x blocks", "GPU", "way", "billion parameters", "s", "kJ", "speed, backprop = 1",
                  "energy saved, times"),
        rows=tuple(rows),
        notes=(
            f"{NOTE}{100 * config.utilisation:.0f} % of a GPU's peak; {config.frames} camera frames per row; DFA "
            f"leaves out {share:.2f} of the products dX ({config.placement} points); 16 bytes per parameter, "
            f"{config.activation:g} per row, block and unit of width; what does not fit goes to the host and back at "
            f"{config.host / 1e9:g} GB/s; light waits {1e3 * config.latency:g} ms, is sent {config.link / 1e9:g} GB/s, "
            f"takes {OPUS[config.opus[0]].watts:g} W, and runs while the head's backward pass does.",
        ),
        text_columns=3,
    )  # fmt: skip


def crossover_table(record: dict[str, Any]) -> Table:
    """Return from which size on light pays, a GPU and device a row."""
    config = _config(record)
    rows = [
        (
            GPUS[found["gpu"]].name,
            OPUS[found["opu"]].name,
            f"{1e3 * found['row_seconds']:.3g}",
            f"{1e3 * found['row_joules']:.3g}",
            f"{found['parameters'] / 1e9:.3g}",
            f"{found['energy_parameters'] / 1e9:.3g}",
            f"{found['side']:,.0f}",
        )
        for found in crossovers(config, 1.0)
    ]
    return Table(
        title=f"From which size light pays, {config.frames} camera frames per row",
        headings=("GPU", "device", "ms per row", "mJ per row", "faster above (billion parameters)",
                  "saves energy above (billion parameters)", "projection alone: faster above side"),
        rows=tuple(rows),
        notes=("If every product dX were left out, memory were no matter, and a waiting GPU took no power.",),
        text_columns=2,
    )  # fmt: skip


def claims_table(record: dict[str, Any]) -> Table:
    """Return what is claimed beside what arithmetic gives."""
    rows = tuple((each["claim"], each["arithmetic"]) for each in claims(_config(record)))
    return Table(title="Claims and arithmetic", headings=("claim", "arithmetic"), rows=rows, text_columns=2)


def coprocessor_costs(record: dict[str, Any], stacked: bool = False) -> Figure:
    """Return time and energy per row that DFA saves over parameters, against what a projection takes."""
    config = _config(record)
    sizes = np.geomspace(1e6, 1e13, 200)
    colours = dict(zip(GPUS, (BLUE, SKY, ORANGE, GREEN), strict=True))
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2, stacked, height=4.0)
        for name in config.gpus:
            gpu = GPUS[name]
            saved = 2 * sizes / (gpu.peak * config.utilisation)
            grid[0].plot(sizes, saved, color=colours[name], label=f"saved by leaving out dX, {gpu.name}")
            grid[1].plot(sizes, saved * gpu.watts, color=colours[name])
        for opu_name, line in zip(config.opus, (DOTTED, DASHED, DASH_DOT), strict=False):
            opu = OPUS[opu_name]
            seconds = config.frames * opu.frame
            for axes, cost in zip(grid, (seconds, seconds * opu.watts), strict=True):
                axes.axhline(cost, color=VERMILLION, linestyle=line, label=f"a projection by light, {opu.name}")
        gpu = GPUS[config.gpus[0]]
        largest = HADAMARD_BYTES * 2**21 / gpu.bandwidth
        for axes, cost in zip(grid, (largest, largest * gpu.watts), strict=True):
            axes.axhline(cost, color=BLACK, linewidth=1.0, label=f"a Hadamard transform of $2^{{21}}$, {gpu.name}")
            axes.set(xscale="log", yscale="log", xlabel="parameters")
        grid[0].set_title("seconds per row of a step")
        grid[1].set_title("joules per row of a step")
        found = labelled(grid)
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=1 if stacked else 2)
    return figure
