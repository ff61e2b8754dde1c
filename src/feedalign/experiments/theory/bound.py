"""How much of random feedback a layer can look like, over shapes: the exact projection against sqrt(p / D)."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import feedalign as fa
from feedalign.experiments.styles import BLACK, BLUE, GREEN, SETTINGS, VERMILLION
from feedalign.experiments.tables import Interval, Table, interval
from feedalign.experiments.theory.study import Findings, Progress, Study
from feedalign.theory.local import LocallyConnected
from feedalign.theory.toeplitz import Freedom, freedom, matrix, overlap

LARGEST = 2**22  # numbers in what has to be written out: a matrix, or the weights of a locally connected layer


@dataclass(frozen=True)
class Shape:
    """A convolution and what it is applied to; lengths are the same in every direction.

    Attributes:
        channels: Of its input.
        length: Of its input in one direction.
        outputs: Channels of its output.
        kernel: Length in one direction.
        stride: Likewise.
        padding: Likewise, with zeros.
        groups: Of channels that do not see each other.
        directions: 1 for sequences, 2 for images.
        of: Where such a layer stands.
    """

    channels: int
    length: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1
    directions: int = 2
    of: str = ""

    @property
    def text(self) -> str:
        """Kernel, positions, and channels."""
        kernel, below = (" x ".join([str(n)] * self.directions) for n in (self.kernel, self.length))
        stride = f", stride {self.stride}" if self.stride > 1 else ""
        groups = f", {self.groups} groups" if self.groups > 1 else ""
        return f"{kernel} on {below}{stride}{groups}, {self.channels} to {self.outputs}"

    @property
    def below(self) -> tuple[int, ...]:
        """Shape of one input."""
        return self.channels, *[self.length] * self.directions

    def build(self) -> nn.Module:
        """Return the convolution."""
        form = nn.Conv1d if self.directions == 1 else nn.Conv2d
        arguments = (self.channels, self.outputs, self.kernel, self.stride, self.padding)
        return form(*arguments, groups=self.groups, bias=False)

    def unshared(self) -> LocallyConnected | None:
        """Return the layer of the same connections that shares nothing; None where it is too large, or has groups."""
        length = (self.length + 2 * self.padding - self.kernel) // self.stride + 1
        numbers = (self.channels * self.outputs) * (length * self.kernel) ** self.directions
        if self.groups > 1 or numbers > LARGEST:
            return None
        flat = self.directions == 1

        def pair(number: int, across: int) -> tuple[int, int]:  # a sequence is an image of height 1
            return (across if flat else number), number

        return LocallyConnected(
            (self.channels, *pair(self.length, 1)),
            self.outputs,
            pair(self.kernel, 1),
            pair(self.stride, 1),
            pair(self.padding, 0),
        )


SHAPES = (
    Shape(8, 16, 8, 3, directions=1),
    Shape(16, 32, 16, 5, directions=1),
    Shape(16, 16, 32, 5, 2, 2, of="our CNN for CIFAR-10, layer 2"),
    Shape(32, 8, 64, 5, 2, 2, of="our CNN for CIFAR-10, layer 3"),
    Shape(64, 32, 64, 3, 1, 1, of="ResNet-18 on 32 x 32 pixels, stage 1"),
    Shape(128, 16, 128, 3, 1, 1, of="ResNet-18 on 32 x 32 pixels, stage 2"),
    Shape(256, 8, 256, 3, 1, 1, of="ResNet-18 on 32 x 32 pixels, stage 3"),
    Shape(512, 4, 512, 3, 1, 1, of="ResNet-18 on 32 x 32 pixels, stage 4"),
    Shape(64, 16, 128, 1, of="a 1 x 1 convolution"),
    Shape(64, 16, 64, 3, 1, 1, groups=64, of="a depthwise convolution"),
    Shape(3, 32, 192, 4, 4, of="patches of a vision transformer"),
)


@dataclass(frozen=True)
class Config:
    """What is projected.

    Attributes:
        seeds: Draws of feedback.
        classes: Width of the error, ``C``.
        shapes: The convolutions.
    """

    seeds: int = 10
    classes: int = 10
    shapes: tuple[Shape, ...] = SHAPES


def measure(config: Config, progress: Progress) -> Findings:
    """Return the best cosine of every shape with feedback of several kinds, over draws, and what the law says."""
    cases = []
    for done, shape in enumerate(config.shapes):
        progress(shape.text, done, len(config.shapes))
        layer, unshared = shape.build(), shape.unshared()
        with torch.no_grad():
            above = tuple(layer(torch.zeros(1, *shape.below)).shape[1:])
        found: Freedom = freedom(layer, shape.below)
        best: dict[str, list[float]] = {name: [] for name in FEEDBACK}
        local: list[float] = []
        for seed in range(config.seeds):
            for name, draw in FEEDBACK.items():
                if (drawn := draw(shape, layer, above, config.classes, seed)) is not None:
                    best[name].append(overlap(layer, *drawn).best)
            if unshared is not None:
                drawn = independent(shape, layer, above, config.classes, seed)
                local.append(overlap(unshared, *(_as_images(each) for each in drawn)).best)
        cases.append(
            {
                "shape": shape.text,
                "of": shape.of,
                "parameters": found.parameters,
                "size": found.size,
                "law": found.bound,
                "locality": found.locality,
                "best": best,
                "locally_connected": local,
            }
        )
    progress("done", len(config.shapes), len(config.shapes))
    return {"shapes": cases}


Drawn = tuple[Tensor, Tensor]


def independent(shape: Shape, layer: nn.Module, above: tuple[int, ...], classes: int, seed: int) -> Drawn:
    """Return Gaussian feedback with numbers of its own at every position, for the points below and above."""
    return _drawn(shape.below, classes, seed, "below"), _drawn(above, classes, seed, "above")


def repeated(shape: Shape, layer: nn.Module, above: tuple[int, ...], classes: int, seed: int) -> Drawn:
    """Return Gaussian feedback that is the same at every position."""
    lower, upper = independent(shape, layer, (above[0],), classes, seed)
    first = _drawn(shape.below[:1], classes, seed, "below")
    return _spread(first, lower.shape[1:]), _spread(upper, above)


def factorised(shape: Shape, layer: nn.Module, above: tuple[int, ...], classes: int, seed: int) -> Drawn | None:
    """Return feedback whose product is the best approximation, of rank ``C``, of a random convolution.

    None where the matrix of the convolution is too large to write out.
    """
    if freedom(layer, shape.below).size > LARGEST:
        return None
    torch.manual_seed(seed)
    left, values, right = torch.linalg.svd(matrix(shape.build(), shape.below), full_matrices=False)
    roots = values[:classes].sqrt().unsqueeze(1)
    rows = len(roots)
    return (roots * right[:classes]).reshape(rows, *shape.below), (roots * left.T[:classes]).reshape(rows, *above)


def _drawn(features: tuple[int, ...], classes: int, seed: int, key: str) -> Tensor:
    flat = fa.Normal(shared=False).matrix(seed, key, classes, math.prod(features))
    return flat.double().reshape(classes, *features)


def _spread(feedback: Tensor, features: tuple[int, ...]) -> Tensor:
    return feedback.reshape(*feedback.shape, *[1] * (len(features) - 1)).expand(-1, *features)


def _as_images(feedback: Tensor) -> Tensor:
    return feedback.unsqueeze(2) if feedback.dim() == 3 else feedback


FEEDBACK: dict[str, Callable[[Shape, nn.Module, tuple[int, ...], int, int], Drawn | None]] = {
    "independent": independent,
    "repeated": repeated,
    "factorised": factorised,
}


def bound_table(record: dict[str, Any]) -> Table:
    """Return the best cosine by shape and feedback, beside the law."""
    rows = []
    for case in record["findings"]["shapes"]:
        cells = [_mean(case["best"][name], 4 if name == "independent" else 3) for name in FEEDBACK]
        rows.append(
            (case["shape"], case["of"], f"{case['parameters']:,}", f"{case['law']:.4f}", *cells[:1],
             f"{case['locality']:.3f}", _mean(case["locally_connected"], 3), *cells[1:])
        )  # fmt: skip
    config = record["config"]
    return Table(
        title="The largest cosine of a convolution's matrix with the product of two feedback matrices",
        headings=(
            *("convolution", "such as", "parameters p", "law: root of p / D", "best found"),
            *("law without sharing", "found without sharing", "feedback repeated", "feedback from an SVD"),
        ),
        rows=tuple(rows),
        notes=(
            f"Mean ± half the 95 % interval over {config['seeds']} draws of Gaussian feedback for {config['classes']} "
            "classes, by exact projection; D: entries of the matrix. A dense layer reaches 1. Feedback from an SVD: "
            "the best approximation, of rank C, of a random convolution; empty where its matrix is too large.",
        ),
        text_columns=2,
    )


def _mean(samples: list[float], digits: int) -> str:
    return interval(samples).text(digits) if samples else ""


LOOKS = {"independent": (VERMILLION, "o"), "repeated": (BLACK, "."), "factorised": (GREEN, "^")}
WORDS = {"independent": "a number for every position", "repeated": "repeated", "factorised": "from an SVD"}


def bound_picture(record: dict[str, Any]) -> Figure:
    """Return the best cosine found against the law."""
    cases = record["findings"]["shapes"]
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        axes = figure.subplots()
        lowest = min(case["law"] for case in cases)
        axes.plot([lowest, 1], [lowest, 1], color=BLUE, linewidth=1, label="law: root of p / D")
        for name, (color, marker) in LOOKS.items():
            points = [(c["law"], interval(c["best"][name])) for c in cases if c["best"][name]]
            _points(axes, points, color, marker, f"convolution, feedback {WORDS[name]}")
        unshared = [(c["law"], interval(c["locally_connected"])) for c in cases if c["locally_connected"]]
        _points(axes, unshared, BLUE, "s", "without sharing, a number for every position", markerfacecolor="none")
        axes.set(xscale="log", yscale="log", xlabel="root of p / D", ylabel="largest cosine with feedback")
        axes.legend(loc="lower right", fontsize=9)
        figure.set_label(
            "The largest cosine that a convolution's matrix can have with the product of the feedback of the points "
            "around it, against the share of the matrix that it can choose. A dense layer reaches 1."
        )
    return figure


def _points(axes: Any, points: list[tuple[float, Interval]], color: str, marker: str, name: str, **more: Any) -> None:
    across = [law for law, _ in points]
    look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": "none", "markersize": 6, **more}
    axes.plot(across, [found.mean for _, found in points], label=name, **look)


STUDY = Study(
    name="bound",
    about=(
        "On average, the matrix of a convolution can look like random feedback by no more than the root of p / D, "
        "parameters over entries: 0.003 for 3 x 3 on 32 x 32 positions. Feedback repeated over positions lifts that."
    ),
    config=Config,
    short=Config(seeds=2, shapes=(SHAPES[0], SHAPES[2], SHAPES[9])),
    measure=measure,
    tables=lambda record: [bound_table(record)],
    pictures=lambda record: {"shapes": bound_picture(record)},
    minutes=1.0,
)
