"""In which order the stages of a pipeline work through the micro-batches of a step: here, and in torch's schedules.

Letters: ``S`` stages, ``M`` micro-batches, ``s`` the index of a stage.
"""

from typing import Literal, NamedTuple

Kind = Literal["F", "B", "I", "W"]
Ahead = int | Literal["flat", "all"]


class Action(NamedTuple):
    """One thing that a process does with one micro-batch."""

    kind: Kind
    """``"F"`` the forward pass, ``"B"`` the backward pass, or its halves: ``"I"`` for inputs, ``"W"`` for weights."""
    micro_batch: int
    stage: int = 0

    def __str__(self) -> str:
        return f"{self.stage}{self.kind}{self.micro_batch}"


def check_ahead(ahead: Ahead) -> None:
    """Raise unless ``ahead`` is a number of micro-batches, ``"flat"`` or ``"all"``.

    Raises:
        ValueError: It is something else.
    """
    named = ahead in ("flat", "all")
    if not named and (not isinstance(ahead, int) or isinstance(ahead, bool) or ahead < 0):
        raise ValueError(f"ahead expected a number of micro-batches from 0, 'flat' or 'all', found {ahead!r}.")


def held(stage: int, stages: int, micro_batches: int, ahead: Ahead = "flat") -> int:
    """Return the most micro-batches whose activations a stage holds: ``min(M, S - s + min(s, ahead))``.

    With ``ahead=0`` that is 1F1B's number, ``S - s``. ``"flat"`` is ``ahead = S - 1``: every stage holds ``S``, as many
    as the first stage of 1F1B does. With ``"all"`` every stage holds ``M``.
    """
    check_ahead(ahead)
    if ahead == "all":
        return micro_batches
    further = stages - 1 if ahead == "flat" else ahead
    return min(micro_batches, stages - stage + min(stage, further))


def dfa_order(stage: int, stages: int, micro_batches: int, ahead: Ahead = "flat") -> list[Action]:
    """Return the order of a stage: forward passes until it holds :func:`held` micro-batches, then B and F in turn.

    Args:
        stage: The index of the stage, ``s``.
        stages: ``S``
        micro_batches: ``M``
        ahead: How many more micro-batches than in 1F1B a stage may take up before its first backward pass.

    Raises:
        ValueError: ``ahead`` is no number of micro-batches.
    """
    return _alternating(stage, held(stage, stages, micro_batches, ahead), micro_batches)


def local_order(stage: int, micro_batches: int) -> list[Action]:
    """Return the order of a stage that waits for no error (DRTP): every F is followed by its B."""
    return _alternating(stage, 1, micro_batches)


def gpipe_order(stage: int, micro_batches: int) -> list[Action]:
    """Return the order of a stage under GPipe: all forward passes, then all backward passes."""
    return _alternating(stage, micro_batches, micro_batches)


def zero_bubble_order(stage: int, stages: int, micro_batches: int) -> list[Action]:
    """Return the order of a stage under ZB-H1: weights' gradients fill what 1F1B leaves empty, in 1F1B's memory.

    References:
        Qi et al., *Zero Bubble Pipeline Parallelism*, ICLR 2024.
    """
    warm = min(micro_batches, stages - stage)
    order = [Action("F", m, stage) for m in range(warm)]
    weights = 0
    for m in range(micro_batches):
        order.append(Action("I", m, stage))
        if m >= stage:
            order.append(Action("W", weights, stage))
            weights += 1
        if warm + m < micro_batches:
            order.append(Action("F", warm + m, stage))
    return order + [Action("W", m, stage) for m in range(weights, micro_batches)]


def torch_orders(name: str, processes: int, micro_batches: int, stages_per_process: int = 2) -> list[list[Action]]:
    """Return the orders of one of torch's schedules with several stages per process, such as ``"ZBVZeroBubble"``.

    It takes long for more than 64 processes.

    Args:
        name: As ``torch.distributed.pipelining.schedules.get_schedule_class`` takes it.
        processes: How many there are.
        micro_batches: ``M``
        stages_per_process: How many stages each has.

    Raises:
        RuntimeError: This version of torch, older than 2.8, cannot list its orders.
    """
    try:
        from torch.distributed.pipelining._schedule_visualizer import get_schedule_ops
    except ImportError as error:
        raise RuntimeError("Expected torch 2.8 or newer, which lists the orders of its schedules.") from error
    table = get_schedule_ops(name, processes, micro_batches, stages_per_process)
    return [
        [
            Action(action.computation_type.value, action.microbatch_index, action.stage_index)  # type: ignore[arg-type]
            for action in own
            if action is not None and action.computation_type.value in ("F", "B", "I", "W")
        ]
        for own in table
    ]


def _alternating(stage: int, warm: int, micro_batches: int) -> list[Action]:
    order = [Action("F", m, stage) for m in range(warm)]
    for m in range(micro_batches):
        order.append(Action("B", m, stage))
        if warm + m < micro_batches:
            order.append(Action("F", warm + m, stage))
    return order
