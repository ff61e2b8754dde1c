"""The tables of benchmarks, made from their records."""

from collections.abc import Callable
from typing import Any

from feedalign.bench.alignment import BACKPROP, BLOCKS, COPIED, DEFAULT, SAMPLES, STEP
from feedalign.bench.cells import MIB, PEAK, Case, descriptions, methods, mib, milliseconds, where
from feedalign.bench.click_tables import clicks_table
from feedalign.bench.coprocessor_tables import claims_table, crossover_table, steps_table
from feedalign.bench.ctr_tables import ctr_table
from feedalign.bench.memory_tables import growth_table, sizes_table, speed_table
from feedalign.bench.methods import label
from feedalign.bench.nerf_tables import nerf_table
from feedalign.bench.pipeline_tables import pipeline_table
from feedalign.bench.vocabulary_tables import vocabulary_table
from feedalign.experiments.tables import Table


def step_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench step`` record: time, ratio, limit and memory a case and method."""
    rows = [
        (
            case["name"],
            label(case["rule"]),
            *milliseconds(case),
            f"{case['ratio_to_backprop']:.2f}",
            f"{case['arithmetic_limit']:.2f}",
            f"{case['peak_memory_bytes'] / MIB:.1f}",
        )
        for case in record["cases"]
    ]
    return Table(
        title=f"A whole training step on {where(record)}, {record['config']['rounds']} interleaved rounds",
        headings=("case", "method", "ms a step", "quartiles", "times as fast as backprop", "limit", "peak MiB a step"),
        rows=tuple(rows),
        notes=(
            f"Limit: operations of matrix products and convolutions under backprop over those of the method. {PEAK}",
            descriptions(record),
        ),
        text_columns=2,
    )


def ratio_table(record: dict[str, Any]) -> Table:
    """Return a short table of a ``bench step`` record: how many times as fast as backprop the rules' steps were."""
    ratios = {(case["name"], case["rule"]): case for case in record["cases"]}
    rules = [rule for rule in methods(record) if rule in ("dfa", "shallow")]
    names = dict.fromkeys(case["name"] for case in record["cases"])
    return Table(
        title=f"Speed of a whole training step (backprop = 1), {where(record)}",
        headings=("case", "", *(f"{label(rule)} (limit)" for rule in rules)),
        rows=tuple(
            (
                name,
                ratios[name, "backprop"]["describe"],
                *(
                    f"{ratios[name, rule]['ratio_to_backprop']:.2f} ({ratios[name, rule]['arithmetic_limit']:.2f})"
                    for rule in rules
                ),
            )
            for name in names
        ),
        notes=("Medians of interleaved rounds in one process; the limit is what the count of operations allows.",),
        text_columns=2,
    )


def feedback_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench feedback`` record: memory and time a size and family."""
    dense = {case["name"]: case for case in record["cases"] if case["rule"] == "dense"}
    rows = []
    for case in record["cases"]:
        kept, taken = case["kept_bytes"], case["peak_memory_bytes"]
        base = dense[case["name"]]["kept_bytes"] + dense[case["name"]]["peak_memory_bytes"]
        share = f"{(kept + taken) / base:.3f}"
        rows.append((case["name"], case["rule"], *milliseconds(case), mib(kept), mib(taken), share))
    return Table(
        title=f"A projection of {record['config']['rows']} rows of the error, {where(record)}",
        headings=("C x D", "feedback", "ms", "quartiles", "kept MiB", "peak MiB a step", "memory, dense = 1"),
        rows=tuple(rows),
        notes=("Kept: between steps. Peak: what a projection takes above that, the signal included.",),
        text_columns=2,
    )


WORDS = {
    STEP: "training step of DFA",
    BACKPROP: "training step of backprop",
    DEFAULT: "alignment of signals and updates",
    BLOCKS: f"the same, and of {SAMPLES} samples' gradients",
    COPIED: "alignment of weights' gradients, with a copy of the model",
}


def alignment_cost_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench alignment`` record: time and memory a case and measurement."""
    rows = [
        (
            case["name"],
            WORDS.get(case["rule"], case["rule"]),  # earlier versions measured other things
            *milliseconds(case),
            f"{case['ratio_to_step']:.2f}",
            f"{case['ratio_to_backprop']:.2f}" if "ratio_to_backprop" in case else "",
            mib(case["peak_memory_bytes"]),
            mib(4 * case["parameters"]),
        )
        for case in record["cases"]
    ]
    return Table(
        title=f"What measuring alignment costs on {where(record)}",
        headings=("case", "what", "ms", "quartiles", "steps of DFA", "steps of backprop", "peak MiB", "weights MiB"),
        rows=tuple(rows),
        notes=(
            "Steps: how many of them take as long. Peak: above what is held before.",
            descriptions(record),
        ),
        text_columns=2,
    )


