"""``feedalign tune ctr``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.ctr_options import Logs, Networks, logs, networks, rules_of
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted
from feedalign.cli.searches import require_some, search
from feedalign.cli.train_ctr import Rules
from feedalign.experiments.ctr.tuning import studies


@dataclass(frozen=True)
class TuneCtr:
    """Find each rule's settings on a click log, with the same trials for every one, decided on validation rows.

    Learning rates from 1e-4 to 1e-2 and dropout from 0 to 0.5: two settings are tried first, then others that Optuna
    proposes from one and the same seed. Writes what was chosen to tuning.json. A stopped search goes on where it was.
    To use several CPU cores, give the same command several times at once: each process takes a network and a rule
    that no other one is at.

    Example: feedalign tune ctr --data criteo-indexed --model deepfm

    Example: feedalign tune ctr --data all --model all --threads 1 --output results/ctr

    Attributes:
        data: Click logs.
        model: Networks. A factorisation machine (fm) has no hidden layer: it learns by backprop alone.
        rule: Learning rules.
        trials: Settings to try per rule.
        runs: Runs per trial, from different first weights.
        epochs: Of every run at most; by default those of the runs that are reported.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. With several processes, give 1 to each.
        output: Folder of the searches.
        keep: Also write all settings chosen so far in the output into this file, such as that of the package.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data: Logs = ("planted",)
    model: Networks = ("deepfm",)
    rule: Rules = ("bp", "dfa", "shallow")
    trials: int = 12
    runs: int = 1
    epochs: Annotated[Omitted[int], tyro.conf.arg(metavar="INT")] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/ctr")
    keep: Omitted[Path] = None
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Run the trials, print the tables, and say what to do with them."""
        require_some(self.trials, self.runs)
        cells = [
            (log, kind, rule)
            for log in logs(self.data)
            for kind in networks(self.model)
            for rule in rules_of(kind, self.rule)
        ]
        if not cells:
            raise UsageError("Expected something to tune: a factorisation machine learns by bp alone. Add --rule bp.")
        options = {"trials": self.trials, "runs": self.runs, "epochs": self.epochs, "device": self.device}
        found = studies(cells, self.output, **options)
        search(self, found, self.trials)
