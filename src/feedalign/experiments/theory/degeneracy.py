"""Degeneracy breaking: which of its equivalent solutions a student ends in, and whether feedback decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from math import hypot
from statistics import fmean
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.styles import SETTINGS, style
from feedalign.experiments.tables import Table
from feedalign.experiments.theory.shallow import RULES, log_times, mean, rounded
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.theory.degeneracy import best_pairing, highest_alignment, minimum
from feedalign.theory.integrals import Array, integrals
from feedalign.theory.odes import Learning, integrate
from feedalign.theory.order import Order
from feedalign.theory.simulation import Weights, draw, simulate

WIDE = 1000  # inputs from whose weights the order parameters of the equations start
CONVERGED = 1e-6  # e_g, by the equations
FLUCTUATING = 0.02  # of e_g at the start, in a simulation


@dataclass(frozen=True)
class Case:
    """A teacher whose solutions differ, and the first weights of its students.

    Attributes:
        teacher: The second layer ``A`` of the teacher; as many units as the student has.
        deviation: Of the first weights.
        inputs: The dimension of simulated inputs; 0 for the equations.
        rate: Of both layers.
        until: The last time, in steps over the input dimension.
    """

    teacher: tuple[float, ...] = (1.5, -0.7)
    deviation: float = 0.01
    inputs: int = 0
    rate: float = 0.1
    until: float = 20_000.0

    @property
    def name(self) -> str:
        """In words."""
        by = f"simulation, N = {self.inputs}" if self.inputs else "equations"
        return f"K = {len(self.teacher)}, weights of {self.deviation:g}, {by}"


CASES = (
    Case(),
    Case(deviation=1.0),
    Case((1.5, 1.0, -0.5)),
    Case((1.5, 1.0, -0.5), deviation=1.0),
    Case(inputs=100, rate=0.3, until=300.0),
)


@dataclass(frozen=True)
class Config:
    """The students.

    Attributes:
        seeds: First weights for each feedback vector.
        feedbacks: Feedback vectors for each case, whose entries have sizes from 0.3 to 2 and random signs.
        cases: Teachers and first weights.
        paths: Students whose paths in the plane of the second layer are kept, of the first case with two units.
        seed: Of the first weights; and of the feedback.
    """

    seeds: int = 3
    feedbacks: int = 24
    cases: tuple[Case, ...] = CASES
    paths: int = 12
    seed: int = 0


SHORT = Config(seeds=2, feedbacks=2, cases=(Case(), Case((1.5, 1.0, -0.5))), paths=3)


def measure(config: Config, progress: Progress) -> dict[str, Any]:
    """Return what became of every student, by case, rule and feedback vector; and some paths."""
    total = 2 * len(config.cases) + 1
    cases = []
    for i, case in enumerate(config.cases):
        ends = {}
        for j, rule in enumerate(RULES):
            progress(f"{case.name}, {RULES[rule]}", 2 * i + j, total)
            each = (_simulated if case.inputs else _integrated)(config, case, rule)
            ends[rule] = [each[k : k + config.seeds] for k in range(0, len(each), config.seeds)]  # by feedback vector
        cases.append({"name": case.name, "units": len(case.teacher), **ends})
    progress("paths", total - 1, total)
    found = {"cases": cases, "paths": _paths(config)}
    progress("done", total, total)
    return found


def _feedbacks(config: Config, case: Case) -> Array:
    """Return feedback vectors ``[feedbacks, K]``."""
    generator = np.random.default_rng([config.seed, 2])
    shape = (config.feedbacks, len(case.teacher))
    found: Array = generator.uniform(0.3, 2, shape) * generator.choice((-1.0, 1.0), shape)
    return found


def _students(config: Config, case: Case, inputs: int) -> Weights:
    """Return students as they begin: ``seeds`` for the first feedback vector, as many others for the next."""
    students = config.feedbacks * config.seeds
    return draw(students, len(case.teacher), case.teacher, inputs, case.deviation, config.seed)


def _integrated(config: Config, case: Case, rule: str) -> list[dict[str, Any]]:
    """Return the ends of the students in their order."""
    order, learning = _students(config, case, WIDE).order, Learning("erf", rate=case.rate)
    ends = []
    for s, F in enumerate(np.repeat(_feedbacks(config, case), config.seeds, axis=0)):
        end = integrate(order[s], F if rule == "dfa" else None, learning, [case.until]).order[0]
        ends.append(_end(end, F, CONVERGED))
    return ends


def _simulated(config: Config, case: Case, rule: str) -> list[dict[str, Any]]:
    """Return the same of students that learn side by side, each with a feedback vector of its own."""
    weights, learning = _students(config, case, case.inputs), Learning("erf", rate=case.rate)
    F = np.repeat(_feedbacks(config, case), config.seeds, axis=0)
    end = simulate(weights, F if rule == "dfa" else None, learning, [case.until], config.seed).order[0]
    limit = FLUCTUATING * float(weights.order.error(integrals("erf")).mean())
    return [_end(end[s], F[s], limit) for s in range(len(F))]


def _end(order: Order, F: Array, limit: float) -> dict[str, Any]:
    """Return where a student ended: what the solution is, and how it agrees with the feedback."""
    error, found = float(order.error(integrals("erf"))), minimum(order)
    return {
        "error": error,
        "converged": error < limit and found is not None,
        "pairing": None if found is None else list(found.pairing),
        "signs": None if found is None else list(found.signs),
        "follows": bool((np.sign(order.v) == np.sign(F)).all()),
        "best": found is not None and found.pairing == best_pairing(F, order.A),
        "overlap": float(order.weight_alignment(F)) / highest_alignment(F, order.A),
    }


def _paths(config: Config) -> dict[str, Any] | None:
    """Return paths of ``v`` by rule for the first case whose second layer is a plane; None if there is none."""
    case = next((case for case in config.cases if len(case.teacher) == 2), None)
    if case is None:
        return None
    F = np.abs(_feedbacks(config, case)[0]) * (1, -1)  # a quarter of the plane with nothing else to be told about
    weights = draw(config.paths, len(case.teacher), case.teacher, WIDE, case.deviation, config.seed)
    times = log_times(0.1, case.until, 80)
    found: dict[str, Any] = {"feedback": F.tolist(), "teacher": list(case.teacher)}
    for rule in RULES:
        sent = F if rule == "dfa" else None
        runs = [
            integrate(weights.order[s], sent, Learning("erf", rate=case.rate), times).order.v
            for s in range(config.paths)
        ]
        found[rule] = rounded(np.array(runs))
    return found


def agreements(ends: Sequence[Sequence[dict[str, Any]]], what: str) -> list[float]:
    """Return, for each feedback vector, the share of its converged students of which something holds."""
    each = [[float(one[what]) for one in group if one["converged"]] for group in ends]
    return [fmean(group) for group in each if group]


def same_solution(ends: Sequence[Sequence[dict[str, Any]]]) -> list[float]:
    """Return, for each feedback vector, how often two of its converged students are in the same solution."""
    each = [[(one["pairing"], one["signs"]) for one in group if one["converged"]] for group in ends]
    return [fmean(x == y for x, y in combinations(group, 2)) for group in each if len(group) > 1]


def overlaps(ends: Sequence[Sequence[dict[str, Any]]]) -> list[float]:
    """Return ``cos(F, v)`` over the highest value of any solution, for every converged student."""
    return [one["overlap"] for group in ends for one in group if one["converged"]]


def tables(record: Written) -> list[Table]:
    """Return how often the solution is the one that the feedback would choose."""
    rows = []
    for case in record["findings"]["cases"]:
        for rule in RULES:
            ends = case[rule]
            found, runs = overlaps(ends), sum(len(group) for group in ends)
            rows.append(
                (
                    case["name"],
                    RULES[rule],
                    f"{len(found)} of {runs}",
                    mean(agreements(ends, "follows")),
                    mean(same_solution(ends)),
                    mean(agreements(ends, "best")),
                    mean(agreements(ends, "overlap"), 3),
                    f"{min(found):.3f}" if found else "",
                )
            )
    count = len(record["findings"]["cases"][0]["dfa"])
    return [
        Table(
            "Which solution a student ends in (erf, K = M)",
            (
                *("students", "rule", "converged", "signs of v are those of F", "two seeds in the same solution"),
                *("pairing of the highest cos(F, v)", "cos(F, v) over its highest", "lowest"),
            ),
            tuple(rows),
            notes=(
                f"Shares of converged students: mean and 95 % interval over {count} feedback vectors, which differ in "
                "more than seeds do. By chance: signs 1/4 and 1/8, same solution 1/8 and 1/48, pairing 1/2 and 1/6 for "
                "K = 2 and 3. A solution pairs units with those of the teacher, each with one of two signs.",
            ),
            text_columns=2,
        )
    ]


def pictures(record: Written) -> dict[str, Figure]:
    """Return paths of the second layer, if two units have any, and the overlap with the feedback at the end."""
    paths = record["findings"]["paths"]
    return ({"paths": _plane(paths)} if paths else {}) | {"overlap": _overlap(record)}


def _plane(paths: dict[str, Any]) -> Figure:
    A = paths["teacher"]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2, stacked=False, height=4.9)
        for axes, (rule, name) in zip(grid, RULES.items(), strict=True):
            for path in paths[rule]:
                x, y = zip(*path, strict=True)
                axes.plot(x, y, color=style(rule)["color"], linewidth=1, alpha=0.7)
                axes.plot(x[-1], y[-1], "o", color=style(rule)["color"], markersize=6)
            _solutions(axes, A)
            longest = max(abs(a) for a in A)
            _arrow(axes, paths["feedback"], longest)
            span = (-1.2 * longest, 1.2 * longest)
            axes.set(title=f"{name}, {len(paths[rule])} students", xlabel="$v_1$", ylabel="$v_2$")
            axes.set(aspect="equal", xlim=span, ylim=span)
        found = labelled(grid)
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=2)
    figure.set_label(
        "Paths of the second layer from the same small weights; dots are where the students end. Backprop goes to any "
        "of the eight solutions, DFA always to the one that the feedback vector picks."
    )
    return figure


def _solutions(axes: Axes, A: list[float]) -> None:
    first = True
    for x, y in ((abs(A[0]), abs(A[1])), (abs(A[1]), abs(A[0]))):
        for right in (x, -x):
            for up in (y, -y):
                axes.plot(
                    right, up, "s", color="black", markersize=11, markerfacecolor="none",
                    label="solutions" if first else None,
                )  # fmt: skip
                first = False


def _arrow(axes: Axes, F: list[float], length: float) -> None:
    x, y = (length * 0.8 * number / hypot(*F) for number in F)
    axes.annotate("", (x, y), (0, 0), arrowprops={"arrowstyle": "-|>", "linewidth": 2, "color": "#333333"}, zorder=5)
    axes.text(1.08 * x, 1.08 * y, "F", fontsize=13, fontweight="bold", ha="left", va="center")


def _overlap(record: Written) -> Figure:
    cases = record["findings"]["cases"]
    spread = np.random.default_rng(0)  # dots beside each other that would cover each other
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7.5, 1.2 + 0.75 * len(cases)), layout="constrained")
        axes = figure.subplots()
        for i, case in enumerate(cases):
            for offset, (rule, name) in zip((-0.18, 0.18), RULES.items(), strict=True):
                found = overlaps(case[rule])
                axes.plot(
                    found, i + offset + spread.uniform(-0.12, 0.12, len(found)), "o", markersize=3.5, alpha=0.6,
                    color=style(rule)["color"], markeredgewidth=0, label=name if i == 0 else None,
                )  # fmt: skip
        axes.set_yticks(range(len(cases)), [case["name"] for case in cases])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set(xlim=(-1.05, 1.05), xlabel="cos(F, v) at the end, over the highest of any solution")
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.set_label(
        "A dot a converged student. Under DFA the overlap with the feedback ends near its maximum; it is the maximum "
        "itself only where the pairing of units is the best one, too. Backprop does not know of the feedback."
    )
    return figure


STUDY = Study(
    name="degeneracy",
    about="Feedback decides which of the equivalent solutions a student ends in: the signs always, the pairing of "
    "units mostly.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=2.5,
)
