"""Align, then memorise: when two-layer students align with their feedback, and when they learn."""

from dataclasses import asdict, dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.styles import SETTINGS, style
from feedalign.experiments.tables import Table
from feedalign.experiments.theory.shallow import RULES, log_times, mean, over_time, rounded, several
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.theory.integrals import Array, integrals
from feedalign.theory.odes import Learning, integrate
from feedalign.theory.order import Order
from feedalign.theory.phases import first_below, phases
from feedalign.theory.simulation import Weights, draw, simulate

ALIGNED = 0.99  # cosine
LEARNED = 0.01  # of the error at the start: below the plateau on which all units are still alike
SHOWN = 5  # seeds whose curves the record holds
WIDE = 1000  # inputs from whose weights the order parameters of the equations start


@dataclass(frozen=True)
class Config:
    """The students, with as many units as their teacher, whose second layer is all ones; erf.

    Attributes:
        seeds: Students whose order parameters are integrated, of other first weights.
        simulated: Students that are simulated, no more than that.
        inputs: The dimension of their inputs.
        feedback: ``F``, a number a unit.
        rate: Of both layers.
        deviation: Of the first weights.
        until: The last time, in steps over the input dimension.
        simulated_until: Of the simulation.
        deviations: Deviations of first weights over which the times are followed.
        seed: Of the first student.
    """

    seeds: int = 20
    simulated: int = 8
    inputs: int = 500
    feedback: tuple[float, ...] = (-0.8, -1.3)
    rate: float = 0.2
    deviation: float = 0.01
    until: float = 4000.0
    simulated_until: float = 100.0
    deviations: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    seed: int = 0

    @property
    def learning(self) -> Learning:
        """The activation and the rates."""
        return Learning("erf", rate=self.rate)

    def feedback_of(self, rule: str) -> Array | None:
        """Return what a rule sends the error by."""
        return np.array(self.feedback) if rule == "dfa" else None

    def weights(self, students: int, inputs: int, deviation: float) -> Weights:
        """Return students as they begin."""
        A = (1.0,) * len(self.feedback)
        return draw(students, len(self.feedback), A, inputs, deviation, self.seed)


SHORT = Config(seeds=3, simulated=2, inputs=50, simulated_until=40.0, deviations=(0.1, 0.01))


def measure(config: Config, progress: Progress) -> dict[str, Any]:
    """Return the phases of every student by rule: integrated, simulated, and over the size of the first weights."""
    total = 2 * (2 + len(config.deviations))
    found: dict[str, Any] = {"integrated": {}, "simulated": {}, "deviations": []}
    for i, rule in enumerate(RULES):
        progress(f"{RULES[rule]}: equations", i, total)
        found["integrated"][rule] = _integrated(config, rule, config.deviation)
        progress(f"{RULES[rule]}: simulation", 2 + i, total)
        found["simulated"][rule] = _simulated(config, rule)
    for i, deviation in enumerate(config.deviations):
        progress(f"first weights of {deviation:g}", 4 + 2 * i, total)
        times = {rule: _integrated(config, rule, deviation)["phases"] for rule in RULES}
        found["deviations"].append({"deviation": deviation, **times})
    progress("done", total, total)
    return found


def _integrated(config: Config, rule: str, deviation: float) -> dict[str, Any]:
    weights = config.weights(config.seeds, WIDE, deviation)
    F = config.feedback_of(rule)
    times = log_times(0.1, config.until, 160)
    runs = [integrate(weights.order[s], F, config.learning, times).order for s in range(config.seeds)]
    return _described(config, times, runs)


def _simulated(config: Config, rule: str) -> dict[str, Any]:
    weights = config.weights(min(config.simulated, config.seeds), config.inputs, config.deviation)
    F = config.feedback_of(rule)
    run = simulate(weights, F, config.learning, log_times(0.1, config.simulated_until, 80), config.seed)
    o = run.order
    return _described(
        config, run.times, [Order(o.Q[:, s], o.R[:, s], o.T, o.v[:, s], o.A) for s in range(len(weights.v))]
    )


