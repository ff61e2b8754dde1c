"""Whole pictures rendered from fields, and how like the photographs they are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedalign.experiments.data.cameras import Intrinsics
from feedalign.experiments.data.scenes import Scene, Views
from feedalign.experiments.nerf.metrics import psnr, ssim
from feedalign.experiments.nerf.occupancy import Occupancy, learned
from feedalign.experiments.nerf.rays import Rays, pose_rays
from feedalign.experiments.nerf.rendering import Radiance

Told = Callable[[int, int], None]
"""Who is told how many of how many pictures are done."""
NDC_BOX = 1.5
"""Half the sides of the box of a forward-facing scene: other cameras see a little more than the cube that one sees."""


class Picture(NamedTuple):
    """What a camera sees, on the CPU.

    Attributes:
        colour: ``[H, W, 3]``, in [0, 1].
        depth: ``[H, W]``, in multiples of the rays' directions.
        opacity: ``[H, W]``, in [0, 1].
    """

    colour: Tensor
    depth: Tensor
    opacity: Tensor


@contextmanager
def evaluating(model: Radiance) -> Iterator[None]:
    """Render in evaluation mode, without gradients: no noise, no drawn distances."""
    before = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(before)


def render(
    model: Radiance,
    scene: Scene,
    pose: Tensor,
    column: int | None = None,
    camera: Intrinsics[float] | Intrinsics[Tensor] | None = None,
) -> Picture:
    """Return what a camera sees.

    Args:
        model: The fields, on the device of the pose.
        scene: The scene; the picture has its size.
        pose: ``[3, 4]``.
        column: Render this column of pixels alone: W is 1 then.
        camera: The intrinsics, by default those of the scene's camera; tensors have the shape ``[]``.
    """
    rays, width = pose_rays(pose, scene, camera), scene.width
    if column is not None:
        rays = Rays(*(values.reshape(scene.height, scene.width, 3)[:, column] for values in rays))
        width = 1
    with evaluating(model):
        seen = model(rays).fine
    colour = seen.colour.reshape(scene.height, width, 3).clamp(0, 1)
    depth, opacity = (values.reshape(scene.height, width) for values in (seen.depth, seen.opacity))
    return Picture(colour.float().cpu(), depth.float().cpu(), opacity.float().cpu())


def strip(model: Radiance, scene: Scene, poses: Tensor, views: Views | None = None) -> Tensor:
    """Return an epipolar strip ``[H, V, 3]``: the middle column of pixels, camera after camera along a path.

    Where neighbouring views agree on what is where, edges run on smoothly from column to column.

    Args:
        model: The fields.
        scene: The scene.
        poses: The path, ``[V, 3, 4]``.
        views: Those whose poses these are; by default none, and the intrinsics are those of the scene's camera.
    """
    columns = [
        render(model, scene, pose, scene.width // 2, None if views is None else scene.camera_of(views, number)).colour
        for number, pose in enumerate(poses)
    ]
    return torch.cat(columns, dim=1)


def score(
    model: Radiance, scene: Scene, views: Views, count: int | None = None, told: Told | None = None
) -> dict[str, Any]:
    """Return PSNR in dB and SSIM of views, each mean over views and by view.

    Args:
        model: The fields.
        scene: The scene.
        views: Of the scene.
        count: Render so many of them, evenly chosen; ``None`` for all.
        told: Who is told how far it is.
    """
    chosen, found = some(views, count), {}
    for number, (name, pose, truth) in enumerate(zip(chosen.names, chosen.poses, chosen.images, strict=True)):
        colour = render(model, scene, pose, camera=scene.camera_of(chosen, number)).colour
        truth = truth.cpu()
        error = (colour - truth).square().mean().item()
        found[name] = {"psnr": psnr(error), "ssim": ssim(colour, truth)}
        if told is not None:
            told(number + 1, len(chosen))
    means = {what: sum(one[what] for one in found.values()) / len(found) for what in ("psnr", "ssim")}
    return {**means, "views": found}


def some(views: Views, count: int | None) -> Views:
    """Return so many of the views, evenly chosen, the first among them; all for ``None`` or where there are fewer."""
    if count is None or count >= len(views):
        return views
    return views.pick([len(views) * number // count for number in range(count)])


def box(scene: Scene) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest corner of a box that holds what all cameras see.

    For cameras that stand around a scene it is the cube around what lies within reach of every camera, if it looks at
    the origin; in normalised device coordinates it is fixed. What lies outside counts as occupied, so that the box
    decides about time alone.
    """
    device = scene.train.poses.device
    if scene.ndc:
        high = torch.tensor([NDC_BOX, NDC_BOX, 1.0], device=device)
        return -high, high
    stand = torch.linalg.vector_norm(scene.train.poses[:, :, 3], dim=1)
    half = (scene.far - stand.min()).clamp_min(0.1 * scene.far)
    return -half.expand(3), half.expand(3)


def find_empty_space(model: Radiance, scene: Scene, resolution: int, seed: int = 0) -> Occupancy:
    """Let the fields be asked only where they found something, and return where that is.

    A cell is skipped if both fields find it empty: the fine one makes the picture, the coarse one says where to look.

    Args:
        model: The fields.
        scene: The scene.
        resolution: Cells along each side.
        seed: Of the places in the cells where the fields are asked.
    """
    low, high = box(scene)
    fields = [model.get_submodule(name) for name in model.fields]
    model.occupancy = learned(fields, low, high, resolution=resolution, seed=seed)  # type: ignore[arg-type]
    return model.occupancy
