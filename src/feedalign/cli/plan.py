"""``feedalign plan``: what a pipeline would cost, without starting it."""

import json
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from typing import Literal

from rich.progress import Progress

from feedalign.bench.planning import Question, advice, best, compare, plan_table, timeline
from feedalign.cli.console import say, show, standard_error, standard_output
from feedalign.cli.failures import UsageError
from feedalign.cli.options import Omitted
from feedalign.cli.quantities import rate, seconds, size
from feedalign.experiments.files import write_atomically
from feedalign.experiments.styles import png, svg
from feedalign.pipelining.order import Ahead, check_ahead
from feedalign.pipelining.simulator import Broadcasting, Plan, simulate, trace

SHOWN = 2
"""Steps in a picture or a trace."""


@dataclass(frozen=True)
class PlanPipeline:
    """Simulate the schedules of a pipeline: backprop's, and those in which no stage waits for a gradient.

    Prints what a first step and every further one take, how many micro-batches a stage holds, what is sent, and what a
    period waits for; then the best schedule. Times are those of one stage and one micro-batch. Give --product where the
    feedback is shared (the default of the rules): then the last stage may send that in place of the error.

    Example: feedalign plan --stages 8 --micro-batches 16 --forward 20ms

    Example: feedalign plan --stages 1000 --micro-batches 1000 --forward 16.5ms --backward 1.75 --activation 64MiB --error 1GiB --product 64MiB --bandwidth 50GB/s --latency 10us

    Attributes:
        stages: Processes, one stage each.
        micro_batches: Micro-batches in a step.
        forward: Time of a forward pass.
        backward: Time of DFA's backward pass, in forward passes.
        input_backward: Time of backprop's gradients of inputs, in forward passes.
        weight_backward: Time of backprop's gradients of weights, in forward passes.
        head: Time of loss, its gradient and the product on the last stage.
        update: Time of the optimiser's step.
        overhead: What every forward or backward pass costs besides, such as starting messages.
        activation: What a stage sends to the next one per micro-batch.
        error: The error of a micro-batch, rows times classes.
        product: The error times the shared feedback matrix, rows times the width of the widest point.
        bandwidth: Of each process; without it, messages take no time but the latency.
        latency: Of a message.
        broadcasts: How the error may travel: by tree, by chain (in pieces), or by relay through busy stages.
        aheads: How many more micro-batches than in 1F1B a stage may take up: numbers, flat (as many stages as there are
            below the last), or all. The ways of sending are compared at the last one.
        kept: Activations that a stage keeps per micro-batch.
        memory: What a stage may keep.
        clip_globally: All stages wait in every step for one norm of all gradients.
        picture: Where to draw who does what when under the best schedule: a file ending in .svg or .png.
        trace: Where to write the same as a trace for chrome://tracing or Perfetto, a JSON file.
    """  # noqa: E501

    stages: int
    micro_batches: int
    forward: str
    backward: float = 1.0
    input_backward: float = 1.0
    weight_backward: float = 1.0
    head: str = "0s"
    update: str = "0s"
    overhead: str = "0s"
    activation: str = "0B"
    error: str = "0B"
    product: Omitted[str] = None
    bandwidth: Omitted[str] = None
    latency: str = "0s"
    broadcasts: tuple[Literal["chain", "tree", "relay"], ...] = ("chain", "tree", "relay")
    aheads: tuple[str, ...] = ("0", "flat", "all")
    kept: str = "0B"
    memory: Omitted[str] = None
    clip_globally: bool = False
    picture: Omitted[Path] = None
    trace: Omitted[Path] = None

    def run(self) -> None:
        """Simulate with a line of progress, and print the table and the advice."""
        question = self.question()
        if self.picture is not None and self.picture.suffix not in (".svg", ".png"):
            raise UsageError(f"--picture expected a file that ends in .svg or .png, found {self.picture}.")
        with Progress(console=standard_error(), transient=True) as bars:
            task = bars.add_task("schedules", total=None)
            candidates = compare(question, lambda name: bars.update(task, description=name))
        console = standard_output()
        show(console, [plan_table(question, candidates)])
        say(console, "\n" + advice(question, candidates))
        chosen = best(candidates)
        if chosen is None or (self.picture is None and self.trace is None):
            return
        plan = question.plan if not chosen.broadcast else _changed(question, chosen.sent, chosen.broadcast)
        spans = simulate(plan, chosen.name, chosen.ahead, steps=SHOWN, barrier=question.barrier, spans=True).spans
        if self.picture is not None:
            figure = timeline(spans, f"{chosen.label}: two steps of {self.micro_batches} micro-batches")
            drawn = svg(figure).encode() if self.picture.suffix == ".svg" else png(figure)
            write_atomically(self.picture, drawn)
            say(console, f"Picture: {self.picture}")
        if self.trace is not None:
            write_atomically(self.trace, json.dumps(trace(spans)).encode())
            say(console, f"Trace: {self.trace}")

    def question(self) -> Question:
        """Return what is asked, in numbers."""
        f = seconds(self.forward, "forward")
        plan = Plan(
            self.stages, self.micro_batches, f, self.input_backward * f, self.weight_backward * f, self.backward * f,
            seconds(self.head, "head"), seconds(self.update, "update"), seconds(self.overhead, "overhead"),
            size(self.activation, "activation"), size(self.error, "error"), seconds(self.latency, "latency"),
            inf if self.bandwidth is None else rate(self.bandwidth, "bandwidth"),
        )  # fmt: skip
        return Question(
            plan,
            None if self.product is None else size(self.product, "product"),
            self.broadcasts,
            tuple(_ahead(text) for text in self.aheads),
            size(self.kept, "kept"),
            None if self.memory is None else size(self.memory, "memory"),
            self.clip_globally,
        )


def _ahead(text: str) -> Ahead:
    ahead: Ahead = int(text) if text.isdigit() else text  # type: ignore[assignment]
    check_ahead(ahead)
    return ahead


def _changed(question: Question, sent: str, broadcast: Broadcasting) -> Plan:
    error = question.product if sent == "product" and question.product is not None else question.plan.error
    return replace(question.plan, error=error, broadcast=broadcast)
