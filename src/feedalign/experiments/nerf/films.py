"""Films: what a camera sees along a path, as an animated GIF."""

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from feedalign.experiments.data.scenes import Scene, Views
from feedalign.experiments.files import write_atomically
from feedalign.experiments.nerf.pictures import as_image, depth_colours
from feedalign.experiments.nerf.rendering import Radiance
from feedalign.experiments.nerf.views import Told, render

COLOURS = 64
"""Of the palette of a frame: more would hardly be seen and make a larger file."""


def film(
    model: Radiance,
    scene: Scene,
    poses: Tensor,
    *,
    depth: bool = False,
    views: Views | None = None,
    told: Told | None = None,
) -> list[Tensor]:
    """Return the frames ``[H, W', 3]`` of a film; what belongs to a frame stands side by side in it.

    Args:
        model: The fields.
        scene: The scene.
        poses: Of the frames, ``[V, 3, 4]``.
        depth: Show depths to the right.
        views: Those whose poses these are: their photographs are shown to the left, and the intrinsics are theirs. By
            default none, and the intrinsics are those of the scene's camera.
        told: Who is told how far it is.
    """
    frames = []
    for number, pose in enumerate(poses):
        picture = render(model, scene, pose, camera=None if views is None else scene.camera_of(views, number))
        parts = [] if views is None else [views.images[number].cpu()]
        parts += [picture.colour, *([depth_colours(picture, scene)] if depth else [])]
        frames.append(torch.cat(parts, dim=1))
        if told is not None:
            told(number + 1, len(poses))
    return frames


def write_gif(path: Path, frames: Sequence[Tensor], per_second: float = 20.0, largest: int | None = None) -> Path:
    """Write frames ``[H, W, 3]`` as an endless GIF, whole or not at all, and return its path.

    Args:
        path: Where to.
        frames: In their order.
        per_second: How many are shown in a second; the format counts hundredths of a second.
        largest: Reduce frames whose longer side is above this.

    Raises:
        ValueError: There is no frame.
        OutputError: The file cannot be written.
    """
    if not frames:
        raise ValueError("Expected at least one frame for a film, found none.")
    images = [
        as_image(frame, largest).quantize(COLOURS, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        for frame in frames
    ]
    content = io.BytesIO()
    images[0].save(content, "GIF", save_all=True, append_images=images[1:], duration=round(1000 / per_second), loop=0)
    write_atomically(path, content.getvalue())
    return path
