"""In which order a stage works through the micro-batches of a step.

Letters: ``S`` stages, ``M`` micro-batches, ``s`` the index of a stage.
"""

from typing import Literal, NamedTuple

Kind = Literal["F", "B"]
Ahead = int | Literal["flat", "all"]


class Action(NamedTuple):
    """One thing that a stage does with one micro-batch."""

    kind: Kind
    """``"F"`` for the forward pass, ``"B"`` for the backward pass."""
    micro_batch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.micro_batch}"


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
    return _alternating(held(stage, stages, micro_batches, ahead), micro_batches)


def local_order(micro_batches: int) -> list[Action]:
    """Return the order of a stage that waits for no error (DRTP): every F is followed by its B."""
    return _alternating(1, micro_batches)


def _alternating(warm: int, micro_batches: int) -> list[Action]:
    order = [Action("F", m) for m in range(warm)]
    for m in range(micro_batches):
        order.append(Action("B", m))
        if warm + m < micro_batches:
            order.append(Action("F", warm + m))
    return order
