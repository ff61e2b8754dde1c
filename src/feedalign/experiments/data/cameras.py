r"""Cameras: where they stand, where they look, and the ray that each pixel sees.

A pose ``[3, 4]`` takes a point of the camera's own space to the world: three columns for its axes (x to the right, y
up, z backward, so that it looks along -z) and one for its place. Intrinsics say where a point ``(x, y, z)`` of the
camera's own space is seen: at column ``centre_x - focal_x * x / z`` and row ``centre_y + focal_y * y / z`` from the
upper left corner of the picture, so that the centre of the first pixel is at 0.5. There is no distortion. Letters:
``H`` height and ``W`` width of a picture.
"""

from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from feedalign.experiments.errors import DataError

TOLERANCE = 1e-2  # what rounding in a camera file may do to a rotation

Number = TypeVar("Number", float, Tensor)


class Intrinsics(NamedTuple, Generic[Number]):
    """The intrinsics of a pinhole camera in pixels: numbers for one camera, tensors ``[...]`` for several.

    Attributes:
        focal_x: Focal length in widths of a pixel.
        focal_y: Focal length in heights of a pixel; other than ``focal_x`` where pixels are not square.
        centre_x: Column of the principal point from the left edge of the picture.
        centre_y: Row of the principal point from the upper edge.
    """

    focal_x: Number
    focal_y: Number
    centre_x: Number
    centre_y: Number


def centred(focal: float, height: float, width: float) -> Intrinsics[float]:
    """Return the intrinsics of a camera with square pixels and the principal point in the middle of the picture."""
    return Intrinsics(focal, focal, width / 2, height / 2)


def look_at(places: Tensor, targets: Tensor, up: Tensor) -> Tensor:
    """Return poses ``[..., 3, 4]`` of cameras that stand at places and look at targets.

    Args:
        places: ``[..., 3]``.
        targets: ``[..., 3]``, none of them at its camera's place.
        up: Which way is up in the pictures, ``[..., 3]``; no camera may look straight along it.
    """
    back = normalize(places - targets, dim=-1)
    right = normalize(torch.linalg.cross(up.expand_as(back), back), dim=-1)
    return torch.stack([right, torch.linalg.cross(back, right), back, places], dim=-1)


def camera_rays(
    poses: Tensor, height: int, width: int, camera: float | Intrinsics[float] | Intrinsics[Tensor]
) -> tuple[Tensor, Tensor]:
    """Return origins and directions ``[..., H, W, 3]`` of the rays through the centres of all pixels.

    Directions are not normalised: one step along a ray is one unit of depth. Rays through pixels of a picture made
    ``k`` times as large, with ``k`` times the intrinsics, sample each pixel ``k * k`` times, evenly.

    Args:
        poses: ``[..., 3, 4]``.
        height: H.
        width: W.
        camera: The intrinsics: one camera's, or tensors ``[...]`` with those of each pose. A number is a focal length
            in pixels and stands for :func:`centred` intrinsics.
    """
    if not isinstance(camera, Intrinsics):
        camera = centred(camera, height, width)
    rows = torch.arange(height, dtype=poses.dtype, device=poses.device)
    columns = torch.arange(width, dtype=poses.dtype, device=poses.device)
    if isinstance(camera.focal_x, Tensor):
        camera = Intrinsics(*(values.to(poses)[..., None, None] for values in camera))
    local = pixel_directions(rows[:, None], columns[None, :], camera)  # [H, W, 3], or [..., H, W, 3]
    directions = torch.einsum("...ij,...hwj->...hwi", poses[..., :3], local)
    return poses[..., None, None, :, 3].expand_as(directions), directions


def pixel_directions(rows: Tensor, columns: Tensor, camera: Intrinsics[float] | Intrinsics[Tensor]) -> Tensor:
    """Return the directions ``[..., 3]``, in the camera's own space, through centres of pixels.

    The centre of pixel 0 is at 0.5; the code of NeRF's authors aims at its corner.

    Args:
        rows: Numbers of the pixels from the top, floating; broadcast with ``columns`` and the intrinsics.
        columns: Their numbers from the left.
        camera: The intrinsics.
    """
    right = (columns + 0.5 - camera.centre_x) / camera.focal_x + torch.zeros_like(rows)
    up = (camera.centre_y - rows - 0.5) / camera.focal_y + torch.zeros_like(columns)
    return torch.stack([right, up, -torch.ones_like(right)], dim=-1)


def average_pose(poses: Tensor) -> Tensor:
    """Return the pose ``[3, 4]`` in the middle of others ``[V, 3, 4]``.

    It stands at their mean place, and looks along their mean direction with their mean up.
    """
    place, back, up = (poses[:, :, column].mean(dim=0) for column in (3, 2, 1))
    return look_at(place, place - back, up)


def recentred(poses: Tensor) -> Tensor:
    """Return poses ``[V, 3, 4]`` in the space of their average: its place is the origin, its axes are the world's."""
    average = average_pose(poses)
    axes, place = average[:, :3], average[:, 3]
    return torch.cat([axes.T @ poses[:, :, :3], axes.T @ (poses[:, :, 3:] - place[:, None])], dim=2)


def checked_poses(poses: Tensor, names: list[str], file: str) -> Tensor:
    """Return poses ``[V, 3, 4]`` that are finite, each with a rotation that is one.

    Args:
        poses: ``[V, 3, 4]``.
        names: What each pose belongs to, for the message.
        file: Where they come from, likewise.

    Raises:
        DataError: One is not; the first is named.
    """
    for pose, name in zip(poses, names, strict=True):
        if not pose.isfinite().all():
            raise DataError(
                f"{file}: expected finite numbers in the pose of {name}, found {_first_bad(pose)}. Do mend that entry."
            )
        axes = pose[:, :3].double()
        drift = float((axes.T @ axes - torch.eye(3, dtype=torch.float64)).abs().max())
        if drift > TOLERANCE or torch.linalg.det(axes) < 0:
            raise DataError(
                f"{file}: expected a rotation (three axes of length 1 at right angles, right-handed) in the pose of "
                f"{name}, found one that is off by {drift:.2g} with determinant {float(torch.linalg.det(axes)):.3g}. "
                "Do write camera-to-world matrices without scale."
            )
    return poses


def _first_bad(pose: Tensor) -> str:
    row, column = (~pose.isfinite()).nonzero()[0].tolist()
    return f"{float(pose[row, column])} in row {row}, column {column}"
