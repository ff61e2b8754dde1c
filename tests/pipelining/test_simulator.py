"""The simulator against closed formulas, torch's own schedules, and timelines worked out by hand."""

import json
import math
from itertools import pairwise, product
from typing import Any

import pytest

from feedalign.pipelining.order import Action, dfa_order, gpipe_order, held, local_order, torch_orders
from feedalign.pipelining.simulator import BACKPROP, DeadlockError, Plan, duration, orders, simulate, trace

SIZES = [(2, 2), (2, 8), (4, 4), (4, 8), (4, 32), (8, 8), (8, 16), (1, 4)]
# Whole numbers, whose sums are exact.
TIMES: dict[str, float] = {"forward": 3, "input_backward": 5, "weight_backward": 4, "backward": 7}


def found(S: int, M: int, *schedule: Any, steps: int = 6, **changes: Any) -> tuple[float, float]:
    result = simulate(Plan(S, M, **(TIMES | changes)), *schedule, steps=steps)
    return result.first_step, result.period


@pytest.mark.parametrize(("S", "M"), SIZES)
@pytest.mark.parametrize("schedule", ["gpipe", "1f1b"])
def test_backpropagation(S: int, M: int, schedule: str) -> None:
    step = (M + S - 1) * (3 + 5 + 4)
    assert found(S, M, schedule) == (step, step)


@pytest.mark.parametrize(("S", "M"), [size for size in SIZES if size[1] >= size[0]])
def test_zero_bubble(S: int, M: int) -> None:
    assert found(S, M, "zb-h1", forward=1, input_backward=1, weight_backward=1) == (3 * M + S - 1,) * 2


@pytest.mark.parametrize(("S", "M"), [size for size in SIZES if size[1] >= size[0]])
def test_dfa_with_equal_passes(S: int, M: int) -> None:
    """For f = d the period is M (f + d) + (S - 1 - ahead) f, exactly, for every ahead."""
    for ahead in range(S):
        first, period = found(S, M, "dfa", ahead, backward=3)
        assert (first, period) == (M * (3 + 3) + (S - 1) * 3, M * (3 + 3) + (S - 1 - ahead) * 3)


@pytest.mark.parametrize(("S", "M"), SIZES)
@pytest.mark.parametrize("backward", [3, 7])
def test_dfa_at_both_ends(S: int, M: int, backward: float) -> None:
    first, period = found(S, M, "dfa", "flat", backward=backward)
    assert first == M * (3 + backward) + (S - 1) * 3
    assert period == (M * (3 + backward) if M >= S else S * 3 + M * backward)
    assert found(S, M, "dfa", "all", backward=backward)[1] == period
    if M >= S:
        assert found(S, M, "dfa", 0, backward=backward)[1] == M * (3 + backward) + (S - 1) * 3


@pytest.mark.parametrize(("S", "M"), SIZES)
def test_targets_instead_of_errors(S: int, M: int) -> None:
    assert found(S, M, "drtp") == (M * (3 + 7) + (S - 1) * 3, M * (3 + 7))


@pytest.mark.parametrize(("S", "M"), SIZES)
def test_torchs_1f1b_as_a_carrier(S: int, M: int) -> None:
    assert found(S, M, "carrier-1f1b") == ((M + S - 1) * (3 + 7),) * 2


@pytest.mark.parametrize(("S", "M"), [(8, 8), (8, 16), (8, 4), (4, 32)])
def test_micro_batches_held(S: int, M: int) -> None:
    one = simulate(Plan(S, M), "1f1b").held
    assert one == [min(M, S - s) for s in range(S)]
    assert simulate(Plan(S, M), "gpipe").held == [M] * S
    assert simulate(Plan(S, M), "zb-h1").held == [min(M, S)] * S
    assert simulate(Plan(S, M), "drtp").held == [1] * S
    assert simulate(Plan(S, M), "dfa", "flat").held == [min(M, S)] * S
    for ahead in (0, 2, "flat", "all"):
        assert simulate(Plan(S, M), "dfa", ahead).held == [held(s, S, M, ahead) for s in range(S)]
    assert max(simulate(Plan(S, M), "dfa", "flat").held) <= one[0]


