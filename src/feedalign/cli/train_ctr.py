"""``feedalign train ctr``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.ctr_options import Logs, Networks, Which, Words, logs, networks, rules_of, tuned
from feedalign.cli.failures import UsageError
from feedalign.cli.options import RULE_NAMES, OfPreset, Omitted
from feedalign.cli.progress import one_bar
from feedalign.cli.report import REPORT
from feedalign.cli.train import cpu_threads
from feedalign.experiments.ctr import CTR, Config, preset, presets
from feedalign.experiments.ctr.presets import cell
from feedalign.experiments.ctr.tables import ctr_tables
from feedalign.experiments.data.clicks import CLICKS
from feedalign.experiments.records import load_all
from feedalign.experiments.report import write_report
from feedalign.experiments.settings import named, with_settings

Rules = Annotated[Words, tyro.conf.arg(metavar="NAME [NAME ...]", help=RULE_NAMES)]
TUNED_HELP = "Folder of what feedalign tune found; by default the settings that come with the package."
OPTIONS = {"epochs": "epochs", "batch": "batch", "rows": "data.rows", "sparse": "model.sparse"}
"""The setting that each option changes, where it is given."""


@dataclass(frozen=True)
class TrainCtr:
    """Train networks to tell which rows of a click log are clicks, with one or more learning rules, and compare.

    Prints tables of AUC and log loss with the published figures beside ours, and writes a report. Finished runs are
    not run again; stopped ones go on where they were. Given several times at once, the command shares the runs out
    among its processes.

    Example: feedalign train ctr

    Example: feedalign train ctr --data all --model all --seeds 5 --threads 1

    Example: feedalign train ctr --data criteo --model dcn --settings published --device auto

    Attributes:
        data: Click logs.
        model: Networks. A factorisation machine (fm) has no hidden layer: it learns by backprop alone.
        preset: Settings by name instead of data and model, such as criteo-indexed-afn-frozen.
        settings: tuned for each rule with equal budgets, or sizes and settings as published.
        rule: Learning rules.
        seeds: Runs per rule, with the seeds 0, 1, 2, ...
        first_seed: Start counting the seeds here.
        epochs: How often the training rows are seen at most.
        batch: Rows in a step.
        rows: Use the first so many rows of a log.
        sparse: Give tables sparse gradients and a lazy Adam: a step touches the categories of its batch alone.
        tuned: Folder of tuned settings.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. On small logs give 1, and another process.
        output: Folder of the runs.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    data: Logs = ("planted",)
    model: Networks = ("fm", "deepfm")
    preset: Annotated[Omitted[Words], tyro.conf.arg(metavar="NAME [NAME ...]")] = None
    settings: Which = "tuned"
    rule: Rules = ("bp", "dfa", "shallow")
    seeds: int = 2
    first_seed: int = 0
    epochs: OfPreset[int] = None
    batch: OfPreset[int] = None
    rows: OfPreset[int] = None
    sparse: bool = False
    tuned: Annotated[Omitted[Path], tyro.conf.arg(help=TUNED_HELP)] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    output: Path = Path("runs/ctr")
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Train, print the tables, and write the report."""
        self.require_logs()
        configs = self.configs()
        with cpu_threads(self.threads), one_bar(len(configs)) as progress:
            CTR.sweep(configs, self.output, root=self.data_root, progress=progress, shared=True)
        folders = dict.fromkeys(self.output / config.name for config in configs)
        console = standard_output()
        show(console, ctr_tables([run for folder in folders for run in load_all(folder)]))
        say(console, f"\nReport: {write_report(self.output, self.output / REPORT)}")

    @property
    def names(self) -> Words:
        """The presets asked for."""
        if self.preset is not None:
            return self.preset
        ending = "-published" if self.settings == "published" else ""
        return tuple(cell(log, kind) + ending for log in logs(self.data) for kind in networks(self.model))

    def require_logs(self) -> None:
        """Check that all logs are there or can be downloaded, before it matters whether networks were tuned on them.

        Raises:
            DataError: One is not there and cannot be downloaded.
        """
        rows = presets(tuned(self.tuned))
        for log in dict.fromkeys(named(rows, name).config.data.name for name in self.names):
            if log in CLICKS:
                CLICKS[log].require(self.data_root)

    def configs(self) -> list[Config]:
        """Return one configuration per preset, seed and rule, those of one preset next to each other.

        Raises:
            UsageError: Something is less than it can be, or nothing is left to run.
        """
        if self.seeds < 1 or self.first_seed < 0:
            raise UsageError(
                f"Expected at least one seed, the first at least 0, found {self.seeds} from {self.first_seed} on."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"Expected at least one thread, found {self.threads}.")
        rows = presets(tuned(self.tuned))
        found = [
            self.changed(preset(rows, name, rule, seed))
            for name in self.names
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for rule in rules_of(named(rows, name).config.model.kind, self.rule)
        ]
        if not found:
            raise UsageError("Expected something to run: a factorisation machine learns by bp alone. Do add --rule bp.")
        return found

    def changed(self, config: Config) -> Config:
        """Return a configuration as the options have it; other settings make another name, and so another table."""
        config = replace(config, device=self.device)
        given = {option: value for option in OPTIONS if (value := getattr(self, option)) is not None}
        for option, value in given.items():
            other = with_settings(config, {OPTIONS[option]: value})
            if other != config:
                ending = option if value is True else f"{option}-{value}"
                config = replace(other, name=f"{config.name}_{ending}")
        return config
