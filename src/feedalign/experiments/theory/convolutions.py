"""Why convolutions fail under DFA: dense, locally connected and convolutional nets side by side."""

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from feedalign.experiments.data import DataConfig, load
from feedalign.experiments.data.images import Samples
from feedalign.experiments.models.layers import Activation
from feedalign.experiments.theory.convolution_pictures import alignment_picture, weights_picture
from feedalign.experiments.theory.convolution_tables import alignment_table, weights_table
from feedalign.experiments.theory.spatial import KINDS, RULES, Lesson, Spatial, teach
from feedalign.experiments.theory.study import Findings, Progress, Study


@dataclass(frozen=True)
class Motif:
    """A small task for which sharing is the right idea: which motif stands somewhere in a noisy sequence.

    Attributes:
        activation: The non-linearity of the nets.
        rate: Of learning, over the root of the number of positions for weights that are shared over them.
        classes: Motifs, drawn once from N(0, 1).
        length: Of a sequence.
        motif: Length of a motif; its place is uniform.
        noise: Standard deviation of the noise.
        samples: Training sequences.
        tests: Further ones.
        channels: Of each of the layers, whose kernels are ``kernel`` long, with stride 1 and no padding.
        kernel: See there.
        epochs: Of plain SGD on the sum of the cross-entropy over a batch.
        batch: Sequences in a step.
        data_seed: Of motifs and sequences, the same for all nets.
    """

    activation: Activation = "tanh"
    rate: float = 1e-2
    classes: int = 6
    length: int = 20
    motif: int = 7
    noise: float = 0.3
    samples: int = 1000
    tests: int = 2000
    channels: tuple[int, ...] = (8, 8, 8)
    kernel: int = 5
    epochs: int = 40
    batch: int = 32
    data_seed: int = 0


@dataclass(frozen=True)
class Photographs:
    """CIFAR-10 at 16 x 16 pixels, the readout on averages over positions, as practical networks have it.

    Attributes:
        activation: The non-linearity of the nets.
        samples: Training images.
        tests: Test images.
        channels: Of each of the layers, 3 x 3 with padding 1.
        strides: Likewise.
        epochs: Of Adam on the mean of the cross-entropy over a batch.
        batch: Images in a step.
        rate: Of learning, the same for all nets and rules; not tuned.
    """

    activation: Activation = "tanh"
    samples: int = 10_000
    tests: int = 5_000
    channels: tuple[int, ...] = (16, 32, 64)
    strides: tuple[int, ...] = (2, 2, 1)
    epochs: int = 4
    batch: int = 64
    rate: float = 3e-3


@dataclass(frozen=True)
class Config:
    """What is trained.

    Attributes:
        seeds: Of weights, batches and feedback.
        motifs: The small task, by non-linearity; ReLU units die at the rate that suits tanh.
        photographs: The images.
    """

    seeds: int = 5
    motifs: tuple[Motif, ...] = (Motif(), Motif("relu", 3e-3))
    photographs: tuple[Photographs, ...] = (Photographs(),)


def measure(config: Config, progress: Progress) -> Findings:
    """Train every net with every rule and return accuracies, alignment over time, and weight alignment."""
    tasks = [*map(_motif, config.motifs), *map(_photographs, config.photographs)]
    total = len(tasks) * len(KINDS) * len(RULES) * config.seeds
    runs: list[dict[str, Any]] = []
    for task, activation, spatial, lesson in tasks:
        for seed in range(config.seeds):
            for words, kind in KINDS.items():
                for rule in RULES:
                    progress(f"{task} {activation}, {words}, {rule}", len(runs), total)
                    found = teach(spatial, kind, activation, rule, seed, lesson)
                    runs.append(
                        {"task": task, "activation": activation, "net": words, "rule": rule, "seed": seed, **found}
                    )
    progress("done", total, total)
    return {"runs": runs}


Part = tuple[str, Activation, Spatial, Lesson]


def _motif(config: Motif) -> Part:
    strides = ((1, 1),) * len(config.channels)
    spatial = Spatial((1, 1, config.length), config.channels, (1, config.kernel), strides, (0, 0), config.classes)
    generator = torch.Generator().manual_seed(config.data_seed)
    motifs = torch.randn(config.classes, config.motif, generator=generator)

    def draw(count: int) -> Samples:
        labels = torch.randint(config.classes, (count,), generator=generator)
        starts = torch.randint(config.length - config.motif + 1, (count,), generator=generator)
        sequences = config.noise * torch.randn(count, config.length, generator=generator)
        sequences.scatter_add_(1, starts[:, None] + torch.arange(config.motif), motifs[labels])
        return Samples(sequences[:, None, None, :], labels)

    optimiser = partial(_sgd, spatial, config.rate)
    lesson = Lesson(draw(config.samples), draw(config.tests), config.epochs, config.batch, optimiser, "sum")
    return "motif", config.activation, spatial, lesson


def _sgd(spatial: Spatial, rate: float, net: nn.Module) -> torch.optim.Optimizer:
    shared = {
        f"{name}.weight": math.prod(shape[1:])
        for name, shape in zip(spatial.layers, spatial.shapes[1:], strict=True)
        if isinstance(net.get_submodule(name), nn.Conv2d)
    }
    groups = [{"params": [p], "lr": rate / math.sqrt(shared.get(name, 1))} for name, p in net.named_parameters()]
    return torch.optim.SGD(groups)


def _photographs(config: Photographs) -> Part:
    data = load(DataConfig(name="cifar10", limit=config.samples))
    train, test = (
        Samples(avg_pool2d(part.images[:count], 2), part.labels[:count])
        for part, count in ((data.train, config.samples), (data.test, config.tests))
    )
    strides = tuple((stride, stride) for stride in config.strides)
    shape = (data.shape[0], data.shape[1] // 2, data.shape[2] // 2)
    spatial = Spatial(shape, config.channels, (3, 3), strides, (1, 1), data.classes, average=True)
    lesson = Lesson(train, test, config.epochs, config.batch, partial(_adam, config.rate), "mean", measured=5)
    return "CIFAR-10", config.activation, spatial, lesson


def _adam(rate: float, net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), rate)


STUDY = Study(
    name="convolutions",
    about=(
        "Convolutions hardly align under DFA, since no shared weights can look like random feedback; feedback repeated "
        "over positions repairs most of it, so sharing is the cause, more than locality."
    ),
    config=Config,
    short=Config(seeds=2, motifs=(Motif(epochs=8, samples=600, tests=300),), photographs=()),
    measure=measure,
    tables=lambda record: [alignment_table(record), weights_table(record)],
    pictures=lambda record: {"alignment": alignment_picture(record), "weights": weights_picture(record)},
    minutes=9.0,
)
