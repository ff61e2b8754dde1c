"""Nets whose layers have positions, dense, locally connected or convolutional, otherwise alike; and their training."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import feedalign as fa
from feedalign.experiments.data.images import Samples
from feedalign.experiments.models.layers import Activation, activation
from feedalign.theory.local import Dense, LocallyConnected, Size, positions
from feedalign.theory.toeplitz import overlap

Kind = Literal["dense", "local", "convolution"]
KINDS: dict[str, Kind] = {"dense": "dense", "locally connected": "local", "convolutional": "convolution"}
Shape = tuple[int, int, int]
Optimiser = Callable[[nn.Module], torch.optim.Optimizer]


@dataclass(frozen=True)
class Spatial:
    """The shape of a net: layers with positions, then a linear readout; no biases.

    Attributes:
        shape: Of one input: channels, height, width.
        channels: Of each layer.
        kernel: Height and width, of every layer that has one. A dense layer has as many features as the others.
        strides: Of each layer.
        padding: Of every layer, with zeros.
        classes: Outputs.
        average: The readout sees the average over positions, as in residual networks, instead of every one.
    """

    shape: Shape
    channels: tuple[int, ...]
    kernel: Size
    strides: tuple[Size, ...]
    padding: Size
    classes: int
    average: bool = False

    @property
    def shapes(self) -> list[Shape]:
        """Shapes of the input and of every layer's output."""
        found = [self.shape]
        for channels, stride in zip(self.channels, self.strides, strict=True):
            found.append((channels, *positions(found[-1][1:], self.kernel, stride, self.padding)))
        return found

    @property
    def layers(self) -> list[str]:
        """Names of the layers with positions."""
        return [f"layer{i}" for i in range(1, len(self.channels) + 1)]

    @property
    def points(self) -> list[str]:
        """Names of the non-linearities behind them, where signals are delivered."""
        return [f"act{i}" for i in range(1, len(self.channels) + 1)]

    def build(self, kind: Kind, non_linearity: Activation, seed: int) -> nn.Sequential:
        """Return a net, drawn from a seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            for i, stride in enumerate(self.strides):
                parts[self.layers[i]] = self._layer(kind, i, stride)
                parts[self.points[i]] = activation(non_linearity)
            height, width = self.shapes[-1][1:]
            if self.average:
                parts["average"], height, width = nn.AvgPool2d((height, width)), 1, 1
            parts["flatten"] = nn.Flatten()
            parts["head"] = nn.Linear(self.channels[-1] * height * width, self.classes, bias=False)
            return nn.Sequential(parts)

    def _layer(self, kind: Kind, i: int, stride: Size) -> nn.Module:
        below, above = self.shapes[i : i + 2]
        if kind == "dense":
            return Dense(below, above)
        if kind == "local":
            return LocallyConnected(below, above[0], self.kernel, stride, self.padding)
        return nn.Conv2d(below[0], above[0], self.kernel, stride, self.padding, bias=False)

    def attach(self, net: nn.Module, rule: fa.Rule) -> fa.Attachment:
        """Return the rule attached to a net of this shape."""
        return fa.attach(net, rule, points=self.points)


def feedback(rule: str) -> fa.Feedback:
    """Return Gaussian feedback, a matrix a point: the theory's; repeated over positions for ``dfa-repeat``."""
    return fa.Normal(shared=False, positions="repeat" if rule == "dfa-repeat" else "flatten")


RULES: dict[str, Callable[[int], fa.Rule]] = {
    "backprop": lambda seed: fa.DFA(seed=seed, feedback=feedback("dfa")),  # turned off, but for measurements
    "dfa": lambda seed: fa.DFA(seed=seed, feedback=feedback("dfa")),
    "dfa-repeat": lambda seed: fa.DFA(seed=seed, feedback=feedback("dfa-repeat")),
    "shallow": lambda seed: fa.Shallow(),
}


