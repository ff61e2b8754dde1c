"""Indirect Feedback Alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.rules.broadcast import Broadcast, BroadcastRule


@dataclass(frozen=True)
class IFA(BroadcastRule):
    r"""The error enters the network at its first point, and travels forward through the network's own blocks.

    .. math:: \delta h_1 = e B_1, \qquad \delta h_{i+1} = \frac{\partial h_{i+1}}{\partial h_i}\, \delta h_i

    The second is a Jacobian-vector product in forward mode: for linear layers and non-linearities it is
    :math:`(W_{i+1}\, \delta h_i) \odot f'`, with the forward weights and not their transposes. A point that no other
    point feeds (a second tower) gets the error by a matrix of its own.

    The forward pass runs once more, with tangents, in every backward pass; under ``torch.compile`` it is refused, and
    so are models with operations that have no forward-mode derivative.

    References:
        Nøkland, *Direct Feedback Alignment Provides Learning in Deep Neural Networks*, NeurIPS 2016, section 3.
    """

    eager: ClassVar[str] = "it pushes tangents forward through the model"
    replays: ClassVar[bool] = True
    relays: ClassVar[bool] = True

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return what arrives at each point; the projected error where nothing does."""
        assert sent.jvp is not None
        found = sent.shaped(sent.project(sent.error))

        def carry(i: int, arrived: Tensor | None) -> Tensor:
            if arrived is not None:
                found[i] = arrived
            return found[i]

        sent.jvp(carry)
        pairs = zip(found, sent.layouts, strict=True)
        return [layout.by_row(signal) if layout.flat_in_another_order else signal for signal, layout in pairs]
