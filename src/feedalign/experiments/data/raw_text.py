"""Text as it comes: bytes of which a line is a line, in the three parts of a data set."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256

from feedalign.experiments.errors import DataError

PARTS = ("train", "validation", "test")
MARK = b"\xef\xbb\xbf"
"""The byte order mark that some editors write before text in UTF-8. It is no part of the text."""


@dataclass(frozen=True)
class Text:
    """One part of a data set.

    Attributes:
        source: Where it is from, for messages.
        content: UTF-8, lines ended by line feeds; a byte order mark before them is not read.
    """

    source: str
    content: bytes

    def lines(self, limit: int | None = None) -> Iterator[str]:
        """Yield the lines without the blanks at their ends; the first ``limit`` ones.

        Raises:
            DataError: There is nothing but blanks, or a line is not UTF-8.
        """
        if not self.unmarked.strip():
            raise DataError(f"{self.source} is empty: expected at least one line of text, found only blanks.")
        size = len(self.content)
        start, number = size - len(self.unmarked), 0
        while start < size and (limit is None or number < limit):
            found = self.content.find(b"\n", start)
            end = size if found < 0 else found
            number += 1
            yield self._decoded(start, end, number).rstrip()
            start = end + 1

    @property
    def unmarked(self) -> bytes:
        """The content without a byte order mark."""
        return self.content.removeprefix(MARK)

    def _decoded(self, start: int, end: int, number: int) -> str:
        try:
            return self.content[start:end].decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.source} is not text in UTF-8: line {number:,} holds the byte "
                f"0x{self.content[start + error.start]:02x}, at byte {start + error.start:,} of the file. "
                "Convert it first, for instance with `iconv -f LATIN1 -t UTF-8`."
            ) from error


@dataclass(frozen=True)
class RawTexts:
    """A data set before it is cut into tokens."""

    train: Text
    validation: Text
    test: Text

    def digest(self) -> str:
        """Return what tells these texts from any others: SHA-256, in hexadecimal digits."""
        parts = (sha256(getattr(self, part).unmarked).hexdigest() for part in PARTS)
        return sha256(" ".join(parts).encode()).hexdigest()


def words(line: str) -> int:
    """Return how many words a line has, its end counted as one, as the publications of WikiText count them."""
    return len(line.split()) + 1
