"""Steps of a pipeline over real processes: torch's schedules with backprop, and DFA's, taking turns in one run."""

import gc
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal

import torch
from torch import Tensor, distributed, multiprocessing
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleZBVZeroBubble

from feedalign.bench.cost import peak_memory
from feedalign.bench.pipeline_systems import Placement, System, SystemName
from feedalign.bench.timing import Progress, check_rounds, summed_up
from feedalign.pipelining import Plan, ScheduleDFA, Stage, simulate
from feedalign.pipelining.order import torch_orders
from feedalign.pipelining.simulator import Simulation, Span
from feedalign.rules import DFA

ArmName = Literal["gpipe", "1f1b", "zbv", "dfa-0", "dfa-flat", "dfa-all"]
ARMS: tuple[ArmName, ...] = ("gpipe", "1f1b", "zbv", "dfa-0", "dfa-flat", "dfa-all")
BASE: ArmName = "1f1b"
TIMEOUT = 600.0
"""Seconds after which a process that gets no answer gives up."""


@dataclass(frozen=True)
class PipelineConfig:
    """What to measure.

    Attributes:
        stages: Processes.
        micro_batches: Micro-batches of a step, each number a case.
        system: ``"mlp"``, ``"transformer"``, or stages that ``"sleep"``.
        schedules: Names of schedules; 1F1B is the one that the others are compared with.
        depth: Hidden layers or blocks over all stages; a multiple of the stages, of twice as many for ZBV.
        width: Of the layers.
        rows: Rows of a micro-batch; sequences, for the Transformer.
        points: Placements of the Transformer's points.
        sleep: Seconds of a sleeping stage's forward pass.
        backward: DFA's backward pass of a sleeping stage, in forward passes; backprop's is two.
        row: Steps without a barrier between them; the first and the others are reported apart.
        rounds: Rounds; each runs every schedule once.
        warmup: Rounds before these, not counted.
        device: Where the stages compute.
        seed: Seed of weights, inputs and feedback.
    """

    stages: int = 2
    micro_batches: tuple[int, ...] = (2, 4, 8)
    system: SystemName = "mlp"
    schedules: tuple[ArmName, ...] = ARMS
    depth: int = 8
    width: int = 1024
    rows: int = 128
    points: tuple[Placement, ...] = ("macro",)
    sleep: float = 0.02
    backward: float = 1.0
    row: int = 4
    rounds: int = 15
    warmup: int = 2
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        check_rounds(self.rounds, self.warmup)
        unknown = [name for name in self.schedules if name not in ARMS]
        if unknown or BASE not in self.schedules:
            raise ValueError(
                f"schedules expected {BASE}, which the others are compared with, and others out of {', '.join(ARMS)}; "
                f"found {', '.join(self.schedules) or 'none'}."
            )
        if self.stages < 2 or self.row < 2:
            raise ValueError(f"Expected 2 stages and 2 steps in a row at least, found {self.stages} and {self.row}.")
        if any(count < self.stages for count in self.micro_batches):
            raise ValueError(
                f"1F1B expected as many micro-batches as stages at least, {self.stages}, found "
                f"{min(self.micro_batches)}."
            )
        parts = self.stages * (2 if "zbv" in self.schedules else 1)
        if self.system != "sleep" and self.depth % parts:
            raise ValueError(f"depth expected a multiple of {parts}, so that all stages are equal, found {self.depth}.")
        if self.sleep < 0 or self.backward < 0:
            raise ValueError(f"sleep and backward must be at least 0, found {self.sleep} and {self.backward}.")
        if self.device != "cpu":
            raise ValueError(f"Stages are measured on the CPU, one process each; found device {self.device!r}.")

    def systems(self) -> list[System]:
        """Return the systems, one per placement of points."""
        points: Sequence[Placement] = self.points if self.system == "transformer" else ("macro",)
        return [
            System(self.system, self.depth, self.width, self.rows, each, self.sleep, self.backward) for each in points
        ]


