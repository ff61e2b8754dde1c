"""``feedalign bench coprocessor``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.bench.coprocessor import GPUS, OPUS, CoprocessorConfig
from feedalign.cli.bench import run_bench

Gpus = Annotated[tuple[str, ...], tyro.conf.arg(help=f"GPUs: {', '.join(GPUS)}.")]
Opus = Annotated[tuple[str, ...], tyro.conf.arg(help=f"Optical co-processors: {', '.join(OPUS)}.")]


@dataclass(frozen=True)
class BenchCoprocessor:
    """Compute when an optical co-processor would pay: time and energy of a step, and crossovers, by arithmetic alone.

    Backprop on a GPU, DFA on a GPU (dense and Hadamard feedback), and DFA with a co-processor, over the width, depth,
    vocabulary and rows of Transformers. Nothing is timed; the count of products is the library's own, and every
    assumption is printed.

    Example: feedalign bench coprocessor

    Example: feedalign bench coprocessor --frames 4 --placement micro --gpus a100-40gb

    Attributes:
        gpus: GPUs.
        opus: Optical co-processors.
        widths: Of Transformers, every one with every depth, vocabulary and number of rows.
        depths: Blocks.
        vocabularies: Width of the error.
        rows: Tokens of a step.
        placement: A point behind every block (macro) or sub-layer (micro).
        frames: Camera frames per row: 1 for signs off axis, 4 for three levels with an anchor.
        utilisation: Share of the peak that a GPU reaches.
        idle: Watts of a GPU that waits.
        output: Folder of the record.
    """

    gpus: Gpus = CoprocessorConfig.gpus
    opus: Opus = CoprocessorConfig.opus
    widths: tuple[int, ...] = CoprocessorConfig.widths
    depths: tuple[int, ...] = CoprocessorConfig.depths
    vocabularies: tuple[int, ...] = CoprocessorConfig.vocabularies
    rows: tuple[int, ...] = CoprocessorConfig.rows
    placement: Literal["macro", "micro"] = "macro"
    frames: int = CoprocessorConfig.frames
    utilisation: float = CoprocessorConfig.utilisation
    idle: float = CoprocessorConfig.idle
    output: Path = Path("runs/bench/coprocessor")

    def run(self) -> None:
        """Compute, and print the tables."""
        config = CoprocessorConfig(
            gpus=self.gpus, opus=self.opus, widths=self.widths, depths=self.depths, vocabularies=self.vocabularies,
            rows=self.rows, placement=self.placement, frames=self.frames, utilisation=self.utilisation, idle=self.idle,
        )  # fmt: skip
        run_bench(config, self.output)
