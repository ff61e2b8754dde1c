"""How long a step of a pipeline takes, from the times of its parts: before a single process is started.

Letters: ``S`` stages, ``M`` micro-batches; ``f``, ``i``, ``w`` the times of a forward pass and of backpropagation's
gradients of inputs and of weights; ``d`` the time of a backward pass of DFA; all of one stage and one micro-batch.
"""

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf, isfinite, isnan, nan
from typing import Literal, NamedTuple

from feedalign.pipelining.order import Action, Ahead, dfa_order, gpipe_order, local_order, zero_bubble_order

Broadcasting = Literal["tree", "chain", "relay"]
Name = Literal["gpipe", "1f1b", "zb-h1", "dfa", "drtp", "carrier-1f1b", "carrier-zb"]
NAMES: tuple[Name, ...] = ("gpipe", "1f1b", "zb-h1", "dfa", "drtp", "carrier-1f1b", "carrier-zb")
BACKPROP: tuple[Name, ...] = ("gpipe", "1f1b", "zb-h1")
Times = float | Sequence[float]


@dataclass(frozen=True)
class Plan:
    """A pipeline in numbers. Times in seconds, sizes in bytes.

    Args:
        stages: ``S``, one per process.
        micro_batches: ``M``
        forward: ``f``, for all stages or one number per stage.
        input_backward: ``i``
        weight_backward: ``w``
        backward: ``d``
        head: What the last stage does besides in a forward pass: the loss, its gradient, and the product that it sends.
        update: The optimiser's step.
        overhead: What every action costs besides: starting and waiting for communication.
        activation: What a stage sends to the next one per micro-batch; backpropagation sends as much back.
        error: What the last stage sends to all others per micro-batch under DFA: the error, or its product.
        latency: Of a message.
        bandwidth: Bytes per second that a process sends.
        broadcast: How the error travels. ``"tree"``: in doubling rounds, as gloo does. ``"chain"``: from neighbour to
            neighbour in pieces, as rings do. ``"relay"``: from neighbour to neighbour, each passing it on when it takes
            it up.

    Raises:
        ValueError: A number is negative, or there are not as many as stages.
    """

    stages: int
    micro_batches: int
    forward: Times = 1.0
    input_backward: Times = 1.0
    weight_backward: Times = 1.0
    backward: Times = 1.0
    head: float = 0.0
    update: Times = 0.0
    overhead: float = 0.0
    activation: float = 0.0
    error: float = 0.0
    latency: float = 0.0
    bandwidth: float = inf
    broadcast: Broadcasting = "chain"

    def __post_init__(self) -> None:
        if self.stages < 1 or self.micro_batches < 1:
            raise ValueError(
                f"Expected a stage and a micro-batch at least, found {self.stages} and {self.micro_batches}."
            )
        if self.broadcast not in ("tree", "chain", "relay"):
            raise ValueError(f"broadcast must be 'tree', 'chain' or 'relay', found {self.broadcast!r}.")
        if not self.bandwidth > 0:
            raise ValueError(f"bandwidth must be above 0, found {self.bandwidth}.")
        for name in (
            "forward", "input_backward", "weight_backward", "backward", "head", "update", "overhead", "activation",
            "error", "latency",
        ):  # fmt: skip
            numbers = self.each(name)
            if any(not isfinite(number) or number < 0 for number in numbers):
                raise ValueError(f"{name} expected numbers of at least 0, found {getattr(self, name)}.")

    def each(self, name: str) -> list[float]:
        """Return a quantity as one number per stage.

        Raises:
            ValueError: It has another number of entries than there are stages.
        """
        value = getattr(self, name)
        if isinstance(value, int | float):
            return [float(value)] * self.stages
        if len(value) != self.stages:
            raise ValueError(f"{name} expected one number per stage, {self.stages}, found {len(value)}.")
        return [float(number) for number in value]


class Span(NamedTuple):
    """Something that a process did, and when."""

    process: int
    what: str
    """``"F"``, ``"B"``, ``"I"``, ``"W"``, or ``"U"`` for the optimiser's step."""
    stage: int
    micro_batch: int
    step: int
    start: float
    end: float


