"""``feedalign table``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.failures import UsageError
from feedalign.experiments.results import tables, update


@dataclass(frozen=True)
class ShowTable:
    """Print the tables of runs, or write them into documents between the markers of the results block.

    Example: feedalign table results --write README.md

    Attributes:
        runs: A folder with records at any depth.
        write: Documents in which to renew what stands between the markers.
        check: Change nothing; fail if a document is not up to date.
    """

    runs: Annotated[Path, tyro.conf.Positional]
    write: tuple[Path, ...] = ()
    check: bool = False

    def run(self) -> None:
        """Print the tables, or renew or check the documents."""
        console = standard_output()
        if self.check and not self.write:
            raise UsageError("Expected the documents to check, found none. Name them: --write README.md --check.")
        if not self.write:
            show(console, tables(self.runs))
            return
        stale = [document for document in self.write if update(document, self.runs, check=self.check)]
        if self.check and stale:
            names = " ".join(str(document) for document in stale)
            raise UsageError(f"Not up to date with {self.runs}: run `feedalign table {self.runs} --write {names}`.")
        for document in self.write:
            say(console, f"{document}: {'renewed' if document in stale else 'up to date'}")
