"""How the lines of a click log are made, and what is read of them."""

from dataclasses import dataclass
from typing import NamedTuple

from feedalign.experiments.data.click_data import Labels
from feedalign.experiments.data.vocabulary import Keys

CLICKED = (("0", 0), ("1", 1))


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
