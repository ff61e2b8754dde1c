"""Scenes in the format of NeRF's Blender scenes: three camera files and folders of PNG with opacity.

A scene's folder holds ``transforms_train.json``, ``transforms_val.json`` and ``transforms_test.json``. Each has the
horizontal field of view, ``camera_angle_x`` in radians, and a list ``frames`` of ``file_path`` (``.png`` is added) and
``transform_matrix``, a 4 x 4 matrix from the camera to the world. There may be other keys for the intrinsics, and keys
for those of each frame; see :mod:`feedalign.experiments.data.camera_keys`. What there is to see lies between depths 2
and 6.

References:
    Mildenhall et al., *NeRF: representing scenes as neural radiance fields for view synthesis*, ECCV 2020.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from feedalign.experiments.data.camera_keys import UNUSED, Lens, check_same, lens, note, numbers
from feedalign.experiments.data.cameras import Intrinsics, checked_poses
from feedalign.experiments.data.root import refuse_html
from feedalign.experiments.data.scene_data import Scene, SceneConfig, Views, evenly
from feedalign.experiments.data.scene_images import read_parts
from feedalign.experiments.errors import DataError

CAMERA_FILES = {
    part: f"transforms_{short}.json" for part, short in (("train", "train"), ("validation", "val"), ("test", "test"))
}
NEAR, FAR = 2.0, 6.0
SUFFIXES = (".png", ".jpg", ".jpeg")


class Cameras(NamedTuple):
    """What one camera file says.

    Attributes:
        top: What its top level says about the intrinsics.
        lenses: What it says about those of each view, V.
        names: Of the pictures, as the file writes them.
        images: Their files.
        poses: ``[V, 3, 4]``, float64.
        unused: Keys of the top level that have no use here.
    """

    top: dict[str, float]
    lenses: list[Lens]
    names: list[str]
    images: list[Path]
    poses: Tensor
    unused: list[str]

    def views(self, images: Tensor, chosen: list[int], intrinsics: Tensor | None) -> Views:
        """Return the chosen views, whose images have been read."""
        return Views(images, self.poses[chosen].float(), tuple(self.names[number] for number in chosen), intrinsics)


def read(config: SceneConfig, folder: Path) -> Scene:
    """Return the scene in a folder; on white unless the configuration says black.

    Raises:
        DataError: A file is missing or damaged, a pose is not one, or the parts do not fit each other.
    """
    white = config.background != "black"
    cameras = {part: read_cameras(folder / name) for part, name in CAMERA_FILES.items()}
    chosen: dict[str, list[int]] = {}
    for part, found in cameras.items():
        check_same(found.top, str(folder / CAMERA_FILES[part]), cameras["train"].top, CAMERA_FILES["train"])
        limit = config.limit if part == "train" else config.held_limit
        chosen[part] = evenly(list(range(len(found.names))), limit)
    files = {part: [cameras[part].images[number] for number in numbers] for part, numbers in chosen.items()}
    images = read_parts(files, white=white, shrink=config.shrink)
    height, width = images["train"].shape[1:3]
    intrinsics = {
        part: [one.intrinsics(height, width, config.shrink) for one in found.lenses] for part, found in cameras.items()
    }
    used = {part: [intrinsics[part][number] for number in chosen[part]] for part in chosen}
    camera, own = shared(used)
    parts = {part: cameras[part].views(images[part], chosen[part], own.get(part)) for part in chosen}
    unused = sorted({key for found in cameras.values() for key in found.unused})
    return Scene(
        name=config.name,
        train=parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        height=height,
        width=width,
        camera=camera,
        near=NEAR,
        far=FAR,
        ndc=False,
        white=white,
        depths=(NEAR, FAR),
        notes=(note(unused, f"{folder}/transforms_*.json"),) if unused else (),
    )


def shared(parts: dict[str, list[Intrinsics[float]]]) -> tuple[Intrinsics[float], dict[str, Tensor]]:
    """Return the camera of a scene, and the intrinsics ``[V, 4]`` of each part's views if they are not all its own.

    The camera is that of all training views, or has the mean of their intrinsics.

    Args:
        parts: The intrinsics of the views, by part, ``"train"`` among them.
    """
    train = parts["train"]
    mean = torch.tensor(train, dtype=torch.float64).mean(dim=0)
    camera = train[0] if len(set(train)) == 1 else Intrinsics(*mean.tolist())
    if all(one == camera for part in parts.values() for one in part):
        return camera, {}
    return camera, {part: torch.tensor(found, dtype=torch.float32) for part, found in parts.items()}


def read_cameras(path: Path) -> Cameras:
    """Return what a camera file says.

    Raises:
        DataError: It is missing, no JSON, without frames, or has an entry that is not what it should be.
    """
    content = _json(path)
    top = numbers(content, f"{path}, top level")
    frames = content.get("frames")
    if not isinstance(frames, list) or not frames:
        raise DataError(f"{path}: expected a list `frames` of at least one view, found none. Do list the pictures.")
    names, poses = zip(*(_frame(path, number, frame) for number, frame in enumerate(frames)), strict=True)
    checked = checked_poses(torch.stack(poses), list(names), str(path))
    wheres = [f"{path}, frame {number} ({name})" for number, name in enumerate(names)]
    lenses = [lens(top, numbers(frame, where), where) for frame, where in zip(frames, wheres, strict=True)]
    images = [_image(path.parent, name) for name in names]
    return Cameras(top, lenses, list(names), images, checked, [key for key in UNUSED if key in content])


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(f"The camera file {path} is missing. Expected one for each part of a scene. Do put it there.")
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        refuse_html(path)
        raise DataError(f"{path} is damaged: expected JSON, found {error}. Do fetch it again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: expected a JSON object, found a {type(content).__name__}. Do fetch it again.")
    return content


def _frame(path: Path, number: int, frame: Any) -> tuple[str, Tensor]:
    try:
        name = Path(frame["file_path"]).as_posix()
        matrix = torch.tensor(frame["transform_matrix"], dtype=torch.float64)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path}: expected `file_path` and a `transform_matrix` of numbers in frame {number}, found none "
            f"({type(error).__name__}: {error}). Do correct that entry."
        ) from error
    if matrix.shape != (4, 4):
        raise DataError(
            f"{path}: expected a 4 x 4 `transform_matrix` in frame {number} ({name}), found one of shape "
            f"{list(matrix.shape)}. Do correct that entry."
        )
    return name, matrix[:3]


def _image(folder: Path, name: str) -> Path:
    path = folder / name
    return path if path.suffix.lower() in SUFFIXES else path.with_name(path.name + ".png")
