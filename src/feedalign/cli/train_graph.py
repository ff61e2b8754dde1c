"""``feedalign train graph`` and ``feedalign train gae``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.graph_options import Graphs, Models, Which, Words, graphs, models, preset_name, rules, tuned
from feedalign.cli.options import RULE_NAMES, OfPreset, Omitted
from feedalign.cli.progress import one_bar
from feedalign.cli.report import REPORT
from feedalign.cli.train import cpu_threads
from feedalign.experiments.graph import AUTOENCODER, GRAPH, autoencoder_presets, preset, presets
from feedalign.experiments.graph.presets import AUTOENCODER as GAE
from feedalign.experiments.graph.presets import cell
from feedalign.experiments.graph.tables import graph_tables
from feedalign.experiments.records import load_all
from feedalign.experiments.report import write_report
from feedalign.experiments.runs import Experiment
from feedalign.experiments.settings import Settings

Rules = Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=RULE_NAMES)]
TUNED_HELP = "Folder of what feedalign tune found; by default the settings that come with the package."


@dataclass(frozen=True)
class TrainGraph:
    """Train graph networks to classify nodes with one or more learning rules, over seeds, and compare.

    Prints tables with the published figures beside ours and writes a report. Finished runs are not run again; stopped
    ones go on where they were. Given several times at once, the command shares the runs out among its processes.

    Example: feedalign train graph

    Example: feedalign train graph --data all --model all --seeds 10 --threads 1

    Attributes:
        data: Graphs.
        model: Networks.
        preset: Settings by name instead of data and model, such as pubmed-gcn-sampled.
        settings: tuned for each rule with equal budgets, or published.
        rule: Learning rules.
        seeds: Runs per rule, with the seeds 0, 1, 2, ...
        first_seed: Start counting the seeds here.
        epochs: Steps with the whole graph.
        tuned: Folder of tuned settings.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. These networks are small: give 1, and another process.
        output: Folder of the runs.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data: Graphs = ("karate",)
    model: Models = ("gcn",)
    preset: Annotated[Omitted[Words], tyro.conf.arg(metavar="NAME [NAME ...]")] = None
    settings: Which = "tuned"
    rule: Rules = ("bp", "dfa", "shallow")
    seeds: int = 3
    first_seed: int = 0
    epochs: OfPreset[int] = None
    tuned: Annotated[Omitted[Path], tyro.conf.arg(help=TUNED_HELP)] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/graph")
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Train, print the tables, and write the report."""
        if self.preset is not None:
            names = self.preset
        else:
            cells = [cell(graph, kind) for graph in graphs(self.data) for kind in models(self.model)]
            names = tuple(preset_name(one, self.settings) for one in cells)
        _train(self, GRAPH, names, presets)


@dataclass(frozen=True)
class TrainGae:
    """Train the graph autoencoder to foretell links with one or more learning rules, over seeds, and compare.

    5 % of the edges are held out to choose the epoch and 10 % to test. Finished runs are not run again; stopped ones
    go on where they were. Given several times at once, the command shares the runs out among its processes.

    Example: feedalign train gae --data cora --seeds 5

    Attributes:
        data: Graphs.
        settings: tuned for each rule with equal budgets, or published.
        rule: Learning rules.
        seeds: Runs per rule, with the seeds 0, 1, 2, ...
        first_seed: Start counting the seeds here.
        epochs: Steps with the whole graph.
        tuned: Folder of tuned settings.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. This network is small: give 1, and another process.
        output: Folder of the runs.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data: Graphs = ("karate",)
    settings: Which = "tuned"
    rule: Rules = ("bp", "dfa", "shallow")
    seeds: int = 3
    first_seed: int = 0
    epochs: OfPreset[int] = None
    tuned: Annotated[Omitted[Path], tyro.conf.arg(help=TUNED_HELP)] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/graph")
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Train, print the table, and write the report."""
        names = tuple(preset_name(cell(graph, GAE), self.settings) for graph in graphs(self.data))
        _train(self, AUTOENCODER, names, autoencoder_presets)


def _train(
    command: TrainGraph | TrainGae,
    experiment: Experiment[Any, Any],
    names: Words,
    rows: Callable[[Mapping[str, Settings]], Any],
) -> None:
    configs = _configs(command, names, rows(tuned(command.tuned)))
    with cpu_threads(command.threads), one_bar(len(configs)) as progress:
        experiment.sweep(configs, command.output, root=command.data_root, progress=progress, shared=True)
    folders = [folder for name in dict.fromkeys(config.name for config in configs) if (folder := command.output / name)]
    runs = [run for folder in folders for run in load_all(folder)]
    console = standard_output()
    show(console, graph_tables(runs))
    say(console, f"\nReport: {write_report(command.output, command.output / REPORT)}")


def _configs(command: TrainGraph | TrainGae, names: Words, rows: Any) -> list[Any]:
    """Return one configuration per preset, seed and rule, those of one preset next to each other."""
    if command.seeds < 1 or command.first_seed < 0:
        raise UsageError(
            f"Expected at least one seed, the first at least 0, found {command.seeds} from {command.first_seed} on."
        )
    if command.threads is not None and command.threads < 1:
        raise UsageError(f"Expected at least one thread, found {command.threads}.")
    return [
        _changed(command, preset(rows, name, rule, seed))
        for name in names
        for seed in range(command.first_seed, command.first_seed + command.seeds)
        for rule in rules(command.rule)
    ]


def _changed(command: TrainGraph | TrainGae, config: Any) -> Any:
    """Return a configuration as the options have it; other epochs make another name, and so another table."""
    config = replace(config, device=command.device)
    if command.epochs in (None, config.epochs):
        return config
    return replace(config, epochs=command.epochs, name=f"{config.name}_epochs-{command.epochs}")
