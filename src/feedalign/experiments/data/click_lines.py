"""Lines of click logs: checked, every one, and made into labels and keys."""

import io
from pathlib import Path
from typing import NoReturn

import numpy as np
import polars as pl

from feedalign.experiments.data.click_data import Labels
from feedalign.experiments.data.click_layout import Block, Layout
from feedalign.experiments.data.vocabulary import LONGEST, MISSING, Keys, log_bins, ordered
from feedalign.experiments.errors import DataError

NEWLINE = ord("\n")
SEPARATORS = {"\t": "tabs", ",": "commas"}


def parse(path: Path, number: int, text: bytes, layout: Layout) -> Block:
    """Return the rows of some lines.

    Args:
        path: Where they are from.
        number: That of the first line.
        text: Whole lines, each of which ends in a line feed.
        layout: How they are made.

    Raises:
        DataError: A line is not as it should be.
    """
    _check_text(path, number, text)
    for old, new in layout.replaced:
        text = text.replace(old, new)
    _check_columns(path, number, text, layout)
    frame = pl.read_csv(
        io.BytesIO(text),
        has_header=False,
        schema=dict.fromkeys(layout.columns, pl.String),
        separator=layout.separator,
        quote_char=None,
    )
    labels = _labels(path, number, frame[layout.label], layout)
    category = _whole_number if layout.whole_numbers else _category
    keys = [_number(path, number, frame[name]) for name in layout.numbers]
    return Block(labels, keys + [category(path, number, frame[name]) for name in layout.categories])


def _check_text(path: Path, number: int, text: bytes) -> None:
    if text.isascii() and b"\0" not in text:
        return
    for offset, line in enumerate(text.split(b"\n")):
        if not line.isascii() or b"\0" in line:
            _refuse(path, number + offset, "expected ASCII text, found other bytes")


def _check_columns(path: Path, number: int, text: bytes, layout: Layout) -> None:
    columns = len(layout.columns)
    array = np.frombuffer(text, np.uint8)
    marks = array[(array == ord(layout.separator)) | (array == NEWLINE)]
    # Faster than line by line: of so many separators and line ends in a row, the last and no other ends a line.
    if len(marks) % columns == 0:
        ends = marks.reshape(-1, columns) == NEWLINE
        if ends[:, -1].all() and not ends[:, :-1].any():
            return
    separator = layout.separator.encode()
    for offset, line in enumerate(text.split(b"\n")[:-1]):
        found = line.count(separator) + 1
        if found != columns:
            reason = f"expected {columns} columns between {SEPARATORS[layout.separator]}, found {found}"
            _refuse(path, number + offset, reason if line else f"expected {columns} columns, found an empty line")


def _labels(path: Path, number: int, column: pl.Series, layout: Layout) -> Labels:
    labels = column.replace_strict(dict(layout.labels), default=None, return_dtype=pl.UInt8)
    known = " or ".join((", ".join(text for text, _ in layout.labels[:-1]), layout.labels[-1][0]))
    _check_none(path, number, column, labels.is_null(), f"{known} as the label")
    return labels.to_numpy()


def _number(path: Path, number: int, column: pl.Series) -> Keys:
    values = column.cast(pl.Int64, strict=False)
    _check_none(path, number, column, values.is_null() & column.is_not_null(), "an integer or nothing")
    return ordered(log_bins(values.fill_null(MISSING).to_numpy()))


def _whole_number(path: Path, number: int, column: pl.Series) -> Keys:
    values = column.cast(pl.Float64, strict=False)
    whole = values.cast(pl.Int64, strict=False)
    bad = (whole.is_null() | (whole.cast(pl.Float64) != values)) & column.is_not_null()
    _check_none(path, number, column, bad, "a whole number or nothing")
    return ordered(whole.fill_null(MISSING).to_numpy())


def _category(path: Path, number: int, column: pl.Series) -> Keys:
    keys = packed(column)
    _check_none(path, number, column, keys.is_null(), f"a category of at most {LONGEST} characters")
    return keys.to_numpy()


def packed(texts: pl.Series) -> pl.Series:
    """Return ASCII texts as keys, uint64: 0 where there is none, and none where one has more than eight characters."""
    padded = texts.fill_null("").str.pad_end(LONGEST, "\0").cast(pl.Binary)
    return padded.bin.reinterpret(dtype=pl.UInt64, endianness="big")


def _check_none(path: Path, number: int, column: pl.Series, bad: pl.Series, expected: str) -> None:
    if bad.any():
        row = bad.arg_max() or 0
        found = "nothing" if column[row] is None else repr(column[row])
        _refuse(path, number + row, f"expected {expected} in column {column.name}, found {found}")


def _refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise DataError(f"{path}, line {line:,}: {reason}. Do mend the line or leave it out.")
