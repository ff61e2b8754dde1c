"""What the nets of the study of convolutions reached, by part, net and rule; and its tables."""

from typing import Any

from feedalign.experiments.names import label
from feedalign.experiments.tables import Interval, Table, interval

Run = dict[str, Any]
Part = tuple[str, str]
"""A task and the non-linearity of its nets."""
ALIGNED = ("dfa", "dfa-repeat")


def parts(record: dict[str, Any]) -> list[Part]:
    """Return the parts of a record, in order."""
    return list(dict.fromkeys((run["task"], run["activation"]) for run in record["findings"]["runs"]))


def nets(record: dict[str, Any]) -> list[str]:
    """Return the kinds of nets, in order."""
    return list(dict.fromkeys(run["net"] for run in record["findings"]["runs"]))


def rules(record: dict[str, Any]) -> list[str]:
    """Return the rules, in order."""
    return list(dict.fromkeys(run["rule"] for run in record["findings"]["runs"]))


def chosen(record: dict[str, Any], part: Part, net: str, rule: str) -> list[Run]:
    """Return the runs of all seeds."""
    wanted = (*part, net, rule)
    return [r for r in record["findings"]["runs"] if (r["task"], r["activation"], r["net"], r["rule"]) == wanted]


def accuracy(runs: list[Run], on: str = "test_accuracy") -> Interval:
    """Return the mean accuracy over seeds, a fraction."""
    return interval([run[on] for run in runs])


def by_layer(runs: list[Run]) -> list[Interval]:
    """Return the mean cosine over seeds for each layer; none where nothing was delivered."""
    return [interval(list(layer)) for layer in zip(*(run["alignment"] for run in runs), strict=True)]


def mean_alignment(runs: list[Run]) -> float:
    """Return the mean cosine over layers and seeds."""
    found = by_layer(runs)
    return sum(layer.mean for layer in found) / len(found)


def weights(runs: list[Run], what: str) -> list[Interval]:
    """Return ``"cosine"`` or ``"best"`` of the weights of each layer between two points, over seeds."""
    return [interval([layer[what] for layer in found]) for found in zip(*(run["weights"] for run in runs), strict=True)]


def alignment_table(record: dict[str, Any]) -> Table:
    """Return accuracies and alignment, a part, net and rule a row."""
    rows = []
    depth = max(len(run["alignment"]) for run in record["findings"]["runs"])
    for part in parts(record):
        for net in nets(record):
            for rule in rules(record):
                runs = chosen(record, part, net, rule)
                layers = [found.text() for found in by_layer(runs)]
                cells = [accuracy(runs, on).text(1, 100) for on in ("train_accuracy", "test_accuracy")]
                rows.append((" ".join(part), net, label(rule), *cells, *layers, *[""] * (depth - len(layers))))
    seeds = record["config"]["seeds"]
    return Table(
        title="Dense, locally connected and convolutional nets, otherwise alike",
        headings=(
            *("task", "net", "rule", "training accuracy (%)", "test accuracy (%)"),
            *(f"alignment, layer {i}" for i in range(1, depth + 1)),
        ),
        rows=tuple(rows),
        notes=(
            f"Mean ± half the 95 % interval over {seeds} seeds. Alignment: cosine between what DFA delivers behind a "
            "layer and the true gradient there, mean over training samples; for backprop, what DFA would have "
            "delivered. Layers count from the input.",
        ),
        text_columns=3,
    )


def weights_table(record: dict[str, Any]) -> Table:
    """Return how far weights came to look like their feedback, and how far they could have."""
    rows = []
    depth = max(len(run["weights"]) for run in record["findings"]["runs"])
    for part in parts(record):
        for net in nets(record):
            for rule in (rule for rule in rules(record) if rule in ALIGNED):
                runs = chosen(record, part, net, rule)
                pairs = zip(weights(runs, "cosine"), weights(runs, "best"), strict=True)
                cells = [text for got, best in pairs for text in (got.text(3), best.text(3))]
                rows.append((" ".join(part), net, label(rule), *cells))
    return Table(
        title="Weights against feedback: the cosine reached, and the largest that the layer's form allows",
        headings=(
            *("task", "net", "rule"),
            *(f"layer {i + 2}: {what}" for i in range(depth) for what in ("reached", "at best")),
        ),
        rows=tuple(rows),
        notes=("At best: of the exact projection of the feedback's product onto what the layer can be.",),
        text_columns=3,
    )
