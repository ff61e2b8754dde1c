"""The abstract rules: what flows backward."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from feedalign.feedback import Feedback, Projection, Uniform


class Rule(ABC):
    """What flows backward. A rule holds options only; state lives in the attachment and in the autograd graph."""

    cuts: ClassVar[bool]
    """Whether the backward pass is cut at the points."""
    delivers: ClassVar[bool]
    """Whether the points receive a signal in place of what was cut off."""


@dataclass(frozen=True)
class BroadcastRule(Rule):
    """A rule that sends every point a signal of its own, computed from the error alone.

    A subclass implements :meth:`signals`; cutting, splicing, shapes, devices and types are done for it.

    Args:
        seed: Decides every number of the feedback, together with each point's name and shape.
        feedback: Which numbers: :class:`feedalign.Uniform` (default), ``Normal`` or ``Orthogonal``.
    """

    cuts: ClassVar[bool] = True
    delivers: ClassVar[bool] = True

    seed: int = 0
    feedback: Feedback = field(default_factory=Uniform)

    def __post_init__(self) -> None:
        if not isinstance(self.feedback, Feedback):
            raise TypeError(
                f"feedback expected a Feedback such as feedalign.Uniform(), found {self.feedback!r}. "
                "The families are Uniform, Normal and Orthogonal."
            )

    @abstractmethod
    def signals(self, error: Tensor, project: Projection) -> Sequence[Tensor]:
        """Return one signal ``[N, D_i]`` per point.

        Args:
            error: ``e``, shape ``[N, C]``: the gradient of the loss at the output, with the 1/N of a mean loss.
            project: Maps a tensor ``[N, C]`` through the feedback matrices: ``[e @ B_1, e @ B_2, ...]``.
        """
