"""``feedalign tune graph``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.graph_options import Graphs, Models, graphs, models, rules
from feedalign.cli.options import Omitted
from feedalign.cli.searches import require_some, search
from feedalign.cli.train_graph import Rules
from feedalign.experiments.graph.presets import AUTOENCODER
from feedalign.experiments.graph.tuning import studies


@dataclass(frozen=True)
class TuneGraph:
    """Find each rule's settings on a graph, with the same trials for every one, decided on validation nodes or links.

    The published settings are tried first, then others that Optuna proposes from one and the same seed. Writes what
    was chosen to tuning.json. A stopped search goes on where it was. To use several CPU cores, give the same command
    several times at once: each process takes a network and a rule that no other one is at.

    Example: feedalign tune graph --data cora --model gcn --trials 20

    Example: feedalign tune graph --data all --model all gae --threads 1 --output results/graph

    Attributes:
        data: Graphs.
        model: Networks, or gae for the autoencoder.
        rule: Learning rules.
        trials: Settings to try per rule, the published ones counted.
        runs: Runs per trial, from different first weights.
        epochs: Of every run; by default 200, and less for the large networks.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. With several processes, give 1 to each.
        output: Folder of the searches.
        keep: Also write all settings chosen so far in the output into this file, such as that of the package.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data: Graphs = ("karate",)
    model: Models = ("gcn",)
    rule: Rules = ("bp", "dfa", "shallow")
    trials: int = 12
    runs: int = 2
    epochs: Annotated[Omitted[int], tyro.conf.arg(metavar="INT")] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/graph")
    keep: Omitted[Path] = None
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Run the trials, print the tables, and say what to do with them."""
        require_some(self.trials, self.runs)
        found = studies(
            [(graph, kind) for graph in graphs(self.data) for kind in self.kinds],
            rules(self.rule),
            self.output,
            trials=self.trials,
            runs=self.runs,
            epochs=self.epochs,
            device=self.device,
        )
        search(self, found, self.trials)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The networks asked for, the autoencoder last."""
        networks = tuple(name for name in self.model if name != AUTOENCODER)
        return (*(models(networks) if networks else ()), *((AUTOENCODER,) if AUTOENCODER in self.model else ()))
