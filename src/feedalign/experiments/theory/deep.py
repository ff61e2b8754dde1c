"""Deep non-linear networks: which layers align first, and does memorising undo it?"""

from dataclasses import dataclass
from statistics import fmean
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.styles import SETTINGS, style
from feedalign.experiments.tables import Table, interval
from feedalign.experiments.theory.draw import averaged, over_epochs, shades, spread
from feedalign.experiments.theory.history import Schedule, Task, counted, history, seed_similarity
from feedalign.experiments.theory.images import small_images
from feedalign.experiments.theory.nets import Activation, Ensemble, Net
from feedalign.experiments.theory.shallow import share
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.experiments.theory.summary import ordered, summarise

Found = dict[str, Any]
TEACHER = "teacher"


@dataclass(frozen=True)
class Case:
    """What is learned.

    Attributes:
        data: A data set of images, or ``"teacher"``: normal inputs in 50 dimensions, and as their labels the largest
            of ten outputs of a random ReLU network.
        activation: Of the net.
        samples: To train on.
        epochs: How long.
        rate: Of learning, a sample.
    """

    data: str
    activation: Activation = "tanh"
    samples: int = 1000
    epochs: int = 300
    rate: float = 2e-3

    @property
    def name(self) -> str:
        """In words."""
        return f"{self.data}, {self.activation}"


@dataclass(frozen=True)
class Config:
    """What to train.

    Attributes:
        seeds: Of first weights and batches; the feedback is one for all.
        cases: What is learned.
        depth: Number of weight matrices.
        width: Of the hidden layers.
        looks: How often the nets are looked at.
    """

    seeds: int = 5
    cases: tuple[Case, ...] = (
        Case(TEACHER, "tanh", samples=2000, epochs=400, rate=1e-3),
        Case(TEACHER, "relu", samples=2000, epochs=400, rate=1e-3),
        Case("mnist", "tanh"),
        Case("mnist", "relu", rate=1e-3),
        Case("cifar10", "tanh"),
        Case("cifar10", "relu", rate=1e-3),
    )
    depth: int = 5
    width: int = 64
    looks: int = 45


SHORT = Config(seeds=2, cases=(Case("digits", samples=300, epochs=20, rate=5e-3),), looks=12)


