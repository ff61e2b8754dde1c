"""``feedalign bench``."""

from dataclasses import dataclass
from pathlib import Path

from rich.progress import Progress

from feedalign.bench.cases import CASES
from feedalign.bench.record import run_step, step_table
from feedalign.bench.step import StepConfig
from feedalign.cli.console import say, show, standard_error, standard_output


@dataclass(frozen=True)
class BenchStep:
    """Time a whole training step of backprop, DFA and shallow, interleaved in one process.

    Prints medians and quartiles, the ratio to backprop, the limit that the count of operations sets, and the peak
    memory of a step; writes them as a record.

    Example: feedalign bench step --cases mlp-8x1024 --rounds 50

    Attributes:
        cases: Which systems: mlp-8x1024, mlp-16x256, transformer-macro, transformer-micro (or transformer), cnn.
        rounds: Timed rounds a case; each is one step of every rule.
        warmup: Rounds before these, not counted.
        device: Where to run: cpu, or an accelerator such as cuda.
        seed: Seed of weights, inputs and feedback.
        output: Folder of the record.
    """

    cases: tuple[str, ...] = tuple(case.name for case in CASES)
    rounds: int = 30
    warmup: int = 3
    device: str = "cpu"
    seed: int = 0
    output: Path = Path("runs/bench/step")

    def run(self) -> None:
        """Measure, with a bar per case, and print the table."""
        config = StepConfig(self.cases, self.rounds, self.warmup, self.device, self.seed)
        with Progress(console=standard_error(), transient=True) as bars:
            tasks = {}

            def progress(case: str, done: int, rounds: int) -> None:
                if case not in tasks:
                    tasks[case] = bars.add_task(case, total=rounds)
                bars.update(tasks[case], completed=done)

            record = run_step(config, self.output, progress)
        console = standard_output()
        show(console, [step_table(record)])
        say(console, f"\nRecord: {self.output / 'record.json'}\nPictures: feedalign report {self.output}")
