"""``feedalign train light``."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted
from feedalign.cli.progress import one_bar
from feedalign.cli.train import cpu_threads
from feedalign.experiments.light import CONDITIONS, SYSTEMS, configs, sweep
from feedalign.experiments.light.tables import light_tables
from feedalign.experiments.records import load_all

SYSTEM_NAMES = "What is trained: " + "; ".join(f"{name} ({row.about})" for name, row in SYSTEMS.items()) + "."
CONDITION_NAMES = f"Ways to carry the error: {', '.join(CONDITIONS)}. By default all that belong to the system."
Words = tuple[str, ...]


@dataclass(frozen=True)
class TrainLight:
    """Train through simulated light and analogue arrays, over seeds, beside backprop, DFA, ternary DFA and shallow.

    Finished runs are not run again; stopped ones go on where they were, but for those with a device that has a clock,
    which cannot be wound back. Given several times at once, the command shares the runs out among its processes.

    Example: feedalign train light --system mnist --condition ternary optical shallow --seeds 1

    Attributes:
        system: What is trained.
        condition: Ways to carry the error.
        seeds: Runs per condition, with the seeds 0, 1, 2, ...
        threads: CPU threads, torch's own choice by default. These networks are small: give 1, and another process.
        output: Folder of the runs.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    system: Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=SYSTEM_NAMES)] = ("mnist",)
    condition: Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=CONDITION_NAMES)] = ()
    seeds: int = 5
    threads: Omitted[int] = None
    output: Path = Path("runs/light")
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Train, and print the tables."""
        if self.seeds < 1:
            raise UsageError(f"Expected at least one seed, found {self.seeds}.")
        found = [config for system in self.system for config in configs(system, self.condition, range(self.seeds))]
        with cpu_threads(self.threads), one_bar(len(found)) as progress, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="About .* of the pixels saturate")  # which some conditions study
            sweep(found, self.output, root=self.data_root, progress=progress)
        console = standard_output()
        show(console, light_tables(load_all(self.output, "light")))
        say(console, f"\nRecords: {self.output}")
