"""A scene that is ray-traced here: three spheres on a chequered disc. No file, no network, the same everywhere.

What a cloud of mean colour cannot imitate: sharp edges and shadows, a matt sphere, one with a Blinn-Phong highlight
that moves with the camera, and one that mirrors the chequers. Cameras stand on a hemisphere and look at the middle;
training, validation and test views spiral up it, each from another side.

Letters: ``R`` rays, ``S`` spheres. z is up, and the unit of length is that of the scenes made with Blender: cameras are
about 4 away, and all there is lies between 2 and 6.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feedalign.experiments.data.cameras import camera_rays, centred, look_at
from feedalign.experiments.data.scene_data import Scene, SceneConfig, Views, evenly
from feedalign.experiments.errors import DataError

VIEWS = {"train": 40, "validation": 4, "test": 6}
DISTANCE, NEAR, FAR = 4.0, 2.0, 6.0
ANGLE = 0.6911112  # field of view, radians
LOWEST, HIGHEST = math.radians(10), math.radians(75)  # of cameras over the horizon
SAMPLES = 4  # along each side of a pixel

CENTRES = torch.tensor([(-0.45, 0.35, 0.0), (0.5, 0.3, -0.1), (0.05, -0.5, -0.2)], dtype=torch.float64)  # [S, 3]
RADII = torch.tensor([0.5, 0.4, 0.3], dtype=torch.float64)
FLOOR, FLOOR_RADIUS, TILE = -0.5, 1.25, 0.3
# Of the spheres, then of the floor.
COLOURS = torch.tensor(
    [(0.85, 0.2, 0.15), (0.3, 0.32, 0.35), (0.15, 0.45, 0.85), (0.9, 0.87, 0.8)], dtype=torch.float64
)
HIGHLIGHT = torch.tensor([0.0, 0.3, 0.6, 0.0], dtype=torch.float64)
MIRROR = torch.tensor([0.0, 0.7, 0.0, 0.0], dtype=torch.float64)
SHININESS = 40.0
DARK_TILE = torch.tensor((0.2, 0.25, 0.3), dtype=torch.float64)
SUN = normalize(torch.tensor((0.5, -0.6, 1.0), dtype=torch.float64), dim=0)
AMBIENT, DIFFUSE = 0.35, 0.65
HORIZON, ZENITH = torch.tensor([(0.9, 0.9, 0.85), (0.35, 0.55, 0.85)], dtype=torch.float64)  # only mirrors see the sky
GAP = 1e-6  # by which rays start above the surface that they leave


class Hits(NamedTuple):
    """What rays meet first.

    Attributes:
        depths: As multiples of the rays' directions, ``[R]``; infinite where nothing is met.
        things: Number of the sphere, S for the floor, ``[R]``.
    """

    depths: Tensor
    things: Tensor


def read(config: SceneConfig) -> Scene:
    """Return the scene, traced in some seconds, always the same: levels of a byte, as from a file.

    Raises:
        DataError: Its size is no multiple of what it is to be shrunk by.
    """
    if config.size % config.shrink:
        raise DataError(
            f"Expected a `size` of the scene {config.name!r} that is a multiple of `shrink`, {config.shrink}, found "
            f"{config.size}. Do change one of them."
        )
    white = config.background != "black"
    size = config.size // config.shrink
    focal = 0.5 * size / math.tan(ANGLE / 2)
    parts = {}
    for turn, (part, count) in enumerate(VIEWS.items()):
        chosen = evenly(list(range(count)), config.limit if part == "train" else config.held_limit)
        poses = hemisphere(count, turn=float(turn))[chosen]
        images = torch.stack([picture(pose, size, focal, white, SAMPLES * config.shrink) for pose in poses])
        parts[part] = Views(images, poses.float(), tuple(f"{part}/{number}" for number in chosen))
    reach = FLOOR_RADIUS + abs(FLOOR)
    return Scene(
        name=config.name,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        height=size,
        width=size,
        camera=centred(focal, size, size),
        near=NEAR,
        far=FAR,
        ndc=False,
        white=white,
        depths=(DISTANCE - reach, DISTANCE + reach),
    )


def hemisphere(count: int, turn: float) -> Tensor:
    """Return poses ``[count, 3, 4]``, float64, that look at the middle from all sides, evenly.

    Args:
        count: How many.
        turn: By which they are all turned around the vertical, radians.
    """
    share = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    height = math.sin(LOWEST) + share * (math.sin(HIGHEST) - math.sin(LOWEST))
    around = torch.arange(count, dtype=torch.float64) * math.pi * (3 - math.sqrt(5)) + turn
    level = (1 - height**2).sqrt()
    places = DISTANCE * torch.stack([level * around.cos(), level * around.sin(), height], dim=1)
    return look_at(places, torch.zeros_like(places), torch.tensor((0.0, 0.0, 1.0), dtype=torch.float64))


def picture(pose: Tensor, size: int, focal: float, white: bool, samples: int = SAMPLES) -> Tensor:
    """Return what a camera ``[3, 4]`` sees, ``[size, size, 3]``, float32, with smooth edges, in levels of a byte."""
    fine = size * samples
    origins, directions = camera_rays(pose, fine, fine, focal * samples)
    colours = colour(origins.reshape(-1, 3), directions.reshape(-1, 3), background=torch.full((3,), float(white)))
    means = colours.clamp(0, 1).view(size, samples, size, samples, 3).mean(dim=(1, 3))
    return (means * 255).round().div(255).float()


def colour(origins: Tensor, directions: Tensor, background: Tensor | None = None, bounces: int = 1) -> Tensor:
    """Return the colours ``[R, 3]`` that rays bring back.

    Args:
        origins: ``[R, 3]``, float64.
        directions: ``[R, 3]``, of any length.
        background: Of rays that meet nothing, ``[3]``; by default they see the sky.
        bounces: How often a ray may be mirrored.
    """
    hits = meet(origins, directions)
    met = hits.depths.isfinite()
    seen = _sky(directions) if background is None else background.to(origins).expand_as(origins).clone()
    seen[met] = _surface(origins[met], directions[met], Hits(hits.depths[met], hits.things[met]), bounces)
    return seen


def meet(origins: Tensor, directions: Tensor) -> Hits:
    """Return what rays ``[R, 3]`` meet first, looked at from outside of the spheres."""
    square = (directions**2).sum(1, keepdim=True)  # [R, 1]
    apart = origins[:, None] - CENTRES  # [R, S, 3]
    along = (apart * directions[:, None]).sum(2)
    root = along**2 - square * ((apart**2).sum(2) - RADII**2)
    spheres = (-along - root.clamp(min=0).sqrt()) / square
    spheres = spheres.where((root > 0) & (spheres > 0), math.inf)  # [R, S]
    floor = (FLOOR - origins[:, 2]) / directions[:, 2]
    place = (origins + floor[:, None] * directions)[:, :2]
    floor = floor.where((floor > 0) & ((place**2).sum(1) < FLOOR_RADIUS**2), math.inf)
    depths, things = torch.cat([spheres, floor[:, None]], dim=1).min(dim=1)
    return Hits(depths, things)


def _surface(origins: Tensor, directions: Tensor, hits: Hits, bounces: int) -> Tensor:
    points = origins + hits.depths[:, None] * directions
    normals = _normals(points, directions, hits.things)
    outside = points + GAP * normals
    forward = normalize(directions, dim=1)
    facing = (normals @ SUN).clamp(min=0)
    lit = meet(outside, SUN.expand_as(outside)).depths.isinf()
    halfway = normalize(SUN - forward, dim=1)
    highlight = HIGHLIGHT[hits.things] * (normals * halfway).sum(1).clamp(min=0) ** SHININESS
    light = (AMBIENT + DIFFUSE * facing * lit)[:, None]
    seen = _paint(points, hits.things) * light + (highlight * lit * (facing > 0))[:, None]
    shiny = MIRROR[hits.things] > 0
    if bounces and shiny.any():
        bounced = forward - 2 * (forward * normals).sum(1, keepdim=True) * normals
        share = MIRROR[hits.things][shiny, None]
        mirrored = colour(outside[shiny], bounced[shiny], bounces=bounces - 1)
        seen[shiny] = (1 - share) * seen[shiny] + share * mirrored
    return seen


def _normals(points: Tensor, directions: Tensor, things: Tensor) -> Tensor:
    """Return unit normals ``[R, 3]``; the floor's is on the side that is looked at."""
    spheres = len(RADII)
    number = things.clamp(max=spheres - 1)
    round_ones = (points - CENTRES[number]) / RADII[number, None]
    flat = torch.zeros_like(points)
    flat[:, 2] = -directions[:, 2].sign()
    return round_ones.where((things < spheres)[:, None], flat)


def _paint(points: Tensor, things: Tensor) -> Tensor:
    tiles = (points[:, :2] / TILE).floor().sum(1)
    dark = (things == len(RADII)) & (tiles % 2 == 1)
    return DARK_TILE.where(dark[:, None], COLOURS[things])


def _sky(directions: Tensor) -> Tensor:
    height = normalize(directions, dim=1)[:, 2:].clamp(min=0)
    return torch.lerp(HORIZON, ZENITH, height)
