"""Direct Kolen-Pollack: direct feedback that learns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from torch import Tensor

from feedalign.feedback import Feedback, Uniform
from feedalign.rules.broadcast import Broadcast, BroadcastRule


@dataclass(frozen=True)
class DKP(BroadcastRule):
    r"""DFA whose matrices learn: :math:`\delta h_i = e B_i`, and :math:`B_i` descends :math:`e^T h_i`.

    At the last point that is the gradient of the last layer's own weight, so with weight decay the two become equal
    (Kolen & Pollack). At lower points it makes :math:`B_i` a direct regression from :math:`h_i` to the error. (Of a
    complex error the conjugate is taken there, and the matrix becomes the conjugate of the weight, which carries the
    true gradient.)

    The matrices are parameters of the model: attach before you make the optimiser, with ``example=``.

    References:
        Webster, Choi & Ahn, *Learning the Connections in Direct Feedback Alignment*, 2020.
        Kolen & Pollack, *Backpropagation without weight transport*, 1994.
    """

    learns: ClassVar[bool] = True

    feedback: Feedback = field(default_factory=lambda: Uniform(shared=False))

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return ``e @ B_i`` for every point."""
        return sent.project(sent.error)

    def lessons(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return ``e^T h_i`` for every point."""
        return [sent.error.mH @ activation for activation in sent.activations]
