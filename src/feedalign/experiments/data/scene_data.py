"""What a scene is here: views of it in three parts, their cameras, and how far away it lies."""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from feedalign.experiments.data.cameras import Intrinsics, centred
from feedalign.experiments.errors import DataError

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class SceneConfig:
    """Which scene, and how its pictures are made ready.

    Attributes:
        name: Of the table of scenes, or of a folder of your own under the data root.
        shrink: How many times smaller the pictures are than the files: ``shrink * shrink`` pixels are averaged. A
            forward-facing scene is read from its folder of pictures that are already so much smaller.
        background: What is seen through transparent pixels, and by rays that hit nothing. By default white for
            rendered scenes, and black for photographs and for pictures that are on black already.
        size: Height and width of the built-in scene before it is shrunk; of no other one.
        limit: Train on at most so many views, evenly chosen.
        held_limit: Validate, and test, on at most so many each.
        hold_out: Every how many views of a forward-facing scene one is a test view; of no other one.
        ndc: Whether rays of a forward-facing scene are bent into normalised device coordinates; of no other one.
    """

    name: str = "traced"
    shrink: int = 1
    background: Literal["white", "black"] | None = None
    size: int = 64
    limit: int | None = None
    held_limit: int | None = None
    hold_out: int = 8
    ndc: bool = True

    def check(self) -> "SceneConfig":
        """Return the configuration itself if its numbers make sense.

        Raises:
            DataError: They do not.
        """
        for name, least in (("shrink", 1), ("size", 2), ("limit", 1), ("held_limit", 1), ("hold_out", 2)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise DataError(f"Expected `{name}` of a scene to be at least {least}, found {value}. Do raise it.")
        if self.background not in (None, "white", "black"):
            raise DataError(
                f"Expected the background 'white' or 'black', found {self.background!r}. Do choose one of them."
            )
        return self


def evenly(numbers: list[int], limit: int | None) -> list[int]:
    """Return at most ``limit`` of the numbers, evenly chosen, the first always; all without a limit."""
    if limit is None or limit >= len(numbers):
        return numbers
    return [numbers[index * len(numbers) // limit] for index in range(limit)]


@dataclass(frozen=True, eq=False)
class Views:
    """Pictures of a scene, and from where they were taken.

    Attributes:
        images: Red, green and blue in [0, 1], ``[V, H, W, 3]``, float32.
        poses: Camera to world ``[V, 3, 4]``, float32: a rotation and the camera's place. A camera has x to the right,
            y up, and looks along -z, as in OpenGL and Blender.
        names: Of the pictures, all different.
        intrinsics: Of each view's camera ``[V, 4]``, float32, in the order of
            :class:`~feedalign.experiments.data.cameras.Intrinsics`; None where all are those of the scene's camera.
    """

    images: Tensor
    poses: Tensor
    names: tuple[str, ...]
    intrinsics: Tensor | None = None

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, numbers: Tensor | list[int]) -> "Views":
        """Return some of the views, in the order of their numbers."""
        chosen = torch.as_tensor(numbers, dtype=torch.int64)
        names = tuple(self.names[number] for number in chosen.tolist())
        intrinsics = None if self.intrinsics is None else self.intrinsics[chosen]
        return Views(self.images[chosen], self.poses[chosen], names, intrinsics)

    def to(self, device: torch.device | str) -> "Views":
        """Return the same views on a device."""
        intrinsics = None if self.intrinsics is None else self.intrinsics.to(device)
        return replace(self, images=self.images.to(device), poses=self.poses.to(device), intrinsics=intrinsics)


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene whose colour and density are to be learnt.

    Attributes:
        name: Of the scene.
        train: Views that are trained on.
        validation: Views that decide about settings.
        test: Views that decide about nothing.
        height: Of every picture, H, in pixels.
        width: Likewise, W.
        camera: The intrinsics of all views, and of new views; where views have intrinsics of their own, the mean of
            the training views'.
        near: Where a ray starts, as a multiple of its direction (in normalised device coordinates if ``ndc``).
        far: Where it ends.
        ndc: Whether rays are bent into normalised device coordinates, for scenes in front of all cameras.
        white: Whether what no ray hits is white; else it is black.
        depths: The nearest and the farthest depth at which there is something to see, in units of the poses.
        forward_facing: Whether all cameras look about the same way; else they stand around the origin, with z up.
        notes: Sentences about what its files say and is not used, with the reason.
    """

    name: str
    train: Views
    validation: Views
    test: Views
    height: int
    width: int
    camera: Intrinsics[float]
    near: float
    far: float
    ndc: bool
    white: bool
    depths: tuple[float, float]
    forward_facing: bool = False
    notes: tuple[str, ...] = ()

    @property
    def focal(self) -> float:
        """The focal length in pixels, where it alone describes the cameras of all views.

        Raises:
            DataError: It does not: pixels are not square, the principal point is not in the middle, or views have
                intrinsics of their own.
        """
        own = [part for part in PARTS if getattr(self, part).intrinsics is not None]
        if own or self.camera != centred(self.camera.focal_x, self.height, self.width):
            found = f"views with intrinsics of their own in `{own[0]}`" if own else f"{self.camera}"
            raise DataError(
                f"Scene {self.name!r}: expected square pixels and the principal point in the middle of every picture, "
                f"which a focal length alone describes, found {found}. Do use `camera` of the scene, or `camera_of` "
                "for the cameras of its views."
            )
        return self.camera.focal_x

    def camera_of(self, views: Views, numbers: Tensor | int | slice) -> Intrinsics[float] | Intrinsics[Tensor]:
        """Return the intrinsics of some views: numbers where all have the scene's camera, else tensors.

        Args:
            views: Of the scene.
            numbers: Of the views: tensors have the shape that indexing with these gives.
        """
        return self.camera if views.intrinsics is None else Intrinsics(*views.intrinsics[numbers].unbind(-1))

    @property
    def counts(self) -> dict[str, int]:
        """The scene's size for records: views of each part, height and width of a picture."""
        return {**{part: len(getattr(self, part)) for part in PARTS}, "height": self.height, "width": self.width}

    def to(self, device: torch.device | str) -> "Scene":
        """Return the same scene on a device."""
        return replace(self, **{part: getattr(self, part).to(device) for part in PARTS})

    def check(self) -> "Scene":
        """Return the scene itself if it can be learnt.

        Raises:
            DataError: It cannot: an empty part, tensors of a wrong shape or dtype, values that are not finite or out
                of range, a view in two parts, or a near end of the rays that is not before the far one.
        """
        for part in PARTS:
            self._check_part(part)
        for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
            shared = set(getattr(self, first).names) & set(getattr(self, second).names)
            if shared:
                raise DataError(
                    f"Scene {self.name!r}: expected `{first}` and `{second}` to share no view, found "
                    f"{min(shared)!r} in both. Do take it out of one."
                )
        focal = min(self.camera.focal_x, self.camera.focal_y)
        if not (focal > 0 and 0 <= self.near < self.far):
            raise DataError(
                f"Scene {self.name!r}: expected a focal length above 0 and 0 <= near < far, found {focal:g}, "
                f"{self.near:g} and {self.far:g}. Do correct the camera file."
            )
        return self

    def _check_part(self, part: str) -> None:
        views: Views = getattr(self, part)
        count = len(views.names)
        if not count or len(set(views.names)) < count:
            raise DataError(
                f"Scene {self.name!r}: expected views with different names in `{part}`, found "
                f"{count:,} with {len(set(views.names)):,} names. Do list some in its camera file, each once."
            )
        shapes = {"images": (count, self.height, self.width, 3), "poses": (count, 3, 4)}
        if views.intrinsics is not None:
            shapes["intrinsics"] = (count, 4)
        for name, shape in shapes.items():
            found: Tensor = getattr(views, name)
            if found.shape != shape or found.dtype != torch.float32 or not found.isfinite().all():
                raise DataError(
                    f"Scene {self.name!r}: expected finite `{part}.{name}` of shape {list(shape)} and dtype "
                    f"torch.float32, found {list(found.shape)} and {found.dtype}, "
                    f"{int((~found.isfinite()).sum()):,} of them not finite. Do convert or mend them."
                )
        if views.intrinsics is not None and (views.intrinsics[:, :2] <= 0).any():
            raise DataError(
                f"Scene {self.name!r}: expected focal lengths above 0 in `{part}.intrinsics`, found "
                f"{float(views.intrinsics[:, :2].min()):g}. Do correct the camera file."
            )
        low, high = (float(value) for value in views.images.aminmax())
        if low < 0 or high > 1:
            raise DataError(
                f"Scene {self.name!r}: expected `{part}.images` within 0 and 1, found {low:g} to {high:g}. "
                "Do divide levels of a byte by 255."
            )
