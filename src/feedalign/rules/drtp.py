"""Direct Random Target Projection."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from feedalign.rules.broadcast import Broadcast, BroadcastRule


@dataclass(frozen=True)
class DRTP(BroadcastRule):
    r"""Every point receives the targets through a fixed random matrix: :math:`\delta h_i = y^* B_i / N`.

    The sign of a classifier's error is known before the network has answered: negative for the true class, positive
    for the others. So one-hot targets stand for it (the minus sign is absorbed by the random matrix), and a block need
    wait for nothing above it. The last layer trains by the true error.

    Set ``handle.targets = y`` before each forward pass. The signals do not know how the loss is scaled: keep it at its
    plain mean (or sum), and expect loss scaling (fp16) to leave the hidden layers behind.

    Args:
        seed: Decides every number of the feedback.
        feedback: Which numbers.
        reduction: Of the loss: ``"mean"`` divides the signals by the number of rows, ``"sum"`` does not.

    References:
        Frenkel, Lefebvre & Bol, *Learning Without Feedback: Fixed Random Learning Signals Allow for Feedforward
        Training of Deep Neural Networks*, Frontiers in Neuroscience 2021.
    """

    targeted: ClassVar[bool] = True
    defers: ClassVar[bool] = True

    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reduction not in ("mean", "sum"):
            raise ValueError(f"reduction must be 'mean' or 'sum', as of the loss; found {self.reduction!r}.")

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return the targets through every point's matrix."""
        assert sent.targets is not None
        return sent.project(sent.targets / (len(sent.targets) if self.reduction == "mean" else 1))