def _described(config: Config, times: Array, runs: list[Order]) -> dict[str, Any]:
    g, F = integrals("erf"), np.array(config.feedback)
    alignment, error = np.array([run.weight_alignment(F) for run in runs]), np.array([run.error(g) for run in runs])
    return {
        "phases": [_summary(times, *curves) for curves in zip(alignment, error, strict=True)],
        "times": rounded(times),
        "alignment": rounded(alignment[:SHOWN]),
        "error": rounded(error[:SHOWN]),
        "gradient_alignment": rounded(np.array([run.gradient_alignment(F, g) for run in runs[:SHOWN]])),
    }


def _summary(times: Array, alignment: Array, error: Array) -> dict[str, Any]:
    """Return the phases of a run, when it was aligned, and the error that was left then and at the end."""
    found = phases(times, alignment, error)
    learned = first_below(times, error, LEARNED * error[0])
    aligned = first_below(times, 1 - alignment, 1 - ALIGNED)
    left = None if found.peak_time is None else float(np.interp(found.peak_time, times, error) / error[0])
    return {
        **asdict(found),
        "aligned_time": aligned,
        "aligned_first": aligned is not None and (found.half_time is None or aligned < found.half_time),
        "error_at_peak": left,
        "learned_time": learned,
        "final_error": float(error[-1] / error[0]),
    }


def tables(record: Written) -> list[Table]:
    """Return the phases by rule, and the times over the size of the first weights."""
    config, findings = record["config"], record["findings"]
    rows = []
    for kind, words in (("integrated", "equations"), ("simulated", f"simulation, N = {config['inputs']}")):
        for rule in RULES:
            found = findings[kind][rule]["phases"]
            rows.append((RULES[rule], words, str(len(found)), *_moments(found)))
    return [
        Table(
            f"Two phases of a student with K = M = {len(config['feedback'])}: times in steps / N",
            (
                *("rule", "by", "students", "aligned first", "cos(F, v) at 0.99 at", "e_g at 90 % at", "at half at"),
                *("at 1 % at", "peak of cos(F, v) at", "cosine there", "e_g there, of its start", "last cosine"),
            ),
            tuple(rows),
            notes=(
                "Mean and 95 % interval over students. Aligned first: the cosine reaches 0.99 before e_g is at half of "
                "its start. In brackets how many students there are with such a moment, if not all; a peak is one only "
                "if the cosine both rises to it and falls after it.",
            ),
            text_columns=2,
        ),
        _sizes(findings["deviations"]),
    ]


def _moments(found: list[dict[str, Any]]) -> tuple[str, ...]:
    return (
        f"{sum(one['aligned_first'] for one in found)} of {len(found)}",
        _column(found, "aligned_time", 1),
        _column(found, "plateau_exit", 1),
        _column(found, "half_time", 1),
        _column(found, "learned_time", 0),
        _column(found, "peak_time", 1),
        _column(found, "peak_alignment", 4),
        _column(found, "error_at_peak", 2),
        _column(found, "final_alignment", 3),
    )


def _column(found: list[dict[str, Any]], name: str, digits: int) -> str:
    """Return the mean over those that have a moment, and how many these are if not all."""
    there = [one[name] for one in found if one[name] is not None]
    return mean(there, digits) + (f" ({len(there)})" if there and len(there) < len(found) else "")


def _sizes(sizes: list[dict[str, Any]]) -> Table:
    return Table(
        "The smaller the first weights, the more DFA aligns before it learns, and the further backprop falls behind",
        ("deviation of the first weights", "DFA: cosine 0.99 at", "DFA: e_g at half", "Backprop: e_g at half", "ratio"),
        tuple(
            (
                f"{size['deviation']:g}",
                _column(size["dfa"], "aligned_time", 1),
                _column(size["dfa"], "half_time", 1),
                _column(size["backprop"], "half_time", 1),
                mean(ratios(size), 2),
            )
            for size in sizes
        ),
        notes=(
            "Equations; mean and 95 % interval over students, in brackets how many got there if not all did. The "
            "ratio is that of the half times of backprop and DFA of the same student.",
        ),
    )


