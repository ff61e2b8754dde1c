"""Where along a ray the field is asked: evenly at first, then where there was something to see.

Letters: ``R`` rays, ``S`` samples on each. Distances are multiples of a ray's direction.
"""

import torch
from torch import Tensor

FLOOR = 1e-5
"""Added to every weight, so that a ray that met nothing is sampled evenly."""


def stratified(near: float, far: float, rays: int, samples: int, *, random: bool, device: torch.device) -> Tensor:
    """Return increasing distances ``[R, S]`` from near to far: evenly spaced, or one at random in each interval.

    Args:
        near: The first distance.
        far: The last distance.
        rays: R.
        samples: S, at least 2.
        random: Draw each distance from the interval between the midpoints to its neighbours (at the ends: up to the
            distance itself), from the global random number generator.
        device: Where.

    Raises:
        ValueError: There are fewer than two samples, or near is not before far.
    """
    if samples < 2 or not near < far:
        raise ValueError(f"Expected at least two samples and near < far, found {samples}, {near:g} and {far:g}.")
    even = torch.linspace(near, far, samples, device=device).expand(rays, samples)
    if not random:
        return even
    middle = midpoints(even)
    lower = torch.cat([even[:, :1], middle], dim=1)
    upper = torch.cat([middle, even[:, -1:]], dim=1)
    return lower + (upper - lower) * torch.rand(rays, samples, device=device)


def midpoints(distances: Tensor) -> Tensor:
    """Return the distances half-way between neighbours, ``[R, S - 1]``."""
    return 0.5 * (distances[:, 1:] + distances[:, :-1])


def resampled(edges: Tensor, weights: Tensor, samples: int, *, random: bool) -> Tensor:
    """Return distances drawn with a density that is constant between edges: the inverse transform of its integral.

    Args:
        edges: Increasing distances ``[R, K + 1]``.
        weights: Of the K intervals ``[R, K]``, at least 0; no gradient goes through them.
        samples: How many distances a ray.
        random: Draw them; else the quantiles at even steps from 0 to 1 are taken.

    Returns:
        ``[R, samples]``; increasing where nothing is drawn.
    """
    share = weights.detach() + FLOOR
    share = share / share.sum(dim=1, keepdim=True)
    integral = torch.cat([torch.zeros_like(share[:, :1]), share.cumsum(dim=1)], dim=1)  # [R, K + 1]
    rays, device = len(edges), edges.device
    level = (
        torch.rand(rays, samples, device=device)
        if random
        else torch.linspace(0, 1, samples, device=device).expand(rays, samples)
    )
    interval = torch.searchsorted(integral, level.contiguous(), right=True).clamp(1, share.shape[1]) - 1
    start, begun = edges.gather(1, interval), integral.gather(1, interval)
    length = (edges[:, 1:] - edges[:, :-1]).gather(1, interval)
    within = ((level - begun) / share.gather(1, interval)).clamp(0, 1)
    return start + within * length


def refined(distances: Tensor, weights: Tensor, samples: int, *, random: bool) -> Tensor:
    """Return the distances beside ``samples`` new ones where the weights are, in order: ``[R, S + samples]``.

    As Mildenhall et al. 2020 do it, the new ones lie between the midpoints of the old ones, each interval with the
    weight of the sample inside it; the first and the last sample's weights are left out.

    Args:
        distances: Increasing, ``[R, S]``.
        weights: What each of them gave to the colour, ``[R, S]``.
        samples: How many new ones.
        random: Draw them; else take quantiles.
    """
    new = resampled(midpoints(distances), weights[:, 1:-1], samples, random=random)
    return torch.cat([distances, new], dim=1).sort(dim=1).values
