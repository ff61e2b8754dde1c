"""Schedules of a pipeline side by side, before any process is started: table, advice and picture of a plan."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from feedalign.experiments.styles import BLUE, GREEN, GREY, ORANGE, SETTINGS, VERMILLION
from feedalign.experiments.tables import Table
from feedalign.pipelining.order import Ahead
from feedalign.pipelining.simulator import Broadcasting, Name, Plan, Simulation, Span, duration, simulate

LARGE = 100_000
"""With more stages times micro-batches than this, the second step stands for all later ones."""
LABELS: dict[Name, str] = {
    "gpipe": "GPipe, backprop",
    "1f1b": "1F1B, backprop",
    "zb-h1": "ZB-H1, backprop",
    "dfa": "DFA",
    "drtp": "DRTP",
    "carrier-1f1b": "DFA on torch's 1F1B",
    "carrier-zb": "DFA on a zero-bubble order",
}
COLOURS = {"F": BLUE, "B": VERMILLION, "I": ORANGE, "W": GREEN, "U": GREY}
MEANINGS = {
    "F": "forward",
    "B": "backward",
    "I": "gradients of inputs",
    "W": "gradients of weights",
    "U": "optimiser",
}
NUMBERED = 120
"""The most spans per process that are written with the number of their micro-batch."""
MOST_ROWS = 64
"""More processes than this are drawn by samples of them."""


@dataclass(frozen=True)
class Candidate:
    """One way to run a plan, and what the simulation found."""

    name: Name
    ahead: Ahead
    sent: Literal["error", "product", ""]
    broadcast: Broadcasting | Literal[""]
    found: Simulation
    fits: bool
    """Whether its activations fit into the memory."""

    @property
    def label(self) -> str:
        """What tables call it."""
        if self.name != "dfa":
            return LABELS[self.name]
        ahead = self.ahead if isinstance(self.ahead, str) else f"{self.ahead} ahead"
        return f"DFA, {ahead}, {self.sent} by {self.broadcast}"


@dataclass(frozen=True)
class Question:
    """What a plan is asked for.

    Args:
        plan: The pipeline; its ``error`` is the size of the error itself.
        product: Bytes of the product that shared feedback sends in place of the error; ``None`` if it is not shared.
        broadcasts: The ways in which the error may travel.
        aheads: How many micro-batches in advance to try.
        kept: Bytes of activations that a stage keeps per micro-batch.
        memory: Bytes of activations that a stage may keep; ``None`` for no limit.
        barrier: Whether all stages wait for one norm of all gradients in every step.
    """

    plan: Plan
    product: float | None = None
    broadcasts: tuple[Broadcasting, ...] = ("chain", "tree", "relay")
    aheads: tuple[Ahead, ...] = (0, "flat", "all")
    kept: float = 0.0
    memory: float | None = None
    barrier: bool = False


def compare(question: Question, progress: Callable[[str], None] | None = None) -> list[Candidate]:
    """Return all ways to run a plan, those of backpropagation first.

    The ways in which the error travels are compared for one ``ahead``, and the values of ``ahead`` for the best of
    them.

    Args:
        question: The plan and what limits it.
        progress: Called with the name of what is simulated next.
    """
    plan = question.plan
    steps = 2 if plan.stages * plan.micro_batches > LARGE else 6

    def candidate(name: Name, ahead: Ahead = 0, sent: Literal["error", "product", ""] = "", by: str = "") -> Candidate:
        changed = replace(plan, broadcast=by) if by else plan  # type: ignore[arg-type]
        if sent == "product":
            assert question.product is not None
            changed = replace(changed, error=question.product)
        if progress is not None:
            progress(LABELS[name])
        found = simulate(changed, name, ahead, steps=steps, barrier=question.barrier)
        fits = question.memory is None or max(found.held) * question.kept <= question.memory
        return Candidate(name, ahead, sent, by, found, fits)  # type: ignore[arg-type]

    made = [candidate(name) for name in ("gpipe", "1f1b", "zb-h1")]
    wires: list[tuple[Literal["error", "product"], Broadcasting]] = [("error", by) for by in question.broadcasts]
    if question.product is not None:
        wires += [("product", by) for by in question.broadcasts]
    first = question.aheads[-1]
    tried = [candidate("dfa", first, sent, by) for sent, by in wires]
    best = min(tried, key=lambda each: each.found.period)
    others = [candidate("dfa", ahead, best.sent, best.broadcast) for ahead in question.aheads[:-1]]
    return [*made, *others, *tried, candidate("drtp")]


def best(candidates: Sequence[Candidate]) -> Candidate | None:
    """Return what takes the shortest period within the memory, the one that holds least among equals.

    DRTP is left out, which learns something else.
    """
    fitting = [each for each in candidates if each.fits and each.name != "drtp"]
    return min(fitting, key=lambda each: (round(each.found.period, 12), max(each.found.held)), default=None)


def plan_table(question: Question, candidates: Sequence[Candidate]) -> Table:
    """Return the table of all ways to run a plan."""
    base = next(each for each in candidates if each.name == "1f1b").found
    rows = []
    for each in candidates:
        found = each.found
        held = str(max(found.held))
        if question.kept:
            held += f" ({size(max(found.held) * question.kept)}{'' if each.fits else ', too much'})"
        sent = found.bytes_forward + found.bytes_backward
        rows.append(
            (
                each.label, duration(found.first_step), duration(found.period), f"{base.period / found.period:.2f}",
                f"{100 * found.bubble:.1f} %", held, size(sent), found.bottleneck,
            )
        )  # fmt: skip
    plan = question.plan
    stages = "1 stage" if plan.stages == 1 else f"{plan.stages} stages"
    notes = [
        "First step: until the slowest stage has done its first. Period: one more step, in steps that follow each "
        "other " + ("with one norm of all gradients in each." if question.barrier else "without a barrier."),
        "Held: the most micro-batches whose activations a stage holds. Sent: per step, over all links.",
    ]
    return Table(
        title=f"A step of {plan.micro_batches} micro-batches over {stages}, simulated",
        headings=(
            "schedule", "first step", "period", "times as fast as 1F1B", "bubble", "held", "sent", "a period waits for",
        ),
        rows=tuple(rows),
        notes=tuple(notes),
    )  # fmt: skip


def advice(question: Question, candidates: Sequence[Candidate]) -> str:
    """Return the best schedule and what limits it, in words."""
    chosen = best(candidates)
    if chosen is None:
        least = min(max(each.found.held) for each in candidates if each.name != "drtp")
        return (
            f"No schedule fits into {size(question.memory or 0)}: every one of them holds {least} micro-batches or "
            f"more, {size(least * question.kept)}. Use activation checkpointing, smaller micro-batches, or fewer "
            "stages."
        )
    base = next(each for each in candidates if each.name == "1f1b").found
    lines = [
        f"Best: {chosen.label}, a period of {duration(chosen.found.period)}, {base.period / chosen.found.period:.2f} "
        f"times as fast as 1F1B. A period waits for {chosen.found.bottleneck}."
    ]
    slow = [each for each in candidates if each.name == "dfa" and each.found.period > base.period]
    lines += [
        f"{each.label} would be slower than backpropagation by 1F1B, {duration(each.found.period)} against "
        f"{duration(base.period)}: it waits for {each.found.bottleneck}."
        for each in slow
    ]
    return "\n".join(lines)


def size(number: float) -> str:
    """Return bytes in words: ``"64 MiB"``."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if number >= 1024**power:
            return f"{number / 1024**power:.4g} {unit}"
    return f"{number:.4g} B"


