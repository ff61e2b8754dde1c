"""A table as data, and its three renderings: terminal, Markdown, HTML.

Whatever is tabulated (accuracies, alignments, step times) becomes one ``Table`` of finished strings first, so
that the terminal, the documentation and the report can never disagree.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import sqrt
from statistics import fmean, stdev
from typing import TypeVar

import rich.box
import rich.table
from rich.console import Group
from rich.markup import escape as escape_markup
from rich.text import Text
from scipy.stats import t as student

CellsT = TypeVar("CellsT")
LONGEST_NAME = 20  # characters; a narrow terminal folds other columns before those of names


@dataclass(frozen=True)
class Table:
    """Finished cells under headings.

    Attributes:
        title: What the table shows.
        headings: One heading a column.
        rows: One tuple of cells a row, as long as ``headings``.
        notes: Sentences printed below.
        text_columns: How many columns from the left hold words (left-aligned); the others hold numbers.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    text_columns: int = 1

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.headings):
                raise ValueError(
                    f"Table {self.title!r} has {len(self.headings)} headings, but a row of {len(row)} cells: {row}."
                )


def to_rich(table: Table) -> Group:
    """Return the table for a terminal, its title above and its notes below."""
    drawn = rich.table.Table(box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for i, heading in enumerate(table.headings):
        words = i < table.text_columns
        name = words and all(len(row[i]) <= LONGEST_NAME for row in table.rows)
        # A narrow terminal folds what does not fit: a number cut short would be another number.
        drawn.add_column(escape_markup(heading), justify="left" if words else "right", overflow="fold", no_wrap=name)
    for row in table.rows:
        drawn.add_row(*(escape_markup(cell) for cell in row))
    return Group(Text(table.title, style="bold"), drawn, *(Text(note, style="dim") for note in table.notes))


def to_markdown(table: Table) -> str:
    """Return the table for the documentation, its title in bold above and its notes below."""
    marks = [":--" if i < table.text_columns else "--:" for i in range(len(table.headings))]
    lines = [f"**{table.title}**", "", _markdown_row(table.headings), _markdown_row(marks)]
    lines += [_markdown_row(row) for row in table.rows]
    for note in table.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: tuple[str, ...] | list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def to_html(table: Table) -> str:
    """Return the table as an HTML ``<table>`` whose first column holds row headings."""
    head = "".join(f'<th scope="col"{_align(table, i)}>{escape(h)}</th>' for i, h in enumerate(table.headings))
    body = "\n".join(_html_row(table, row) for row in table.rows)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in table.notes)
    # The title stands outside what scrolls sideways, so that a phone shows all of it.
    return (
        f'<p class="title">{escape(table.title)}</p>'
        f'<div class="scroll" tabindex="0"><table aria-label="{escape(table.title)}">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>{notes}"
    )


def _html_row(table: Table, row: tuple[str, ...]) -> str:
    cells = [f'<th scope="row">{escape(row[0])}</th>']
    cells += [f"<td{_align(table, i)}>{escape(cell)}</td>" for i, cell in enumerate(row[1:], start=1)]
    return f"<tr>{''.join(cells)}</tr>"


def _align(table: Table, column: int) -> str:
    return "" if column < table.text_columns else ' class="number"'


@dataclass(frozen=True)
class Interval:
    """A mean and the half width of its confidence interval.

    Attributes:
        mean: The sample mean.
        half_width: Half the width of the interval, or None where one sample gives none.
        n: How many samples there were.
    """

    mean: float
    half_width: float | None
    n: int

    def text(self, digits: int = 2, scale: float = 1.0) -> str:
        """Return ``"97.53 ± 0.12"``, or the mean alone where there is no interval."""
        mean = f"{scale * self.mean:.{digits}f}"
        return mean if self.half_width is None else f"{mean} ± {scale * self.half_width:.{digits}f}"


def interval(samples: list[float], confidence: float = 0.95) -> Interval:
    """Return the mean of independent samples with its Student-t confidence interval.

    The half width is ``t_{(1 + confidence) / 2, n - 1} * s / sqrt(n)``, ``s`` being the sample standard deviation.

    Raises:
        ValueError: There is no sample.
    """
    n = len(samples)
    if n == 0:
        raise ValueError("Expected at least one sample for a mean, found none.")
    if n == 1:
        return Interval(samples[0], None, 1)
    quantile = float(student.ppf((1 + confidence) / 2, n - 1))
    return Interval(fmean(samples), quantile * stdev(samples) / sqrt(n), n)


Asked = tuple[str, Callable[[CellsT, str, str], bool | None], Sequence[tuple[str, str]]]
"""A demand in words, whether it holds in a place (None where a run is missing), and where it is asked for."""


def asked_table(title: str, asked: Sequence[Asked[CellsT]], cells: CellsT, name: Callable[[str, str], str]) -> Table:
    """Return in how many of the places that have runs each demand holds, and in which it does not.

    Args:
        title: Of the table.
        asked: The demands.
        cells: The runs, as the demands take them.
        name: Of a place.
    """
    rows = []
    for words, holds, places in asked:
        found = {place: holds(cells, *place) for place in places}
        met, known = sum(one is True for one in found.values()), sum(one is not None for one in found.values())
        missed = ", ".join(name(*place) for place, one in found.items() if one is False)
        rows.append((words, f"{met} of {known}" if known else "not run", missed))
    return Table(title=title, headings=("what", "holds in", "not in"), rows=tuple(rows), text_columns=1)
