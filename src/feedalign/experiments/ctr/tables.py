"""The tables of networks for click logs, a log a table: our figures, and behind them the published ones."""

import json
from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from statistics import fmean
from typing import Any

from feedalign.experiments.accuracy_tables import INTERVAL_NOTE
from feedalign.experiments.ctr.cells import ALONE, Cells
from feedalign.experiments.ctr.demands import demands_table, recovered
from feedalign.experiments.ctr.presets import DATA, MODELS, TITLES, cell
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Interval, Table, interval

RULES = ("bp", "dfa", "shallow")
HEADINGS = {"bp": "backprop", "dfa": "DFA", "shallow": "shallow"}
FIGURES = {"auc": "AUC", "loss": "log loss"}
SETTINGS = {"": "settings tuned per rule", "-published": "sizes and settings as published"}
ROWS = {
    "": {**{kind: (kind, TITLES[kind]) for kind in MODELS}, "afn-frozen": ("afn", "AFN, embeddings frozen")},
    "-published": {
        **{f"{kind}-published": (kind, TITLES[kind]) for kind in MODELS},
        "afn-corrected": ("afn", "AFN, embeddings learn"),
    },
}
"""By kind of settings: what stands behind the log in a configuration's name, its network and its name in tables."""
CRITEO = ("criteo", "criteo-sample", "criteo-indexed")
"""The logs that the published figures are of, or rows of which they are."""
NONE = "-"


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Return the published figures: AUC and log loss on all of Criteo, alignments as mean and standard deviation."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return found


def ctr_tables(runs: Sequence[Run]) -> list[Table]:
    """Return every table that the runs on click logs give: figures a log, gains, alignment, what is asked, others."""
    cells = Cells.of(runs)
    found, shown = [], set()
    for suffix, words in SETTINGS.items():
        names = {data: _names(cells, data, suffix) for data in DATA}
        for data in DATA:
            if names[data]:
                found += [figures_table(cells, data, suffix, metric) for metric in FIGURES]
        every = [name for of_data in names.values() for name in of_data]
        shown |= set(every)
        found += [
            table for table in (gains_table(cells, suffix, words), alignment_table(cells, suffix, words)) if table
        ]
    if others := [name for name in cells.runs if name not in shown]:
        found.append(others_table(cells, others))
    if any(name in cells.runs for data in DATA for name in _names(cells, data, "")):
        found.append(demands_table(cells))
    return found


def _names(cells: Cells, data: str, suffix: str) -> list[str]:
    return [name for ending in ROWS[suffix] if (name := cell(data, ending)) in cells.runs]


def figures_table(cells: Cells, data: str, suffix: str, metric: str) -> Table:
    """Return a figure on the test rows of a log, a row a network: table 2 of the publication.

    Args:
        cells: The runs.
        data: The log.
        suffix: Which settings, a key of ``SETTINGS``.
        metric: ``"auc"`` or ``"loss"``.
    """
    compared = data in CRITEO
    rows, clicks = [], None
    for ending, (kind, title) in ROWS[suffix].items():
        if (name := cell(data, ending)) not in cells.runs:
            continue
        clicks = cells.first(name).record.data
        ours = [_text(cells.figure(name, rule, f"test_{metric}")) for rule in RULES]
        gap = _signed(cells.difference((name, "dfa"), (name, "bp"), f"test_{metric}"))
        theirs = [_published(kind, rule, metric) for rule in RULES] if compared else []
        rows.append((title, cells.seeds(name), *ours, gap, *theirs))
    assert clicks is not None
    headings = [HEADINGS[rule] for rule in RULES]
    return Table(
        title=f"{data}: test {FIGURES[metric]}, {SETTINGS[suffix]}",
        headings=(
            "network", "seeds", *headings, "DFA - backprop", *(f"published, {one}" for one in headings if compared),
        ),
        rows=tuple(rows),
        notes=(_about(clicks, metric), *([_theirs()] if compared else [])),
    )  # fmt: skip


def _about(clicks: dict[str, Any], metric: str) -> str:
    best = clicks.get("best_auc")
    known = f" No model exceeds {best:.4f} but by chance." if best is not None and metric == "auc" else ""
    return (
        f"{clicks['train']:,} rows train, {clicks['validation']:,} choose the epoch, {clicks['test']:,} are tested on; "
        f"{clicks['fields']} fields, {clicks['indices']:,} categories, {100 * clicks['clicks'] / clicks['rows']:.1f} % "
        f"positive.{known} {INTERVAL_NOTE}; differences are paired by seed."
    )


