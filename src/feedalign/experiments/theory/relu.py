"""The sign rule: a rectifier cannot flip its sign, so a student learns only what the signs of its feedback allow."""

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.styles import GREEN, GREY, SETTINGS, VERMILLION, style
from feedalign.experiments.tables import Table
from feedalign.experiments.theory.shallow import RULES, clopper_pearson, log_times, mean, rounded, share
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.theory.degeneracy import learnable, relu_levels, success_probability
from feedalign.theory.integrals import Array, integrals
from feedalign.theory.odes import Learning, integrate
from feedalign.theory.simulation import draw, simulate

TEACHER = (1.0, 1.0)
WIDE = 1000  # inputs from whose weights the order parameters of the equations start
SHOWN = 24  # trials whose curves the record holds
USABLE = ("no usable unit", "one usable unit", "two usable units")


@dataclass(frozen=True)
class Config:
    """The students; the teacher has two orthonormal units of weight one.

    Attributes:
        seeds: Trials for each number of units; all patterns of signs occur equally often.
        units: Numbers of hidden units of the students.
        inputs: The dimension of the simulated inputs.
        rate: Of both layers, in the simulation.
        until: The last time of the simulation, in steps over the input dimension.
        deviation: Of the first weights.
        success: The error ``e_g`` below which a student counts as having learned.
        flows: Feedback vectors of each pattern that are followed in the limit of small rates.
        flow_until: The last time of these, over the rate.
        seed: Of the first weights; and of the feedback.
    """

    seeds: int = 96
    units: tuple[int, ...] = (2, 3, 4)
    inputs: int = 100
    rate: float = 0.1
    until: float = 400.0
    deviation: float = 0.01
    success: float = 0.04
    flows: int = 5
    flow_until: float = 2000.0
    seed: int = 0


SHORT = Config(seeds=8, units=(2,), inputs=30, rate=0.2, until=80.0, flows=1, flow_until=300.0)


def measure(config: Config, progress: Progress) -> dict[str, Any]:
    """Return the trials by number of units and rule, the levels of the error, and orthogonal feedback."""
    total = 2 * len(config.units) + 1
    trials = []
    for i, units in enumerate(config.units):
        F = _signed(config, units)
        found: dict[str, Any] = {}
        for j, rule in enumerate(RULES):
            progress(f"K = {units}, {RULES[rule]}", 2 * i + j, total)
            found[rule] = _trials(config, F, rule)
        trials.append({"units": units, "usable": (F > 0).sum(1).tolist(), **found})
    progress("equations", total - 1, total)
    levels = [_level(config, usable) for usable in range(len(TEACHER) + 1)]
    orthogonal = _orthogonal(config)
    progress("done", total, total)
    return {"trials": trials, "levels": levels, "orthogonal": orthogonal}


def _signed(config: Config, units: int) -> Array:
    """Return feedback vectors ``[seeds, K]``: every pattern of signs in turn, sizes from 0.5 to 1.5."""
    patterns = np.array(list(product((1.0, -1.0), repeat=units)))
    sizes = np.random.default_rng([config.seed, units]).uniform(0.5, 1.5, (config.seeds, units))
    signed: Array = sizes * patterns[np.arange(config.seeds) % len(patterns)]
    return signed


def _trials(config: Config, F: Array, rule: str) -> dict[str, Any]:
    students, units = F.shape
    weights = draw(students, units, TEACHER, config.inputs, config.deviation, config.seed)
    times, learning = log_times(1.0, config.until, 30), Learning("relu", rate=config.rate)
    run = simulate(weights, F if rule == "dfa" else None, learning, times, config.seed)
    error = run.order.error(integrals("relu"))
    return {
        "error": rounded(error[-1]),
        "success": (error[-1] < config.success).tolist(),
        "allowed": [learnable(row, weights.A) for row in F],
        "times": rounded(run.times),
        "curves": rounded(error[:, :SHOWN].T),
    }