@dataclass(frozen=True)
class Simulation:
    """What a simulation found. Times in seconds."""

    first_step: float
    """From the start to the end of the slowest process's first step."""
    period: float
    """What one more step takes, in steps that follow each other without a barrier, or with the one asked for."""
    bubble: float
    """The share of a period in which a process computes nothing, the mean over processes."""
    held: list[int]
    """The most micro-batches whose activations each process holds."""
    bytes_forward: float
    """Activations sent per step, over all links."""
    bytes_backward: float
    """Gradients or errors sent per step, over all links."""
    bottleneck: str
    """What a period waits for, in words."""
    ends: list[float] = field(default_factory=list)
    """When the slowest process ends each step."""
    spans: list[Span] = field(default_factory=list)


class DeadlockError(RuntimeError):
    """An action waits for one that comes behind it."""


def orders(name: Name, stages: int, micro_batches: int, ahead: Ahead = "flat") -> list[list[Action]]:
    """Return what every process does in a step under a schedule.

    Args:
        name: ``"gpipe"``, ``"1f1b"`` and ``"zb-h1"`` backpropagate; ``"dfa"`` and ``"drtp"`` are those of
            :class:`ScheduleDFA`; the carriers are torch's 1F1B and zero-bubble schedules with the error in place of
            gradients.
        stages: ``S``
        micro_batches: ``M``
        ahead: For ``"dfa"``.

    Raises:
        ValueError: There is no schedule of that name.
    """
    make: dict[str, Callable[[int], list[Action]]] = {
        "gpipe": lambda s: gpipe_order(s, micro_batches),
        "1f1b": lambda s: dfa_order(s, stages, micro_batches, 0),
        "zb-h1": lambda s: zero_bubble_order(s, stages, micro_batches),
        "dfa": lambda s: dfa_order(s, stages, micro_batches, ahead),
        "drtp": lambda s: local_order(s, micro_batches),
        "carrier-1f1b": lambda s: dfa_order(s, stages, micro_batches, 0),
        "carrier-zb": lambda s: zero_bubble_order(s, stages, micro_batches),
    }
    if name not in make:
        raise ValueError(f"There is no schedule {name!r}. The schedules are: {', '.join(make)}.")
    return [make[name](s) for s in range(stages)]


def simulate(
    plan: Plan,
    schedule: Name | Sequence[Sequence[Action]] = "dfa",
    ahead: Ahead = "flat",
    *,
    steps: int = 4,
    barrier: bool = False,
    waits: Literal["gradient", "error", "nothing"] | None = None,
    spans: bool = False,
) -> Simulation:
    """Return how long steps take and why.

    Every process works through its list of actions; each starts when the process is free and what it needs has arrived.
    Activations and errors travel on links of their own.

    Args:
        plan: The pipeline.
        schedule: The name of a schedule, or a list of actions per process; then ``waits`` says what for.
        ahead: For ``"dfa"``: how many more micro-batches than in 1F1B a stage may take up.
        steps: How many steps to simulate; the last one is the period.
        barrier: All processes wait for each other before the optimiser's step, as for one norm of all gradients.
        waits: What backward passes wait for: a gradient from the stage above, the error, or nothing. By default what
            the named schedule does.
        spans: Keep what every process did when.

    Raises:
        DeadlockError: An action waits for one that comes behind it.
        ValueError: ``steps`` is less than 2, or an option is missing.
    """
    if steps < 2:
        raise ValueError(f"steps must be at least 2, to tell a first step from those after it; found {steps}.")
    if isinstance(schedule, str):
        actions: Sequence[Sequence[Action]] = orders(schedule, plan.stages, plan.micro_batches, ahead)
        waits = {"dfa": "error", "drtp": "nothing"}.get(schedule, "gradient")  # type: ignore[assignment]
        carries = schedule.startswith("carrier")
    else:
        actions, carries = schedule, False
        if waits is None:
            raise ValueError("waits='gradient', 'error' or 'nothing' is missing for a list of actions.")
    run = _Run(plan, actions, waits, carries, steps, barrier, spans)
    run.work()
    return run.found()


