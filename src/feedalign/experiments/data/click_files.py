"""Files of click logs, plain or gzip, read block by block.

What is wrong with a file is said with its name, the line and the reason; nothing is guessed or skipped.
"""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np

from feedalign.experiments.data.click_layout import Block, Layout
from feedalign.experiments.data.root import refuse_html
from feedalign.experiments.errors import DataError

BLOCK = 16 * 2**20
GZIP = b"\x1f\x8b"
NEWLINE = ord("\n")


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
    # Here, so that polars is needed only where a click log is read.
    from feedalign.experiments.data.click_lines import parse

    left = rows
    for path in paths:
        for number, text in _data_lines(path, layout, block):
            if left == 0:
                return
            shortened = text if left is None else _first_lines(text, left)
            parsed = parse(path, number, shortened, layout)
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
    refuse_html(path)
    with path.open("rb") as file:
        start = file.read(len(GZIP))
    return gzip.open(path, "rb") if start == GZIP else path.open("rb")  # type: ignore[return-value]


def _first_lines(text: bytes, count: int) -> bytes:
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == NEWLINE)
    return text if len(ends) <= count else text[: int(ends[count - 1]) + 1]