def _level(config: Config, usable: int) -> dict[str, Any]:
    """Return what is left of the error when so many of two units have feedback of the teacher's sign."""
    g, A, ends = integrals("relu"), np.array(TEACHER), []
    for i in range(config.flows):
        F = np.random.default_rng([config.seed, 3, i]).uniform(0.5, 1.5, len(A))
        F[usable:] *= -1
        start = draw(1, len(A), TEACHER, WIDE, config.deviation, config.seed + i).order[0]
        times = log_times(0.1, config.flow_until, 30)
        run = integrate(start, F, Learning("relu", rate=1.0, flow=True), times).order
        invariant = np.diagonal(run.Q, axis1=1, axis2=2) - 2 * F * run.v
        ends.append(
            {
                "error": float(run.error(g)[-1]),
                "drift": float(np.abs(invariant - invariant[0]).max()),
                "of_prediction": (run.v[-1] / np.cbrt(1 / (2 * F))).tolist() if usable == len(A) else [],
            }
        )
    return {"usable": usable, "predicted": (*relu_levels(A), 0.0)[usable], "runs": ends}


def _orthogonal(config: Config) -> dict[str, Any]:
    """Return the error left by feedback that is orthogonal to the teacher's second layer, by activation."""
    F, found = np.array([1.0, -1.0]), {}
    for activation, learning in (("erf", Learning()), ("relu", Learning("relu", rate=0.2, flow=True))):
        starts = draw(config.flows, 2, TEACHER, WIDE, config.deviation, config.seed).order
        ends = [integrate(starts[s], F, learning, [2 * config.flow_until]).order for s in range(config.flows)]
        found[activation] = {
            "error": [float(end.error(integrals(activation))[0]) for end in ends],
            "alignment": [float(end.weight_alignment(F)[0]) for end in ends],
        }
    return found


def violations(trials: dict[str, Any]) -> int:
    """Return how many trials of DFA learned what their signs do not allow, or did not learn what they do."""
    return sum(done != allowed for done, allowed in zip(trials["success"], trials["allowed"], strict=True))


def tables(record: Written) -> list[Table]:
    """Return how often students learn, and the levels of the error."""
    return [_successes(record), _levels(record)]


def _successes(record: Written) -> Table:
    config, rows = record["config"], []
    for case in record["findings"]["trials"]:
        for rule in RULES:
            found = case[rule]
            predicted = f"{success_probability(case['units'], len(TEACHER)):.4f}" if rule == "dfa" else ""
            wrong = str(violations(found)) if rule == "dfa" else ""
            count = len(found["success"])
            rows.append(
                (str(case["units"]), RULES[rule], str(count), share(sum(found["success"]), count), predicted, wrong)
            )
    return Table(
        f"How often a ReLU student learns two units of a teacher (simulation, N = {config['inputs']})",
        ("K", "rule", "trials", "learned", "by the signs of F", "trials against the signs"),
        tuple(rows),
        notes=(
            f"Learned: e_g below {config['success']:g} at time {config['until']:g}; share with 95 % interval (Clopper "
            "and Pearson). All patterns of signs occur equally often. By the signs of F: two positive ones at least. "
            "Backprop follows no sign rule, but has local minima of its own.",
        ),
        text_columns=2,
    )