@dataclass(frozen=True)
class Lesson:
    """How a net is trained.

    Attributes:
        train: What on.
        test: What its accuracy is that of.
        epochs: How often ``train`` is seen.
        batch: Samples in a step; what is left over in an epoch is left out.
        optimiser: Made for each net.
        reduction: Of the loss over a batch.
        probe: How many training samples the alignment is measured on.
        measured: In how many epochs, the first (before training) and the last among them.
    """

    train: Samples
    test: Samples
    epochs: int
    batch: int
    optimiser: Optimiser
    reduction: Literal["sum", "mean"] = "sum"
    probe: int = 500
    measured: int = 9


def teach(
    spatial: Spatial, kind: Kind, non_linearity: Activation, rule: str, seed: int, lesson: Lesson
) -> dict[str, Any]:
    """Train one net and return its accuracies (fractions), alignment over time and weight alignment with its bound.

    Args:
        spatial: Shape of the net.
        kind: Of its layers.
        non_linearity: Behind them.
        rule: ``backprop``, ``dfa``, ``dfa-repeat`` or ``shallow``.
        seed: Of weights, batches and feedback.
        lesson: The training.
    """
    net = spatial.build(kind, non_linearity, seed)
    handle = spatial.attach(net, RULES[rule](seed))
    optimiser, order = lesson.optimiser(net), torch.Generator().manual_seed(seed)
    loss = partial(cross_entropy, reduction=lesson.reduction)
    measured = {round(lesson.epochs * (i / (lesson.measured - 1)) ** 2) for i in range(lesson.measured)}
    curve = []
    for epoch in range(lesson.epochs + 1):
        if epoch in measured:
            curve.append({"epoch": epoch, **_state(net, handle, rule, lesson)})
        if epoch == lesson.epochs:
            break
        for chosen in torch.split(torch.randperm(len(lesson.train.labels), generator=order), lesson.batch):
            if len(chosen) == lesson.batch:
                batch = lesson.train.images[chosen], lesson.train.labels[chosen]
                _step(net, handle, rule, loss, *batch)
                optimiser.step()
                optimiser.zero_grad()
    weights = [] if rule == "shallow" else _weights(spatial, net, handle)
    return {"curve": curve, "weights": weights, "test_accuracy": _accuracy(net, lesson.test), **curve[-1]}


def _step(net: nn.Module, handle: fa.Attachment, rule: str, loss: Any, images: Tensor, labels: Tensor) -> None:
    if rule == "backprop":
        with handle.off():
            loss(net(images), labels).backward()
    else:
        loss(net(images), labels).backward()


def _state(net: nn.Module, handle: fa.Attachment, rule: str, lesson: Lesson) -> dict[str, Any]:
    """Return the accuracy on the training samples, and the cosine of signals with true gradients by layer."""
    images, labels = (part[: lesson.probe] for part in lesson.train)
    found = {} if rule == "shallow" else fa.alignment(handle, lambda: cross_entropy(net(images), labels), 0).points
    return {
        "train_accuracy": _accuracy(net, lesson.train),
        "alignment": [cosine.mean for cosine in found.values()],
    }


def _weights(spatial: Spatial, net: nn.Sequential, handle: fa.Attachment) -> list[dict[str, float]]:
    """Return the weight alignment of every layer between two points, and the best that its form allows."""
    assert handle.planner is not None  # the rule broadcasts
    matrices = [
        _over_positions(matrix, shape)
        for matrix, shape in zip(handle.planner.matrices(), spatial.shapes[1:], strict=True)
    ]
    found = []
    for name, below, above in zip(spatial.layers[1:], matrices, matrices[1:], strict=False):
        lies = overlap(net.get_submodule(name), below, above)
        found.append({"cosine": lies.cosine, "best": lies.best})
    return found


def _over_positions(matrix: Tensor, shape: Sequence[int]) -> Tensor:
    """Return a feedback matrix ``[C, D]`` with positions, the same at each where there is one number a channel."""
    if matrix.shape[1] == shape[0]:
        return matrix[:, :, None, None].expand(-1, *shape)
    return matrix.reshape(-1, *shape)


def _accuracy(net: nn.Module, samples: Samples) -> float:
    with torch.no_grad():
        right = [
            (net(images).argmax(1) == labels).sum()
            for images, labels in zip(*(torch.split(part, 1000) for part in samples), strict=True)
        ]
    return int(sum(right)) / len(samples.labels)
