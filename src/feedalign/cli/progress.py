"""Progress of training: live bars on a terminal, plain lines elsewhere."""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from feedalign.cli.console import say, standard_error
from feedalign.experiments.progress import Progress

LINE_SECONDS = 5.0


def progress_for(runs: int) -> Progress:
    """Return whom a sweep of so many runs tells how it goes on."""
    console = standard_error()
    return Bars(console, runs) if console.is_terminal else Lines(console, runs)


@contextmanager
def one_bar(runs: int) -> Iterator[Progress]:
    """Give whom many short runs tell how they go on: one live bar for all of them on a terminal, lines elsewhere."""
    console = standard_error()
    if not console.is_terminal:
        yield Lines(console, runs, each_run=False)
        return
    bar = OneBar(console, runs)
    with bar.bars:
        yield bar


def readable(loss: float) -> str:
    """Return a loss with three decimals, or as a power of ten where training has gone astray."""
    return f"{loss:.3f}" if loss < 1e4 else f"{loss:.1e}"


class Bars:
    """One live bar for the run on its way.

    Args:
        console: Where to draw.
        runs: How many runs there will be.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self.console, self.runs, self.begun, self.name = console, runs, 0, ""
        self.bars: RichProgress | None = None
        self.task = TaskID(0)
        self.steps, self.figure = 0, ""

    def start(self, name: str, rule: str, seed: int, epochs: int, steps: int) -> None:
        """Draw a new bar, under the name of the configuration where that is another one."""
        self.begun += 1
        self.steps, self.figure = steps, ""
        if name != self.name:
            self.name = name
            say(self.console, name)
        # Kept short: all of it stays on one line of an 80 column terminal.
        self.bars = RichProgress(
            TextColumn("{task.description}", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=self.console,
            expand=True,
        )
        self.bars.start()
        title = rf"\[{self.begun}/{self.runs}] {rule} seed {seed}"
        self.task = self.bars.add_task(title, total=epochs * steps, state="", epochs=epochs)

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Move the bar."""
        if self.bars is not None:
            epochs = self.bars.tasks[0].fields["epochs"]
            state = f"epoch {epoch}/{epochs} step {step}/{self.steps} loss {readable(loss)}{self.figure}"
            self.bars.update(self.task, completed=(epoch - 1) * self.steps + step, state=state)

    def epoch(self, line: dict[str, Any]) -> None:
        """Show the accuracy (or what stands for it) of the epoch from now on."""
        self.figure = f" {_figure(line)[1]}"

    def message(self, text: str) -> None:
        """Print a sentence above the bar."""
        say(self.console, text)

    def finish(self) -> None:
        """Leave the bar as it stands."""
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


class OneBar:
    """One live bar for all runs.

    Args:
        console: Where to draw.
        runs: How many runs there will be.
    """

    def __init__(self, console: Console, runs: int) -> None:
        self.console, self.title, self.epochs = console, "", 0
        self.bars = RichProgress(
            TextColumn("{task.completed:.0f}/{task.total} runs", table_column=Column(no_wrap=True)),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[state]}", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self.task = self.bars.add_task("", total=runs, state="")

    def start(self, name: str, rule: str, seed: int, epochs: int, steps: int) -> None:
        """Remember what begins."""
        self.title, self.epochs = f"{name} {rule} seed {seed}", epochs

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Show nothing: a step is too short."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Show how far the run is."""
        state = rf"{self.title} \[{line['epoch']}/{self.epochs}] {_figure(line)[1]}"
        self.bars.update(self.task, state=state)

    def message(self, text: str) -> None:
        """Print a sentence above the bar."""
        say(self.console, text)

    def finish(self) -> None:
        """Count the run."""
        self.bars.advance(self.task)


class Lines:
    """A line at the start and the end of a run, and every few seconds in between.

    Args:
        console: Where to print.
        runs: How many runs there will be.
        each_run: Whether every run has lines, or only one every few seconds is printed.
    """

    def __init__(self, console: Console, runs: int, each_run: bool = True) -> None:
        self.console, self.runs, self.begun, self.each_run = console, runs, 0, each_run
        self.title, self.epochs, self.printed = "", 0, 0.0

    def start(self, name: str, rule: str, seed: int, epochs: int, steps: int) -> None:
        """Say what begins."""
        self.begun += 1
        self.title, self.epochs = f"{name} {rule} seed {seed}", epochs
        if self.each_run:
            self.printed = time.monotonic()
            say(self.console, f"[{self.begun}/{self.runs}] {self.title}: {epochs} epochs of {steps} steps")

    def step(self, epoch: int, step: int, loss: float) -> None:
        """Say nothing: a step is too short for a line."""

    def epoch(self, line: dict[str, Any]) -> None:
        """Print the last epoch, and others when the last line is some seconds old."""
        ends = line["epoch"] == self.epochs and self.each_run
        if ends or time.monotonic() - self.printed >= LINE_SECONDS:
            self.printed = time.monotonic()
            words, _, figure = _figure(line)
            number = "" if self.each_run else f"[{self.begun}/{self.runs}] "
            say(
                self.console,
                f"  {number}{self.title}: epoch {line['epoch']}/{self.epochs}, "
                f"training loss {readable(line['train_loss'])}, "
                f"{words} {figure}, {line['seconds']:.1f} s",
            )

    def message(self, text: str) -> None:
        """Print the sentence."""
        say(self.console, text)

    def finish(self) -> None:
        """Say nothing: the last epoch has its line."""


def _figure(line: dict[str, Any]) -> tuple[str, str, str]:
    """Return what tells how well an epoch does, what it is called, in short, and in full.

    It is the accuracy on validation data, or on training data where nothing is held out; where links or clicks are
    foretold it is the area under the ROC curve, where pictures are rendered the peak signal-to-noise ratio, and of a
    language model the perplexity.
    """
    if "validation_perplexity" in line:
        found, speed = readable(line["validation_perplexity"]), f"{line['tokens_per_second']:,.0f} tokens/s"
        return "validation perplexity", f"ppl {found}", f"{found}, {speed}"
    if "validation_psnr" in line:
        return "validation PSNR", f"{line['validation_psnr']:.1f} dB", f"{line['validation_psnr']:.2f} dB"
    if "validation_auc" in line:
        return "validation AUC", f"AUC {line['validation_auc']:.3f}", f"{line['validation_auc']:.4f}"
    part = "training" if math.isnan(line["validation_accuracy"]) else "validation"
    accuracy = line["train_accuracy" if part == "training" else "validation_accuracy"]
    return f"{part} accuracy", f"acc {100 * accuracy:.1f} %", f"{100 * accuracy:.2f} %"
