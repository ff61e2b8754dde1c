"""The tables of graph networks, as the publication has them: its figure stands behind each of ours."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from math import sqrt
from statistics import fmean
from typing import Any

from feedalign.experiments.accuracy_tables import INTERVAL_NOTE
from feedalign.experiments.graph.presets import AUTOENCODER, CITATIONS, KARATE, MODELS, TITLES, cell
from feedalign.experiments.names import short_name
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Asked, Interval, Table, asked_table, interval

GRAPH = "graph"
RULES = ("bp", "dfa", "shallow")
HEADINGS = {"bp": "backprop", "dfa": "DFA", "shallow": "shallow"}
NONE = "-"
NEGLIGIBLE = "negligible_gradients"
CLOSE, CLOSE_AUC, FAR, ALIGNED = 0.5, 0.015, 15.0, 0.5
"""Points, AUC, points and cosine: what a reproduction is asked for, see :func:`summary_table`."""
HAIR = 1e-9
"""By which binary fractions miss decimal ones: a demand that is met exactly is met."""


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Return the published figures: accuracies in percent, alignments as mean and standard deviation, AUC and AP."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return found


@dataclass(frozen=True)
class Cells:
    """The runs on graphs, by configuration and rule."""

    runs: dict[str, dict[str, list[Run]]]

    @classmethod
    def of(cls, runs: Sequence[Run]) -> "Cells":
        """Return the runs sorted; those of other experiments are left out."""
        found: dict[str, dict[str, list[Run]]] = {}
        for run in runs:
            if of_graphs(run):
                found.setdefault(run.record.name, {}).setdefault(short_name(run.record.rule), []).append(run)
        return cls(found)

    def figure(self, name: str, rule: str, metric: str, scale: float = 1.0) -> Interval | None:
        """Return a figure of the best epoch over seeds; None where there is no run."""
        runs = self.runs.get(name, {}).get(rule, [])
        return interval([scale * run.record.metrics["best"][metric] for run in runs]) if runs else None

    def seeds(self, name: str) -> str:
        """Return how many runs of each rule there are, in words."""
        counts = sorted({len(runs) for runs in self.runs.get(name, {}).values()})
        return " or ".join(map(str, counts)) or "0"


def graph_tables(runs: Sequence[Run]) -> list[Table]:
    """Return every table that the runs on graphs give: accuracies, links, alignment, what is asked, and the others."""
    cells = Cells.of(runs)
    shown: set[str] = set()
    found = []
    for suffix, words in (("", "settings tuned per rule"), ("-published", "settings as published")):
        for graph in (*CITATIONS, KARATE):
            names = [cell(graph, kind) + suffix for kind in MODELS]
            if any(name in cells.runs for name in names):
                found.append(accuracy_table(cells, graph, suffix, words if graph != KARATE else "a small split"))
            shown |= set(names)
        links = [cell(graph, AUTOENCODER) + suffix for graph in (*CITATIONS, KARATE)]
        if any(name in cells.runs for name in links):
            found.append(links_table(cells, suffix, words))
        shown |= set(links)
        aligned = [cell("cora", kind) + suffix for kind in MODELS]
        if any(cells.runs.get(name, {}).get("dfa") for name in aligned):
            found.append(alignment_table(cells, suffix, words))
    if others := [name for name in cells.runs if name not in shown]:
        found.append(others_table(cells, others))
    if (negligible := negligible_table(cells)).rows:
        found.append(negligible)
    if any(cell("cora", kind) in cells.runs for kind in MODELS):
        found.append(summary_table(cells))
    return found


def of_graphs(run: Run) -> bool:
    """Return whether a run is one of a graph network or of the graph autoencoder."""
    return run.record.experiment in (GRAPH, AUTOENCODER)


def tuned_runs(runs: Sequence[Run]) -> list[Run]:
    """Return the runs of networks that classify the nodes of the published graphs with tuned settings."""
    names = {cell(graph, kind) for graph in CITATIONS for kind in MODELS}
    return [run for run in runs if run.record.experiment == GRAPH and run.record.name in names]


def pictured(runs: Sequence[Run]) -> list[Run]:
    """Return the runs that have a section of a report to themselves: on graphs, those with alignment too."""
    aligned = {run.record.name for run in runs if run.record.alignment and run.record.experiment == GRAPH}
    return [run for run in runs if not of_graphs(run) or run.record.name in aligned]


def accuracy_table(cells: Cells, graph: str, suffix: str, words: str) -> Table:
    """Return the test accuracies on a graph, a row a network: one column of table 3 or A.2 of the publication."""
    theirs = published()["accuracy"].get(graph, {})
    rows = []
    for kind in MODELS:
        name = cell(graph, kind) + suffix
        if name not in cells.runs:
            continue
        ours = {rule: cells.figure(name, rule, "test_accuracy", 100) for rule in RULES}
        columns = [text for rule in RULES for text in (_text(ours[rule], 1), _published(theirs, kind, rule))]
        gaps = [_gap(ours["dfa"], ours["bp"], 1), _published_gap(theirs.get(kind))]
        rows.append((TITLES[kind], cells.seeds(name), *columns, *gaps))
    headings = [text for rule in RULES for text in (f"{HEADINGS[rule]} (%)", "published")]
    return Table(
        title=f"{graph}: test accuracy, {words}",
        headings=("network", "seeds", *headings, "DFA - backprop", "published"),
        rows=tuple(rows),
        notes=(f"{INTERVAL_NOTE}; the epoch chosen on validation nodes. Published: {published()['source']}.",),
    )


def links_table(cells: Cells, suffix: str, words: str) -> Table:
    """Return how well the autoencoder foretells links, two rows a graph: table A.4 of the publication."""
    rows = []
    for graph in (*CITATIONS, KARATE):
        name = cell(graph, AUTOENCODER) + suffix
        if name not in cells.runs:
            continue
        for metric in ("auc", "ap"):
            theirs = published()["autoencoder"].get(graph, {}).get(metric, {})
            ours = {rule: cells.figure(name, rule, f"test_{metric}") for rule in RULES}
            columns: list[str] = []
            for rule in RULES:
                columns.append(_text(ours[rule], 3))
                if rule in HAVE:
                    columns.append(f"{theirs[rule]:.3f}" if theirs else NONE)
            rows.append((graph, metric.upper(), cells.seeds(name), *columns))
    headings = [text for rule in RULES for text in (HEADINGS[rule], *(["published"] * (rule in HAVE)))]
    return Table(
        title=f"Graph autoencoder: links foretold, {words}",
        headings=("graph", "figure", "seeds", *headings),
        rows=tuple(rows),
        notes=(
            f"{INTERVAL_NOTE}; the epoch chosen on validation links. 10 % of the edges are tested on, beside "
            f"as many pairs without one. Published: {published()['source']}.",
        ),
        text_columns=2,
    )


HAVE = ("bp", "dfa")
"""The rules that the publication has figures of, for the autoencoder."""


def alignment_table(cells: Cells, suffix: str, words: str) -> Table:
    """Return the alignment of DFA on Cora, a row a network: table 4 of the publication."""
    theirs = published()["alignment"]["cora"]
    rows = []
    for kind in MODELS:
        name = cell("cora", kind) + suffix
        if runs := cells.runs.get(name, {}).get("dfa"):
            every = [pooled(run.record.alignment or {}) for run in runs]
            labelled = [pooled(run.record.metrics["alignment_of_training_nodes"]) for run in runs]
            mean, std = theirs[kind]
            rows.append(
                (
                    TITLES[kind],
                    str(len(runs)),
                    interval([mean for mean, _ in every]).text(3),
                    f"{fmean(std for _, std in every):.2f}",
                    f"{mean:.2f}",
                    f"{std:.2f}",
                    interval([mean for mean, _ in labelled]).text(3),
                )
            )
    return Table(
        title=f"cora: alignment of DFA with backpropagation at the end of training, {words}",
        headings=("network", "seeds", "mean cosine", "std over nodes", "published", "std", "training nodes alone"),
        rows=tuple(rows),
        notes=(
            "Cosine, per node, between the signal that a point receives and the gradient that backpropagation would "
            "have given it, over all nodes and under the loss of all nodes, as published; over all points of DNA. "
            "Under the training loss only training nodes have an error of their own: the others receive no signal and "
            f"are left out of the last column, instead of being counted as 0 or 1. Published: {published()['source']}.",
        ),
    )


def negligible_table(cells: Cells) -> Table:
    """Return how many nodes have hardly any gradient at the end, and what the alignment would be were they aligned."""
    rows = []
    for name, by_rule in cells.runs.items():
        runs = [run for run in by_rule.get("dfa", ()) if run.record.metrics.get(NEGLIGIBLE)]
        if runs:
            means = [pooled(run.record.alignment or {})[0] for run in runs]
            shares = [fmean(run.record.metrics[NEGLIGIBLE].values()) for run in runs]
            counted = [share + (1 - share) * mean for share, mean in zip(shares, means, strict=True)]
            figures = [interval([100 * share for share in shares]).text(0), interval(counted).text(3)]
            rows.append((name, str(len(runs)), interval(means).text(3), *figures))
    return Table(
        title="Alignment of DFA, and gradients that public software takes for zero",
        headings=("configuration", "seeds", "mean cosine", "gradients under 1e-8 (%)", "these counted as 1"),
        rows=tuple(rows),
        notes=(
            "Under the loss of all nodes at the end of training. A gradient is under 1e-8 if no element is larger, and "
            "the share a mean over points. Public software sets such elements to zero, and a cosine with zero to 1.",
        ),
    )


def pooled(alignment: dict[str, dict[str, Any]]) -> tuple[float, float]:
    """Return mean and standard deviation of the cosines of all points together.

    Raises:
        ValueError: No cosine is defined.
    """
    points = [point for point in alignment.values() if point["n"] and point["mean"] is not None]
    count = sum(point["n"] for point in points)
    if not count:
        raise ValueError("Expected at least one cosine, found none.")
    mean = sum(point["n"] * point["mean"] for point in points) / count
    square = sum(point["n"] * (point["std"] ** 2 + point["mean"] ** 2) for point in points) / count
    return mean, sqrt(max(0.0, square - mean**2))


def others_table(cells: Cells, names: Sequence[str]) -> Table:
    """Return the test accuracies (AUC for links) of configurations that are in no table of the publication."""
    rows = []
    for name in names:
        runs = next(iter(cells.runs[name].values()))
        links = runs[0].record.experiment == AUTOENCODER
        metric, scale, digits = ("test_auc", 1.0, 3) if links else ("test_accuracy", 100.0, 1)
        rows.append(
            (name, cells.seeds(name), *(_text(cells.figure(name, rule, metric, scale), digits) for rule in RULES))
        )
    return Table(
        title="Other configurations: test accuracy (%), or AUC of links",
        headings=("configuration", "seeds", *HEADINGS.values()),
        rows=tuple(rows),
        notes=(f"{INTERVAL_NOTE}; the epoch chosen on validation.",),
    )


def summary_table(cells: Cells) -> Table:
    """Return how much of the publication is met by tuned settings, a row a demand."""
    nodes = [(graph, kind) for graph in CITATIONS for kind in MODELS]
    on_cora = [("cora", kind) for kind in ("cheb", "gcn", "spline", "dna")]
    links = [(graph, AUTOENCODER) for graph in CITATIONS]
    asked: list[Asked[Cells]] = [
        (f"DFA within {CLOSE} points of the published DFA, or above", _reaches, nodes),
        ("DFA as close to our backprop as the published DFA to theirs, or closer", _as_close, nodes),
        (f"shallow at least {FAR:.0f} points below DFA", _far_below, on_cora),
        (f"links: AUC of DFA within {CLOSE_AUC} of the published one, or above", _foretells, links),
        (f"alignment on cora above {ALIGNED}", _aligned, [("cora", kind) for kind in MODELS]),
    ]
    title = "How much of the publication is met, by the means over seeds under tuned settings"
    return asked_table(title, asked, cells, cell)


def _reaches(cells: Cells, graph: str, kind: str) -> bool | None:
    ours = cells.figure(cell(graph, kind), "dfa", "test_accuracy", 100)
    return None if ours is None else ours.mean >= published()["accuracy"][graph][kind]["dfa"] - CLOSE - HAIR


def _as_close(cells: Cells, graph: str, kind: str) -> bool | None:
    dfa, bp = (cells.figure(cell(graph, kind), rule, "test_accuracy", 100) for rule in ("dfa", "bp"))
    theirs = published()["accuracy"][graph][kind]
    return None if dfa is None or bp is None else bp.mean - dfa.mean <= theirs["bp"] - theirs["dfa"] + HAIR


def _far_below(cells: Cells, graph: str, kind: str) -> bool | None:
    dfa, shallow = (cells.figure(cell(graph, kind), rule, "test_accuracy", 100) for rule in ("dfa", "shallow"))
    return None if dfa is None or shallow is None else shallow.mean <= dfa.mean - FAR + HAIR


def _foretells(cells: Cells, graph: str, kind: str) -> bool | None:
    ours = cells.figure(cell(graph, kind), "dfa", "test_auc")
    return None if ours is None else ours.mean >= published()["autoencoder"][graph]["auc"]["dfa"] - CLOSE_AUC - HAIR


def _aligned(cells: Cells, graph: str, kind: str) -> bool | None:
    runs = cells.runs.get(cell(graph, kind), {}).get("dfa")
    return fmean(pooled(run.record.alignment or {})[0] for run in runs) > ALIGNED if runs else None


def _text(figure: Interval | None, digits: int) -> str:
    return NONE if figure is None else figure.text(digits)


def _gap(dfa: Interval | None, bp: Interval | None, digits: int) -> str:
    return NONE if dfa is None or bp is None else f"{dfa.mean - bp.mean:+.{digits}f}"


def _published(theirs: dict[str, dict[str, float]], kind: str, rule: str) -> str:
    return f"{theirs[kind][rule]:.1f}" if kind in theirs else NONE


def _published_gap(theirs: dict[str, float] | None) -> str:
    return f"{theirs['dfa'] - theirs['bp']:+.1f}" if theirs else NONE
