"""Where a scene holds something: a grid of cells, so that empty space need not be asked about again and again.

As in Müller et al. 2022, but learnt anew from time to time and not carried on from step to step, so that a grid
follows from the weights alone.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool3d

from feedalign.experiments.models.nerf import RAW, RadianceField

NOTHING = -1.0
"""A raw density below 0 is a density of 0."""


@dataclass(frozen=True)
class Occupancy:
    """A box of cells, each of them empty or not. What lies outside of the box counts as not empty.

    Attributes:
        low: The box's lowest corner, ``[3]``.
        high: Its highest corner, ``[3]``.
        cells: Which are not empty, ``[N, N, N]``, bool.
    """

    low: Tensor
    high: Tensor
    cells: Tensor

    @classmethod
    def full(cls, low: Tensor, high: Tensor, resolution: int) -> "Occupancy":
        """Return a grid with no empty cell."""
        return cls(low, high, torch.ones(resolution, resolution, resolution, dtype=torch.bool, device=low.device))

    @property
    def share(self) -> float:
        """The share of cells that are not empty."""
        return self.cells.float().mean().item()

    def occupied(self, positions: Tensor) -> Tensor:
        """Return which positions ``[..., 3]`` lie in a cell that is not empty, or outside of the box."""
        resolution = len(self.cells)
        place = ((positions - self.low) / (self.high - self.low) * resolution).floor().long()
        outside = ((place < 0) | (place >= resolution)).any(dim=-1)
        x, y, z = place.clamp(0, resolution - 1).unbind(-1)
        return self.cells[x, y, z] | outside

    def ask(self, field: RadianceField, positions: Tensor, directions: Tensor) -> Tensor:
        """Return the raw answers ``[R, S, 4]`` of a field, a density of 0 where there is nothing.

        What is not asked has no gradient. One place is always asked, so that rays which meet nothing have gradients
        too, of zero.

        Args:
            field: The field.
            positions: ``[R, S, 3]``.
            directions: Of unit length, ``[R, 3]``.
        """
        chosen = self.occupied(positions)
        if not chosen.any():
            chosen[0, 0] = True
        raw = positions.new_full((*positions.shape[:-1], RAW), NOTHING)
        viewing = directions[:, None].expand_as(positions)[chosen]
        raw[chosen] = field(positions[chosen][:, None], viewing)[:, 0].to(raw)
        return raw


@torch.no_grad()
def learned(
    fields: Iterable[RadianceField],
    low: Tensor,
    high: Tensor,
    *,
    resolution: int = 96,
    threshold: float = 0.01,
    probes: int = 2,
    seed: int = 0,
) -> Occupancy:
    """Return the cells in which a field has a density, and their neighbours.

    Args:
        fields: A cell is empty only if it is so for all of them.
        low: The box's lowest corner, ``[3]``.
        high: Its highest corner, ``[3]``.
        resolution: N, cells along each side.
        threshold: A cell is empty if none of its probes finds a density that would take this share of the light on
            the way through the cell, from corner to corner.
        probes: Places in each cell where the density is asked, drawn at random.
        seed: Of the places.
    """
    generator = torch.Generator().manual_seed(seed)
    size = (high - low) / resolution
    thickness = threshold / torch.linalg.vector_norm(size)
    axis = torch.arange(resolution, device=low.device, dtype=low.dtype)
    found = torch.zeros(resolution, resolution, resolution, dtype=torch.bool, device=low.device)
    fields = list(fields)
    for number in range(resolution):  # a slice at a time: memory stays small
        corners = torch.stack(torch.meshgrid(axis[number : number + 1], axis, axis, indexing="ij"), dim=-1)
        for _ in range(probes):
            within = torch.rand(corners.shape, generator=generator).to(corners)
            positions = (low + (corners + within) * size).reshape(-1, 1, 3)
            for field in fields:
                directions = torch.zeros_like(positions[:, 0])  # densities do not depend on them
                density = field(positions, directions)[:, 0, 3]
                found[number] |= (density > thickness).reshape(resolution, resolution)
    wide = max_pool3d(found[None, None].float(), 3, stride=1, padding=1)[0, 0] > 0
    return Occupancy(low, high, wide)
