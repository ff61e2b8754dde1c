"""Coordinates as waves of many lengths: a small network cannot follow a picture in three plain numbers."""

import torch
from torch import Tensor


def encoded_width(dimensions: int, octaves: int) -> int:
    """Return how many numbers :func:`encode` makes of so many coordinates."""
    return dimensions * (1 + 2 * octaves)


def encode(x: Tensor, octaves: int) -> Tensor:
    r"""Return coordinates beside sines and cosines of them, :math:`\gamma(x)` of Mildenhall et al. 2020.

    .. math:: \gamma(x) = (x, \sin(2^0 x), \dots, \sin(2^{L-1} x), \cos(2^0 x), \dots, \cos(2^{L-1} x))

    As in the authors' code there is no factor of pi, which the text has, and the coordinates themselves come first.

    Args:
        x: Coordinates ``[..., d]``.
        octaves: ``L``; 0 returns the coordinates alone.

    Returns:
        ``[..., d (1 + 2 L)]``.
    """
    if octaves == 0:
        return x
    powers = 2.0 ** torch.arange(octaves, dtype=x.dtype, device=x.device)
    phases = (x[..., None, :] * powers[:, None]).flatten(-2)
    return torch.cat([x, phases.sin(), phases.cos()], dim=-1)
