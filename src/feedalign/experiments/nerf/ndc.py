"""Normalised device coordinates: a scene that is in front of all cameras, and may be endless, in a finite box."""

import torch
from torch import Tensor

from feedalign.experiments.data.cameras import Intrinsics, centred


def ndc_rays(
    origins: Tensor, directions: Tensor, height: int, width: int, camera: float | Intrinsics[float], near: float = 1.0
) -> tuple[Tensor, Tensor]:
    r"""Return the same rays ``[..., 3]`` in normalised device coordinates.

    The projection takes a point :math:`(x, y, z)` with :math:`z < 0` to
    :math:`(-\frac{2f_x}{W} \frac{x}{z} + \frac{2c_x}{W} - 1,\; -\frac{2f_y}{H} \frac{y}{z} + 1 - \frac{2c_y}{H},\;
    1 + \frac{2n}{z})`: what the camera at the origin sees from depth :math:`n` to infinity becomes the cube
    :math:`[-1, 1]^3`. It takes lines to lines. The new ray is at the near plane at 0 and at infinity at 1; in between,
    depth is passed in equal steps of its inverse.

    Args:
        origins: ``[..., 3]``; they are moved along their rays onto the near plane first.
        directions: ``[..., 3]``, pointing forward: their z is negative.
        height: H, in pixels.
        width: W, in pixels.
        camera: The intrinsics of the camera at the origin: f and c, in pixels. A number is a focal length and stands
            for square pixels and the principal point in the middle of the picture, where both shifts are 0.
        near: Depth of the near plane, n.

    Raises:
        ValueError: A ray does not point forward.

    References:
        Mildenhall et al., *NeRF: representing scenes as neural radiance fields for view synthesis*, ECCV 2020,
        appendix C, for square pixels and the principal point in the middle.
    """
    if not (directions[..., 2] < 0).all():
        raise ValueError(
            "Expected rays that point forward (a negative z) for normalised device coordinates, found some that do "
            "not. Use them for forward-facing scenes only."
        )
    if not isinstance(camera, Intrinsics):
        camera = centred(camera, height, width)
    travelled = -(near + origins[..., 2]) / directions[..., 2]
    x, y, z = (origins + travelled[..., None] * directions).unbind(-1)
    dx, dy, dz = directions.unbind(-1)
    across, along = -2 * camera.focal_x / width, -2 * camera.focal_y / height
    right, up = 2 * camera.centre_x / width - 1, 1 - 2 * camera.centre_y / height
    start = torch.stack([across * x / z + right, along * y / z + up, 1 + 2 * near / z], dim=-1)
    step = torch.stack([across * (dx / dz - x / z), along * (dy / dz - y / z), -2 * near / z], dim=-1)
    return start, step
