"""Pictures of a scene, read from files: opaque, all of one size, and smaller if asked for.

Letters: ``V`` views, ``H`` height and ``W`` width of a picture.
"""

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from feedalign.experiments.data.root import refuse_html
from feedalign.experiments.errors import DataError

MODES = ("L", "LA", "P", "PA", "RGB", "RGBA")  # eight bits a channel


def read_images(paths: Sequence[Path], *, white: bool, shrink: int = 1) -> Tensor:
    """Return pictures as colours in [0, 1], ``[V, H, W, 3]``, float32.

    A pixel with opacity ``a`` shows ``a * colour + (1 - a) * background``. Pictures are laid on the background before
    they are made smaller, so that a transparent pixel's colour counts for nothing.

    Args:
        paths: At least one.
        white: Whether the background is white; else it is black.
        shrink: Average so many times so many pixels.

    Raises:
        DataError: A file is missing, damaged, no picture of eight bits a channel, or of another size than the first.
    """
    first = shrunk(read_image(paths[0], white=white), shrink, str(paths[0]))
    pictures = first.expand(len(paths), *first.shape).clone()  # filled in place: a scene may take half the memory
    size = [first.shape[0] * shrink, first.shape[1] * shrink]
    for path, place in zip(paths[1:], pictures[1:], strict=True):
        picture = read_image(path, white=white)
        height, width = picture.shape[:2]
        if [height, width] != size:
            raise DataError(
                f"{path} has another size than {paths[0]}: expected {size[1]} x {size[0]} pixels, found {width} x "
                f"{height}. All pictures of a scene have one size. Do take it out, or scale it."
            )
        place.copy_(shrunk(picture, shrink, str(path)))
    return pictures


def read_parts(files: dict[str, list[Path]], *, white: bool, shrink: int = 1) -> dict[str, Tensor]:
    """Return the pictures of each part of a scene, all of one size. Raises as :func:`read_images` does."""
    images = read_images([file for part in files.values() for file in part], white=white, shrink=shrink)
    ends = list(accumulate(len(part) for part in files.values()))
    return {part: images[end - len(files[part]) : end] for part, end in zip(files, ends, strict=True)}


def read_image(path: Path, *, white: bool) -> Tensor:
    """Return one picture on a background, ``[H, W, 3]``, float32. Raises as :func:`read_images` does."""
    if not path.is_file():
        raise DataError(
            f"The picture {path} is missing. Expected a file there, found none. Do put it there, or take its entry out "
            "of the camera file."
        )
    try:
        with Image.open(path) as file:
            mode = file.mode
            # Reads all of it: a damaged file is found here, and not in the middle of training.
            pixels = np.asarray(file.convert("RGBA"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        refuse_html(path)
        raise DataError(
            f"{path} is not a picture, or is damaged: {error}. Expected a PNG or JPEG that can be read to its end. "
            "Do fetch it again."
        ) from error
    if mode not in MODES:
        raise DataError(
            f"{path} is stored as {mode!r}: expected eight bits a channel, grey or colour, with or without opacity. "
            "Do convert it."
        )
    colours = torch.from_numpy(pixels.astype(np.float32) / 255)
    opacity = colours[..., 3:]
    return opacity * colours[..., :3] + (1 - opacity) * float(white)


def shrunk(picture: Tensor, factor: int, what: str) -> Tensor:
    """Return pictures ``[..., H, W, 3]`` made smaller: the mean of every ``factor * factor`` pixels.

    Raises:
        DataError: Height or width is no multiple of the factor.
    """
    *some, height, width, channels = picture.shape
    if factor == 1:
        return picture
    if height % factor or width % factor:
        raise DataError(
            f"{what} cannot be made {factor} times smaller: expected a height and a width that are multiples of "
            f"{factor}, found {height} and {width}. Do choose another `shrink`."
        )
    tiles = picture.reshape(*some, height // factor, factor, width // factor, factor, channels)
    return tiles.mean(dim=(-4, -2))
