"""``feedalign demo``."""

import time
from dataclasses import dataclass
from pathlib import Path

from feedalign.cli.console import say, standard_error, standard_output
from feedalign.cli.train import TrainVision, report


@dataclass(frozen=True)
class Demo:
    """Train a small network on scikit-learn's digits with backpropagation, DFA and shallow, and compare them.

    Needs no network and no data, and takes about a minute on two CPU cores.

    Example: feedalign demo

    Attributes:
        seeds: Runs per rule.
        output: Folder of the runs.
    """

    seeds: int = 3
    output: Path = Path("runs/demo")

    def run(self) -> None:
        """Train, print the table, write the report, and say what to try next."""
        say(standard_error(), WHAT)
        began = time.monotonic()
        # Layers this small gain nothing from a second thread, and wait for it when the machine is busy.
        TrainVision(preset="digits-demo", seeds=self.seeds, output=self.output, device="cpu", threads=1).train()
        console = standard_output()
        report(self.output)
        say(console, f"Time: {time.monotonic() - began:.0f} s\n\nNext:")
        for command, why in NEXT:
            say(console, f"  {command:<52} {why}")


WHAT = """\
Training one small network on images of handwritten digits in three ways: backpropagation (the error goes back through
the transposed weights), DFA (through fixed random matrices), and shallow (the hidden layers never learn)."""
NEXT = (
    ("feedalign train vision --data mnist", "the same comparison on MNIST"),
    ("feedalign bench step --cases mlp-8x1024", "time of a training step, DFA against backprop"),
    ("feedalign inspect model.py:build --shape 1,1,28,28", "where DFA would cut your own model"),
)
