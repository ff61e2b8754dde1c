"""Forward-facing photographs in the format of LLFF: ``poses_bounds.npy`` and folders of pictures.

The file holds 17 numbers a picture, in the order of the pictures' names: a 3 x 5 matrix of the axes down, right and
backward, the camera's place, and height, width and focal length of the full-size picture; then the nearest and the
farthest depth. Full-size pictures are in ``images``, those ``k`` times smaller in ``images_k``.

Read as NeRF reads them: the world is scaled so that the nearest depth of all is 4/3, and moved to the average camera.
Every ``hold_out``-th picture tests, from the first; of the others every ``hold_out``-th validates, from the one in the
middle of the first such group (of 20 pictures and 8: 15 train, 2 validate, 3 test). The papers train on these too.

References:
    Mildenhall et al., *Local light field fusion*, SIGGRAPH 2019, for the format. Mildenhall et al., *NeRF: representing
    scenes as neural radiance fields for view synthesis*, ECCV 2020, for how it is used.
"""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from feedalign.experiments.data.cameras import centred, checked_poses, recentred
from feedalign.experiments.data.root import refuse_html
from feedalign.experiments.data.scene_data import PARTS, Scene, SceneConfig, Views, evenly
from feedalign.experiments.data.scene_images import read_parts
from feedalign.experiments.errors import DataError

CAMERAS = "poses_bounds.npy"
NUMBERS = 17  # a picture
NEAREST = 4 / 3  # depth after scaling: the near plane of the rays is at 1, a quarter before it
SLACK = 0.9  # without normalised device coordinates rays start that much before the nearest depth
SUFFIXES = (".png", ".jpg", ".jpeg")


class Cameras(NamedTuple):
    """What the camera file says, scaled and recentred.

    Attributes:
        poses: ``[V, 3, 4]``, float64.
        height: Of the full-size pictures, in pixels.
        width: Likewise.
        focal: Likewise.
        depths: The nearest and the farthest of all.
    """

    poses: Tensor
    height: float
    width: float
    focal: float
    depths: tuple[float, float]


def read(config: SceneConfig, folder: Path) -> Scene:
    """Return the scene in a folder; on black unless the configuration says white.

    Raises:
        DataError: A file is missing or damaged, or the camera file does not fit the pictures.
    """
    files = pictures(folder, config.shrink)
    cameras = read_cameras(folder / CAMERAS, [file.name for file in files])
    white = config.background == "white"
    chosen = {
        part: evenly(numbers, config.limit if part == "train" else config.held_limit)
        for part, numbers in split(len(files), config.hold_out, str(folder)).items()
    }
    images = read_parts({part: [files[number] for number in numbers] for part, numbers in chosen.items()}, white=white)
    height, width = images["train"].shape[1:3]
    _check_size(folder / CAMERAS, cameras, (height, width), files[chosen["train"][0]], config.shrink)
    parts = {
        part: Views(images[part], cameras.poses[numbers].float(), tuple(files[number].name for number in numbers))
        for part, numbers in chosen.items()
    }
    near, far = (0.0, 1.0) if config.ndc else (SLACK * cameras.depths[0], cameras.depths[1])
    return Scene(
        name=config.name,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        height=height,
        width=width,
        camera=centred(cameras.focal * width / cameras.width, height, width),
        near=near,
        far=far,
        ndc=config.ndc,
        white=white,
        depths=cameras.depths,
        forward_facing=True,
    )


def shrinks(folder: Path) -> list[int]:
    """Return by how much smaller than full size there are pictures of a scene, in rising order."""
    names = [place.name for place in folder.glob("images*") if place.is_dir()]
    return sorted(1 if name == "images" else int(name[7:]) for name in names if re.fullmatch(r"images(_\d+)?", name))


def coarsest(folder: Path) -> int:
    """Return by how much smaller than full size the smallest pictures of a scene are."""
    return max(shrinks(folder), default=1)