def ratios(size: dict[str, Any]) -> list[float]:
    """Return how many times as long as DFA each student takes under backprop until ``e_g`` is at half."""
    pairs = zip(size["backprop"], size["dfa"], strict=True)
    return [bp["half_time"] / dfa["half_time"] for bp, dfa in pairs if bp["half_time"] and dfa["half_time"]]


def pictures(record: Written) -> dict[str, Figure]:
    """Return the curves of several students, and the times over the size of their first weights."""
    return {"curves": _curves(record), "sizes": _by_size(record)}


def _curves(record: Written) -> Figure:
    findings = record["findings"]["integrated"]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(3, stacked=False)
        for axes, what, title in (
            (grid[0], "alignment", "cos(F, v)"),
            (grid[1], "gradient_alignment", "cosine of the mean updates of w"),
            (grid[2], "error", "generalisation error $e_g$"),
        ):
            for rule, name in RULES.items():
                several(axes, findings[rule]["times"], findings[rule][what], rule, name)
            over_time(axes, title, error=what == "error")
            _shade(axes, findings["dfa"]["phases"])
        grid[2].set_ylim(bottom=1e-6)
        found = labelled(grid)
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=4)
    figure.set_label(
        f"Order parameters of {len(findings['dfa']['error'])} students, a line each. Under DFA the second layer first "
        "aligns with the feedback (shaded, until the error is at nine tenths of its start), then the student learns, "
        "and gives up as much of the alignment as the task asks for. Under backprop the cosine stays where the first "
        "weights put it, and learning begins later. The middle panel compares the updates that either rule would make."
    )
    return figure


def _shade(axes: Axes, found: list[dict[str, Any]]) -> None:
    exits = [one["plateau_exit"] for one in found if one["plateau_exit"] is not None]
    if exits:
        axes.axvspan(axes.get_xlim()[0], float(np.mean(exits)), color="#DDDDDD", alpha=0.5, linewidth=0, label="align")


def _by_size(record: Written) -> Figure:
    sizes = record["findings"]["deviations"]
    lines = (
        ("dfa", "aligned_time", "DFA: cosine at 0.99", {**style("dfa"), "linestyle": ":"}, "^"),
        ("dfa", "half_time", "DFA: $e_g$ at half", style("dfa"), "o"),
        ("backprop", "half_time", "Backprop: $e_g$ at half", style("backprop"), "s"),
    )
    with mpl.rc_context(SETTINGS):
        figure, (axes,) = panels(1, stacked=False, height=3.6)
        for rule, name, label, look, marker in lines:
            found = [[one[name] for one in size[rule] if one[name] is not None] for size in sizes]
            middle = [float(np.mean(there)) if there else float("nan") for there in found]
            spread = [[m - min(there, default=m) for m, there in zip(middle, found, strict=True)]]
            spread += [[max(there, default=m) - m for m, there in zip(middle, found, strict=True)]]
            axes.errorbar(
                [size["deviation"] for size in sizes], middle, spread, label=label, marker=marker, capsize=2, **look
            )
        axes.set(xscale="log", yscale="log", xlabel="deviation of the first weights", title="time (steps / N)")
        axes.legend()
    figure.set_label(
        "Times over the size of the first weights: means of the students that get there, bars from the first to the "
        "last. From small weights DFA aligns at once and leaves the origin long before backprop; from large ones it "
        "learns before it aligns, no sooner than backprop."
    )
    return figure


STUDY = Study(
    name="phases",
    about="Under DFA a two-layer student first aligns with its feedback and then learns; both moments are found from "
    "the curves, by the equations and in simulation.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=2.0,
)
