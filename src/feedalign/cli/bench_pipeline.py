"""``feedalign bench pipeline``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
import tyro

from feedalign.bench.pipeline import ARMS, ArmName, PipelineConfig
from feedalign.bench.pipeline_systems import Placement, SystemName
from feedalign.bench.pipeline_tables import LABELS
from feedalign.cli.bench import run_bench
from feedalign.cli.quantities import seconds

Schedules = Annotated[
    tuple[ArmName, ...],
    tyro.conf.arg(help="Schedules, 1f1b among them: " + "; ".join(f"{name} ({LABELS[name]})" for name in ARMS) + "."),
]


@dataclass(frozen=True)
class BenchPipeline:
    """Measure steps of a pipeline: torch's schedules with backprop, and DFA's, in which no stage waits for a gradient.

    Starts its own processes, one per stage with one thread each, in which all schedules take turns. Stages form real
    products, or sleep (--system sleep), so that a few cores can stand for many. Beside each ratio stands the limit that
    the times of the passes in the same run set. The table also holds bubble, bytes, and memory per stage.

    Example: feedalign bench pipeline --stages 2 --micro-batches 2 4 8

    Example: feedalign bench pipeline --system sleep --stages 8 --micro-batches 8 --sleep 20ms

    Example: feedalign bench pipeline --system transformer --depth 8 --width 128 --rows 8 --points macro micro

    Attributes:
        stages: Processes.
        micro_batches: Micro-batches of a step, each number a case; as many as stages at least.
        system: An mlp, a pre-LN transformer on tokens, or stages that sleep.
        schedules: Names of schedules.
        depth: Hidden layers or blocks over all stages.
        width: Of the layers.
        rows: Rows of a micro-batch; sequences of 64 tokens, for the transformer.
        points: Where the transformer is cut: behind every block (macro), every sub-layer (micro).
        sleep: For stages that sleep: time of a forward pass.
        backward: For stages that sleep: time of DFA's backward pass, in forward passes. Backprop's is two.
        row: Steps without a barrier between them.
        rounds: Rounds; each runs every schedule once.
        warmup: Steps of every schedule before these, not counted.
        seed: Seed of weights, inputs and feedback.
        output: Folder of the record.
    """

    stages: int = PipelineConfig.stages
    micro_batches: tuple[int, ...] = PipelineConfig.micro_batches
    system: SystemName = PipelineConfig.system
    schedules: Schedules = PipelineConfig.schedules
    depth: int = PipelineConfig.depth
    width: int = PipelineConfig.width
    rows: int = PipelineConfig.rows
    points: tuple[Placement, ...] = PipelineConfig.points
    sleep: str = "20ms"
    backward: float = PipelineConfig.backward
    row: int = PipelineConfig.row
    rounds: int = PipelineConfig.rounds
    warmup: int = PipelineConfig.warmup
    seed: int = 0
    output: Path = Path("runs/bench/pipeline")

    def run(self) -> None:
        """Measure, with a bar per case, and print the table."""
        config = PipelineConfig(
            self.stages, self.micro_batches, self.system, self.schedules, self.depth, self.width, self.rows,
            self.points, seconds(self.sleep, "sleep"), self.backward, self.row, self.rounds, self.warmup, "cpu",
            self.seed,
        )  # fmt: skip
        torch.set_num_threads(1)  # as the processes have, so that the record says so
        run_bench(config, self.output)
