"""Width: how wide must the layers of a deep net be to align?"""

from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from feedalign.experiments.panels import panels
from feedalign.experiments.styles import SETTINGS, style
from feedalign.experiments.tables import Table, interval
from feedalign.experiments.theory.deep import entropy
from feedalign.experiments.theory.draw import averaged, over_epochs, shades, spread
from feedalign.experiments.theory.history import Schedule, Task, counted, history
from feedalign.experiments.theory.images import small_images
from feedalign.experiments.theory.nets import Activation, Ensemble, Net
from feedalign.experiments.theory.study import Progress, Study, Written
from feedalign.experiments.theory.summary import summarise

Found = dict[str, Any]


@dataclass(frozen=True)
class Config:
    """What to train.

    Attributes:
        seeds: Of first weights and batches; the feedback is one for all of a width.
        data: A data set of images.
        widths: Of the hidden layers.
        activation: Of the nets.
        depth: Number of weight matrices.
        samples: To train on.
        epochs: How long.
        rate: Of learning, a sample.
        looks: How often the nets are looked at.
    """

    seeds: int = 5
    data: str = "mnist"
    widths: tuple[int, ...] = (5, 10, 20, 40, 80, 160, 320)
    activation: Activation = "tanh"
    depth: int = 3
    samples: int = 2000
    epochs: int = 100
    rate: float = 2e-3
    looks: int = 30


SHORT = Config(seeds=2, data="digits", widths=(5, 40), samples=300, epochs=20, rate=5e-3, looks=10)
RULES = ("dfa", "backprop")


def measure(config: Config, progress: Progress) -> Found:
    """Return, by width and rule, the curves of alignment and how training ended."""
    data = small_images(config.data, config.samples)
    found = []
    for width in config.widths:
        rules = {}
        for rule in RULES:
            net = Net(data.inputs.shape[1], width, data.classes, config.depth, config.activation)
            ensemble = Ensemble(net, range(config.seeds), backprop=rule == "backprop")
            labels = data.labels.expand(config.seeds, -1)
            task = Task(entropy, data.inputs, labels, (data.test_inputs, data.test_labels))
            schedule = Schedule(config.epochs, config.rate, looks=config.looks)
            told = counted(progress, f"width {width}, {rule}")
            rules[rule] = summarise(history(ensemble, task, schedule, told), f"width {width}, {rule}")
        found.append({"width": width, **rules})
    return {"classes": data.classes, "widths": found}


def tables(record: Written) -> list[Table]:
    """Return the alignment in the end, and the accuracy of both rules, by width."""
    config, rows = record["config"], []
    for found in record["findings"]["widths"]:
        ends = {rule: found[rule]["finals"] for rule in RULES}
        rows.append(
            (
                str(found["width"]),
                *(interval([end[what] for end in ends["dfa"]]).text(3) for what in ALIGNED),
                *(spread([seed["gradient"]["half_time"] for seed in found[rule]["phases"]], 1) for rule in RULES),
                *(interval([end["accuracy"] for end in ends[rule]]).text(3) for rule in RULES),
                *(interval([end["test_accuracy"] for end in ends[rule]]).text(3) for rule in RULES),
            )
        )
    return [
        Table(
            title=f"Alignment by the width of the hidden layers: {config['data']}, {config['activation']}",
            headings=(
                *("width", "weight alignment", "gradient alignment", "epochs to half the loss, DFA", "backprop"),
                *("training accuracy, DFA", "backprop", "test accuracy, DFA", "backprop"),
            ),
            rows=tuple(rows),
            notes=(
                f"{config['depth']} weight matrices, {record['findings']['classes']} outputs, {config['samples']:,} "
                f"samples, {config['epochs']} epochs. In the end; mean and 95 % interval over {config['seeds']} seeds.",
            ),
        )
    ]


ALIGNED = ("weight_alignment_total", "gradient_alignment_total")


def pictures(record: Written) -> dict[str, Figure]:
    """Return alignment over time, a line a width, and in the end against width, beside the accuracy of both rules."""
    found = record["findings"]["widths"]
    widths = [case["width"] for case in found]
    with mpl.rc_context(SETTINGS):
        figure, (over_time, ends, accuracies) = panels(3, stacked=False)
        figure.set_size_inches(11.5, 3.6)
        for case, look in zip(found, shades(len(found)), strict=True):
            run = case["dfa"]
            averaged(over_time, run["epochs"], run["gradient_alignment_total"], **look, label=str(case["width"]))
        over_epochs(over_time, "Gradient alignment")
        over_time.legend(title="width", fontsize=8)
        for what, name, marker in zip(ALIGNED, ("weights", "gradients"), "os", strict=True):
            samples = [interval([end[what] for end in case["dfa"]["finals"]]) for case in found]
            half = [each.half_width or 0.0 for each in samples]
            ends.errorbar(
                widths, [each.mean for each in samples], half, marker=marker, capsize=2, color=style("dfa")["color"],
                linestyle="-" if marker == "o" else ":", label=name,
            )  # fmt: skip
        ends.set(title="DFA's alignment in the end", xlabel="width")
        for rule in RULES:
            samples = [interval([100 * end["test_accuracy"] for end in case[rule]["finals"]]) for case in found]
            half = [each.half_width or 0.0 for each in samples]
            label = "DFA" if rule == "dfa" else "Backprop"
            accuracies.errorbar(
                widths, [each.mean for each in samples], half, marker="o", capsize=2, **style(rule), label=label
            )
        accuracies.set(title="Test accuracy (%)", xlabel="width")
        for axes in (ends, accuracies):
            axes.set_xscale("log", base=2)
            axes.set_xticks(widths, [str(width) for width in widths])
            axes.minorticks_off()
            axes.axvline(record["findings"]["classes"], color="#333333", linewidth=0.8, linestyle=":")
            axes.legend()
    figure.set_label(
        "Alignment and accuracy by the width of the hidden layers; mean over seeds with 95 % intervals. The dotted "
        "line is the number of outputs: layers as narrow as that are a bottleneck for the error."
    )
    return {"width": figure}


STUDY = Study(
    name="width",
    about="Layers narrower than the outputs lose most to backpropagation; the weights of wide ones turn least.",
    config=Config,
    short=SHORT,
    measure=measure,
    tables=tables,
    pictures=pictures,
    minutes=4.0,
)