def _levels(record: Written) -> Table:
    findings = record["findings"]
    rows = []
    for level in findings["levels"]:
        errors = [run["error"] for run in level["runs"]]
        ratios = [ratio for run in level["runs"] for ratio in run["of_prediction"]]
        rows.append(
            (
                f"relu, {USABLE[level['usable']]}",
                str(len(errors)),
                mean(errors, 5),
                f"{level['predicted']:.5f}",
                f"{max(run['drift'] for run in level['runs']):.1e}",
                f"{min(ratios):.3f} to {max(ratios):.3f}" if ratios else "",
            )
        )
    for activation, found in findings["orthogonal"].items():
        rows.append((f"{activation}, F = (1, -1)", str(len(found["error"])), mean(found["error"], 5), "", "", ""))
    return Table(
        "What is left of the error when feedback has the wrong signs (equations, K = M = 2, A = (1, 1))",
        ("student", "runs", "last e_g", "exact level", "drift of Q - 2 F v", "v over its prediction"),
        tuple(rows),
        notes=(
            "A usable unit has feedback of the teacher's sign. ReLU in the limit of small rates; its conserved "
            "quantity Q_kk - 2 F_k v_k fixes how a weight is shared between the layers: v_k = (1 / 2 F_k)^(1/3). "
            "Feedback orthogonal to the teacher, F = (1, -1), does not stop an erf student, which flips a unit.",
        ),
        text_columns=1,
    )


def pictures(record: Written) -> dict[str, Figure]:
    """Return the errors of single trials, and how often students learn."""
    return {"trials": _curves(record), "success": _success(record)}


def _curves(record: Written) -> Figure:
    case = record["findings"]["trials"][0]
    levels = [level["predicted"] for level in record["findings"]["levels"]][:2]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2, stacked=False)
        for axes, (rule, name) in zip(grid, RULES.items(), strict=True):
            found = case[rule]
            for i, curve in enumerate(found["curves"]):
                usable = min(case["usable"][i], 2)
                look: dict[str, Any] = {
                    "color": (GREY, GREEN, VERMILLION)[usable],
                    "linestyle": (":", "-.", "-")[usable],
                }
                label = f"DFA, {USABLE[usable]}"
                if rule == "backprop":
                    look, label = {"color": style(rule)["color"]}, name
                axes.plot(found["times"][1:], curve[1:], linewidth=1, alpha=0.8, label=label, **look)
            for level in levels:
                axes.axhline(level, color="black", linewidth=0.7)
            axes.set(xlabel="time (steps / N)", title=f"{name}, K = {case['units']}: $e_g$", xscale="log", yscale="log")
        low = min(axes.get_ylim()[0] for axes in grid)
        for axes in grid:
            axes.set_ylim(bottom=max(low, 1e-6))
        found = labelled(grid)
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=4)
    figure.set_label(
        "Single trials; the black lines are the exact levels of no usable unit and of one. Under DFA the signs of the "
        "feedback decide at which level a trial ends."
    )
    return figure


def _success(record: Written) -> Figure:
    trials = record["findings"]["trials"]
    with mpl.rc_context(SETTINGS):
        figure, (axes,) = panels(1, stacked=False)
        for offset, (rule, name) in zip((-0.2, 0.2), RULES.items(), strict=True):
            counts = [Counter(case[rule]["success"]) for case in trials]
            shares = [count[True] / count.total() for count in counts]
            ends = [clopper_pearson(count[True], count.total()) for count in counts]
            whiskers = np.abs(np.array(ends).T - np.array(shares))
            places = np.arange(len(trials)) + offset
            axes.bar(
                places, shares, 0.36, yerr=whiskers, capsize=3, color=style(rule)["color"], alpha=0.85, label=name
            )  # fmt: skip
        for i, case in enumerate(trials):
            level = success_probability(case["units"], len(TEACHER))
            axes.plot((i, i + 0.4), (level, level), color="black", label="by the signs of F" if i == 0 else None)
        axes.set_xticks(range(len(trials)), [f"K = {case['units']}" for case in trials])
        axes.grid(visible=False, axis="x")
        axes.set(ylim=(0, 1), title="share of trials that learned")
        axes.legend()
    figure.set_label(
        "How often a ReLU student learns a teacher of two units; whiskers are 95 % intervals. The black lines are the "
        "share of feedback vectors with two positive entries or more."
    )
    return figure


STUDY = Study(
    name="relu",
    about="A ReLU student keeps the signs of its feedback, so it learns only if enough of them are the teacher's.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=3.5,
)
