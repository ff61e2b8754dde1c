"""Do the equations of the order parameters tell what stochastic gradient descent through the library does?"""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from feedalign.experiments.panels import labelled, logarithmic, panels
from feedalign.experiments.styles import GREY, SETTINGS, style
from feedalign.experiments.tables import Table
from feedalign.experiments.theory.shallow import RULES, log_times, mean, rounded
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.theory.integrals import Array, integrals
from feedalign.theory.odes import Learning, Trajectory, integrate
from feedalign.theory.order import Order
from feedalign.theory.simulation import Weights, draw, simulate

SHOWN = 2  # seeds whose curves the record holds


@dataclass(frozen=True)
class Case:
    """A student and its teacher, whose second layer is all ones.

    Attributes:
        activation: ``"erf"``, ``"linear"`` or ``"relu"``; for the last, the equations are those of small rates.
        units: Of the student, ``K``.
        teacher: Of the teacher, ``M``.
        rate: Of both layers.
        deviation: Of the first weights.
        until: The last time, in steps over the input dimension.
    """

    activation: str = "erf"
    units: int = 2
    teacher: int = 2
    rate: float = 0.2
    deviation: float = 1.0
    until: float = 60.0

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.activation}, K = {self.units}, M = {self.teacher}"


CASES = (
    Case(),
    Case(units=3, teacher=3),
    Case(units=4, teacher=2),
    Case("linear", rate=0.1, deviation=0.3, until=40.0),
    Case("relu", rate=0.05, deviation=0.3),
)


@dataclass(frozen=True)
class Config:
    """What to compare.

    Attributes:
        seeds: Students of each case, of other first weights and samples; all have the same feedback.
        inputs: The dimension ``N`` of the simulated inputs.
        cases: The students and teachers.
        widths: Dimensions over which the deviation of the first case is followed.
        wide_seeds: Students at each of these.
        wide_until: The last time there.
        seed: Of the first student; and of the feedback.
    """

    seeds: int = 8
    inputs: int = 500
    cases: tuple[Case, ...] = CASES
    widths: tuple[int, ...] = (100, 200, 400, 800, 1600)
    wide_seeds: int = 16
    wide_until: float = 20.0
    seed: int = 0


SHORT = Config(
    seeds=2, inputs=100, cases=(Case(until=8.0), Case("relu", rate=0.05, deviation=0.3, until=8.0)), widths=(20, 80),
    wide_seeds=4, wide_until=5.0,
)  # fmt: skip


def measure(config: Config, progress: Progress) -> dict[str, Any]:
    """Return, by case and rule, how far the simulation deviates from the equations; and that over widths."""
    total = 2 * len(config.cases) + len(config.widths)
    cases = []
    for i, case in enumerate(config.cases):
        weights = draw(config.seeds, case.units, (1.0,) * case.teacher, config.inputs, case.deviation, config.seed)
        found = {}
        for j, rule in enumerate(RULES):
            progress(f"{case.name}, {RULES[rule]}", 2 * i + j, total)
            found[rule] = _compared(case, rule, weights, config.seed)
        cases.append({"name": case.name, "activation": case.activation, "feedback": _feedback(case).tolist(), **found})
    widths = []
    for i, inputs in enumerate(config.widths):
        progress(f"{inputs} inputs", 2 * len(config.cases) + i, total)
        widths.append({"inputs": inputs, "deviation": _deviations(config, inputs)})
    progress("done", total, total)
    return {"cases": cases, "widths": widths, "slopes": _slopes(widths)}


def _feedback(case: Case) -> Array:
    """Return feedback of all signs; for ReLU positive ones, with which it can learn."""
    F = np.random.default_rng(5).normal(size=case.units)
    F = np.sign(F) * np.maximum(np.abs(F), 0.1)  # units that hardly learn would agree without saying much
    return np.abs(F) if case.activation == "relu" else F


def _both(case: Case, rule: str, weights: Weights, times: Array, seed: int) -> tuple[Trajectory, Order]:
    """Return the simulation and the integrated order parameters, both ``[times, S]``."""
    F = _feedback(case) if rule == "dfa" else None
    run = simulate(weights, F, Learning(case.activation, rate=case.rate), times, seed)
    exact = Learning(case.activation, rate=case.rate, flow=case.activation == "relu")
    orders = [integrate(weights.order[s], F, exact, run.times).order for s in range(len(weights.v))]
    Q, R, v = (np.stack([getattr(order, name) for order in orders], axis=1) for name in ("Q", "R", "v"))
    return run, Order(Q, R, orders[0].T, v, orders[0].A)


def _compared(case: Case, rule: str, weights: Weights, seed: int) -> dict[str, Any]:
    g, F = integrals(case.activation), _feedback(case)
    run, exact = _both(case, rule, weights, log_times(0.1, case.until, 40), seed)
    simulated, integrated = run.order.error(g), exact.error(g)
    entries = [
        np.abs(getattr(run.order, name) - getattr(exact, name)).reshape(len(run.times), len(weights.v), -1)
        for name in ("Q", "R", "v")
    ]
    return {
        "deviation": rounded(np.abs(simulated - integrated).max(0) / integrated[0]),
        "entries": rounded(np.concatenate(entries, -1).max((0, 2))),
        "times": rounded(run.times),
        "error": {"simulated": rounded(simulated[:, :SHOWN].T), "integrated": rounded(integrated[:, :SHOWN].T)},
        "alignment": {
            "simulated": rounded(run.order.weight_alignment(F)[:, :SHOWN].T),
            "integrated": rounded(exact.weight_alignment(F)[:, :SHOWN].T),
        },
    }