def _theirs() -> str:
    return (
        f"Published: {published()['source']}, on all {published()['rows']:,} rows of Criteo, with networks of the "
        "published sizes; AutoInt from comments in their code. With fewer rows less can be learned, and the most "
        "that can be compared is the order of the columns."
    )


def _published(kind: str, rule: str, metric: str) -> str:
    figures = published()["figures"].get(kind) or published()["comments"].get(kind, {})
    return f"{figures[rule][metric]:.4f}" if rule in figures else NONE


def gains_table(cells: Cells, suffix: str, words: str) -> Table | None:
    """Return what networks gain over the factorisation machine under each rule, a row a log and network."""
    rows = []
    for data in DATA:
        alone = (cell(data, ALONE) + suffix, "bp")
        for ending, (kind, title) in ROWS[suffix].items():
            name = cell(data, ending)
            gains = {rule: cells.difference((name, rule), alone, "test_auc") for rule in RULES}
            if kind != ALONE and any(gains.values()):
                share = recovered(gains["bp"], gains["dfa"])
                told = NONE if share is None else f"{100 * share:.0f} %"
                rows.append((data, title, *(_signed(gains[rule]) for rule in RULES), told))
    if not rows:
        return None
    return Table(
        title=f"Gain in test AUC over the factorisation machine, {words}",
        headings=("log", "network", *(HEADINGS[rule] for rule in RULES), "DFA's share of backprop's"),
        rows=tuple(rows),
        notes=(
            f"Paired by seed. {INTERVAL_NOTE}. No share where the interval of backpropagation's own gain holds "
            "zero or lies below: such a log is too small for a hidden layer to find what pairs of categories do not "
            "tell already, and there is nothing for DFA to recover.",
        ),
        text_columns=2,
    )


def alignment_table(cells: Cells, suffix: str, words: str) -> Table | None:
    """Return the alignment of DFA at the deepest point, a row a log and network: table A.1 of the publication."""
    rows = []
    for data in DATA:
        for ending, (kind, title) in ROWS[suffix].items():
            runs = cells.runs.get(cell(data, ending), {}).get("dfa", [])
            if measured := [run.record.alignment for run in runs if run.record.alignment]:
                rows.append((data, title, *_aligned(measured), *_published_alignment(data, kind)))
    if not rows:
        return None
    return Table(
        title=f"Alignment of DFA with backpropagation at the end of training, {words}",
        headings=(
            "log", "network", "deepest point", "seeds", "mean cosine", "std over rows", "mean at the top point",
            "published", "std",
        ),
        rows=tuple(rows),
        notes=(
            "Cosine, per validation row, between the signal at the point farthest from the output and the gradient "
            "that backpropagation would have given it. A row's signal is its error times one fixed vector, and its "
            "gradient is its error times a vector of its own: the error cancels out, sign and all. At a point under a "
            "linear layer the gradients of all rows are parallel, and so all cosines are equal. "
            f"Published: {published()['source']}, on all of Criteo.",
        ),
        text_columns=3,
    )  # fmt: skip


def _aligned(measured: list[dict[str, dict[str, Any]]]) -> tuple[str, ...]:
    deepest, *_, top = measured[0]
    known = [one[deepest] for one in measured if one[deepest]["mean"] is not None]
    above = [one[top]["mean"] for one in measured if one[top]["mean"] is not None]
    if not known:
        return deepest, str(len(measured)), NONE, NONE
    mean, spread = interval([one["mean"] for one in known]), fmean(one["std"] for one in known)
    return deepest, str(len(known)), mean.text(3), f"{spread:.2f}", interval(above).text(3) if above else NONE


def _published_alignment(data: str, kind: str) -> tuple[str, str]:
    found = published()["alignment"].get(kind) if data in CRITEO else None
    return (f"{found[0]:.2f}", f"{found[1]:.2f}") if found else (NONE, NONE)


def others_table(cells: Cells, names: Sequence[str]) -> Table:
    """Return the test AUC of configurations that are in no other table."""
    rows = [
        (name, cells.seeds(name), *(_text(cells.figure(name, rule, "test_auc")) for rule in RULES)) for name in names
    ]
    return Table(
        title="Other configurations: test AUC",
        headings=("configuration", "seeds", *HEADINGS.values()),
        rows=tuple(rows),
        notes=(f"{INTERVAL_NOTE}; the epoch chosen on validation rows.",),
    )


def _text(figure: Interval | None) -> str:
    return NONE if figure is None else figure.text(4)


def _signed(gap: Interval | None) -> str:
    if gap is None:
        return NONE
    mean = f"{gap.mean:+.4f}"
    return mean if gap.half_width is None else f"{mean} ± {gap.half_width:.4f}"
