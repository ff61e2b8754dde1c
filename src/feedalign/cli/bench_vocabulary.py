"""``feedalign bench vocabulary``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.bench.vocabulary import WAYS, VocabularyConfig
from feedalign.cli.bench import run_bench

Ways = Annotated[
    tuple[str, ...],
    tyro.conf.arg(
        help="Ways to take a step, backprop among them: "
        + "; ".join(name if way is None else f"{name} ({way.label})" for name, way in WAYS.items())
        + "."
    ),
]


@dataclass(frozen=True)
class BenchVocabulary:
    """Measure the time and the memory of a language model's training step over the size of its vocabulary.

    The error is tapped at the logits, as wide as the vocabulary, or before them, as wide as the model; points are
    behind every block (macro) or sub-layer (micro). All take turns with backprop in one process.

    Example: feedalign bench vocabulary --vocabularies 32000 --widths 512 --rounds 3

    Example: feedalign bench vocabulary --ways backprop macro-logits macro-hadamard

    Attributes:
        vocabularies: How many tokens there are.
        widths: Of the model, multiples of 32, every one with every vocabulary.
        ways: Ways to take a step.
        blocks: Of the model.
        chunks: In a step.
        context: Tokens of a chunk.
        rounds: Timed rounds a size; each is one step in every way.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        precision: no for float32, or bf16 for autocast to bfloat16.
        seed: Seed of weights, tokens and feedback.
        output: Folder of the record.
    """

    vocabularies: tuple[int, ...] = VocabularyConfig.vocabularies
    widths: tuple[int, ...] = VocabularyConfig.widths
    ways: Ways = VocabularyConfig.ways
    blocks: int = VocabularyConfig.blocks
    chunks: int = VocabularyConfig.chunks
    context: int = VocabularyConfig.context
    rounds: int = VocabularyConfig.rounds
    warmup: int = VocabularyConfig.warmup
    device: str = "cpu"
    precision: Literal["no", "bf16"] = "no"
    seed: int = 0
    output: Path = Path("runs/bench/vocabulary")

    def run(self) -> None:
        """Measure, with a bar per size, and print the table."""
        config = VocabularyConfig(
            self.vocabularies, self.widths, self.ways, self.blocks, self.chunks, self.context, self.rounds, self.warmup,
            self.device, self.precision, self.seed,
        )  # fmt: skip
        run_bench(config, self.output)
