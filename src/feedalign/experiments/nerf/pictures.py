"""Pictures of a run: test views beside the truth, their depths, and an epipolar strip; kept small, as PNG files."""

import io
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from feedalign.experiments.data.scenes import Scene
from feedalign.experiments.files import write_atomically
from feedalign.experiments.nerf.paths import scene_path
from feedalign.experiments.nerf.rendering import Radiance
from feedalign.experiments.nerf.views import Picture, render, some, strip

LARGEST = 200
"""Pixels along the longer side of a picture that is kept; a larger one is reduced, since pictures stay with records."""
FRAMES = 96
"""Cameras along the path of a strip."""
TRUTH, SEEN, DEPTH, STRIP = "truth", "seen", "depth", "strip.png"


def keep_pictures(model: Radiance, scene: Scene, directory: Path, count: int) -> list[Path]:
    """Write ``view<i>-truth.png``, ``-seen.png`` and ``-depth.png`` of some test views, and ``strip.png``.

    Args:
        model: The fields.
        scene: The scene.
        directory: Where to.
        count: How many test views, evenly chosen.
    """
    chosen, written = some(scene.test, count), []
    for number, (pose, truth) in enumerate(zip(chosen.poses, chosen.images, strict=True)):
        picture = render(model, scene, pose, camera=scene.camera_of(chosen, number))
        for what, colours in ((TRUTH, truth.cpu()), (SEEN, picture.colour), (DEPTH, depth_colours(picture, scene))):
            written.append(write_png(directory / view_file(number, what), colours))
    colours = strip(model, scene, scene_path(scene, FRAMES).to(scene.train.poses))
    return [*written, write_png(directory / STRIP, colours)]


def view_file(number: int, what: str) -> str:
    """Return the name of the file of a test view: ``what`` is ``"truth"``, ``"seen"`` or ``"depth"``."""
    return f"view{number}-{what}.png"


def depth_colours(picture: Picture, scene: Scene) -> Tensor:
    """Return depths as colours ``[H, W, 3]``, dark blue near and yellow far; white where little is seen.

    The scale goes from the ray's near end to its far one.
    """
    share = ((picture.depth - scene.near) / (scene.far - scene.near)).clamp(0, 1)
    colours = torch.from_numpy(mpl.colormaps["viridis"](share.numpy())[..., :3].astype(np.float32))
    return torch.where(picture.opacity[..., None] < 0.5, torch.ones_like(colours), colours)


def as_image(colours: Tensor, largest: int | None = None) -> Image.Image:
    """Return colours ``[H, W, 3]`` in [0, 1] as a picture, reduced if its longer side is above ``largest``."""
    image = Image.fromarray((colours.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    if largest is not None and max(image.size) > largest:
        image.thumbnail((largest, largest), Image.Resampling.BOX)
    return image


def write_png(path: Path, colours: Tensor, largest: int | None = LARGEST) -> Path:
    """Write colours ``[H, W, 3]`` in [0, 1] as a PNG file, whole or not at all, and return its path.

    Raises:
        OutputError: The file cannot be written.
    """
    content = io.BytesIO()
    as_image(colours, largest).save(content, "PNG", optimize=True)
    write_atomically(path, content.getvalue())
    return path
