"""Scenes in one NumPy archive, in the layout of NeRF's tiny example: ``images``, ``poses`` and ``focal``.

Red, green and blue as numbers in [0, 1], ``[V, H, W, 3]``, on black; 4 x 4 matrices from the camera to the world,
``[V, 4, 4]``; and the focal length in pixels. There is no split in the file: of V views the last 12 % are held out, of
which the first third validates and the rest tests (of 100 views 88 train, 4 validate, 8 test; of the 106 of the
published file 94, 4 and 8). The published example trains on views 0 to 99, and tests on view 101 alone.

References:
    Mildenhall et al., *NeRF: representing scenes as neural radiance fields for view synthesis*, ECCV 2020.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from feedalign.experiments.data.cameras import centred, checked_poses
from feedalign.experiments.data.root import refuse_html
from feedalign.experiments.data.scene_data import PARTS, Scene, SceneConfig, Views, evenly
from feedalign.experiments.data.scene_images import shrunk
from feedalign.experiments.errors import DataError

NEAR, FAR = 2.0, 6.0
VALIDATION, TEST = 0.04, 0.08


def read(config: SceneConfig, path: Path) -> Scene:
    """Return the scene in an archive.

    Raises:
        DataError: The archive is damaged or not of this layout, or the configuration wants a white background.
    """
    if config.background == "white":
        raise DataError(
            f"{path}: expected the background 'black', on which its pictures are stored without opacity, found "
            "'white'. Do leave `background` out."
        )
    images, poses, focal = _arrays(path)
    images = shrunk(images, config.shrink, str(path))
    every = Views(images, poses, tuple(f"view {number}" for number in range(len(images))))
    numbers = split(len(images), str(path))
    limits = (config.limit, config.held_limit, config.held_limit)
    parts = {part: every.pick(evenly(numbers[part], limit)) for part, limit in zip(PARTS, limits, strict=True)}
    height, width = images.shape[1:3]
    return Scene(
        name=config.name,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        height=height,
        width=width,
        camera=centred(focal / config.shrink, height, width),
        near=NEAR,
        far=FAR,
        ndc=False,
        white=False,
        depths=(NEAR, FAR),
    )


def split(count: int, what: str) -> dict[str, list[int]]:
    """Return which views belong to which part; at least one to each.

    Raises:
        DataError: There are fewer than three.
    """
    if count < len(PARTS):
        raise DataError(f"{what}: expected at least 3 views, one for each part, found {count}. Do add some.")
    validation, test = max(1, round(VALIDATION * count)), max(1, round(TEST * count))
    first, second = count - validation - test, count - test
    return {
        "train": list(range(first)),
        "validation": list(range(first, second)),
        "test": list(range(second, count)),
    }


def _arrays(path: Path) -> tuple[Tensor, Tensor, float]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:  # never unpickle: that can run code
            images, poses, focal = (np.asarray(archive[key], dtype=np.float64) for key in ("images", "poses", "focal"))
    except (OSError, ValueError, TypeError, LookupError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        refuse_html(path)
        raise DataError(
            f"{path} is damaged or of another layout ({type(error).__name__}: {error}). Expected a NumPy archive of "
            "numbers called `images`, `poses` and `focal`. Do fetch it again."
        ) from error
    if images.ndim != 4 or images.shape[3] != 3 or poses.shape != (len(images), 4, 4) or focal.size != 1:
        raise DataError(
            f"{path}: expected `images` [V, H, W, 3], `poses` [V, 4, 4] and one `focal`, found {list(images.shape)}, "
            f"{list(poses.shape)} and {list(focal.shape)}. Do give one pose to each picture."
        )
    if images.size and not (np.isfinite(images).all() and images.min() >= 0 and images.max() <= 1):
        raise DataError(
            f"{path}: expected colours within 0 and 1 in `images`, found {images.min():g} to {images.max():g}. "
            "Do divide levels of a byte by 255."
        )
    names = [f"view {number}" for number in range(len(poses))]
    checked = checked_poses(torch.from_numpy(poses[:, :3]).float(), names, str(path))
    return torch.from_numpy(images).float(), checked, float(focal.item())
