"""Does the conditioning of one batch, before training, tell which models DFA will align?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.stats import spearmanr
from torch import Tensor

import feedalign as fa
from feedalign.experiments.panels import panels
from feedalign.experiments.styles import BLUE, GREEN, SETTINGS, VERMILLION
from feedalign.experiments.tables import Table, interval
from feedalign.experiments.theory.history import Curve, Schedule, Task, counted, history
from feedalign.experiments.theory.nets import Activation, Ensemble, Net
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.experiments.theory.targets import squared

Found = dict[str, Any]
PREDICTORS = {
    "forecast": "forecast of fa.conditioning",
    "evenness": "evenness of its matrices alone",
    "condition": "condition number of E[y x^T], small",
}
STARTS = {"small": "small", "torch": "PyTorch's"}
SMALL = 0.01
"""Standard deviation of small first weights."""
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
        starts: First weights: ``"torch"`` for PyTorch's, ``"small"`` for normal ones of deviation 0.01.
        target_decays: The singular values of the linear teacher fall as the power of these.
        input_decays: The variances of the inputs fall as the power of these.
        inputs: ``d``
        outputs: ``C``
        width: Of the hidden layers.
        samples: To train on.
        epochs: How long.
        rate: Of learning, a sample.
    """

    seeds: int = 3
    activations: tuple[Activation, ...] = ("linear", "tanh", "relu")
    depths: tuple[int, ...] = (2, 3, 4)
    starts: tuple[Literal["small", "torch"], ...] = ("small", "torch")
    target_decays: tuple[float, ...] = (0.0, 0.5, 1.0, 2.0)
    input_decays: tuple[float, ...] = (0.0, 1.0)
    inputs: int = 20
    outputs: int = 5
    width: int = 64
    samples: int = 1000
    epochs: int = 60
    rate: float = 5e-4


SHORT = Config(
    seeds=2, activations=("tanh",), depths=(2, 3), starts=("small",), target_decays=(0.0, 2.0), samples=200, epochs=40,
    rate=2e-3,
)  # fmt: skip


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
    for start, activation, depth in product(config.starts, config.activations, config.depths):
        models += _family(config, start, activation, depth, progress)
    ranks = {start: _ranks([m for m in models if m["start"] == start and m["kept"]], config) for start in config.starts}
    return {"models": models, "ranks": ranks}


def _family(config: Config, start: str, activation: Activation, depth: int, progress: Progress) -> list[Found]:
    tasks = [Teaching(target, inputs) for target, inputs in product(config.target_decays, config.input_decays)]
    drawn = [task.draw(config, seed) for task in tasks for seed in range(config.seeds)]
    task = Task(squared, torch.stack([x for x, _ in drawn]), torch.stack([y for _, y in drawn]))
    net = Net(config.inputs, config.width, config.outputs, depth, activation)
    scale = SMALL if start == "small" else None
    ensemble = Ensemble(net, list(range(config.seeds)) * len(tasks), scale=scale)
    forecasts = [_forecast(ensemble, number, *task.own(number, task.probe)) for number in range(len(drawn))]
    told = counted(progress, f"{STARTS[start]} first weights, {activation}, {depth} weight matrices")
    curves = history(ensemble, task, Schedule(config.epochs, config.rate, looks=20), told)
    found = []
    for i, teaching in enumerate(tasks):
        own = range(i * config.seeds, (i + 1) * config.seeds)
        learning = [j for j in own if all(map(math.isfinite, curves[j]["loss"]))]
        each = [{**forecasts[j], **_reached(curves[j]), **_task(drawn[j])} for j in learning]
        found.append(
            {
                "start": start,
                "activation": activation,
                "depth": depth,
                "target_decay": teaching.target_decay,
                "input_decay": teaching.input_decay,
                "kept": len(learning),
                **{what: float(np.mean([seed[what] for seed in each])) for what in (*PREDICTORS, *OUTCOMES) if each},
            }
        )
    return found


def _forecast(ensemble: Ensemble, number: int, x: Tensor, y: Tensor) -> Found:
    with ensemble.alone(number) as model:
        found = fa.conditioning(ensemble.handle, lambda: squared(model(x), y))
    points = found.points.values()
    even = [float(p.matrix.trace() / (p.rank**0.5 * p.matrix.norm())) for p in points]
    return {"forecast": found.alignment, "evenness": float(np.mean(even))}


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
    }


