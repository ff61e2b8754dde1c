"""From what a field answered along rays to what a camera sees: the volume rendering sum, differentiated exactly.

Letters: ``R`` rays, ``S`` samples on each.
"""

from typing import NamedTuple

import torch
from torch import Tensor

ENDLESS = 1e10
"""Length of the interval behind the last sample: with any density at all nothing is seen through it."""


class Pixels(NamedTuple):
    """What rays met.

    Attributes:
        colour: ``[R, 3]``, in [0, 1].
        depth: ``[R]``: mean distance of what is seen, in multiples of the ray's direction; 0 for nothing at all.
        opacity: ``[R]``, in [0, 1]: how little of the background is seen.
        weights: ``[R, S]``: what each sample gave; they add up to the opacity.
    """

    colour: Tensor
    depth: Tensor
    opacity: Tensor
    weights: Tensor


def composite(raw: Tensor, distances: Tensor, lengths: Tensor, *, white: bool, noise: Tensor | None = None) -> Pixels:
    r"""Return the colours of rays by the quadrature of Max 1995 that Mildenhall et al. 2020 use.

    .. math:: C = \sum_i T_i (1 - e^{-\sigma_i \delta_i}) c_i, \quad T_i = e^{-\sum_{j < i} \sigma_j \delta_j}

    with :math:`c` the sigmoid of the raw colour and :math:`\sigma` the ReLU of the raw density.

    Args:
        raw: Raw colours and densities ``[R, S, 4]``.
        distances: Increasing, ``[R, S]``; :math:`\delta_i` is what lies between two, times the ray's length.
        lengths: Of the rays' directions ``[R]``.
        white: Put white behind everything; else black.
        noise: Added to the raw densities ``[R, S]``.
    """
    raw = raw.to(torch.promote_types(raw.dtype, torch.float32))  # sums over samples are not for bf16
    density = (raw[..., 3] if noise is None else raw[..., 3] + noise).relu()
    steps = (distances[:, 1:] - distances[:, :-1]) * lengths[:, None]
    thickness = density[:, :-1] * steps  # [R, S - 1]
    last = density[:, -1:] * (ENDLESS * lengths[:, None])
    before = torch.cat([torch.zeros_like(last), thickness.cumsum(dim=1)], dim=1)
    weights = torch.exp(-before) * -torch.expm1(-torch.cat([thickness, last], dim=1))
    opacity = weights.sum(dim=1)
    colour = (weights[..., None] * raw[..., :3].sigmoid()).sum(dim=1)
    if white:
        colour = colour + (1 - opacity)[:, None]
    depth = (weights * distances).sum(dim=1) / opacity.clamp_min(1e-10)
    return Pixels(colour, depth, opacity, weights)