def measure(config: PipelineConfig, progress: Progress | None = None) -> list[dict[str, Any]]:
    """Return one entry per system, number of micro-batches and schedule.

    Args:
        config: What to measure.
        progress: Called as ``progress(what, rounds done, rounds)``.

    Raises:
        RuntimeError: A process failed; its own error is in the message.
    """
    entries: list[dict[str, Any]] = []
    for system in config.systems():
        for count in config.micro_batches:
            name = f"{system.name}{f'-{system.points}' if system.name == 'transformer' else ''}, M = {count}"
            with tempfile.TemporaryDirectory() as folder:
                _run(config, system, count, Path(folder), partial(progress, name) if progress is not None else None)
                found = [json.loads(Path(folder, f"found-{rank}.json").read_text()) for rank in range(config.stages)]
            entries += _entries(config, system, count, name, found)
    return entries


# ---- the processes ---------------------------------------------------------------------------------------------------


def _run(
    config: PipelineConfig, system: System, count: int, folder: Path, progress: Callable[[int, int], None] | None
) -> None:
    context = multiprocessing.start_processes(  # type: ignore[attr-defined, no-untyped-call]
        _enter, (config, system, count, str(folder)), nprocs=config.stages, join=False, start_method="spawn"
    )
    done = folder / "done"
    while not context.join(timeout=0.2):
        if progress is not None and done.exists():
            progress(int(done.read_text() or 0), config.rounds)
    if progress is not None:
        progress(config.rounds, config.rounds)


def _enter(rank: int, config: PipelineConfig, system: System, count: int, folder: str) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=config.stages)
    torch.manual_seed(config.seed)
    batch = system.batch(count)
    arms = {name: Arm(name, config, system, count, rank, batch) for name in config.schedules}
    for _ in range(config.warmup):
        for arm in arms.values():
            arm.step()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    order = list(arms)
    gc.collect()
    gc.disable()
    for done in range(config.rounds):
        for name in order[done % len(order) :] + order[: done % len(order)]:
            runs[name].append(arms[name].in_a_row(config.row))
        if rank == 0:
            Path(folder, "next").write_text(str(done + 1))
            Path(folder, "next").replace(Path(folder, "done"))
    gc.enable()
    found = {name: {"runs": runs[name], "peak": arm.peak(), "sent": arm.sent()} for name, arm in arms.items()}
    Path(folder, f"found-{rank}.json").write_text(json.dumps(found))
    _leave(folder)


def _leave(folder: str) -> None:
    """End this process when all others have nothing more to say; gloo aborts now and then when it is taken down."""
    distributed.barrier()
    Path(folder, f"left-{distributed.get_rank()}").touch()
    until = time.monotonic() + 30
    while time.monotonic() < until and len(list(Path(folder).glob("left-*"))) < distributed.get_world_size():
        time.sleep(0.01)
    os._exit(0)


