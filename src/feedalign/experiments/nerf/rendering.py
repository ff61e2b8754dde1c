"""A coarse and a fine radiance field, and how they answer for rays."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from feedalign.experiments.models.nerf import FieldConfig, RadianceField
from feedalign.experiments.nerf.compositing import Pixels, composite
from feedalign.experiments.nerf.occupancy import Occupancy
from feedalign.experiments.nerf.rays import Rays
from feedalign.experiments.nerf.sampling import refined, stratified


@dataclass(frozen=True)
class RenderingConfig:
    """How rays are sampled.

    Attributes:
        coarse: Samples a ray, evenly spread, for the coarse field.
        fine: Further samples where the coarse field saw something; the fine field is asked at both. 0 for none, and no
            fine field.
        noise: Standard deviation of what is added to raw densities in training.
        chunk: Samples that go through a field at a time. It bounds what is in the cache, and memory where nothing is
            trained; it changes nothing but rounding.
    """

    coarse: int = 64
    fine: int = 128
    noise: float = 0.0
    chunk: int = 65_536

    @property
    def rays_at_a_time(self) -> int:
        """How many rays make a chunk."""
        return max(1, self.chunk // (self.coarse + self.fine))

    def __post_init__(self) -> None:
        if self.coarse < 3 or self.fine < 0 or self.noise < 0 or self.chunk < 1:
            raise ValueError(
                "Expected at least 3 coarse samples, at least 0 fine ones, noise of at least 0 and a chunk of at "
                f"least 1, found {self.coarse}, {self.fine}, {self.noise:g} and {self.chunk}."
            )


class Seen(NamedTuple):
    """What rays met according to both fields.

    Attributes:
        coarse: According to the coarse one, None where there is but one field.
        fine: According to the fine one, or the only one. This is the picture.
    """

    coarse: Pixels | None
    fine: Pixels


class Radiance(nn.Module):
    """A coarse radiance field and a fine one, or one alone.

    In training mode distances are drawn and noise is added; in evaluation mode distances are even and there is none.

    Args:
        field: The shape of both.
        rendering: How rays are sampled.
        near: Where rays begin.
        far: Where they end.
        white: Whether white is behind everything; else black.

    Attributes:
        fields: The names of the fields: ``("coarse", "fine")``, or ``("coarse",)`` alone.
        dual: In evaluation mode, render the mean of both fields' answers at the fine samples ("NeRF-Dual").
        occupancy: Where there is something: elsewhere the fields are not asked. None to ask everywhere.
    """

    def __init__(self, field: FieldConfig, rendering: RenderingConfig, near: float, far: float, white: bool) -> None:
        super().__init__()
        self.rendering, self.near, self.far, self.white = rendering, near, far, white
        self.coarse = field.build()
        self.fine = field.build() if rendering.fine else None
        self.fields = ("coarse", "fine") if rendering.fine else ("coarse",)
        self.dual = False
        self.occupancy: Occupancy | None = None

    def forward(self, rays: Rays) -> Seen:
        """Return what rays met."""
        chunk = self.rendering.rays_at_a_time
        parts = [self.chunk(Rays(*part)) for part in zip(*(torch.split(values, chunk) for values in rays), strict=True)]
        if len(parts) == 1:
            return parts[0]
        coarse = [part.coarse for part in parts if part.coarse is not None]
        return Seen(_joined(coarse) if coarse else None, _joined([part.fine for part in parts]))

    def chunk(self, rays: Rays) -> Seen:
        """Return what a few rays met."""
        even = stratified(
            self.near, self.far, len(rays.origins), self.rendering.coarse,
            random=self.training, device=rays.origins.device,
        )  # fmt: skip
        coarse = self.pixels(self.ask(self.coarse, rays, even), rays, even)
        if self.fine is None:
            return Seen(None, coarse)
        distances = refined(even, coarse.weights.detach(), self.rendering.fine, random=self.training)
        raw = self.ask(self.fine, rays, distances)
        if self.dual and not self.training:
            raw = 0.5 * (raw + self.ask(self.coarse, rays, distances))
        return Seen(coarse, self.pixels(raw, rays, distances))

    def ask(self, field: RadianceField, rays: Rays, distances: Tensor) -> Tensor:
        """Return the raw answers ``[R, S, 4]`` of a field at distances ``[R, S]`` along rays."""
        positions = rays.origins[:, None] + distances[..., None] * rays.directions[:, None]
        if self.occupancy is None:
            raw: Tensor = field(positions, rays.viewing)
            return raw
        return self.occupancy.ask(field, positions, rays.viewing)

    def pixels(self, raw: Tensor, rays: Rays, distances: Tensor) -> Pixels:
        """Return what rays met, from what a field answered."""
        noise = torch.randn_like(distances) * self.rendering.noise if self.training and self.rendering.noise else None
        lengths = torch.linalg.vector_norm(rays.directions, dim=-1)
        return composite(raw, distances, lengths, white=self.white, noise=noise)


def _joined(parts: list[Pixels]) -> Pixels:
    return Pixels(*(torch.cat(values) for values in zip(*parts, strict=True)))