def test_the_update_and_overhead_count_once_per_step_and_action() -> None:
    first, period = found(4, 8, "dfa", "flat", backward=3, update=11, overhead=1)
    assert period == 8 * (4 + 4) + 11
    assert first == 8 * (4 + 4) + 3 * 4 + 11


def test_one_norm_of_all_gradients_is_a_barrier() -> None:
    plan = Plan(8, 8)
    free, stopped = simulate(plan), simulate(plan, barrier=True)
    assert (free.period, stopped.period) == (16, 23)
    assert stopped.first_step == free.first_step == 23


def test_latency_hides_behind_micro_batches_in_advance() -> None:
    """One f per hop: 1F1B waits for 40 of them in a step, DFA for the way there and back of one micro-batch."""
    plan, near = Plan(8, 16, latency=1, broadcast="tree"), Plan(8, 16)
    assert (simulate(near, "1f1b").period, simulate(plan, "1f1b").period) == (69, 109)
    there_and_back = 8 + 7 + 3  # eight forward passes, seven hops, three rounds of the tree
    assert (simulate(near, "dfa", "all").period, simulate(plan, "dfa", "all").period) == (32, there_and_back + 16)


def test_a_slow_stage_sets_the_period() -> None:
    times = [1.0, 1.0, 2.0, 1.0]
    result = simulate(Plan(4, 16, forward=times, backward=times), "dfa", "all")
    assert result.period == pytest.approx(64)
    assert result.bottleneck == "the computing of stage 2: 64 s of 64 s"
    assert result.bubble == pytest.approx(1 - (3 * 32 + 64) / (4 * 64))


def test_the_head_belongs_to_the_last_stage() -> None:
    assert simulate(Plan(2, 8, head=1.0), "dfa", "all").period == pytest.approx(8 * 3)


# How errors travel, by hand: one micro-batch, f = d = 1, an error takes 1 s to send and 0.25 s on the way.
WIRE = {"error": 8.0, "bandwidth": 8.0, "latency": 0.25}


def starts(broadcast: Any, S: int, **changes: Any) -> list[float]:
    plan = Plan(S, 1, broadcast=broadcast, **(WIRE | changes))
    spans = simulate(plan, "dfa", "flat", spans=True, steps=2).spans
    return [next(s.start for s in spans if (s.what, s.stage, s.step) == ("B", stage, 0)) for stage in range(S)]


def test_a_chain_passes_pieces_on() -> None:
    known = 3 + 2 * 0.25  # three forward passes with two hops between them
    assert starts("chain", 3) == [known + 1 + 0.5, known + 1 + 0.25, known]


def test_a_tree_doubles() -> None:
    known = 5 + 4 * 0.25
    # The last stage sends to 3, then to 2, then to 0; stage 3 sends to 1.
    assert starts("tree", 5) == [known + 3 + 0.25, known + 2 * 1.25, known + 2.25, known + 1.25, known]


def test_a_relay_passes_on_what_it_takes_up() -> None:
    known = 3 + 2 * 0.25
    assert starts("relay", 3) == [known + 2 * 1.25, known + 1.25, known]


def test_activations_queue_on_a_link() -> None:
    result = simulate(Plan(2, 16, activation=3.0, bandwidth=1.0), "dfa", "all")
    assert result.period == 16 * 3 + 3  # the last forward and backward pass, and the first of the next step
    assert result.bottleneck == "sending activations from stage to stage: 48 s of 51 s"


def test_bytes() -> None:
    plan = Plan(4, 8, activation=100.0, error=7.0)
    for name in BACKPROP:
        result = simulate(plan, name)
        assert (result.bytes_forward, result.bytes_backward) == (3 * 8 * 100, 3 * 8 * 100)
    assert simulate(plan, "dfa").bytes_backward == 3 * 8 * 7
    assert simulate(plan, "carrier-1f1b").bytes_backward == 3 * 8 * 7
    assert simulate(plan, "drtp").bytes_backward == 0


def test_a_vocabulary_by_tree_names_the_error() -> None:
    plan = Plan(64, 64, backward=29e-3, forward=16e-3, error=2**30, bandwidth=50e9, latency=1e-5, broadcast="tree")
    assert simulate(plan).bottleneck.startswith("the last stage's sending of errors: ")


