"""Does the conditioning of one batch, before training, tell which models DFA will align?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor

import feedalign as fa
from feedalign.experiments.panels import panels
from feedalign.experiments.styles import BLUE, GREEN, SETTINGS, VERMILLION
from feedalign.experiments.tables import Table
from feedalign.experiments.theory.history import Curve, Schedule, Task, counted, history
from feedalign.experiments.theory.nets import Activation, Ensemble, Net
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.experiments.theory.targets import squared

Found = dict[str, Any]
PREDICTORS = {
    "forecast": "forecast of fa.conditioning",
    "evenness": "evenness of its matrices alone",
    "condition": "condition number of the targets (small)",
    "depth": "depth (small)",
}
OUTCOMES = {
    "gradient_highest": "gradient alignment, highest",
    "gradient_final": "gradient alignment, in the end",
    "weight_final": "weight alignment, in the end",
}


@dataclass(frozen=True)
class Config:
    """Which models to forecast and to train.

    Attributes:
        seeds: Of first weights, data and batches; what is ranked are means over them.
        activations: Of the nets.
        depths: Numbers of weight matrices.
        target_decays: The singular values of the linear teacher fall as the power of these.
        input_decays: The variances of the inputs fall as the power of these.
        inputs: ``d``
        outputs: ``C``
        width: Of the hidden layers.
        samples: To train on.
        epochs: How long.
        rate: Of learning, a sample.
        draws: Of models anew, for the intervals.
    """

    seeds: int = 3
    activations: tuple[Activation, ...] = ("linear", "tanh", "relu")
    depths: tuple[int, ...] = (2, 3, 4)
    target_decays: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    input_decays: tuple[float, ...] = (0.0, 1.0)
    inputs: int = 20
    outputs: int = 5
    width: int = 64
    samples: int = 1000
    epochs: int = 60
    rate: float = 5e-4
    draws: int = 2000


SHORT = Config(
    seeds=2,
    activations=("tanh",),
    depths=(2, 3),
    target_decays=(0.0, 2.0),
    samples=200,
    epochs=15,
    rate=2e-3,
    draws=200,
)


@dataclass(frozen=True)
class Teaching:
    """A linear teacher of uneven singular values, on inputs of uneven variances."""

    target_decay: float
    input_decay: float

    def draw(self, config: Config, seed: int) -> tuple[Tensor, Tensor]:
        """Return ``x [P, d]`` of a mean variance of 1 and ``y [P, C]`` likewise."""
        generator = torch.Generator().manual_seed(seed)
        variances = torch.arange(1, config.inputs + 1) ** -self.input_decay
        x = torch.randn(config.samples, config.inputs, generator=generator) * (variances / variances.mean()).sqrt()
        left, _ = torch.linalg.qr(torch.randn(config.outputs, config.outputs, generator=generator))
        right, _ = torch.linalg.qr(torch.randn(config.inputs, config.outputs, generator=generator))
        values = torch.arange(1, config.outputs + 1) ** -self.target_decay
        y = x @ right @ torch.diag(values) @ left.T
        return x, y / y.square().mean().sqrt()


def measure(config: Config, progress: Progress) -> Found:
    """Return forecast and reached alignment of every model, and their rank correlations."""
    models: list[Found] = []
    for activation, depth in product(config.activations, config.depths):
        models += _family(config, activation, depth, progress)
    kept = [model for model in models if model["kept"]]
    groups = {"all models": kept}
    for activation in config.activations:
        groups[activation] = [model for model in kept if model["activation"] == activation]
    for depth in config.depths:
        groups[f"{depth} weight matrices"] = [model for model in kept if model["depth"] == depth]
    ranks = {name: _ranks(group, config.draws) for name, group in groups.items()}
    return {"models": models, "ranks": ranks, "within": _within(kept)}


def _family(config: Config, activation: Activation, depth: int, progress: Progress) -> list[Found]:
    tasks = [Teaching(target, inputs) for target, inputs in product(config.target_decays, config.input_decays)]
    drawn = [task.draw(config, seed) for task in tasks for seed in range(config.seeds)]
    task = Task(squared, torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn]))
    ensemble = Ensemble(
        Net(config.inputs, config.width, config.outputs, depth, activation), list(range(config.seeds)) * len(tasks)
    )
    forecasts = [_forecast(ensemble, number, *task.own(number, task.probe)) for number in range(len(drawn))]
    told = counted(progress, f"{activation}, {depth} weight matrices")
    curves = history(ensemble, task, Schedule(config.epochs, config.rate, looks=20), told)
    found = []
    for i, teaching in enumerate(tasks):
        own = range(i * config.seeds, (i + 1) * config.seeds)
        learning = [j for j in own if all(map(math.isfinite, curves[j]["loss"]))]
        each = [{**forecasts[j], **_reached(curves[j]), **_task(drawn[j]), "depth": -float(depth)} for j in learning]
        found.append(
            {
                "activation": activation,
                "depth": depth,
                "target_decay": teaching.target_decay,
                "input_decay": teaching.input_decay,
                "kept": len(learning),
                **{f"mean_{what}": float(np.mean([seed[what] for seed in each])) for what in PREDICTORS if each},
                **{what: float(np.mean([seed[what] for seed in each])) for what in OUTCOMES if each},
                "by_point": np.mean([seed["by_point"] for seed in each], axis=0).tolist() if each else [],
                "by_layer": np.mean([seed["by_layer"] for seed in each], axis=0).tolist() if each else [],
            }
        )
    return found


def _forecast(ensemble: Ensemble, number: int, x: Tensor, y: Tensor) -> Found:
    with ensemble.alone(number) as model:
        found = fa.conditioning(ensemble.handle, lambda: squared(model(x), y))
    points = list(found.points.values())
    even = [float(p.matrix.trace() / (p.rank**0.5 * p.matrix.norm())) for p in points]
    return {"forecast": found.alignment, "evenness": float(np.mean(even)), "by_point": [p.alignment for p in points]}


def _task(drawn: tuple[Tensor, Tensor]) -> Found:
    x, y = drawn
    values = torch.linalg.svdvals(y.T @ x)
    return {"condition": -float(torch.log(values[0] / values[-1]))}


def _reached(curve: Curve) -> Found:
    gradient = curve["gradient_alignment_total"]
    return {
        "gradient_highest": max(gradient),
        "gradient_final": gradient[-1],
        "weight_final": curve["weight_alignment_total"][-1],
        "by_layer": curve["gradient_alignment"][-1],
    }


def _ranks(models: Sequence[Found], draws: int) -> Found:
    """Return Spearman's rank correlation of every predictor with every outcome, and its interval over models."""
    table: Found = {"models": len(models)}
    for predictor, outcome in product(PREDICTORS, OUTCOMES):
        pairs = np.array([[model[f"mean_{predictor}"], model[outcome]] for model in models])
        table[f"{predictor}, {outcome}"] = _spearman(pairs, draws)
    return table


