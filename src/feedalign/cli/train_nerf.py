"""``feedalign train nerf``."""

from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from feedalign.cli.console import say, show, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.graph_options import rules
from feedalign.cli.options import RULE_NAMES, OfPreset, Omitted
from feedalign.cli.progress import progress_for
from feedalign.cli.report import REPORT
from feedalign.cli.train import cpu_threads
from feedalign.experiments.nerf.config import Config
from feedalign.experiments.nerf.presets import DEFAULT, PRESETS, preset
from feedalign.experiments.nerf.runs import NERF
from feedalign.experiments.nerf.tables import nerf_tables
from feedalign.experiments.records import load_all
from feedalign.experiments.report import write_report
from feedalign.experiments.settings import with_settings

SMALL = [name for name in PRESETS if not name.endswith(("-published", "-paper", "-wide"))]
PRESET_HELP = (
    f"Settings by name: {', '.join(SMALL)}; and the full scale of each published scene, such as lego-published, "
    "lego-paper and lego-wide."
)
# The setting that each option of the command line changes; `None` leaves the preset's value.
SETTINGS = {
    "data": "data.name",
    "shrink": "data.shrink",
    "iterations": "iterations",
    "rays": "rays",
    "learning_rate": "optimiser.learning_rate",
    "noise": "rendering.noise",
    "tested": "tested",
    "skip_after": "skip_after",
    "precision": "precision",
}


GRID = 64
"""Cells along each side, where empty space is to be skipped and the preset has no grid."""


@dataclass(frozen=True)
class TrainNerf:
    """Learn a scene from photographs with one or more learning rules, and compare what new views look like.

    Prints PSNR and SSIM of held-out views and writes a report with pictures. Finished runs are not run again; stopped
    ones go on where they were. The weights stay in checkpoint.pt beside each record, for feedalign render.

    Example: feedalign train nerf

    Example: feedalign train nerf --preset tiny-lego --threads 1

    Attributes:
        preset: Settings by name.
        data: Another scene than the preset's: a name of feedalign data list, or a folder of your own.
        shrink: How many times smaller the pictures are made.
        rule: Learning rules.
        seeds: Runs per rule, with the seeds 0, 1, 2, ...
        first_seed: Start counting the seeds here.
        iterations: Steps.
        rays: Of a step.
        learning_rate: Of every rule.
        noise: Standard deviation of what is added to raw densities in training; it brings empty places back.
        tested: Views of validation and of test that are rendered at the end; 0 for none.
        skip_after: Iterations after which empty space is skipped in training too, on a grid that is learnt on the way.
        precision: no for float32, or mixed precision with bf16 or fp16.
        device: cpu, or auto for an accelerator where there is one.
        threads: CPU threads, torch's own choice by default.
        output: Folder of the runs.
        data_root: Folder of data sets; by default that of FEEDALIGN_DATA, else the user's cache folder.
    """

    preset: Annotated[str, tyro.conf.arg(help=PRESET_HELP)] = DEFAULT
    data: OfPreset[str] = None
    shrink: OfPreset[int] = None
    rule: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME [NAME ...]", help=RULE_NAMES)] = (
        "bp", "dfa", "shallow",
    )  # fmt: skip
    seeds: int = 1
    first_seed: int = 0
    iterations: OfPreset[int] = None
    rays: OfPreset[int] = None
    learning_rate: OfPreset[float] = None
    noise: OfPreset[float] = None
    tested: OfPreset[int] = None
    skip_after: OfPreset[int] = None
    precision: OfPreset[Literal["no", "bf16", "fp16"]] = None
    device: Literal["auto", "cpu"] = "auto"
    threads: Omitted[int] = None
    output: Path = Path("runs/nerf")
    data_root: Omitted[Path] = None

    def run(self) -> None:
        """Train, print the tables, write the report, and say how to see the scene."""
        configs = self.configs()
        with cpu_threads(self.threads):
            NERF.sweep(
                configs,
                self.output,
                root=self.data_root,
                progress=progress_for(len(configs)),
                shared=True,
                keep_checkpoint=True,
            )
        folder = self.output / configs[0].name
        console = standard_output()
        show(console, nerf_tables(load_all(folder)))
        say(console, f"\nReport: {write_report(folder, folder / REPORT)}")
        last = folder / f"{configs[-1].rule}-seed{configs[-1].seed}"
        say(console, f"Next: feedalign render {last} --output {last / 'turntable.gif'}")

    def configs(self) -> list[Config]:
        """Return one configuration per seed and rule.

        Raises:
            UsageError: A number makes no sense.
            ExperimentError: There is no preset of that name.
            ValueError: There is no rule of some name.
        """
        if self.seeds < 1 or self.first_seed < 0:
            raise UsageError(
                f"Expected at least one seed, the first at least 0, found {self.seeds} from {self.first_seed} on."
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"Expected at least one thread, found {self.threads}.")
        return [
            replace(self.changed(preset(self.preset, rule, seed)), device=self.device)
            for seed in range(self.first_seed, self.first_seed + self.seeds)
            for rule in rules(self.rule)
        ]

    def changed(self, config: Config) -> Config:
        """Return a configuration as the options have it; other settings make another name, and so another table."""
        plain = PRESETS[self.preset].config
        given = {option: value for option in SETTINGS if (value := getattr(self, option)) is not None}
        other = {
            option: value
            for option, value in given.items()
            if option == "learning_rate" or attrgetter(SETTINGS[option])(plain) != value
        }
        settings = {SETTINGS[option]: value for option, value in other.items()}
        if "skip_after" in other and not config.grid:
            config = replace(config, grid=GRID)
        if "iterations" in other:  # a short run has lines on its curve too
            config = replace(config, iterations=0, every=_stretch(other["iterations"], config.every))
        return with_settings(config, {**settings, "name": "_".join([self.preset, *map(_suffix, other.items())])})


def _stretch(iterations: int, usual: int) -> int:
    """Return iterations between two lines of the curve, as many as usual or the largest divisor below."""
    return next((every for every in range(min(usual, iterations), 0, -1) if iterations % every == 0), 1)


def _suffix(change: tuple[str, Any]) -> str:
    option, value = change
    return f"{option}-{value}".replace("_", "-").replace("/", "-")
