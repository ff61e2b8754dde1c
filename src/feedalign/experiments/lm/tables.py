"""The tables of language models: perplexities beside the published ones, and alignment."""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from typing import Any

from feedalign.experiments.accuracy_tables import INTERVAL_NOTE
from feedalign.experiments.lm.demands import demands_table
from feedalign.experiments.lm.presets import PAPER, SMALL_NAME, TUNED, tuned_name
from feedalign.experiments.lm.rows import STUDIED, WHERE, Family, apart, families, figure
from feedalign.experiments.names import label
from feedalign.experiments.records import Run
from feedalign.experiments.tables import Table, interval

NONE = "-"
SHORT = (("bp", ""), ("dfa", "macro"), ("dfa", "micro"), ("shallow", ""))
"""Rules and placements of the short table."""
NOTE = (
    f"{INTERVAL_NOTE}; the evaluation with the best validation perplexity. Every token is foretold once, from those "
    "before it in its chunk. The perplexity a word counts the ends of lines as words, and can be compared between "
    "vocabularies."
)


@lru_cache(maxsize=1)
def published() -> dict[str, Any]:
    """Return the published validation perplexities, by optimiser and row."""
    found: dict[str, Any] = json.loads(files(__package__).joinpath("published.json").read_text(encoding="utf-8"))
    return found


def lm_tables(runs: Sequence[Run]) -> list[Table]:
    """Return every table that the runs of language models give. Several optimisers of the small model share theirs."""
    found = []
    alone, together = apart(families(runs))
    for name, rows in alone.items():
        found.append(perplexity_table(name, rows))
        if name in (SMALL_NAME, tuned_name(SMALL_NAME)):
            found.append(demands_table(name, rows))
        if aligned := {row: its for row, its in rows.items() if any(run.record.alignment for run in its)}:
            found.append(alignment_table(name, aligned))
    return [*found, *(optimiser_tables(together) if together else [])]


def short_table(runs: Sequence[Run]) -> Table:
    """Return test perplexities, a row a preset and tap: backprop, DFA at both placements, shallow.

    The optimisers of the small model are left out.
    """
    of_settings = {name: rows for name, rows in families(runs).items() if name not in STUDIED.values()}
    return Table(
        title="Language models: test perplexity",
        headings=("configuration", "seeds", *(" ".join([label(rule), points]).strip() for rule, points in SHORT)),
        rows=tuple(cells for name, rows in of_settings.items() for cells in _short_rows(name, rows)),
        notes=(f"{INTERVAL_NOTE}, where there are several; the evaluation with the best validation perplexity.",),
    )


def _short_rows(name: str, rows: Family) -> Iterator[tuple[str, ...]]:
    tuned = name.endswith(TUNED)  # Tuning chooses tap and last block for each placement by itself.
    if tuned:  # A run with another tap than was chosen has a name that goes on.
        rows = {row: its for row, its in rows.items() if its[0].record.name.endswith(TUNED)}
    kinds = set() if tuned else {(row.error, row.more) for row in rows if row.points}
    for error, more in sorted(kinds) or [("", "")]:
        beside = {
            (row.rule, row.points): its
            for row, its in rows.items()
            if tuned or row.rule == "bp" or (row.more == more and (not row.points or row.error == error))
        }
        counts = sorted({len(beside[what]) for what in SHORT if what in beside})
        yield (
            ", ".join(part for part in (name, WHERE.get(error, ""), more) if part),
            " or ".join(map(str, counts)) or "0",
            *(figure(beside[what], "test_perplexity").text(1) if what in beside else NONE for what in SHORT),
        )


def optimiser_tables(together: Mapping[str, Family]) -> list[Table]:
    """Return the small model's perplexities on validation and on test text, a column an optimiser, and their order.

    Args:
        together: Runs by optimiser and row.
    """
    counts = sorted({len(its) for rows in together.values() for its in rows.values()})
    seeds = f"{INTERVAL_NOTE}, where there are several; here {' or '.join(map(str, counts))} of each run."
    order = f"Published: the order at full size, {published()['source']}."
    return [
        _by_optimiser(together, "validation", (seeds, "The evaluation with the best validation perplexity.", order)),
        _by_optimiser(together, "test", (seeds, "The evaluation with the best validation perplexity.")),
    ]


