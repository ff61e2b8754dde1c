"""What the stages tell each other once, before the first error travels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import distributed

from feedalign.errors import PointsError, SignalError
from feedalign.feedback import Site
from feedalign.pipelining.link import Agreement, Send, what_is_sent
from feedalign.rules import BroadcastRule

T = TypeVar("T")


@dataclass(frozen=True)
class Card:
    """What a stage says of itself before its first forward pass."""

    settings: dict[str, str]
    """What must be the same on all stages, by name."""
    parameters: tuple[str, ...]
    """Names of the part's parameters."""
    points: tuple[str, ...]
    """Names of its points."""
    output: tuple[tuple[int, ...], int, torch.dtype] | None
    """Rows, width ``C`` and type of the error; from the last stage alone."""


def gather(own: T, group: distributed.ProcessGroup) -> list[T]:
    """Return what every stage gives, in the order of the stages."""
    found: list[T | None] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(found, own, group=group)
    return found  # type: ignore[return-value]


def check(cards: Sequence[Card]) -> None:
    """Raise on every stage alike unless the stages are parts of one model, with the same settings.

    Raises:
        SignalError: A setting differs.
        PointsError: A name of a parameter or a point occurs on two stages.
    """
    for name, first in cards[0].settings.items():
        for stage, card in enumerate(cards):
            if card.settings.get(name) != first:
                raise SignalError(
                    f"All stages expected the same {name}, found {first} on stage 0 and {card.settings.get(name)} on "
                    f"stage {stage}."
                )
    for what, names in (
        ("parameter", [card.parameters for card in cards]),
        ("point", [card.points for card in cards]),
    ):
        count = Counter(name for own in names for name in own)
        twice = [name for name, times in count.items() if times > 1]
        if twice:
            where = [str(stage) for stage, own in enumerate(names) if twice[0] in own]
            raise PointsError(
                f"The {what} {twice[0]!r} is on stages {' and '.join(where)}. Every layer belongs to one stage, under "
                "the name that it has in the whole model: keep the names when you split it (nn.ModuleDict, or "
                "nn.Sequential of an OrderedDict, where nn.ModuleList and nn.Sequential count from 0 again), and do "
                "not tie weights across stages."
            )


def agreement(cards: Sequence[Card], sites: Sequence[tuple[Site, ...]], send: Send, rule: BroadcastRule) -> Agreement:
    """Return what follows for all stages from what each has said.

    Args:
        cards: Of every stage.
        sites: The points of every stage, as they were laid out in its first forward pass.
        send: What the user wants to be sent.
        rule: The rule.
    """
    rows, width, dtype = outline(cards)
    every = tuple(site for own in sites for site in own)
    columns = max((site.columns for site in every), default=0)
    return Agreement(rows, width, dtype, every, what_is_sent(send, rule, width, columns))


def outline(cards: Sequence[Card]) -> tuple[tuple[int, ...], int, torch.dtype]:
    """Return rows, width and type of the error, as the last stage said."""
    output = cards[-1].output
    assert output is not None
    return output
