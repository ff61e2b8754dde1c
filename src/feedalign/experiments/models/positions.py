"""What tells a Transformer where in its chunk a token stands: waves of fixed lengths, or vectors that are learned.

Letters: ``T`` tokens of a chunk, ``D`` width of the model.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn

PositionKind = Literal["sinusoidal", "learned"]


class Sinusoidal(nn.Module):
    r"""Sines in the even features and cosines in the odd ones, with wavelengths from :math:`2\pi` to about
    :math:`10000 \cdot 2\pi` (Vaswani et al., *Attention Is All You Need*, NeurIPS 2017).

    Args:
        context: Most tokens of a chunk.
        width: ``D``.

    Shapes:
        The number of tokens ``T`` to ``[T, D]``.
    """  # noqa: D205 -- the formula is the summary

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * (-math.log(10000) / width))
        angles = torch.arange(context, dtype=torch.float64)[:, None] * rates
        waves = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1)[:, :width]
        # Follows from the sizes, so it has no place in a checkpoint.
        self.register_buffer("waves", waves.to(torch.get_default_dtype()), persistent=False)
        self.waves: Tensor

    def forward(self, length: int) -> Tensor:
        """Return the vectors of the first ``length`` positions."""
        return self.waves[:length]


class Learned(nn.Module):
    """A vector a position, drawn like those of the tokens and trained with them.

    Args:
        context: Most tokens of a chunk.
        width: ``D``.

    Shapes:
        The number of tokens ``T`` to ``[T, D]``.
    """

    def __init__(self, context: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(context, width).normal_(std=0.02))

    def forward(self, length: int) -> Tensor:
        """Return the vectors of the first ``length`` positions."""
        return self.weight[:length]


def positions(kind: PositionKind, context: int, width: int) -> nn.Module:
    """Return a new module that maps a number of tokens ``T`` to ``[T, D]``.

    Raises:
        ValueError: There is none of that name.
    """
    if kind == "sinusoidal":
        return Sinusoidal(context, width)
    if kind == "learned":
        return Learned(context, width)
    raise ValueError(f"Expected positions out of sinusoidal, learned, found {kind!r}.")
