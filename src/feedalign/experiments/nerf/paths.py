r"""Paths for a film of a scene: once around it, or a spiral in front of it.

Letters: ``N`` poses of the path, ``V`` views of the scene.
"""

import math

import torch
from torch import Tensor

from feedalign.experiments.data.cameras import average_pose, look_at
from feedalign.experiments.data.scene_data import Scene

ELEVATION = math.radians(30)
TURNS = 2
PERCENTILE = 0.9  # of the cameras' distances from their middle: how wide the spiral is
# The spiral looks at a point between these multiples of the scene's nearest and farthest depth, with this share of the
# latter's inverse.
BEGIN, END, FAR_SHARE = 0.9, 5.0, 0.75


def scene_path(scene: Scene, count: int) -> Tensor:
    """Return poses ``[count, 3, 4]`` for a film: a spiral for a forward-facing scene, and else a turntable.

    The turntable is as far away as the training views are on average.
    """
    if scene.forward_facing:
        return spiral(scene.train.poses, scene.depths, count)
    return turntable(float(scene.train.poses[:, :, 3].norm(dim=1).mean()), count).to(scene.train.poses)


def turntable(distance: float, count: int, elevation: float = ELEVATION) -> Tensor:
    """Return poses ``[count, 3, 4]``, float64, once around the vertical axis z, looking at the origin.

    Args:
        distance: From the origin.
        count: N.
        elevation: Angle over the horizon, radians, less than a right angle.
    """
    around = 2 * math.pi * torch.arange(count, dtype=torch.float64) / count
    height = torch.full_like(around, math.tan(elevation))
    places = distance * math.cos(elevation) * torch.stack([around.cos(), around.sin(), height], dim=1)
    return look_at(places, torch.zeros_like(places), places.new_tensor((0.0, 0.0, 1.0)))


def spiral(poses: Tensor, depths: tuple[float, float], count: int) -> Tensor:
    r"""Return poses ``[count, 3, 4]`` that circle twice around the average camera and look at one point before it.

    In the average camera's space, with :math:`r` the 90 % quantile of the cameras' absolute offsets along each axis,
    the camera is at :math:`(r_x \cos t,\; -r_y \sin t,\; -r_z \sin \tfrac t 2)` for :math:`t` from 0 to
    :math:`4\pi`, which closes the path. The depth of the point is a weighted harmonic mean of the scene's ends, as in
    the code of NeRF's authors.

    Args:
        poses: Of the scene's views, ``[V, 3, 4]``.
        depths: The nearest and the farthest depth of the scene.
        count: N.
    """
    average = average_pose(poses)
    axes, middle = average[:, :3], average[:, 3]
    radii = ((poses[:, :, 3] - middle) @ axes).abs().quantile(PERCENTILE, dim=0)  # [3]
    turn = 2 * math.pi * TURNS * torch.arange(count, dtype=poses.dtype, device=poses.device) / count
    offsets = radii * torch.stack([turn.cos(), -turn.sin(), -(turn / 2).sin()], dim=1)  # [N, 3]
    focus = 1 / ((1 - FAR_SHARE) / (BEGIN * depths[0]) + FAR_SHARE / (END * depths[1]))
    places = middle + offsets @ axes.T
    return look_at(places, (middle - focus * axes[:, 2]).expand_as(places), axes[:, 1])