class _Run:
    """A simulation under way."""

    def __init__(
        self, plan: Plan, actions: Sequence[Sequence[Action]], waits: str | None, carries: bool, steps: int,
        barrier: bool, spans: bool,
    ) -> None:  # fmt: skip
        self.plan, self.actions, self.waits, self.steps, self.barrier = plan, actions, waits, steps, barrier
        self.stages, self.keep = plan.stages, spans
        self.process_of = {action.stage: p for p, own in enumerate(actions) for action in own}
        f, i, w, d = (plan.each(name) for name in ("forward", "input_backward", "weight_backward", "backward"))
        local = waits != "gradient" or carries
        self.seconds = {
            "F": [x + plan.overhead for x in f],
            "B": [(x if local else y + z) + plan.overhead for x, y, z in zip(d, i, w, strict=True)],
            "I": [(0.0 if carries else y) + plan.overhead for y in i],
            "W": [(x if carries else z) + plan.overhead for x, z in zip(d, w, strict=True)],
        }
        self.seconds["F"][-1] += plan.head
        self.update = plan.each("update")
        self.transfer = plan.activation / plan.bandwidth
        self.returning = plan.error if carries else plan.activation  # bytes that go back from stage to stage
        self.back = self.returning / plan.bandwidth
        self.sending = plan.error / plan.bandwidth
        total = plan.micro_batches * steps
        self.inputs = [array("d", [0.0 if s == 0 else nan]) * total for s in range(self.stages)]
        self.signals = [array("d", [nan]) * total for _ in range(self.stages)]
        self.up, self.down, self.nic = ([0.0] * self.stages for _ in range(3))
        processes = len(actions)
        self.now, self.place, self.step = [0.0] * processes, [0] * processes, [0] * processes
        self.ends: list[list[float]] = [[] for _ in range(processes)]
        self.busy = [0.0] * processes
        self.holding, self.most = [0] * processes, [0] * processes
        self.waiting: dict[tuple[str, int, int], int] = {}
        self.stopped: list[int] = []  # at the barrier
        self.ready = list(range(processes))[::-1]
        self.spans: list[Span] = []
        self.releases = "W" if any(action.kind == "W" for own in actions for action in own) else "B"

    def work(self) -> None:
        while self.ready:
            self._advance(self.ready.pop())
        stuck = [process for process, step in enumerate(self.step) if step < self.steps]
        if stuck:
            where = [f"process {process} at {self.actions[process][self.place[process]]}" for process in stuck[:5]]
            raise DeadlockError(
                f"Processes wait for each other in step {self.step[stuck[0]]}: {', '.join(where)}. Each needs "
                "something that comes behind what another one waits at."
            )

    def _advance(self, process: int) -> None:
        own, M = self.actions[process], self.plan.micro_batches
        while self.step[process] < self.steps:
            while self.place[process] < len(own):
                action = own[self.place[process]]
                kind, m, stage = action.kind, action.micro_batch + self.step[process] * M, action.stage
                arrived = self._arrived(kind, stage, m)
                if isnan(arrived):
                    self.waiting["F" if kind == "F" else "B", stage, m] = process
                    return
                self._do(process, action, m, max(self.now[process], arrived))
                self.place[process] += 1
            if self.barrier:
                self.stopped.append(process)
                if len(self.stopped) < len(self.actions):
                    return
                latest = max(self.now)
                for other in self.stopped:
                    self._end_step(other, latest)
                    if other != process:
                        self.ready.append(other)
                self.stopped = []
            else:
                self._end_step(process, self.now[process])

    def _arrived(self, kind: str, stage: int, m: int) -> float:
        if kind == "F":
            return self.inputs[stage][m]
        if kind == "W" or self.waits == "nothing" or (self.waits == "gradient" and stage == self.stages - 1):
            return 0.0  # what it needs was made by this process before
        return self.signals[stage][m]

    def _do(self, process: int, action: Action, m: int, start: float) -> None:
        kind, stage = action.kind, action.stage
        seconds = self.seconds[kind][stage]
        end = start + seconds
        self.now[process] = end
        self.busy[process] += seconds
        if kind == "F":
            self.holding[process] += 1
            self.most[process] = max(self.most[process], self.holding[process])
            if stage < self.stages - 1:
                self._send(self.inputs, "F", stage + 1, m, end, self.up, stage, self.transfer)
            elif self.waits == "error":
                self._broadcast(m, end)
        elif kind in ("B", "I"):
            if self.waits == "gradient" and stage > 0:
                self._send(self.signals, "B", stage - 1, m, end, self.down, stage, self.back)
            elif self.waits == "error" and self.plan.broadcast == "relay" and stage > 0:
                self._send(self.signals, "B", stage - 1, m, start, self.nic, stage, self.sending)
        if kind == self.releases:
            self.holding[process] -= 1
        if self.keep:
            self.spans.append(Span(process, kind, stage, action.micro_batch, self.step[process], start, end))

    def _send(
        self, where: list["array[float]"], kind: str, to: int, m: int, at: float, links: list[float], link: int,
        seconds: float,
    ) -> None:  # fmt: skip
        if self.process_of[to] == self.process_of[link]:
            self._arrive(where, kind, to, m, at)
            return
        links[link] = max(at, links[link]) + seconds
        self._arrive(where, kind, to, m, links[link] + self.plan.latency)

    def _arrive(self, where: list["array[float]"], kind: str, stage: int, m: int, at: float) -> None:
        where[stage][m] = at
        process = self.waiting.pop((kind, stage, m), None)
        if process is not None:
            self.ready.append(process)

    def _broadcast(self, m: int, at: float) -> None:
        last, latency = self.stages - 1, self.plan.latency
        self._arrive(self.signals, "B", last, m, at)
        if self.plan.broadcast == "chain":
            self.nic[last] = max(at, self.nic[last]) + self.sending
            for stage in range(last):
                self._arrive(self.signals, "B", stage, m, self.nic[last] + (last - stage) * latency)
        elif self.plan.broadcast == "tree":
            have = {0: at}  # by the number of hops from the last stage in the order of ranks
            distance = 1
            while distance < self.stages:
                for there in range(min(distance, self.stages - distance)):
                    self.nic[last - there] = max(have[there], self.nic[last - there]) + self.sending
                    to = there + distance
                    have[to] = self.nic[last - there] + latency
                    self._arrive(self.signals, "B", last - to, m, have[to])
                distance *= 2

    def _end_step(self, process: int, at: float) -> None:
        stage = self.actions[process][0].stage
        end = at + self.update[stage]
        if self.keep and end > at:
            self.spans.append(Span(process, "U", stage, 0, self.step[process], at, end))
        self.now[process] = end
        self.busy[process] += self.update[stage]
        self.ends[process].append(end)
        self.step[process] += 1
        self.place[process] = 0

    def found(self) -> Simulation:
        ends = [max(own[step] for own in self.ends) for step in range(self.steps)]
        period = ends[-1] - ends[-2]
        busy = [seconds / self.steps for seconds in self.busy]
        S, M, plan = self.stages, self.plan.micro_batches, self.plan
        hops = sum(self.process_of[s] != self.process_of[s + 1] for s in range(S - 1)) * M
        returned = {"gradient": hops * self.returning, "error": (S - 1) * M * plan.error}.get(str(self.waits), 0.0)
        computing = sum(busy) / len(busy)
        return Simulation(
            first_step=ends[0],
            period=period,
            bubble=max(0.0, 1 - computing / period) if period else 0.0,
            held=self.most,
            bytes_forward=hops * plan.activation,
            bytes_backward=returned,
            bottleneck=self._bottleneck(period, busy),
            ends=ends,
            spans=self.spans,
        )

    def _bottleneck(self, period: float, busy: list[float]) -> str:
        M, plan = self.plan.micro_batches, self.plan
        slowest = max(range(len(busy)), key=busy.__getitem__)
        resources = {f"the computing of stage {self.actions[slowest][0].stage}": busy[slowest]}
        if self.stages > 1:
            resources["sending activations from stage to stage"] = M * self.transfer
            if self.waits == "gradient":
                resources["sending gradients from stage to stage"] = M * self.back
            elif self.waits == "error":
                rounds = (self.stages - 1).bit_length() if plan.broadcast == "tree" else 1
                resources["the last stage's sending of errors"] = M * rounds * self.sending
        name, seconds = max(resources.items(), key=lambda item: item[1])
        if period and seconds / period > 0.85:
            return f"{name}: {duration(seconds)} of {duration(period)}"
        return f"other stages ({name}: {duration(seconds)} of {duration(period)})"


def duration(seconds: float) -> str:
    """Return seconds in words: ``"16.5 ms"``."""
    if seconds == 0:
        return "0 s"
    for size, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def trace(spans: Sequence[Span]) -> dict[str, object]:
    """Return what processes did as a trace that chrome://tracing and Perfetto open; times there are in microseconds."""
    events = [
        {
            "name": span.what if span.what == "U" else f"{span.what}{span.micro_batch}",
            "cat": span.what,
            "ph": "X",
            "ts": span.start * 1e6,
            "dur": (span.end - span.start) * 1e6,
            "pid": 0,
            "tid": span.process,
            "args": {"stage": span.stage, "micro_batch": span.micro_batch, "step": span.step},
        }
        for span in spans
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}
