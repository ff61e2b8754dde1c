"""``feedalign tune nerf``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.console import say, show, standard_error, standard_output
from feedalign.cli.graph_options import Words, rules
from feedalign.cli.options import RULE_NAMES, Omitted
from feedalign.cli.progress import one_bar
from feedalign.cli.train import cpu_threads
from feedalign.cli.train_nerf import PRESET_HELP
from feedalign.cli.tune_graph import settings_text
from feedalign.experiments.nerf.tuning import RATES, studies
from feedalign.experiments.studies import TUNING, chosen, studies_table, tune

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
        found = studies(
            self.preset,
            rules(self.rule),
            self.output,
            iterations=self.iterations,
            runs=self.runs,
            device=self.device,
        )
        left = sum(self.runs * max(0, len(RATES) - len(study.done())) for study in found)
        say(standard_error(), f"{len(found)} searches of {len(RATES)} trials; {left} runs are left")
        with cpu_threads(self.threads), one_bar(left) as progress:
            summaries = tune(found, root=self.data_root, progress=progress)
        console = standard_output()
        show(console, [studies_table(summary) for summary in summaries])
        say(console, f"\nTrials and choices: {self.output}/*/{TUNING}")
        if self.keep is not None:
            self.keep.write_text(settings_text(chosen(self.output)), encoding="utf-8")
            say(console, f"Kept: {self.keep}")
