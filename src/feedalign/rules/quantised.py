"""Direct feedback of a coarse error: its signs, or three levels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from feedalign.rules.broadcast import Broadcast, BroadcastRule


@dataclass(frozen=True)
class SignDFA(BroadcastRule):
    r"""Every point receives the signs of the error: :math:`\delta h_i = a\, \mathrm{sign}(e)\, B_i`.

    One number a row, :math:`a = \sum_c |e_c| / C`, keeps the scale of the error, so that a row with a small error, a
    mean over more rows, or a scaled loss counts as it should. It is the factor that makes the signs closest to the
    error itself (least squares). The sign alone would give every row the same weight.

    References:
        Frenkel, Lefebvre & Bol 2021 (there sDFA, without the scale).
    """

    defers: ClassVar[bool] = True

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return the scaled signs through every point's matrix."""
        return sent.project(sent.error.sign() * sent.error.abs().mean(1, keepdim=True))


@dataclass(frozen=True)
class TernaryDFA(BroadcastRule):
    r"""Every point receives the error rounded to three levels: :math:`\delta h_i = a\, t(e)\, B_i`.

    :math:`t(e)` is the sign of an entry, or 0 in the dead zone, where :math:`|e_c|` is at most ``threshold`` times the
    largest of its row. An optical co-processor takes such an input: mirrors and shutters have few levels. The factor
    :math:`a`, the mean of :math:`|e|` over the entries that are not 0, keeps the scale, as in :class:`SignDFA`.

    Args:
        seed: Decides every number of the feedback.
        feedback: Which numbers.
        threshold: Half width of the dead zone, in [0, 1) of the largest entry of a row. (Published thresholds are
            absolute; one that is relative stays right as errors shrink, and whatever the size of the batch.)

    References:
        Launay et al., *Hardware Beyond Backpropagation: a Photonic Co-Processor for Direct Feedback Alignment*, 2020.
    """

    defers: ClassVar[bool] = True

    threshold: float = 0.25

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.threshold < 1:
            raise ValueError(
                f"threshold must be in [0, 1), a fraction of the largest error of a row; found {self.threshold}."
            )

    def signals(self, sent: Broadcast) -> Sequence[Tensor]:
        """Return the rounded error through every point's matrix."""
        size = sent.error.abs()
        kept = size > self.threshold * size.amax(1, keepdim=True)
        mean = (size * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True).clamp(min=1)
        return sent.project(torch.where(kept, sent.error.sign() * mean, 0))
