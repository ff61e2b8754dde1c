"""``feedalign data``: where data sets are looked for, and whether they are complete."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.options import Omitted
from feedalign.experiments.data import DATASETS, data_root, source
from feedalign.experiments.errors import DataError
from feedalign.experiments.tables import Table


@dataclass(frozen=True)
class ListData:
    """List the data sets and where their files are looked for.

    Example: feedalign data list

    Attributes:
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Print the table."""
        root = data_root(self.data_root)
        rows = []
        for name, row in DATASETS.items():
            present = [place for place in row.places if (root / place).exists()]
            where = (
                "built in" if not row.places else ", ".join(present) or f"not there; a download goes to {row.places[0]}"
            )
            rows.append((name, row.title, where, f"{row.train:,}", f"{row.test:,}"))
        table = Table(
            title=f"Data sets under {root}",
            headings=("name", "data set", "files", "training", "test"),
            rows=tuple(rows),
            notes=("`feedalign data check` reads and checks them; `feedalign data fetch NAME` downloads one.",),
            text_columns=3,
        )
        show(standard_output(), [table])


@dataclass(frozen=True)
class CheckData:
    """Read data sets and check every file by its hash, without downloading.

    Example: feedalign data check mnist

    Attributes:
        names: Which; all by default.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    names: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME [NAME ...]")] = tuple(DATASETS)
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Print a line a data set; fail at the end if one is missing or damaged."""
        console, failed = standard_output(), []
        for name in self.names:
            try:
                say(console, _read(name, self.data_root, download=False))
            except DataError as error:
                say(console, f"{name}: not usable. {error}")
                failed.append(name)
        if failed:
            raise DataError(f"Not usable: {', '.join(failed)}. See above for what each one lacks.")


@dataclass(frozen=True)
class FetchData:
    """Download a data set from its official address, unless it is there, and check it.

    Example: feedalign data fetch fashion-mnist

    Attributes:
        name: Which: mnist, fashion-mnist or cifar10.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Download and print what is there."""
        say(standard_output(), _read(self.name, self.data_root, download=True))


def _read(name: str, root: Path | None, download: bool) -> str:
    row = source(name)
    raw = row.read(data_root(root), download=download)
    train, test = len(raw.train.labels), len(raw.test.labels)
    part = "" if (train, test) == (row.train, row.test) else f" (a part: there are {row.train:,} and {row.test:,})"
    checked = "every file has its published hash" if row.places else "built in, no file to check"
    return f"{name}: {train:,} training and {test:,} test images{part or ', complete'}; {checked}."
