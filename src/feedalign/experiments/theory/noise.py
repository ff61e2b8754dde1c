"""Label noise: how much later do deep nets align, and less well, when training labels are drawn at random?"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure

from feedalign.experiments.panels import labelled, panels
from feedalign.experiments.styles import SETTINGS
from feedalign.experiments.tables import Table, interval
from feedalign.experiments.theory.deep import entropy
from feedalign.experiments.theory.draw import averaged, over_epochs, reached, shades, spread
from feedalign.experiments.theory.history import Curve, Schedule, Task, counted, history
from feedalign.experiments.theory.images import small_images
from feedalign.experiments.theory.nets import Activation, Ensemble, Net
from feedalign.experiments.theory.shallow import share
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.experiments.theory.summary import summarise

Found = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What to train.

    Attributes:
        seeds: Of first weights, batches and noise; the feedback is one for all.
        data: Data sets of images.
        shares: Of training labels that are drawn anew, uniformly over all classes. Test labels stay true.
        activation: Of the nets.
        depth: Number of weight matrices.
        width: Of the hidden layers.
        samples: To train on.
        epochs: How long.
        rate: Of learning, a sample.
        looks: How often the nets are looked at.
        level: The gradient alignment whose first passing is noted.
    """

    seeds: int = 5
    data: tuple[str, ...] = ("mnist", "cifar10")
    shares: tuple[float, ...] = (0.0, 0.1, 0.2, 0.5, 0.9)
    activation: Activation = "tanh"
    depth: int = 3
    width: int = 64
    samples: int = 2000
    epochs: int = 200
    rate: float = 2e-3
    looks: int = 40
    level: float = 0.3


SHORT = Config(
    seeds=2, data=("digits",), shares=(0.0, 0.9), samples=300, epochs=30, rate=5e-3, looks=12, level=0.2
)  # fmt: skip


def measure(config: Config, progress: Progress) -> Found:
    """Return, by data set and share, the curves and how long every seed took to align."""
    return {"data": [{"name": name, "shares": _shares(config, name, progress)} for name in config.data]}


def _shares(config: Config, name: str, progress: Progress) -> list[Found]:
    data = small_images(name, config.samples)
    pairs = [(share, seed) for share in config.shares for seed in range(config.seeds)]
    # The seed decides which labels are drawn anew: those of a smaller share are among those of a larger one.
    labels = torch.stack([data.corrupted(share, seed) for share, seed in pairs])
    task = Task(entropy, data.inputs, labels, (data.test_inputs, data.test_labels))
    net = Net(data.inputs.shape[1], config.width, data.classes, config.depth, config.activation)
    ensemble = Ensemble(net, [seed for _, seed in pairs])
    schedule = Schedule(config.epochs, config.rate, looks=config.looks)
    curves = history(ensemble, task, schedule, counted(progress, name))
    found = []
    for i, level in enumerate(config.shares):
        own = curves[i * config.seeds : (i + 1) * config.seeds]
        summed = summarise(own, f"{name}, {level:.0%} of the labels drawn anew")
        found.append({"share": level, "aligned": [_aligned(curve, config.level) for curve in own], **summed})
    return found


def _aligned(curve: Curve, level: float) -> float | None:
    return reached(curve["epochs"], curve["gradient_alignment_total"], level)


def tables(record: Written) -> list[Table]:
    """Return when and how well nets align, by share of labels drawn anew."""
    config, rows = record["config"], []
    for data in record["findings"]["data"]:
        clean = data["shares"][0]
        for found in data["shares"]:
            highest = max(found["gradient_alignment_total"]["mean"])
            rows.append(
                (
                    data["name"],
                    f"{found['share']:.0%}",
                    spread(found["aligned"], 1),
                    _later(found["aligned"], clean["aligned"]) if found is not clean else "",
                    f"{highest:.3f}",
                    *(_final(found, what) for what in FINALS),
                )
            )
    return [
        Table(
            title="Alignment under label noise",
            headings=(
                *("data", "drawn anew", f"epochs to gradient alignment {config['level']:g}", "later than clean"),
                *("gradient alignment: highest mean", "in the end", "weight alignment in the end"),
                *("training accuracy", "test accuracy"),
            ),
            rows=tuple(rows),
            notes=(
                f"{config['depth']} weight matrices, {config['activation']}, {config['samples']:,} samples, "
                f"{config['epochs']} epochs. Mean and 95 % interval over {config['seeds']} seeds of one feedback; "
                "later: the difference by seed. Training accuracy is on the noisy labels, test accuracy on true ones.",
            ),
            text_columns=2,
        ),
        Table(
            title="Does more noise always mean later alignment?",
            headings=("data", "seeds in which each share aligns later than the one before"),
            rows=tuple((data["name"], _always(data["shares"])) for data in record["findings"]["data"]),
        ),
    ]


FINALS = ("gradient_alignment_total", "weight_alignment_total", "accuracy", "test_accuracy")


def _final(found: Found, what: str) -> str:
    return interval([final[what] for final in found["finals"]]).text(3)


def _later(noisy: list[float | None], clean: list[float | None]) -> str:
    differences = [b - a for a, b in zip(clean, noisy, strict=True) if a is not None and b is not None]
    return interval(differences).text(1) if differences else ""


def _always(shares: list[Found]) -> str:
    seeds = list(zip(*(found["aligned"] for found in shares), strict=True))
    return share(sum(increasing(seed) for seed in seeds), len(seeds))


def increasing(times: tuple[float | None, ...]) -> bool:
    """Return whether each time is later than the one before; never is later than ever."""
    numbers = [float("inf") if time is None else time for time in times]
    return all(a < b for a, b in pairwise(numbers))


def pictures(record: Written) -> dict[str, Figure]:
    """Return alignment over time, a line a share of labels drawn anew."""
    found = record["findings"]["data"]
    with mpl.rc_context(SETTINGS):
        figure, grid = panels(2 * len(found), stacked=False, columns=2, height=2.9)
        for (weights, gradients), data in zip(zip(grid[::2], grid[1::2], strict=True), found, strict=True):
            for case, look in zip(data["shares"], shades(len(data["shares"])), strict=True):
                name = f"{case['share']:.0%}"
                averaged(weights, case["epochs"], case["weight_alignment_total"], **look, label=name)
                averaged(gradients, case["epochs"], case["gradient_alignment_total"], **look, label=name)
            over_epochs(weights, f"{data['name']}: weight alignment")
            over_epochs(gradients, f"{data['name']}: gradient alignment")
        names = labelled(grid)
        figure.legend(
            list(names.values()), list(names), loc="outside lower center", ncols=5, title="training labels drawn anew"
        )
    figure.set_label(
        "Alignment of all layers at once; mean over seeds with 95 % intervals. The more training labels are drawn at "
        "random, the later the net aligns."
    )
    return {"noise": figure}


STUDY = Study(
    name="noise",
    about="Label noise delays alignment.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=4.0,
)