def _spearman(pairs: np.ndarray[Any, np.dtype[np.float64]], draws: int) -> Found | None:
    if len(pairs) < 4 or min(np.ptp(pairs, axis=0)) == 0:
        return None
    dice = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        again = pairs[dice.integers(len(pairs), size=len(pairs))]
        if min(np.ptp(again, axis=0)) > 0:
            found.append(float(spearmanr(*again.T).statistic))
    low, high = np.quantile(found, [0.025, 0.975])
    return {"value": float(spearmanr(*pairs.T).statistic), "low": float(low), "high": float(high)}


def _within(models: Sequence[Found]) -> Found:
    """Return in how many models the points are in the order of the forecast, and in how many of those with several."""
    several = [model for model in models if len(model["by_point"]) > 1]
    return {
        "models": len(several),
        "lowest_forecast_least": sum(model["by_point"][0] == min(model["by_point"]) for model in several),
        "lowest_reached_least": sum(model["by_layer"][0] == min(model["by_layer"]) for model in several),
        "same_order": sum(np.argsort(m["by_point"]).tolist() == np.argsort(m["by_layer"]).tolist() for m in several),
    }


def tables(record: Written) -> list[Table]:
    """Return the rank correlations."""
    found = record["findings"]
    ranks, within = found["ranks"], found["within"]
    rows = [
        (group, PREDICTORS[predictor], *(_cell(table[f"{predictor}, {outcome}"]) for outcome in OUTCOMES))
        for group, table in ranks.items()
        for predictor in (PREDICTORS if group == "all models" else ("forecast",))
    ]
    lost = len(found["models"]) - ranks["all models"]["models"]
    return [
        Table(
            title="Rank correlation of what is known before training with the alignment that is reached",
            headings=("among", "ranked by", *OUTCOMES.values()),
            rows=tuple(rows),
            notes=(
                f"Spearman's, over {ranks['all models']['models']} models, each a mean over "
                f"{record['config']['seeds']} seeds; 95 % intervals from drawing models anew. {lost} models diverged.",
                f"Within a model: of {within['models']} with several points, the forecast has the lowest point last in "
                f"{within['lowest_forecast_least']}, training in {within['lowest_reached_least']}; in "
                f"{within['same_order']} the points end in the order forecast.",
            ),
            text_columns=2,
        )
    ]


def _cell(found: Found | None) -> str:
    return f"{found['value']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]" if found else ""


def pictures(record: Written) -> dict[str, Figure]:
    """Return reached against forecast alignment, a mark a model."""
    models = [model for model in record["findings"]["models"] if model["kept"]]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2, stacked=False)
        for axes, outcome in zip(grid, ("gradient_highest", "gradient_final"), strict=True):
            for model in models:
                axes.plot(
                    model["mean_forecast"],
                    model[outcome],
                    MARKERS[min(model["depth"], max(MARKERS))],
                    color=COLOURS[model["activation"]],
                    markersize=6,
                    alpha=0.8,
                )
            axes.plot([0, 1], [0, 1], color="#333333", linewidth=0.8, linestyle=":")
            axes.set(title=OUTCOMES[outcome].capitalize(), xlabel="forecast before training", ylabel="reached")
        names = dict.fromkeys(model["activation"] for model in models)
        handles = [mpl.lines.Line2D([], [], color=COLOURS[name], marker="o", linestyle="") for name in names]
        depths = sorted({model["depth"] for model in models})
        handles += [mpl.lines.Line2D([], [], color="#333333", marker=MARKERS[d], linestyle="") for d in depths]
        figure.legend(
            handles, [*names, *(f"{d} weight matrices" for d in depths)], loc="outside lower center", ncols=len(handles)
        )
    figure.set_label(
        "Gradient alignment that training reached against the forecast from one batch before it, a mark a model; mean "
        "over seeds. The dotted line is where both are equal."
    )
    return {"forecast": figure}


COLOURS = {"linear": BLUE, "tanh": VERMILLION, "relu": GREEN}
MARKERS = {2: "o", 3: "s", 4: "^", 5: "D"}


STUDY = Study(
    name="forecast",
    about="The conditioning of one batch before training ranks models by the alignment they will reach, within limits.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=2.0,
)
