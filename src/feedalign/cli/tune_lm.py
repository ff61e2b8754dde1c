"""``feedalign tune lm``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.failures import UsageError
from feedalign.cli.lm_options import Presets, Rules
from feedalign.cli.options import Omitted
from feedalign.cli.searches import require_some, search
from feedalign.experiments.lm.tuning import studies
from feedalign.experiments.models.transformer import Placement
from feedalign.experiments.names import expand


@dataclass(frozen=True)
class TuneLm:
    """Find each rule's settings of a language model, with the same trials for every one, decided on validation text.

    Learning rate, whether it falls, where a block normalises and a rate a block; for shallow training and rules that
    send an error to points also whether the last block is cut off; and for the latter where the error is tapped, and
    the gain of the feedback. The settings of the preset are tried first, then the same with the last block open, then
    others that Optuna proposes from one and the same seed. Writes what was chosen to tuning.json. A stopped search goes
    on where it was. To use several CPU cores, give the same command several times at once.

    Example: feedalign tune lm --preset wikitext-2-small --rule bp dfa dkp grape --threads 1

    Attributes:
        preset: What is tuned; the preset with -tuned behind its name (-micro-tuned for such points) then has what was
            chosen.
        rule: Learning rules.
        points: Where the backward pass is cut: behind every block (macro), or every sub-layer of it (micro).
        trials: Settings to try per rule, those of the preset counted.
        runs: Runs per trial, from different first weights.
        steps: Of every run; by default half of those of the preset.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. With several processes, give 1 to each.
        output: Folder of the searches.
        keep: Also write all settings chosen so far in the output into this file, such as that of the package.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    preset: Presets = ("python-small",)
    rule: Rules = ("bp", "dfa")
    points: Placement = "macro"
    trials: int = 12
    runs: int = 1
    steps: Annotated[Omitted[int], tyro.conf.arg(metavar="INT")] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/lm")
    keep: Omitted[Path] = None
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Run the trials, print the tables, and say what to do with them."""
        require_some(self.trials, self.runs)
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"Expected at least one step, found {self.steps}.")
        if not self.rule:
            raise UsageError("Expected at least one rule, found none. Name some, such as --rule bp dfa.")
        options = {name: getattr(self, name) for name in ("points", "trials", "runs", "steps", "device")}
        found = studies(self.preset, expand(self.rule), self.output, **options)
        search(self, found, self.trials)
