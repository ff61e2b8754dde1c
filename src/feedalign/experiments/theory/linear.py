"""Deep linear networks: do nets of the library follow the exact modes, and does conditioning decide how they align?"""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

import feedalign as fa
from feedalign.experiments.panels import panels
from feedalign.experiments.styles import SETTINGS
from feedalign.experiments.tables import Table
from feedalign.experiments.theory.draw import shades
from feedalign.experiments.theory.nets import Net
from feedalign.experiments.theory.shallow import mean, rounded
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.theory import linear, modes

Found = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What to train; all full-batch on white inputs, in float64.

    Attributes:
        seeds: Of feedback (and of random first weights), over which intervals are.
        modes: Singular values of ``E[y x^T]``.
        depths: Numbers of weight matrices.
        width: Of the hidden layers.
        conditions: Condition numbers of ``E[y x^T]`` over which alignment is followed.
        rate: Of learning.
        until: Rate times steps at the end.
        sigma: Standard deviation of the small random weights that layers grow out of.
        onset_depth: Of the nets that start there.
        onset_width: Of their hidden layers.
    """

    seeds: int = 5
    modes: tuple[float, ...] = (2.0, 1.5, 1.0, 0.7, 0.4)
    depths: tuple[int, ...] = (2, 3, 4)
    width: int = 40
    conditions: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0, 16.0)
    rate: float = 0.02
    until: float = 12.0
    sigma: float = 0.01
    onset_depth: int = 5
    onset_width: int = 60


SHORT = Config(seeds=2, depths=(3,), conditions=(1.0, 4.0), until=8.0, onset_depth=4)


def measure(config: Config, progress: Progress) -> Found:
    """Return predicted and measured alignment by depth, over condition numbers, and the onsets of layers."""
    total = len(config.depths) + len(config.conditions) + 1
    curves, conditions = [], []
    for i, depth in enumerate(config.depths):
        progress(f"{depth} weight matrices", i, total)
        curves.append(_followed(config, depth))
    for i, condition in enumerate(config.conditions):
        progress(f"condition number {condition:g}", len(config.depths) + i, total)
        conditions += [_conditioned(config, condition, depth) for depth in config.depths]
    progress("onsets", total - 1, total)
    onsets = _onsets(config)
    progress("done", total, total)
    return {"curves": curves, "conditions": conditions, "onsets": onsets}


def _half_square(z: Tensor, y: Tensor) -> Tensor:
    return (z - y).square().sum() / (2 * len(y))


class _Run:
    """A net on white inputs, whose targets have given singular values."""

    def __init__(self, net: Net, s: tuple[float, ...], feedback: fa.Feedback, seed: int, scale: float = 0.0) -> None:
        self.net = net
        self.model = net.build(seed, scale).double()
        self.handle = fa.attach(self.model, fa.DFA(seed=seed, feedback=feedback), points=net.points)
        self.x = len(s) ** 0.5 * torch.eye(len(s), dtype=torch.float64)  # E[x x^T] = I
        self.y = self.x * torch.tensor(s, dtype=torch.float64)

    def steps(self, rate: float, count: int) -> None:
        optimizer = torch.optim.SGD(self.model.parameters(), lr=rate)
        for _ in range(count):
            _half_square(self.model(self.x), self.y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()

    def weight_alignment(self) -> list[float]:
        return list(fa.weight_alignment(self.handle).values())

    def matrices(self) -> tuple[linear.Matrices, linear.Matrices]:
        """Return the alignment matrices, as the weights show them, and the Gram matrices of the feedback."""
        assert self.handle.planner is not None
        B = [matrix.numpy() for matrix in self.handle.planner.matrices()]
        weights = [_numpy(module) for module in self.model.children() if isinstance(module, nn.Linear)]
        return linear.recovered(weights, B), linear.grams(B)

    def gradient_alignment(self) -> list[float]:
        return linear.gradient_alignment(*self.matrices())


def _numpy(layer: nn.Linear) -> linear.Array:
    found: linear.Array = layer.weight.detach().numpy().copy()
    return found


def _followed(config: Config, depth: int) -> Found:
    """Return weight alignment over time: of the modes, with orthonormal feedback, and with random feedback."""
    s, net = config.modes, Net(len(config.modes), config.width, len(config.modes), depth, "linear")
    counts = np.unique(np.geomspace(5, config.until / config.rate, 25).round().astype(int))
    times = (config.rate * counts).tolist()
    predicted = modes.dynamics(s, depth, times)
    trained = {}
    for name, feedback in (("orthonormal", fa.Orthogonal(shared=False)), ("uniform", fa.Uniform(shared=False))):
        rows, ends = [], []
        for seed in range(config.seeds):
            run, before, curve = _Run(net, s, feedback, seed), 0, []
            for count in counts:
                run.steps(config.rate, int(count) - before)
                before = int(count)
                curve.append(run.weight_alignment())
            rows.append(curve)
            ends.append(run.gradient_alignment())
        trained[name] = {"weight_alignment": rounded(np.array(rows)), "gradient_alignment": rounded(np.array(ends))}
    return {
        "depth": depth,
        "times": rounded(times),
        "predicted": rounded(np.array([[modes.spread(layer, 1.0) for layer in moment[1:]] for moment in predicted])),
        "early": rounded(modes.early_weight_alignment(s, depth)),
        "final_weight": rounded(modes.final_weight_alignment(s, depth)),
        "final_gradient": rounded(modes.final_gradient_alignment(s, depth)),
        **trained,
    }


def _conditioned(config: Config, condition: float, depth: int) -> Found:
    """Return the gradient alignment of the bottom layer in the end, for modes that span a condition number."""
    s = tuple(np.geomspace(1, 1 / condition, len(config.modes)).tolist())
    net = Net(len(s), config.width, len(s), depth, "linear")
    measured, floors = [], []
    for seed in range(config.seeds):
        run = _Run(net, s, fa.Orthogonal(shared=False), seed)
        run.steps(config.rate, int(4 * condition**0.5 * config.until / config.rate))
        A, G = run.matrices()
        measured.append(linear.gradient_alignment(A, G)[0])
        floors.append(linear.worst_cosine(linear.condition_number(linear.backward_matrices(A, G)[0])))
    return {
        "depth": depth,
        "condition": condition,
        "predicted": modes.final_gradient_alignment(s, depth)[0],
        "measured": rounded(measured),
        "worst_direction": rounded(floors),
    }


def _onsets(config: Config) -> list[Found]:
    """Return the ``a_1`` at which each hidden weight matrix has a cosine of 1/sqrt(2), growing out of noise."""
    outputs = len(config.modes)
    net = Net(outputs, config.onset_width, outputs, config.onset_depth, "linear")
    layers = range(2, config.onset_depth)
    found: dict[int, list[float]] = {layer: [] for layer in layers}
    for seed in range(config.seeds):
        run = _Run(net, (1.0,) * outputs, fa.Orthogonal(shared=False), seed, config.sigma)
        crossed: dict[int, float] = {}
        for _ in range(int(4 / 0.01)):
            run.steps(0.01, 1)
            first = float(np.trace(run.matrices()[0][0])) / outputs
            for layer, cosine in zip(layers, run.weight_alignment(), strict=False):
                if cosine >= 0.5**0.5:
                    crossed.setdefault(layer, first)
            if len(crossed) == len(layers):
                break
        for layer, value in crossed.items():
            found[layer].append(value)
    return [
        {
            "layer": layer,
            "predicted": modes.onset(layer, config.sigma, config.onset_width, outputs),
            "measured": rounded(found[layer]),
        }
        for layer in layers
    ]


def tables(record: Written) -> list[Table]:
    """Return end points by depth and layer, and the onsets."""
    found, n = record["findings"], record["config"]["seeds"]
    rows = []
    for case in found["curves"]:
        for i in range(case["depth"] - 1):
            cells = [str(case["depth"]), str(i + 2), f"{case['final_weight'][i]:.4f}"]
            cells += [mean([seed[-1][i] for seed in case[kind]["weight_alignment"]], 4) for kind in KINDS]
            cells += [str(i + 1), f"{case['final_gradient'][i]:.4f}"]
            cells += [mean([seed[i] for seed in case[kind]["gradient_alignment"]], 4) for kind in KINDS]
            rows.append(tuple(cells))
    ends = Table(
        title="Deep linear networks at the end of learning: alignment predicted by the modes, and reached in training",
        headings=(
            *("matrices", "weights of layer", "predicted", "orthonormal feedback", "uniform feedback"),
            *("gradient of layer", "predicted", "orthonormal feedback", "uniform feedback"),
        ),
        rows=tuple(rows),
        notes=(f"Mean and 95 % interval over {n} seeds of the feedback. The prediction is for orthonormal feedback.",),
    )
    starts = Table(
        title="The first layer's size when a hidden layer grows out of its random start",
        headings=("layer", "predicted", "measured"),
        rows=tuple((str(e["layer"]), f"{e['predicted']:.3f}", mean(e["measured"], 3)) for e in found["onsets"]),
        notes=(f"In units in which the targets have size 1; mean and 95 % interval over {n} seeds.",),
    )
    return [ends, starts]


KINDS = ("orthonormal", "uniform")


def pictures(record: Written) -> dict[str, Figure]:
    """Return alignment over time against the modes, and in the end against the condition number."""
    with mpl.rc_context(SETTINGS):
        figure, (left, right) = panels(2, stacked=False)
        _draw_curves(left, record["findings"]["curves"][-1])
        _draw_conditions(right, record["findings"]["conditions"])
    figure.set_label(
        "Left: lines are the exact modes, marks are nets trained through the library (mean over seeds). Alignment "
        "improves while the net learns, and lower layers align best. Right: the worse the targets are conditioned, the "
        "worse the bottom layer's gradient aligns in the end, and the more so the deeper the net."
    )
    return {"linear": figure}


def _draw_curves(axes: Axes, case: Found) -> None:
    measured = np.mean(case["orthonormal"]["weight_alignment"], axis=0)
    for i, look in enumerate(shades(case["depth"] - 1)):
        axes.plot(case["times"], [row[i] for row in case["predicted"]], **look, label=f"layer {i + 2}")
        axes.plot(case["times"], measured[:, i], "o", color=look["color"], markersize=4)
    axes.set_xscale("log")
    axes.set(title=f"Weight alignment, {case['depth']} weight matrices", xlabel="time (rate times steps)")
    axes.legend()


def _draw_conditions(axes: Axes, cases: list[Found]) -> None:
    depths = list(dict.fromkeys(case["depth"] for case in cases))
    for depth, look in zip(depths, shades(len(depths)), strict=True):
        own = [case for case in cases if case["depth"] == depth]
        x = [case["condition"] for case in own]
        axes.plot(x, [case["predicted"] for case in own], **look, label=f"{depth} weight matrices")
        axes.plot(x, [np.mean(case["measured"]) for case in own], "o", color=look["color"], markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_xticks(x, [f"{value:g}" for value in x])
    axes.set(title="Gradient alignment of layer 1 in the end", xlabel="condition number of E[y x$^T$]")
    axes.legend()


STUDY = Study(
    name="linear",
    about="Deep linear networks align as their exact modes say: conditioning decides, and the bottom comes first.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=1.0,
)
