"""``feedalign bench nerf``."""

from dataclasses import dataclass
from pathlib import Path

from feedalign.bench.nerf import NerfConfig
from feedalign.cli.bench import run_bench


@dataclass(frozen=True)
class BenchNerf:
    """Measure rays per second of radiance fields: training under backprop, DFA and shallow, and rendering.

    All take turns in one process. Backprop, DFA and rendering are timed with every sample asked about, and with a grid
    of empty space in which a ball is not empty.

    Example: feedalign bench nerf --systems tiny --rounds 5

    Attributes:
        systems: Fields: tiny (2 x 128), published (4 x 128, coarse and fine) or paper (8 x 256, coarse and fine).
        rays: In a step.
        rounds: Timed rounds a system.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        seed: Seed of weights, rays and feedback.
        output: Folder of the record.
    """

    systems: tuple[str, ...] = NerfConfig.systems
    rays: int = NerfConfig.rays
    rounds: int = NerfConfig.rounds
    warmup: int = NerfConfig.warmup
    device: str = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/nerf")

    def run(self) -> None:
        """Measure, with a bar per system, and print the table."""
        config = NerfConfig(self.systems, self.rays, self.rounds, self.warmup, self.device, self.seed)
        run_bench(config, self.output)