class Arm:
    """One schedule on one process: its stages, its optimiser, and the times of what it does."""

    def __init__(
        self, name: ArmName, config: PipelineConfig, system: System, count: int, rank: int, batch: tuple[Tensor, Tensor]
    ) -> None:
        self.name, self.spans = name, list[Span]()
        self.steps = 0
        processes = config.stages
        stages = 2 * processes if name == "zbv" else processes
        own = [rank, stages - 1 - rank] if name == "zbv" else [rank]
        rule = name.startswith("dfa")
        torch.manual_seed(config.seed + 1 + rank)
        self.parts = [system.part(stage, stages, processes, rule) for stage in own]
        self.returned = [0] * len(own)  # bytes that a part returns per micro-batch
        for place, part in enumerate(self.parts):
            part.register_forward_hook(partial(self._weigh, place))
        device = torch.device("cpu")
        if rule:
            points = system.names(self.parts[0], rank == processes - 1)
            stage = Stage(self.parts[0], DFA(config.seed), points, index=rank, stages=processes)
            ahead: Any = {"dfa-0": 0, "dfa-flat": "flat", "dfa-all": "all"}[name]
            self.schedule: Any = ScheduleDFA(stage, count, system.loss, ahead=ahead, timeout=TIMEOUT)
            self.schedule.spans = self.spans
            self.stages: list[Any] = [stage]
        else:
            runner = system.runner(stages, processes)
            self.stages = [
                PipelineStage(part, index, stages, device, dw_builder=runner)
                for part, index in zip(self.parts, own, strict=True)
            ]
            for each in self.stages:
                self._time(each)
            if name == "zbv":
                self.schedule = ScheduleZBVZeroBubble(self.stages, count, self._timed_loss(system.loss, stages - 1))
            else:
                kind = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}[name]
                self.schedule = kind(self.stages[0], count, self._timed_loss(system.loss, stages - 1))
        self.count, self.last = count, stages - 1 in own
        self.given = [batch[0]] if 0 in own else []
        self.target = {"target": batch[1]} if self.last else {}
        parameters = [parameter for part in self.parts for parameter in part.parameters()]
        self.optimizer = torch.optim.SGD(parameters, 1e-3)

    def step(self) -> None:
        """Train one step."""
        self.schedule.step(*self.given, **self.target, return_outputs=False)
        start = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.spans.append(Span(0, "U", self.stages[0].stage_index, 0, self.steps, start, time.perf_counter()))
        self.steps += 1

    def in_a_row(self, steps: int) -> dict[str, Any]:
        """Train some steps without a barrier between them; return when they began and ended."""
        self.spans.clear()
        self.steps = 0
        distributed.barrier()
        start, ends, marks = time.perf_counter(), [], []
        for _ in range(steps):
            self.step()
            ends.append(time.perf_counter())
            marks.append(len(self.spans))
        times: dict[str, list[float]] = {}
        for span in self.spans:
            times.setdefault(f"{span.what}{span.stage}", []).append(span.end - span.start)
        # The loss of torch's schedules is computed between passes; here it is a part of the last forward pass.
        busy = sum(span.end - span.start for span in self.spans[marks[0] :])
        return {"start": start, "ends": ends, "busy": busy / (steps - 1), "times": times}

    def peak(self) -> int:
        """Return the most memory that a step takes above what is held before it; all processes do it at once."""
        self.optimizer.zero_grad()
        return peak_memory(self.step, torch.device("cpu"))

    def sent(self) -> int:
        """Return the bytes that this process sends per step to others: activations, and gradients or errors."""
        total = 0
        for stage, returned in zip(self.stages, self.returned, strict=True):
            index, S = stage.stage_index, stage.num_stages
            process = stage.stage_index_to_group_rank
            if index < S - 1 and process[index] != process[index + 1]:
                # A gradient as large comes back under backpropagation; it is counted here, where it ends.
                total += returned * (1 if isinstance(self.schedule, ScheduleDFA) else 2)
            if index == S - 1 and isinstance(self.schedule, ScheduleDFA):
                agreed = stage.link.agreed
                total += (S - 1) * agreed.shape[0] * agreed.shape[1] * agreed.dtype.itemsize
        return total * self.count

    def _weigh(self, place: int, part: Any, args: Any, output: Tensor) -> None:
        self.returned[place] = output.numel() * output.element_size()

    def _time(self, stage: Any) -> None:
        for method, what in (
            ("forward_one_chunk", "F"),
            ("backward_one_chunk", "B"),
            ("backward_weight_one_chunk", "W"),
        ):
            setattr(stage, method, self._timed(getattr(stage, method), what, stage.stage_index))

    def _timed(self, run: Callable[..., Any], what: str, index: int) -> Callable[..., Any]:
        def timed(m: int, *args: Any, **kwargs: Any) -> Any:
            kind = "I" if what == "B" and not kwargs.get("full_backward", True) else what
            with self._span(kind, index, m):
                return run(m, *args, **kwargs)

        return timed

    def _timed_loss(self, loss: Callable[..., Tensor], index: int) -> Callable[..., Tensor]:
        def timed(*args: Any, **kwargs: Any) -> Tensor:
            with self._span("H", index, 0):
                return loss(*args, **kwargs)

        return timed

    @contextmanager
    def _span(self, what: str, index: int, m: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.spans.append(Span(0, what, index, m, self.steps, start, time.perf_counter()))


# ---- what was found --------------------------------------------------------------------------------------------------


def _entries(
    config: PipelineConfig, system: System, count: int, name: str, found: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    limits = {arm: _limit(config, count, arm, [own[arm]["runs"] for own in found]) for arm in config.schedules}
    made = []
    for arm in config.schedules:
        steps, periods, bubbles = [], [], []
        for runs in zip(*(own[arm]["runs"] for own in found), strict=True):
            ends = [max(run["ends"][k] for run in runs) for k in range(config.row)]
            period = (ends[-1] - ends[0]) / (config.row - 1)
            steps.append(ends[0] - min(run["start"] for run in runs))
            periods.append(period)
            bubbles.append(1 - fmean(run["busy"] for run in runs) / period)
        step, period = _of(limits[arm])
        base_step, base_period = _of(limits[BASE])
        made.append(
            {
                "name": name,
                "describe": system.describe,
                "rule": arm,
                "stages": config.stages,
                "micro_batches": count,
                **summed_up(steps),
                "period": summed_up(periods),
                "bubble": median(bubbles),
                "limit": {"step": base_step / step, "period": base_period / period},
                "simulated": {"step": step, "period": period},
                "sent_bytes": sum(own[arm]["sent"] for own in found),
                "peak_memory_bytes": [own[arm]["peak"] for own in found],
                "held": limits[arm].held,
            }
        )
    base = next(entry for entry in made if entry["rule"] == BASE)
    for entry in made:
        entry["ratio"] = base["median_seconds"] / entry["median_seconds"]
        entry["period_ratio"] = base["period"]["median_seconds"] / entry["period"]["median_seconds"]
    return made


def _of(simulation: Simulation) -> tuple[float, float]:
    """Return first step and period, as they are measured."""
    ends = simulation.ends
    return ends[0], (ends[-1] - ends[0]) / (len(ends) - 1)


def _limit(config: PipelineConfig, count: int, arm: ArmName, runs: list[list[dict[str, Any]]]) -> Simulation:
    """Return what a schedule would take if nothing cost time but the passes themselves, as long as they took here."""
    times: dict[str, list[float]] = {}
    for own in runs:
        for run in own:
            for what, seconds in run["times"].items():
                times.setdefault(what, []).extend(seconds)
    stages = config.stages * (2 if arm == "zbv" else 1)

    def middle(what: str, stage: int) -> float:
        return median(times[f"{what}{stage}"]) if f"{what}{stage}" in times else 0.0

    rule = arm.startswith("dfa")
    full = [middle("B", stage) for stage in range(stages)]
    inputs = [middle("I", stage) or full[stage] / (2 if arm == "zbv" else 1) for stage in range(stages)]
    weights = [middle("W", stage) or (full[stage] / 2 if arm == "zbv" else 0.0) for stage in range(stages)]
    plan = Plan(
        stages,
        count,
        forward=[middle("F", stage) for stage in range(stages)],
        input_backward=inputs,
        weight_backward=weights,
        backward=full,
        head=middle("H", stages - 1),
        update=[middle("U", stage) for stage in range(stages)],
    )
    if arm == "zbv":
        return simulate(plan, torch_orders("ZBVZeroBubble", config.stages, count), waits="gradient", steps=config.row)
    ahead: Any = {"dfa-0": 0, "dfa-flat": "flat", "dfa-all": "all"}.get(arm, 0)
    return simulate(plan, "dfa" if rule else arm, ahead, steps=config.row)  # type: ignore[arg-type]