def _by_optimiser(together: Mapping[str, Family], text: str, notes: tuple[str, ...]) -> Table:
    cells = []
    for row in sorted({row for rows in together.values() for row in rows}):
        ours = {name: figure(rows[row], f"{text}_perplexity") for name, rows in together.items() if row in rows}
        theirs = {name: its[row.published_as] for name, its in _theirs().items() if row.published_as in its}
        cells.append(
            (
                row.words,
                *(ours[name].text(1) if name in ours else NONE for name in together),
                _order({name: found.mean for name, found in ours.items()}),
                *([_order(theirs)] if text == "validation" else []),  # no figure of test text was published
            )
        )
    return Table(
        title=f"{SMALL_NAME}: {text} perplexity by optimiser",
        headings=("rule", *together, "from best to worst", *(["published"] if text == "validation" else [])),
        rows=tuple(cells),
        notes=notes,
    )


def _theirs() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = published()["validation_perplexity"]
    return found


def _order(perplexities: Mapping[str, float]) -> str:
    return ", ".join(sorted(perplexities, key=lambda name: perplexities[name])) if len(perplexities) > 1 else NONE


def perplexity_table(name: str, rows: Family) -> Table:
    """Return perplexities on validation and test text, a row a rule and placement."""
    optimiser = name.partition("_")[0].removeprefix(f"{PAPER}-")
    theirs = _theirs().get(optimiser, {}) if name.startswith(PAPER) else None
    baseline = next((figure(its, "validation_perplexity").mean for row, its in rows.items() if row.rule == "bp"), None)
    headings = ("seeds", "validation", "over backprop", "test", "test, a word", "tokens/s")
    cells = []
    for row, its in rows.items():
        ours = figure(its, "validation_perplexity")
        shown = [
            str(len(its)),
            ours.text(1),
            f"{ours.mean / baseline:.2f}" if baseline else NONE,
            figure(its, "test_perplexity").text(1),
            figure(its, "test_word_perplexity").text(1),
            f"{figure(its, 'tokens_per_second', 'speed').mean:,.0f}",
        ]
        if theirs is not None:
            shown.append(f"{theirs[row.published_as]:g}" if row.published_as in theirs else NONE)
        cells.append((row.words, *shown))
    data = next(iter(rows.values()))[0].record.data
    words = (
        f"{data['name']}: {data['train']:,} training tokens ({data['train_words']:,} words), {data['vocabulary']:,} in "
        "the vocabulary."
    )
    notes = (NOTE, words) if theirs is None else (NOTE, words, f"Published: {published()['source']}.")
    return Table(
        title=f"{name}: perplexity",
        headings=("rule", *headings, *(["published, validation"] if theirs is not None else [])),
        rows=tuple(cells),
        notes=notes,
    )


def alignment_table(name: str, rows: Family) -> Table:
    """Return the alignment at every point at the end of training, a column a placement."""
    points = list(dict.fromkeys(point for its in rows.values() for run in its for point in run.record.alignment or {}))
    points.sort(key=place)
    return Table(
        title=f"{name}: alignment with backpropagation at the end of training",
        headings=("point", *(row.words for row in rows)),
        rows=tuple((point, *(_cosine(its, point) for its in rows.values())) for point in points),
        notes=(
            "Cosine, per token of some validation chunks, between the signal that a point receives and the gradient "
            "that backpropagation would have given it, without dropout.",
        ),
    )


INSIDE = ("norm1", "attention", "hidden", "")


def place(point: str) -> tuple[Any, ...]:
    """Return what sorts points from input to output: the embedding, then block by block, the block's end last."""
    parts = point.split(".")
    if parts[0] != "blocks":
        return (-1, 0, point)
    part = ".".join(parts[2:])
    return (int(parts[1]), INSIDE.index(part) if part in INSIDE else len(INSIDE), point)


def _cosine(runs: Sequence[Run], point: str) -> str:
    found = [(run.record.alignment or {}).get(point, {}).get("mean") for run in runs]
    means = [mean for mean in found if mean is not None]
    return interval(means).text(3) if means else NONE
