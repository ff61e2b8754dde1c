"""Rays of a scene: through all pixels of its views, through some of them, and through those of new cameras.

Letters: ``R`` rays, ``V`` views, ``H`` height and ``W`` width of a picture. Pixels of a part are numbered view after
view, row after row: pixel ``(v * H + row) * W + column``.
"""

from typing import NamedTuple

from torch import Tensor
from torch.nn.functional import normalize

from feedalign.experiments.data.cameras import Intrinsics, camera_rays, pixel_directions
from feedalign.experiments.data.scene_data import Scene, Views
from feedalign.experiments.nerf.ndc import ndc_rays

__all__ = ["Rays", "all_rays", "camera_rays", "pixel_rays", "pose_rays"]


class Rays(NamedTuple):
    """Rays to sample a scene along, from its ``near`` to its ``far`` times their directions.

    Attributes:
        origins: ``[R, 3]``, in normalised device coordinates if the scene uses them.
        directions: ``[R, 3]``, likewise; not normalised.
        viewing: Unit directions in the world ``[R, 3]``, never in normalised device coordinates: what a colour that
            depends on the view is given.
    """

    origins: Tensor
    directions: Tensor
    viewing: Tensor


def all_rays(views: Views, scene: Scene) -> tuple[Rays, Tensor]:
    """Return the rays of all pixels of views of a scene, and their colours ``[V * H * W, 3]``."""
    return pose_rays(views.poses, scene, scene.camera_of(views, slice(None))), views.images.reshape(-1, 3)


def pixel_rays(views: Views, scene: Scene, pixels: Tensor) -> tuple[Rays, Tensor]:
    """Return the rays of some pixels, and their colours ``[R, 3]``, without making those of the others.

    Args:
        views: Of the scene.
        scene: The scene.
        pixels: Numbers from 0 to V * H * W - 1, ``[R]``, int64, on the device of the views.
    """
    view, place = pixels // (scene.height * scene.width), pixels % (scene.height * scene.width)
    rows, columns = (place // scene.width).to(views.poses), (place % scene.width).to(views.poses)
    local = pixel_directions(rows, columns, scene.camera_of(views, view))  # [R, 3]
    poses = views.poses[view]  # [R, 3, 4]
    directions = (poses[:, :, :3] @ local[:, :, None])[:, :, 0]
    return _rays(poses[:, :, 3], directions, scene), views.images.reshape(-1, 3)[pixels]


def pose_rays(poses: Tensor, scene: Scene, camera: Intrinsics[float] | Intrinsics[Tensor] | None = None) -> Rays:
    """Return the rays of all pixels that cameras would see.

    Args:
        poses: Of the cameras, ``[..., 3, 4]``.
        scene: The scene; pictures have its size.
        camera: Their intrinsics, by default those of the scene's camera; tensors have the shape ``[...]``.
    """
    origins, directions = camera_rays(poses, scene.height, scene.width, scene.camera if camera is None else camera)
    return _rays(origins.reshape(-1, 3), directions.reshape(-1, 3), scene)


def _rays(origins: Tensor, directions: Tensor, scene: Scene) -> Rays:
    viewing = normalize(directions, dim=-1)
    if scene.ndc:
        origins, directions = ndc_rays(origins, directions, scene.height, scene.width, scene.camera)
    return Rays(origins, directions, viewing)