def _ranks(models: Sequence[Found], config: Config) -> Found:
    """Return Spearman's rank correlations: over all models, and within each family of one activation and depth."""
    families = [
        [model for model in models if (model["activation"], model["depth"]) == family]
        for family in product(config.activations, config.depths)
    ]
    table: Found = {"models": len(models)}
    for predictor, outcome in product(PREDICTORS, OUTCOMES):
        within = [_spearman(family, predictor, outcome) for family in families]
        overall = _spearman(models, predictor, outcome)
        table[f"{predictor}, {outcome}"] = {"all": overall, "within": [each for each in within if each is not None]}
    return table


def _spearman(models: Sequence[Found], predictor: str, outcome: str) -> float | None:
    pairs = np.array([[model[predictor], model[outcome]] for model in models])
    if len(pairs) < 3 or min(np.ptp(pairs, axis=0)) == 0:
        return None
    return float(spearmanr(*pairs.T).statistic)


def tables(record: Written) -> list[Table]:
    """Return the rank correlations."""
    found, config = record["findings"], record["config"]
    rows = []
    for start, ranks in found["ranks"].items():
        for predictor in PREDICTORS:
            cells = [ranks[f"{predictor}, {outcome}"] for outcome in OUTCOMES]
            families = [interval(cell["within"]).text(2) if cell["within"] else "" for cell in cells]
            overall = ["" if cell["all"] is None else f"{cell['all']:+.2f}" for cell in cells]
            rows.append((STARTS[start], PREDICTORS[predictor], *families, *overall))
    lost = sum(not model["kept"] for model in found["models"])
    tasks = len(config["target_decays"]) * len(config["input_decays"])
    return [
        Table(
            title="Rank correlation of what is known before training with the alignment that is reached",
            headings=(
                *("first weights", "ranked by"),
                *(f"{words}: within a family" for words in OUTCOMES.values()),
                *(f"{words}: over all" for words in OUTCOMES.values()),
            ),
            rows=tuple(rows),
            notes=(
                f"Spearman's. A family is {tasks} tasks for one activation and depth; the mean over families with its "
                f"95 % interval. Each of the {len(found['models'])} models is a mean over {config['seeds']} seeds; "
                f"{lost} diverged.",
            ),
            text_columns=2,
        )
    ]


def pictures(record: Written) -> dict[str, Figure]:
    """Return reached against forecast alignment, a mark a model."""
    models = [model for model in record["findings"]["models"] if model["kept"]]
    starts = list(dict.fromkeys(model["start"] for model in models))
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2 * len(starts), stacked=False, columns=2)
        for axes, (start, outcome) in zip(grid, product(starts, SHOWN), strict=True):
            for model in (model for model in models if model["start"] == start):
                marker, color = MARKERS[min(model["depth"], max(MARKERS))], COLOURS[model["activation"]]
                axes.plot(model["forecast"], model[outcome], marker, color=color, markersize=5, alpha=0.8)
            axes.set(title=f"{STARTS[start]} first weights: {OUTCOMES[outcome]}", xlabel="forecast", ylabel="reached")
            axes.title.set_fontsize(10)
        names = dict.fromkeys(model["activation"] for model in models)
        handles = [Line2D([], [], color=COLOURS[name], marker="o", linestyle="") for name in names]
        depths = sorted({model["depth"] for model in models})
        handles += [Line2D([], [], color="#333333", marker=MARKERS[d], linestyle="") for d in depths]
        labels = [*names, *(f"{depth} weight matrices" for depth in depths)]
        figure.legend(handles, labels, loc="outside lower center", ncols=max(3, len(names)))
    figure.set_label(
        "Alignment that training reached against the forecast from one batch before it, a mark a model; mean over "
        "seeds. Within one colour and shape only the task differs."
    )
    return {"forecast": figure}


SHOWN = ("gradient_final", "weight_final")
COLOURS = {"linear": BLUE, "tanh": VERMILLION, "relu": GREEN}
MARKERS = {2: "o", 3: "s", 4: "^", 5: "D"}


STUDY = Study(
    name="forecast",
    about="How far the conditioning of one batch before training ranks tasks by the alignment that DFA will reach.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=3.0,
)
