"""Random targets: does the conditioning of what is learned decide how well DFA aligns?"""

from dataclasses import dataclass
from itertools import product
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional as F

from feedalign.experiments.panels import panels
from feedalign.experiments.styles import SETTINGS
from feedalign.experiments.tables import Table, interval
from feedalign.experiments.theory.draw import averaged, over_epochs, shades, spread
from feedalign.experiments.theory.history import Curve, Schedule, Task, counted, history
from feedalign.experiments.theory.nets import Activation, Ensemble, Net
from feedalign.experiments.theory.shallow import mean, rounded
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.experiments.theory.summary import summarise
from feedalign.theory import linear
from feedalign.theory.random_targets import RandomTargets

Found = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What to train.

    Attributes:
        seeds: Of data, first weights and batches; the feedback is one for all.
        values: Of alpha and of beta: every pair is a task.
        activations: Of the non-linear nets.
        epochs: Of these.
        linear_values: Of alpha and beta for the linear networks, which follow from theory and are trained briefly.
        linear_steps: How long, on all samples at once; while the targets are hardly fitted yet.
        linear_rate: Their rate of learning, a sample.
        linear_seeds: Of their data.
        samples: To train on.
        inputs: ``d``
        depth: Number of weight matrices.
        width: Of the hidden layers.
        rate: Of learning, a sample.
        looks: How often the nets are looked at.
    """

    seeds: int = 3
    values: tuple[float, ...] = (0.2, 0.6, 1.0)
    activations: tuple[Activation, ...] = ("tanh", "relu")
    epochs: int = 2000
    linear_values: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8, 1.0)
    linear_steps: int = 8
    linear_rate: float = 1e-4
    linear_seeds: int = 5
    samples: int = 1000
    inputs: int = 9
    depth: int = 3
    width: int = 100
    rate: float = 1e-3
    looks: int = 40


SHORT = Config(
    seeds=2, values=(0.2, 1.0), activations=("tanh",), epochs=40, linear_values=(0.2, 1.0), linear_seeds=2, width=30,
    samples=300, rate=3e-3, looks=10,
)  # fmt: skip
LATE = 400.0
"""Time of the flow of linear networks, rate times steps: far behind the fitting of every mode."""


def squared(z: Tensor, y: Tensor) -> Tensor:
    """Return the squared error, summed over samples and targets."""
    return F.mse_loss(z, y, reduction="sum")


def measure(config: Config, progress: Progress) -> Found:
    """Return alignment over a grid of tasks: linear networks by theory and trained, non-linear ones trained."""
    progress("linear", 0, 1)
    found: Found = {"linear": _linear(config)}
    for activation in config.activations:
        found[activation] = _trained(config, activation, progress)
    for name, cells in found.items():
        conditions = [cell["condition"] for cell in cells]
        finals = [np.mean(cell["gradient_alignment"]) for cell in cells]
        found[name] = {"cells": cells, "rank_correlation": float(spearmanr(conditions, finals).statistic)}
    return found


def _tasks(values: tuple[float, ...]) -> list[RandomTargets]:
    return [RandomTargets(alpha, beta) for alpha, beta in product(values, values)]


def _drawn(config: Config, tasks: list[RandomTargets], seeds: int) -> tuple[Tensor, Tensor]:
    """Return inputs and targets ``[tasks x seeds, P, ...]``; tasks of one seed share the inputs and the dice."""
    drawn = [
        task.draw(config.samples, config.inputs, np.random.default_rng(seed)) for task in tasks for seed in range(seeds)
    ]
    x, y = (np.stack([pair[i] for pair in drawn]) for i in range(2))
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def _cell(task: RandomTargets) -> Found:
    condition, alignment = task.condition_number, task.alignment
    return {"alpha": task.alpha, "beta": task.beta, "condition": condition, "population": alignment}


def _linear(config: Config) -> list[Found]:
    tasks, seeds = _tasks(config.linear_values), config.linear_seeds
    x, y = _drawn(config, tasks, seeds)
    net = Net(config.inputs, config.width, 2, config.depth, "linear")
    ensemble = Ensemble(net, list(range(seeds)) * len(tasks), scale=0.0)
    schedule = Schedule(config.linear_steps, config.linear_rate, batch=config.samples, looks=3)
    curves = history(ensemble, Task(squared, x, y), schedule)
    assert ensemble.handle.planner is not None
    grams = linear.grams([matrix.numpy() for matrix in ensemble.handle.planner.matrices()])
    found = []
    for i, task in enumerate(tasks):
        own = range(i * seeds, (i + 1) * seeds)
        early, late = zip(*(_predicted(x[j], y[j], grams) for j in own), strict=True)
        found.append(
            {
                **_cell(task),
                "early": rounded([linear.weight_alignment(A, grams)[0] for A in early]),
                "trained": rounded([curves[j]["weight_alignment"][-1][0] for j in own]),
                "weight_alignment": rounded([linear.weight_alignment(A, grams)[0] for A in late]),
                "gradient_alignment": rounded([float(np.mean(linear.gradient_alignment(A, grams))) for A in late]),
            }
        )
    return found


def _predicted(x: Tensor, y: Tensor, grams: linear.Matrices) -> tuple[linear.Matrices, linear.Matrices]:
    """Return the alignment matrices of the training set: early, and at the end of the flow."""
    inputs, targets = x.double().numpy(), y.double().numpy()
    S, covariance = targets.T @ inputs / len(x), inputs.T @ inputs / len(x)
    return linear.early(S, grams), linear.flow(S, covariance, grams, [LATE])[0]


def _trained(config: Config, activation: Activation, progress: Progress) -> list[Found]:
    tasks = _tasks(config.values)
    x, y = _drawn(config, tasks, config.seeds)
    net = Net(config.inputs, config.width, 2, config.depth, activation)
    ensemble = Ensemble(net, list(range(config.seeds)) * len(tasks))
    schedule = Schedule(config.epochs, config.rate, looks=config.looks)
    curves = history(ensemble, Task(squared, x, y), schedule, counted(progress, activation))
    found = []
    for i, task in enumerate(tasks):
        own = curves[i * config.seeds : (i + 1) * config.seeds]
        summed = summarise(own, f"alpha {task.alpha:g}, beta {task.beta:g}, {activation}")
        found.append(
            {
                **_cell(task),
                "gradient_alignment": [final["gradient_alignment_total"] for final in summed["finals"]],
                "weight_alignment": [final["weight_alignment_total"] for final in summed["finals"]],
                "peak": [_highest(curve) for curve in own],
                "phases": [seed["weight"] for seed in summed["phases"]],
                "epochs": summed["epochs"],
                "curve": summed["weight_alignment_total"],
                "diverged": summed["diverged"],
            }
        )
    return found


def _highest(curve: Curve) -> float:
    return float(np.nanmax(curve["weight_alignment_total"]))


def tables(record: Written) -> list[Table]:
    """Return alignment by task, of linear and of trained networks."""
    found, config = record["findings"], record["config"]
    linear_rows = [
        (
            *_named(cell),
            f"{cell['population']:.3f}",
            *(mean(cell[what], 3) for what in ("early", "trained", "weight_alignment", "gradient_alignment")),
        )
        for cell in found["linear"]["cells"]
    ]
    rows = [
        (
            activation,
            *_named(cell),
            spread([seed["peak_time"] for seed in cell["phases"]], 0),
            *(interval(cell[what]).text(3) for what in ("peak", "weight_alignment", "gradient_alignment")),
        )
        for activation in config["activations"]
        for cell in found[activation]["cells"]
    ]
    ranks = ", ".join(f"{name} {found[name]['rank_correlation']:+.2f}" for name in found)
    return [
        Table(
            title="Linear networks on random targets: the weight alignment of layer 2",
            headings=(
                *("alpha", "beta", "condition of the targets", "population"),
                *("early: predicted", "early: trained", "in the end", "gradient alignment in the end"),
            ),
            rows=tuple(linear_rows),
            notes=(
                f"Mean and 95 % interval over {config['linear_seeds']} data sets. Population: for infinitely many "
                f"inputs; here there are {config['inputs']}. In the end: the flow on the training set. Gradient "
                "alignment: over errors of all directions, the mean over layers.",
            ),
            text_columns=2,
        ),
        Table(
            title="Non-linear networks on random targets",
            headings=(
                *("activation", "alpha", "beta", "condition of the targets", "epoch of peak"),
                *("weight alignment: highest", "in the end", "gradient alignment in the end"),
            ),
            rows=tuple(rows),
            notes=(
                f"{config['epochs']:,} epochs; mean and 95 % interval over {config['seeds']} seeds. Rank correlation "
                f"of the condition number with the gradient alignment in the end, over tasks: {ranks}.",
            ),
            text_columns=3,
        ),
    ]


def _named(cell: Found) -> tuple[str, str, str]:
    return f"{cell['alpha']:g}", f"{cell['beta']:g}", f"{cell['condition']:.3g}"


def pictures(record: Written) -> dict[str, Figure]:
    """Return heat maps of the final alignment, and the weight alignment over time."""
    found = record["findings"]
    return {"targets": _maps(found), "targets-time": _over_time(found)}


def _maps(found: Found) -> Figure:
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(found) + 1, stacked=False)
        figure.set_size_inches(3.3 * len(grid), 3.4)
        for axes, (name, study) in zip(grid, found.items(), strict=False):
            _map(axes, study["cells"], f"{name}, in the end")
        markers = "osD^v"
        for (name, study), look, marker in zip(found.items(), shades(len(found)), markers, strict=False):
            x = [cell["condition"] for cell in study["cells"]]
            y = [np.mean(cell["gradient_alignment"]) for cell in study["cells"]]
            grid[-1].plot(x, y, marker, color=look["color"], label=name, markersize=5)
        grid[-1].set_xscale("log")
        grid[-1].set(title="Gradient alignment", xlabel="condition number of the targets")
        grid[-1].legend()
    figure.set_label(
        "Gradient alignment in the end, over tasks whose two targets have unequal variances (small alpha) or are alike "
        "(small beta); mean over seeds. The worse the targets are conditioned, the less the nets align. Linear "
        "networks: from theory."
    )
    return figure


def _map(axes: Axes, cells: list[Found], title: str) -> None:
    values = sorted({cell["alpha"] for cell in cells})
    image = np.zeros((len(values), len(values)))
    for cell in cells:
        image[values.index(cell["beta"]), values.index(cell["alpha"])] = np.mean(cell["gradient_alignment"])
    axes.imshow(image, origin="lower", cmap="viridis", vmin=image.min() - 0.02, vmax=image.max())
    middle = (image.min() + image.max()) / 2
    for (row, column), value in np.ndenumerate(image):
        color = "black" if value > middle else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color, fontsize=8)
    ticks = range(len(values))
    axes.set_xticks(ticks, [f"{value:g}" for value in values])
    axes.set_yticks(ticks, [f"{value:g}" for value in values])
    axes.grid(visible=False)
    axes.set(title=title, xlabel="alpha", ylabel="beta")


def _over_time(found: Found) -> Figure:
    activations = [name for name in found if name != "linear"]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(len(activations), stacked=False)
        for axes, name in zip(grid, activations, strict=True):
            cells = found[name]["cells"]
            corners = [cells[0], *cells[len(cells) // 2 : len(cells) // 2 + len(cells) % 2], cells[-1]]
            for cell, look in zip(corners, shades(len(corners)), strict=True):
                label = f"alpha {cell['alpha']:g}, beta {cell['beta']:g}"
                averaged(axes, cell["epochs"], cell["curve"], **look, label=label)
            over_epochs(axes, f"{name}: weight alignment")
            axes.legend()
    figure.set_label(
        "Weight alignment of all layers at once while random targets are memorised; mean over seeds with 95 % "
        "intervals: it rises, and falls again as single samples are fitted."
    )
    return figure


STUDY = Study(
    name="targets",
    about="The better the targets are conditioned, the better DFA aligns; memorising random targets undoes some of it.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=6.0,
)