def test_an_order_that_cannot_be_worked_through() -> None:
    orders = [[Action("F", 0, 0), Action("B", 0, 0)], [Action("B", 0, 1), Action("F", 0, 1)]]
    with pytest.raises(DeadlockError, match="in step 0: process 0 at 0B0, process 1 at 1B0"):
        simulate(Plan(2, 1), orders, waits="error")
    with pytest.raises(ValueError, match="waits="):
        simulate(Plan(2, 1), orders)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stages": 0}, "a stage and a micro-batch at least"),
        ({"forward": -1}, "forward expected numbers of at least 0"),
        ({"backward": math.nan}, "backward expected numbers"),
        ({"forward": (1.0, 2.0, 3.0)}, "forward expected one number per stage, 2, found 3"),
        ({"bandwidth": 0}, "bandwidth must be above 0"),
        ({"broadcast": "post"}, "'tree', 'chain' or 'relay', found 'post'"),
    ],
)
def test_plans_that_are_none(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Plan(**{"stages": 2, "micro_batches": 2, **changes})


def test_names_and_steps_are_checked() -> None:
    with pytest.raises(ValueError, match="no schedule 'dualpipe'"):
        simulate(Plan(2, 2), "dualpipe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps must be at least 2"):
        simulate(Plan(2, 2), steps=1)


# ---- against torch's own schedules -----------------------------------------------------------------------------------


def of_torch(name: str, S: int, M: int) -> list[list[str]]:
    return [in_text(own) for own in torch_orders(name, S, M, 1)]


def in_text(own: list[Action]) -> list[str]:
    return [str(action) for action in own]


@pytest.mark.parametrize(("S", "M"), [(2, 2), (2, 8), (4, 4), (4, 8), (8, 16)])
def test_orders_are_torchs(S: int, M: int) -> None:
    one, gpipe = of_torch("1F1B", S, M), of_torch("GPipe", S, M)
    for s in range(S):
        assert in_text(gpipe_order(s, M)) == gpipe[s]
        if s < S - 1:  # torch counts the forward passes of the last process from 1, in its own table of them
            assert in_text(dfa_order(s, S, M, 0)) == one[s]
        else:
            assert next(text.replace(f"F{m}", "F") for m, text in enumerate(one[s])).startswith(f"{s}F")


@pytest.mark.parametrize(("S", "M"), [(2, 4), (2, 8), (4, 8), (4, 16)])
def test_zbv_of_torch_has_no_bubble_in_a_row(S: int, M: int) -> None:
    """With two stages per process, of half the time each, a period is 3 M for M >= 2 S."""
    half = {"forward": 0.5, "input_backward": 0.5, "weight_backward": 0.5}
    result = simulate(Plan(2 * S, M, **half), torch_orders("ZBVZeroBubble", S, M), waits="gradient")
    assert result.period == 3 * M
    assert result.first_step < 3 * M + S - 1


def test_every_order_does_everything_once() -> None:
    for (S, M), name in product([(3, 5), (4, 4), (5, 2)], ["gpipe", "1f1b", "zb-h1", "dfa", "drtp"]):
        for s, own in enumerate(orders(name, S, M, 1)):  # type: ignore[arg-type]
            assert len(set(own)) == len(own)
            backward = ("I", "W") if name == "zb-h1" else ("B",)
            assert set(own) == {Action(kind, m, s) for kind in ("F", *backward) for m in range(M)}  # type: ignore[arg-type]
    assert in_text(local_order(0, 2)) == ["0F0", "0B0", "0F1", "0B1"]


# ---- what is shown ---------------------------------------------------------------------------------------------------


def test_the_trace_opens_where_traces_open() -> None:
    spans = simulate(Plan(2, 2, update=0.5), spans=True, steps=2).spans
    events = json.loads(json.dumps(trace(spans)))["traceEvents"]
    assert len(events) == 2 * 2 * (2 * 2 + 1)
    assert {"name": "F0", "ph": "X", "ts": 0.0, "dur": 1e6, "pid": 0, "tid": 0, "cat": "F"}.items() <= events[0].items()
    for process in range(2):
        own = sorted((e["ts"], e["ts"] + e["dur"]) for e in events if e["tid"] == process)
        assert all(end <= start for (_, end), (start, _) in pairwise(own))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (2.5, "2.5 s"), (0.0165, "16.5 ms"), (2e-6, "2 µs"), (3e-9, "3 ns")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
