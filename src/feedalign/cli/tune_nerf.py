"""``feedalign tune nerf``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.graph_options import Words, rules
from feedalign.cli.options import RULE_NAMES, Omitted
from feedalign.cli.searches import require_some, search
from feedalign.cli.train_nerf import PRESET_HELP
from feedalign.experiments.nerf.tuning import RATES, studies

Rules = Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=RULE_NAMES)]
Presets = Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=PRESET_HELP)]


@dataclass(frozen=True)
class TuneNerf:
    """Find each rule's learning rate for a scene, with the same trials for every one, decided on validation views.

    A trial is a short run. A stopped search goes on where it was. To use several CPU cores, give the same command
    several times at once: each process takes a rule that no other one is at.

    Example: feedalign tune nerf --preset tiny-lego --threads 1

    Attributes:
        preset: Settings by name.
        rule: Learning rules.
        iterations: Of a trial.
        runs: Runs per trial, from different first weights.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. With several processes, give 1 to each.
        output: Folder of the searches.
        keep: Also write all settings chosen so far in the output into this file, such as that of the package.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    preset: Presets = ("traced",)
    rule: Rules = ("bp", "dfa", "shallow")
    iterations: int = 1_000
    runs: int = 1
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/nerf")
    keep: Omitted[Path] = None
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Run the trials, print the tables, and say where they are."""
        require_some(len(RATES), self.runs)
        found = studies(
            self.preset,
            rules(self.rule),
            self.output,
            iterations=self.iterations,
            runs=self.runs,
            device=self.device,
        )
        search(self, found, len(RATES))
