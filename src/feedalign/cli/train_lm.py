"""``feedalign train lm``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.lm_options import Presets, Rules, sent
from feedalign.cli.options import OfPreset, Omitted
from feedalign.cli.progress import progress_for
from feedalign.cli.report import REPORT
from feedalign.cli.train import cpu_threads
from feedalign.experiments.lm import LM, Config, preset
from feedalign.experiments.lm.tables import lm_tables
from feedalign.experiments.models.attention import AttentionKind
from feedalign.experiments.models.transformer import Norm, Placement, Tap
from feedalign.experiments.records import load_all
from feedalign.experiments.report import write_report
from feedalign.experiments.settings import with_settings
from feedalign.experiments.studies import chosen

OPTIONS = {
    "data": "data.name",
    "vocabulary": "data.vocabulary",
    "lines": "data.limit",
    "epochs": "epochs",
    "every": "every",
    "batch": "batch",
    "accumulate": "accumulate",
    "learning_rate": "optimiser.learning_rate",
    "norm": "model.norm",
    "attention": "model.attention",
    "dropout": "model.dropout",
    "precision": "precision",
}
"""The setting that each option changes, where it is given."""


@dataclass(frozen=True)
class TrainLm:
    """Train a Transformer to foretell the next token of a text with one or more learning rules, and compare.

    Prints perplexities with the published ones beside ours and writes a report. Finished runs are not run again;
    stopped ones go on where they were. Given several times at once, the command shares the runs out among its
    processes. `feedalign generate` goes on with a text by the weights of a run that was trained with --keep.

    Example: feedalign train lm

    Example: feedalign train lm --preset wikitext-2-small --points macro micro --error hidden logits --seeds 3

    Example: feedalign train lm --preset wikitext-103-paper-noam --device auto --precision bf16

    Attributes:
        preset: Settings by name.
        rule: Learning rules.
        points: Where the backward pass is cut: behind every block (macro), or every sub-layer of it (micro).
        error: Where the error is tapped: before the projection to the vocabulary (hidden), or behind it (logits). In
            tuned settings it takes the place of the tap that was chosen with them; all else stays.
        open_last: Do not cut behind the last block: it learns from the error itself.
        seeds: Runs per rule, with the seeds 0, 1, 2, ...
        first_seed: Start counting the seeds here.
        data: Text: python, wikitext-2, wikitext-103, or your own as text/train.txt and so on under the data root.
        vocabulary: Tokens at most.
        lines: Train on at most so many lines.
        epochs: Stretches of training, each with an evaluation at its end.
        every: Steps in a stretch; by default of large presets, one pass over the text.
        batch: Chunks in a step.
        accumulate: Parts that a batch goes through the network in.
        learning_rate: At the start.
        norm: Where a block normalises, behind every sum (post) or before every part (pre).
        attention: Dot products, a dense or random Synthesizer, or fixed patterns.
        dropout: Probability of zeroing a unit.
        precision: no for float32, or mixed precision with bf16.
        tuned: Folder of tuned settings, for presets that end in -tuned; by default those that come with the package.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default. With several processes, give 1 to each.
        keep: Keep the weights of every run, for feedalign generate.
        output: Folder of the runs.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    preset: Presets = ("python-small",)
    rule: Rules = ("bp", "dfa", "shallow")
    points: Annotated[OfPreset[tuple[Placement, ...]], tyro.conf.arg(metavar="{macro,micro} ...")] = None
    error: Annotated[OfPreset[tuple[Tap, ...]], tyro.conf.arg(metavar="{hidden,logits} ...")] = None
    open_last: bool = False
    seeds: int = 1
    first_seed: int = 0
    data: OfPreset[str] = None
    vocabulary: OfPreset[int] = None
    lines: OfPreset[int] = None
    epochs: OfPreset[int] = None
    every: OfPreset[int] = None
    batch: OfPreset[int] = None
    accumulate: OfPreset[int] = None
    learning_rate: OfPreset[float] = None
    norm: OfPreset[Norm] = None
    attention: OfPreset[AttentionKind] = None
    dropout: OfPreset[float] = None
    precision: OfPreset[Literal["no", "bf16"]] = None
    tuned: Omitted[Path] = None
    device: Literal["auto", "cpu"] = "cpu"
    threads: Omitted[int] = None
    keep: bool = False
    output: Path = Path("runs/lm")
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Train, print the tables, and write the report."""
        configs = self.configs()
        with cpu_threads(self.threads):
            LM.sweep(
                configs,
                self.output,
                root=self.data_root,
                progress=progress_for(len(configs)),
                shared=True,
                keep_checkpoint=self.keep,
            )
        folders = dict.fromkeys(self.output / config.name for config in configs)
        console = standard_output()
        show(console, lm_tables([run for folder in folders for run in load_all(folder)]))
        say(console, f"\nReport: {write_report(self.output, self.output / REPORT)}")

    def configs(self) -> list[Config]:
        """Return one configuration per preset, seed, rule, placement and tap.

        Raises:
            UsageError: Something is less than it can be.
        """
        if self.seeds < 1 or self.first_seed < 0:
            raise UsageError(
                f"Expected at least one seed, the first at least 0, found {self.seeds} from {self.first_seed} on."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"Expected at least one thread, found {self.threads}.")
        tuned = None if self.tuned is None else chosen(self.tuned)
        return [
            self.changed(preset(name, one.rule, seed, tuned=tuned, **one.options))
            for name in self.preset
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for one in sent(self.rule, self.points, self.error, self.open_last)
        ]

    def changed(self, config: Config) -> Config:
        """Return a configuration as the options have it; other settings make another name, and so another table."""
        config = replace(config, device=self.device)
        given = {option: value for option in OPTIONS if (value := getattr(self, option)) is not None}
        for option, value in given.items():
            other = with_settings(config, {OPTIONS[option]: value})
            if other != config:
                config = replace(other, name=f"{config.name}_{option.replace('_', '-')}-{value}")
        return config
