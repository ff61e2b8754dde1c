"""Files of click logs, plain or gzip: read block by block, and every line checked.

What is wrong with a file is said with its name, the line and the reason; nothing is guessed or skipped.
"""

import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

import numpy as np
import polars as pl

from feedalign.experiments.data.click_data import Labels
from feedalign.experiments.data.vocabulary import LONGEST, MISSING, Keys, log_bins, ordered, packed
from feedalign.experiments.errors import DataError

BLOCK = 16 * 2**20
GZIP = b"\x1f\x8b"
NEWLINE = ord("\n")
CLICKED = (("0", 0), ("1", 1))
SEPARATORS = {"\t": "tabs", ",": "commas"}


@dataclass(frozen=True)
class Layout:
    """How the lines of a file are made. A first line that holds the names of the columns is known as such.

    Attributes:
        columns: Their names, in order.
        label: The column of the label.
        categories: Columns whose texts are categories.
        numbers: Columns of integers, which are put into bins.
        separator: Between columns, one character.
        labels: What may be in the column of the label, and the label it means.
        replaced: Bytes that are replaced before a line is split.
        whole_numbers: Whether categories are whole numbers, so that 7 and 7.0 are the same one.
    """

    columns: tuple[str, ...]
    label: str
    categories: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    separator: str = "\t"
    labels: tuple[tuple[str, int], ...] = CLICKED
    replaced: tuple[tuple[bytes, bytes], ...] = ()
    whole_numbers: bool = False

    @property
    def fields(self) -> tuple[str, ...]:
        """The columns that become fields: numbers first, as in the file."""
        return (*self.numbers, *self.categories)


class Block(NamedTuple):
    """Some consecutive rows: labels ``[B]``, and the keys ``[B]`` of each field."""

    labels: Labels
    keys: list[Keys]


def read_blocks(
    paths: Sequence[Path], layout: Layout, rows: int | None = None, *, block: int = BLOCK
) -> Iterator[Block]:
    """Yield the rows of files, one file after the other.

    Args:
        paths: The files.
        layout: How their lines are made.
        rows: Only the first so many rows.
        block: Bytes of text that are held at a time.

    Raises:
        DataError: A file cannot be read, is truncated, or has a line that is not as it should be.
    """
    left = rows
    for path in paths:
        for number, text in _data_lines(path, layout, block):
            if left == 0:
                return
            shortened = text if left is None else _first_lines(text, left)
            parsed = _parse(path, number, shortened, layout)
            yield parsed
            left = None if left is None else left - len(parsed.labels)


def count_rows(paths: Sequence[Path], layout: Layout, limit: int | None = None, *, block: int = BLOCK) -> int:
    """Return how many rows files have, or ``limit`` if they have more, of which no more are read then.

    Raises:
        DataError: A file cannot be read, is truncated or has no rows.
    """
    total = 0
    for path in paths:
        before = total
        for _, text in _data_lines(path, layout, block):
            total += text.count(b"\n")
            if limit is not None and total >= limit:
                return limit
        if total == before:
            raise DataError(f"{path} is empty: expected rows of {len(layout.columns)} columns, found none.")
    return total


def _data_lines(path: Path, layout: Layout, block: int) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines with the number of the first, without the line of names."""
    header = layout.separator.join(layout.columns).encode() + b"\n"
    number = 1
    for text in _lines(path, block):
        if number == 1 and text.startswith(header):
            if len(text) > len(header):
                yield 2, text[len(header) :]
        else:
            yield number, text
        number += text.count(b"\n")


def _lines(path: Path, block: int) -> Iterator[bytes]:
    """Yield whole lines that all end in a line feed; empty lines at the end of the file are left out."""
    carried = b""
    for text in _bytes(path, block):
        carried += text
        end = carried.rfind(b"\n") + 1
        lines = carried[:end].replace(b"\r\n", b"\n")
        kept = lines.rstrip(b"\n")
        if kept:
            yield kept + b"\n"
            carried = lines[len(kept) + 1 :] + carried[end:]
    rest = carried.rstrip(b"\r\n").replace(b"\r\n", b"\n")
    if rest:
        yield rest + b"\n"


def _bytes(path: Path, block: int) -> Iterator[bytes]:
    try:
        with _open(path) as file:
            while text := file.read(block):
                yield text
    except EOFError as error:
        raise DataError(f"{path} is truncated: its compressed data end too early. Do get it again.") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} is damaged: expected gzip data, found {error}. Do get it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from error


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(len(GZIP))
    return gzip.open(path, "rb") if start == GZIP else path.open("rb")  # type: ignore[return-value]


def _first_lines(text: bytes, count: int) -> bytes:
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE)
    return text if len(ends) <= count else text[: int(ends[count - 1]) + 1]


def _parse(path: Path, number: int, text: bytes, layout: Layout) -> Block:
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
    # A line of so many columns ends at every so manieth separator or line end.
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


def _check_none(path: Path, number: int, column: pl.Series, bad: pl.Series, expected: str) -> None:
    if bad.any():
        row = bad.arg_max() or 0
        found = "nothing" if column[row] is None else repr(column[row])
        _refuse(path, number + row, f"expected {expected} in column {column.name}, found {found}")


def _refuse(path: Path, line: int, reason: str) -> NoReturn:
    raise DataError(f"{path}, line {line:,}: {reason}. Do mend the line or leave it out.")