def _deviations(config: Config, inputs: int) -> list[float]:
    """Return the largest deviation of ``e_g`` of every student that learns by DFA."""
    case, g = config.cases[0], integrals(config.cases[0].activation)
    weights = draw(config.wide_seeds, case.units, (1.0,) * case.teacher, inputs, case.deviation, config.seed)
    run, exact = _both(case, "dfa", weights, np.linspace(0, config.wide_until, 41), config.seed)
    found: list[float] = rounded(np.abs(run.order.error(g) - exact.error(g)).max(0))
    return found


def _slopes(widths: list[dict[str, Any]]) -> list[float]:
    """Return the slope of the deviation over the width, both in logarithms, for every student."""
    logs = np.log([width["deviation"] for width in widths])
    found: list[float] = rounded(np.polyfit(np.log([width["inputs"] for width in widths]), logs, 1)[0])
    return found


def tables(record: Written) -> list[Table]:
    """Return the deviations by case and over widths."""
    config, findings = record["config"], record["findings"]
    cases = [
        (
            case["name"],
            RULES[rule],
            str(len(case[rule]["deviation"])),
            mean(case[rule]["deviation"], 2, 100),
            f"{100 * max(case[rule]['deviation']):.2f}",
            mean(case[rule]["entries"], 3),
        )
        for case in findings["cases"]
        for rule in RULES
    ]
    widths = [
        (
            str(width["inputs"]),
            str(len(width["deviation"])),
            mean(width["deviation"], 4),
            mean(width["deviation"], 3, width["inputs"] ** 0.5),
        )
        for width in findings["widths"]
    ]
    first = config["cases"][0]
    return [
        Table(
            f"Equations and simulation: the largest deviation on the way, N = {config['inputs']}",
            ("student and teacher", "rule", "students", "of e_g, % of its start", "worst, %", "of any Q, R or v"),
            tuple(cases),
            notes=(
                "Mean and 95 % interval over students. e_g has the factor 1/2. The simulation is stochastic gradient "
                "descent through attach; for relu the equations are those of small rates, so that part of the "
                "deviation is the rate's.",
            ),
            text_columns=2,
        ),
        Table(
            f"The deviation falls with the input dimension ({findings['cases'][0]['name']}, DFA, "
            f"time 0 to {config['wide_until']:g}, rate {first['rate']:g})",
            ("N", "students", "largest deviation of e_g", "times the root of N"),
            tuple(widths),
            notes=(f"Slope in logarithms: {mean(findings['slopes'], 2)}; noise of finite size has -0.5.",),
            text_columns=0,
        ),
    ]


def pictures(record: Written) -> dict[str, Figure]:
    """Return the curves of both, and the deviation over widths."""
    return {"curves": _curves(record), "widths": _widths(record)}


def _curves(record: Written) -> Figure:
    cases = record["findings"]["cases"]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(cases) + 1, stacked=False, columns=3)
        for axes, case in zip(grid, cases, strict=False):
            _pair(axes, case, "error")
            axes.set(title=f"{case['name']}: $e_g$", xlabel="time (steps / N)", xscale="log")
            logarithmic(axes)
        _pair(grid[-1], cases[0], "alignment")
        grid[-1].set(
            title=f"{cases[0]['name']}: cos(F, v)", xlabel="time (steps / N)", xscale="log", ylim=(-1.08, 1.08)
        )
        found = labelled(grid)
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=4)
    figure.set_label(
        f"Generalisation error of one student a case: lines are the integrated equations, dots stochastic gradient "
        f"descent through the library at N = {record['config']['inputs']}. The last panel shows the alignment of the "
        "second layer with the feedback vector."
    )
    return figure


def _pair(axes: Axes, case: dict[str, Any], what: str) -> None:
    for rule, name in RULES.items():
        curves, times = case[rule][what], case[rule]["times"][1:]
        axes.plot(times, curves["integrated"][0][1:], **style(rule), label=f"{name}, equations")
        axes.plot(
            times[::2], curves["simulated"][0][1::2], "o", markersize=4, color=style(rule)["color"],
            markerfacecolor="white", label=f"{name}, simulation",
        )  # fmt: skip


def _widths(record: Written) -> Figure:
    widths = record["findings"]["widths"]
    with mpl.rc_context(SETTINGS):
        figure, (axes,) = panels(1, stacked=False)
        for width in widths:
            axes.plot([width["inputs"]] * len(width["deviation"]), width["deviation"], ".", color=GREY, alpha=0.6)
        inputs = np.array([width["inputs"] for width in widths], dtype=float)
        means = np.array([np.mean(width["deviation"]) for width in widths])
        axes.plot(inputs, means, "o-", color=style("dfa")["color"], label="mean over students")
        scale = np.exp(np.mean(np.log(means * np.sqrt(inputs))))
        axes.plot(inputs, scale / np.sqrt(inputs), ":", color="black", label=rf"${scale:.2f} / \sqrt{{N}}$")
        axes.set(xscale="log", xlabel="input dimension N", title="largest deviation of $e_g$")
        logarithmic(axes)
        axes.set_xticks(inputs, [f"{n:g}" for n in inputs])
        axes.set_xticks([], minor=True)
        axes.legend()
    figure.set_label(
        "How far the simulated error strays from the integrated one, a dot a student. It is the noise of a finite "
        "input dimension: it falls with its root."
    )
    return figure


STUDY = Study(
    name="ode",
    about="Closed equations for order parameters tell what two-layer students learn by backprop and by DFA: "
    "stochastic gradient descent through the library follows them.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=4.0,
)
