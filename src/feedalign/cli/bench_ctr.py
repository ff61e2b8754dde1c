"""``feedalign bench ctr``."""

from dataclasses import dataclass
from pathlib import Path

from feedalign.bench.ctr import CtrConfig
from feedalign.cli.bench import run_bench
from feedalign.experiments.models.clicks import ClickKind


@dataclass(frozen=True)
class BenchCtr:
    """Time a training step on clicks over the number of categories, with dense and sparse tables, by backprop and DFA.

    The gradient of a dense table, and its optimiser, grow with the number of categories; those of a sparse one with
    the batch alone.

    Example: feedalign bench ctr --categories 10000 1000000

    Attributes:
        categories: Of all 39 fields together.
        model: The network, of its published size: deepfm, dcn, autoint or afn.
        batch: Rows in a step.
        rounds: Timed rounds; each is one step of every size in every way.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        seed: Seed of weights, rows and feedback.
        output: Folder of the record.
    """

    categories: tuple[int, ...] = CtrConfig.categories
    model: ClickKind = CtrConfig.model
    batch: int = CtrConfig.batch
    rounds: int = CtrConfig.rounds
    warmup: int = CtrConfig.warmup
    device: str = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/ctr")

    def run(self) -> None:
        """Measure, with a bar, and print the table."""
        config = CtrConfig(
            self.categories, self.model, self.batch, self.rounds, self.warmup, self.device, self.seed
        )  # fmt: skip
        run_bench(config, self.output)
