"""``feedalign report``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feedalign.cli.console import say, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted

REPORT = "report.html"


@dataclass(frozen=True)
class Report:
    """Write one self-contained HTML file with the tables and pictures of runs. It needs no network.

    Example: feedalign report runs/demo

    Attributes:
        runs: A folder with records at any depth.
        output: The file to write; report.html in the folder of the runs by default.
        pictures: Also write the pictures as PNG files into this folder.
    """

    runs: Annotated[Path, tyro.conf.Positional]
    output: Omitted[Path] = None
    pictures: Omitted[Path] = None

    def run(self) -> None:
        """Write it and print its path."""
        from feedalign.experiments.pictures import write_pictures
        from feedalign.experiments.report import write_report

        if not self.runs.is_dir():
            raise UsageError(f"Expected a folder with records, found none at {self.runs}. `feedalign demo` makes one.")
        path = write_report(self.runs, self.output or self.runs / REPORT)
        say(standard_output(), f"Report: {path}")
        if self.pictures is not None:
            for picture in write_pictures(self.runs, self.pictures):
                say(standard_output(), f"Picture: {picture}")
