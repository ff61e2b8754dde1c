"""Short tables of one figure a configuration, where this is no accuracy: under backprop, DFA and shallow."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from feedalign.experiments.accuracy_tables import INTERVAL_NOTE, OVERVIEW
from feedalign.experiments.ctr.cells import of_clicks
from feedalign.experiments.ctr.presets import DATA, cell
from feedalign.experiments.ctr.tables import ROWS
from feedalign.experiments.graph.presets import AUTOENCODER, CITATIONS
from feedalign.experiments.lm.tables import short_table
from feedalign.experiments.names import label, short_name
from feedalign.experiments.nerf.tables import of_scenes
from feedalign.experiments.records import Record, Run
from feedalign.experiments.tables import Table, interval

NONE = "-"
CLICKS = {cell(data, ending) for data in DATA for ending in ROWS[""]}
AUTOENCODERS = {cell(graph, AUTOENCODER) for graph in CITATIONS}


@dataclass(frozen=True)
class Headline:
    """A figure that tells in short how a family of experiments came out.

    Attributes:
        title: Of the table.
        of: Whether a run belongs into it.
        figure: What is read from a record.
        digits: After the point.
        note: What the figure is of.
    """

    title: str
    of: Callable[[Run], bool]
    figure: Callable[[Record], float]
    digits: int
    note: str


HEADLINES = (
    Headline(
        "Graph autoencoders: test AUC",
        lambda run: run.record.experiment == AUTOENCODER and run.record.name in AUTOENCODERS,
        lambda record: float(record.metrics["best"]["test_auc"]),
        3,
        "edges that were held out against as many that are none; the epoch chosen on validation.",
    ),
    Headline(
        "Click logs: test AUC",
        lambda run: of_clicks(run) and run.record.name in CLICKS,
        lambda record: float(record.metrics["best"]["test_auc"]),
        4,
        "the epoch chosen on validation. In FM nothing is hidden, so that backpropagation alone trains it.",
    ),
    Headline(
        "Scenes: PSNR of new views (dB)",
        lambda run: of_scenes(run) and "test" in run.record.metrics,
        lambda record: float(record.metrics["test"]["psnr"]),
        2,
        "views that were held out, after the last iteration.",
    ),
)


def headlines(runs: Sequence[Run]) -> list[Table]:
    """Return the table of each family that there are runs of, a row a configuration."""
    found = [(headline, [run for run in runs if headline.of(run)]) for headline in HEADLINES]
    tables = [_table(headline, its) for headline, its in found if its]
    texts = short_table(runs)
    return [*tables, *([texts] if texts.rows else [])]


def _table(headline: Headline, runs: Sequence[Run]) -> Table:
    by_name: dict[str, list[Run]] = {}
    for run in sorted(runs, key=lambda run: run.record.name):
        by_name.setdefault(run.record.name, []).append(run)
    return Table(
        title=headline.title,
        headings=("configuration", "seeds", *(label(rule) for rule in OVERVIEW)),
        rows=tuple(_row(headline, name, its) for name, its in by_name.items()),
        notes=(f"{INTERVAL_NOTE}, where there are several; {headline.note}",),
    )


def _row(headline: Headline, name: str, runs: Sequence[Run]) -> tuple[str, ...]:
    figures = {
        rule: [headline.figure(run.record) for run in runs if short_name(run.record.rule) == short_name(rule)]
        for rule in OVERVIEW
    }
    counts = sorted({len(found) for found in figures.values() if found})
    texts = [interval(found).text(headline.digits) if found else NONE for found in figures.values()]
    return (name, " or ".join(map(str, counts)) or "0", *texts)