def pictures(folder: Path, shrink: int) -> list[Path]:
    """Return the files of the pictures ``shrink`` times smaller than the full-size ones, by name.

    Raises:
        DataError: There is no folder of that size.
    """
    place = folder / (f"images_{shrink}" if shrink > 1 else "images")
    if not place.is_dir():
        sizes = shrinks(folder)
        there = f"those for a `shrink` of {', '.join(map(str, sizes))}" if sizes else "none"
        raise DataError(
            f"The folder {place} is missing: expected pictures {shrink} times smaller than the full-size ones, "
            f"found {there}. Do choose another `shrink`, or make the pictures."
        )
    # Hidden files are no pictures: macOS keeps an "._NAME.png" of its own beside NAME.png on foreign disks.
    files = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    if not files:
        raise DataError(f"{place} is empty: expected pictures (PNG or JPEG), found none. Do put them there.")
    return files


def read_cameras(path: Path, names: list[str]) -> Cameras:
    """Return what the camera file says.

    Args:
        path: Of the file.
        names: Of the pictures, in order.

    Raises:
        DataError: It is missing or damaged, has not one row a picture, or a pose or depth that is not one.
    """
    rows = _rows(path, len(names))
    matrices = torch.from_numpy(rows[:, :15]).view(-1, 3, 5)
    down, right, back, place, camera = matrices.unbind(-1)
    poses = checked_poses(torch.stack([right, -down, back, place], dim=-1), names, str(path))
    bounds = torch.from_numpy(rows[:, 15:])
    for bound, size, name in zip(bounds, camera, names, strict=True):
        if not (0 < bound[0] < bound[1] < torch.inf and (size > 0).all() and torch.allclose(size, camera[0])):
            raise DataError(
                f"{path}: expected the same height, width and focal length for all pictures, and depths with "
                f"0 < nearest < farthest, found {size.tolist()} and {bound.tolist()} for {name}. Do mend that row."
            )
    scale = NEAREST / float(bounds.min())
    poses[:, :, 3] *= scale
    height, width, focal = camera[0].tolist()
    return Cameras(recentred(poses), height, width, focal, (scale * float(bounds.min()), scale * float(bounds.max())))


def split(count: int, hold_out: int, what: str) -> dict[str, list[int]]:
    """Return which pictures belong to which part.

    Raises:
        DataError: There are too few for three parts.
    """
    test = list(range(0, count, hold_out))
    rest = [number for number in range(count) if number not in test]
    validation = rest[hold_out // 2 :: hold_out]
    train = [number for number in rest if number not in validation]
    parts = dict(zip(PARTS, (train, validation, test), strict=True))
    if not all(parts.values()):
        raise DataError(
            f"{what}: expected enough pictures to train, validate and test with one of {hold_out} held out, found "
            f"{count}. Do add pictures, or choose a smaller `hold_out`."
        )
    return parts


def _rows(path: Path, count: int) -> NDArray[np.float64]:
    if not path.is_file():
        raise DataError(f"The camera file {path} is missing. Expected one beside the pictures. Do put it there.")
    try:
        with path.open("rb") as file:
            stored = np.load(file, allow_pickle=False)  # never unpickle: that can run code
            rows: NDArray[np.float64] = np.asarray(stored, dtype=np.float64)
    except (OSError, ValueError, TypeError, AttributeError, EOFError) as error:
        refuse_html(path)
        raise DataError(
            f"{path} is damaged or of another format ({type(error).__name__}: {error}). Expected a NumPy array of "
            f"{NUMBERS} numbers a picture. Do fetch it again."
        ) from error
    if rows.shape != (count, NUMBERS):
        raise DataError(
            f"{path} does not fit the pictures: expected an array [{count}, {NUMBERS}], one row for each picture, "
            f"found {list(rows.shape)}. Do take the pictures and cameras of one scene."
        )
    return rows


def _check_size(path: Path, cameras: Cameras, size: tuple[int, int], file: Path, shrink: int) -> None:
    height, width = size
    expected = (cameras.height / shrink, cameras.width / shrink)
    if abs(height - expected[0]) > 1 or abs(width - expected[1]) > 1:
        raise DataError(
            f"{path} does not fit {file}: expected a picture of {expected[1]:g} x {expected[0]:g} pixels (the camera's "
            f"{cameras.width:g} x {cameras.height:g} made {shrink} times smaller), found {width} x {height}. "
            "Do take the pictures and cameras of one scene, and a `shrink` that fits."
        )