def products_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench products`` record: time and memory a system and way."""
    rows = [
        (
            f"{case['depth']} x {case['width']}, batch {case['batch']}",
            case["rule"],
            *milliseconds(case),
            f"{case['ratio_to_one_by_one']:.2f}",
            mib(case["peak_memory_bytes"]),
        )
        for case in record["cases"]
    ]
    return Table(
        title=f"The weight gradients of all hidden layers on {where(record)}",
        headings=("layers x width", "formed", "ms", "quartiles", "times as fast as one by one", "peak MiB"),
        rows=tuple(rows),
        notes=(
            f"{record['config']['rounds']} interleaved rounds. Batched: signals and inputs of all layers lie side by "
            "side already. Stacked: they are copied there first, as a training step would have to.",
        ),
        text_columns=2,
    )


def accuracy_cost_table(record: dict[str, Any]) -> Table:
    """Return the table of a ``bench accuracy`` record: what each accuracy took, a configuration and target a row."""
    found = {(case["name"], case["target"], case["rule"]): case for case in record["cases"]}
    rules = list(dict.fromkeys(case["rule"] for case in record["cases"]))
    rows = []
    for name, target in dict.fromkeys((case["name"], case["target"]) for case in record["cases"]):
        cases = [found.get((name, target, rule)) for rule in rules]
        data = next(case["data"] for case in cases if case)
        cells = [cell for case in cases for cell in _until(case)]
        rows.append((name, data, f"{target:g} %", *cells))
    headings = [f"{label(rule)}: {what}" for rule in rules for what in ("epochs", "seconds", "TFLOP")]
    return Table(
        title="What an accuracy costs: training until a test accuracy is reached for the first time",
        headings=("configuration", "data", "accuracy", *headings),
        rows=tuple(rows),
        notes=(
            "Means over seeds; where some seeds never reach it, how many of them do. Seconds of training steps alone, "
            "as the runs recorded them. TFLOP: 10^12 operations of products and convolutions.",
        ),
        text_columns=2,
    )


def _until(case: Case | None) -> tuple[str, str, str]:
    if case is None:
        return "", "", ""
    if case["epochs"] is None:
        return f"{case['reached']} of {case['seeds']}", "", ""
    return f"{case['epochs']:.1f}", f"{case['seconds']:.1f}", f"{case['flops'] / 1e12:.2f}"


TABLES: dict[str, tuple[Callable[[dict[str, Any]], Table], ...]] = {
    "bench-step": (step_table,),
    "bench-memory": (growth_table, speed_table, sizes_table),
    "bench-feedback": (feedback_table,),
    "bench-alignment": (alignment_cost_table,),
    "bench-products": (products_table,),
    "bench-accuracy": (accuracy_cost_table,),
    "bench-clicks": (clicks_table,),
    "bench-nerf": (nerf_table,),
    "bench-vocabulary": (vocabulary_table,),
    "bench-ctr": (ctr_table,),
    "bench-pipeline": (pipeline_table,),
    "bench-coprocessor": (crossover_table, steps_table, claims_table),
}


def bench_tables(record: dict[str, Any]) -> list[Table]:
    """Return all tables of a benchmark's record."""
    return [table(record) for table in TABLES[record["experiment"]]]
