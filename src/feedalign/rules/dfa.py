"""Direct Feedback Alignment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from feedalign.rules.broadcast import Broadcast, BroadcastRule


@dataclass(frozen=True)
class DFA(BroadcastRule):
    r"""Every point receives the error through a fixed random matrix: :math:`\delta h_i = e B_i`.

    Backpropagation would deliver :math:`e\, \partial y / \partial h_i`, which needs the transposed weights of
    every layer above point :math:`i`, one after the other. Below the point, autograd goes on as usual.

    Args:
        seed: Decides every number of the feedback, together with each point's name and shape.
        feedback: Which numbers, how scaled and shared; uniform and shared by default, as in Launay et al. 2020.

    References:
        Nøkland, *Direct Feedback Alignment Provides Learning in Deep Neural Networks*, NeurIPS 2016.
        Launay et al., *Direct Feedback Alignment Scales to Modern Deep Learning Tasks and Architectures*,
        NeurIPS 2020.
    """

    defers: ClassVar[bool] = True

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return ``e @ B_i`` for every point."""
        return sent.project(sent.error)