def timeline(spans: Sequence[Span], title: str) -> Figure:
    """Return a picture of who does what when: a row per process, time from left to right.

    Args:
        spans: Of a simulation, or measured.
        title: Above the picture.
    """
    processes = sorted({span.process for span in spans})
    shown = processes if len(processes) <= MOST_ROWS else processes[:: -(-len(processes) // MOST_ROWS)]
    end = max(span.end for span in spans)
    scale, unit = next(((x, u) for x, u in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")) if end >= x), (1e-9, "ns"))
    with mpl.rc_context({**SETTINGS, "axes.grid": False}):
        figure = Figure(figsize=(11, 1.6 + 0.32 * len(shown)), layout="constrained")
        axes = figure.add_subplot()
        few = len(spans) <= NUMBERED * len(processes) and len(shown) <= 16
        for row, process in enumerate(shown):
            for span in spans:
                if span.process != process:
                    continue
                left, width = span.start / scale, (span.end - span.start) / scale
                axes.broken_barh(
                    [(left, width)], (row - 0.42, 0.84), facecolors=COLOURS[span.what], alpha=1.0 - 0.35 * (span.step %
                    2), edgecolor="white" if few else "none", linewidth=0.4,
                )  # fmt: skip
                if few and span.what != "U" and width > 0.012 * end / scale:
                    axes.text(
                        left + width / 2,
                        row,
                        str(span.micro_batch),
                        ha="center",
                        va="center",
                        fontsize=7,
                        color="white",
                    )
        axes.set(
            xlim=(0, end / scale), ylim=(len(shown) - 0.5, -0.5), xlabel=f"time, {unit}", ylabel="stage", title=title
        )
        axes.set_yticks(range(len(shown)), [str(process) for process in shown])
        kinds = [kind for kind in COLOURS if any(span.what == kind for span in spans)]
        axes.legend(
            handles=[Patch(color=COLOURS[kind], label=MEANINGS[kind]) for kind in kinds], loc="upper center",
            bbox_to_anchor=(0.5, -0.18 - 0.5 / len(shown)), ncols=len(kinds),
        )  # fmt: skip
    return figure