def entropy(z: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy, summed over samples."""
    return F.cross_entropy(z, y, reduction="sum")


def teacher(samples: int, inputs: int = 50, classes: int = 10, tested: int = 2000) -> tuple[Tensor, ...]:
    """Return ``x``, ``y`` and as many as are tested of both; the same in every call."""
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(100, inputs, generator=generator), torch.randn(classes, 100, generator=generator)
    x = torch.randn(samples + tested, inputs, generator=generator)
    # Centred units, or one class would win for nearly all inputs.
    hidden = F.relu(x @ first.T / inputs**0.5)
    labels = ((hidden - hidden.mean(0)) @ second.T).argmax(1)
    return x[:samples], labels[:samples], x[samples:], labels[samples:]


def learned(case: Case, nets: int) -> Task:
    """Return what a case's nets learn."""
    if case.data == TEACHER:
        x, y, *test = teacher(case.samples)
        return Task(entropy, x, y.expand(nets, -1), (test[0], test[1]))
    data = small_images(case.data, case.samples)
    return Task(entropy, data.inputs, data.labels.expand(nets, -1), (data.test_inputs, data.test_labels))


def measure(config: Config, progress: Progress) -> Found:
    """Return, by case and rule, the curves of alignment, the moments of every seed, and the similarity of seeds."""
    found = []
    for case in config.cases:
        rules = {}
        for rule in ("dfa", "backprop"):
            task = learned(case, config.seeds)
            net = Net(task.inputs.shape[-1], config.width, 10, config.depth, case.activation)
            ensemble = Ensemble(net, range(config.seeds), backprop=rule == "backprop")
            told = counted(progress, f"{case.name}, {rule}")
            curves = history(ensemble, task, Schedule(case.epochs, case.rate, looks=config.looks), told)
            (similarity,) = seed_similarity(ensemble, [range(config.seeds)])
            rules[rule] = {**summarise(curves, f"{case.name}, {rule}"), "similarity": similarity}
        found.append({"name": case.name, "data": case.data, "activation": case.activation, **rules})
    return {"cases": found}


def tables(record: Written) -> list[Table]:
    """Return when layers align, and what becomes of the alignment."""
    return [_orders(record), _peaks(record)]


def _orders(record: Written) -> Table:
    cases, depth, n = record["findings"]["cases"], record["config"]["depth"], record["config"]["seeds"]
    rows = []
    for case in cases:
        for what, word, first in (("weight_alignment", "weights", 2), ("gradient_alignment", "gradient", 1)):
            halves = case["dfa"]["half"][what]
            cells = [""] * (first - 1) + [spread(list(layer), 1) for layer in zip(*halves, strict=True)]
            inner = [row[: depth - 2] if first == 2 else row for row in halves]  # not the readout
            right = share(sum(ordered(row) for row in inner), len(inner))
            ends = share(sum(_first(row) for row in inner), len(inner))
            rows.append((case["name"], word, *cells, *[""] * (depth - first + 1 - len(halves[0])), right, ends))
    layers = [f"layer {layer}" for layer in range(1, depth)] + [f"{depth}: readout"]
    return Table(
        title="Epochs until the alignment of a layer is half of its maximum",
        headings=("learned", "of", *layers, "strictly from bottom to top", "lowest before highest"),
        rows=tuple(rows),
        notes=(
            f"Mean and 95 % interval over {n} seeds of one feedback; the shares of seeds with their 95 % intervals. "
            "The readout learns by its true gradient and is not part of the order.",
        ),
        text_columns=2,
    )


def _first(halves: list[float | None]) -> bool:
    low, high = halves[0], halves[-1]
    return low is not None and (high is None or low < high)


def _peaks(record: Written) -> Table:
    rows = []
    for case in record["findings"]["cases"]:
        for what, word in (
            ("weight", "weights"),
            ("gradient", "gradients"),
            ("batch", "gradient of layer 1's weights"),
        ):
            seeds = [seed[what] for seed in case["dfa"]["phases"]]
            falls = [seed["peak_alignment"] - seed["final_alignment"] for seed in seeds if seed["peak_alignment"]]
            rows.append(
                (
                    case["name"],
                    word,
                    spread([seed["peak_time"] for seed in seeds], 0),
                    spread([seed["peak_alignment"] for seed in seeds], 3),
                    spread([seed["final_alignment"] for seed in seeds], 3),
                    interval(falls).text(3) if falls else "",
                    spread([seed["half_time"] for seed in seeds], 0),
                    spread([final["accuracy"] for final in case["dfa"]["finals"]], 3),
                    *(f"{fmean(case[rule]['similarity']):.2f}" for rule in ("dfa", "backprop")),
                )
            )
    epochs = ", ".join(f"{case['name']}: {case['dfa']['epochs'][-1]:g}" for case in record["findings"]["cases"])
    return Table(
        title="Align, then memorise: whether the alignment has a peak that memorising undoes",
        headings=(
            *("learned", "alignment of", "epoch of peak", "there", "in the end", "fall", "epoch of half the loss"),
            *("training accuracy", "cosine of two seeds", "with backprop"),
        ),
        rows=tuple(rows),
        notes=(
            f"Epochs: {epochs}. Mean and 95 % interval over seeds; a seed without a peak still rises or has levelled "
            "off in the end. Weights and gradients: of all layers at once, gradients by sample.",
        ),
        text_columns=2,
    )


def pictures(record: Written) -> dict[str, Figure]:
    """Return alignment by layer over time, and the totals of both rules."""
    cases = record["findings"]["cases"]
    return {"deep-layers": _layers(cases), "deep-totals": _totals(cases)}


def _layers(cases: list[Found]) -> Figure:
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2 * len(cases), stacked=False, columns=2, height=2.7)
        for (weights, gradients), case in zip(zip(grid[::2], grid[1::2], strict=True), cases, strict=True):
            run = case["dfa"]
            looks = shades(len(run["gradient_alignment"]) + 1)
            for i, curve in enumerate(run["weight_alignment"], start=1):
                averaged(weights, run["epochs"], curve, **looks[i], label=_layer(i, len(looks)))
            for i, curve in enumerate(run["gradient_alignment"]):
                averaged(gradients, run["epochs"], curve, **looks[i], label=_layer(i, len(looks)))
            over_epochs(weights, f"{case['name']}: weights")
            over_epochs(gradients, f"{case['name']}: gradients")
        names = labelled(grid)
        order = sorted(names)
        figure.legend([names[name] for name in order], order, loc="outside lower center", ncols=5)
    figure.set_label(
        "Cosine of each layer's weights with the feedback, and of the gradients at its output with backpropagation's; "
        "mean over seeds with 95 % intervals. The lowest layer is dark. Layers align from the bottom to the top; the "
        "readout learns by its true gradient."
    )
    return figure


def _layer(i: int, layers: int) -> str:
    return f"layer {i + 1}" + (" (readout)" if i == layers - 1 else "")


def _totals(cases: list[Found]) -> Figure:
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2 * len(cases), stacked=False, columns=2, height=2.7)
        for (angles, errors), case in zip(zip(grid[::2], grid[1::2], strict=True), cases, strict=True):
            for rule, name in (("dfa", "DFA"), ("backprop", "Backprop")):
                run, line = case[rule], style(rule)
                averaged(
                    angles, run["epochs"], run["weight_alignment_total"], **line, label=f"{name}, alignment of weights"
                )
                if rule == "dfa":
                    thin = {**line, "linestyle": ":"}
                    averaged(
                        angles, run["epochs"], run["gradient_alignment_total"], **thin, label=f"{name}, of gradients"
                    )
                averaged(errors, run["epochs"], run["loss"], **line)
            over_epochs(angles, f"{case['name']}: alignment")
            over_epochs(errors, f"{case['name']}: training loss")
        names = labelled(grid)
        figure.legend(list(names.values()), list(names), loc="outside lower center", ncols=3)
    figure.set_label(
        "Alignment of all layers at once, and the training loss; mean over seeds with 95 % intervals. A peak of "
        "the alignment is what memorising would leave behind. Weights that learn by backpropagation do not align."
    )
    return figure


STUDY = Study(
    name="deep",
    about="Deep non-linear nets align from the bottom to the top; whether memorising undoes it depends on the task.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=8.0,
)
