"""The intrinsics of the cameras in a ``transforms_*.json``: which keys are used, which are refused, which have no use.

====================================== =========================================================================
``fl_x``, ``fl_y``                     focal lengths, pixels
``camera_angle_x``, ``camera_angle_y`` fields of view, radians: ``0.5 * size / tan(angle / 2)`` is the focal length
``x_fov``, ``y_fov``                   the same in degrees
``cx``, ``cy``                         principal point, pixels from the upper left corner; by default the middle
``w``, ``h``                           size of the picture's file, pixels: it must have this size
distortion                             must be 0: ``k1`` to ``k6``, ``p1``, ``p2``, ``s1`` to ``s4``, ...
``camera_model``, ``is_fisheye``, ...  must be those of a pinhole
====================================== =========================================================================

Keys at the top level of a file hold for every frame; those of a frame replace them for that frame. Where only one of
the two axes has a focal length, pixels are square. Keys that say the same focal length must agree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from feedalign.experiments.data.cameras import Intrinsics
from feedalign.experiments.errors import DataError

AXES = ("x", "y")
FOCAL = {"x": ("fl_x", "camera_angle_x", "x_fov"), "y": ("fl_y", "camera_angle_y", "y_fov")}
"""Keys that say a focal length, by axis; the first that is there is used."""
CENTRE = {"x": "cx", "y": "cy"}
SIZE = {"x": "w", "y": "h"}
SAME = (*FOCAL["x"], *FOCAL["y"], *CENTRE.values())
"""Keys that must be the same at the top level of all files of a scene."""
LIMITS = {
    **dict.fromkeys(("fl_x", "fl_y"), (0.0, math.inf, "a focal length", "above 0 pixels")),
    **dict.fromkeys(
        ("camera_angle_x", "camera_angle_y"), (0.0, math.pi, "a field of view", "between 0 and pi radians")
    ),
    **dict.fromkeys(("x_fov", "y_fov"), (0.0, 180.0, "a field of view", "between 0 and 180 degrees")),
    **dict.fromkeys(("cx", "cy"), (-math.inf, math.inf, "a principal point", "in pixels")),
    **dict.fromkeys(("w", "h"), (0.0, math.inf, "a size of the picture", "above 0 pixels")),
}
"""Per key that is used: the numbers between which it lies, and both in words."""
DISTORTION = (
    *(f"k{number}" for number in range(1, 7)), "p1", "p2", *(f"s{number}" for number in range(1, 5)),
    "distortion_params",
)  # fmt: skip
PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE", "PERSPECTIVE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "FULL_OPENCV")
"""Values of ``camera_model`` that are a pinhole where the distortion is 0."""
OTHER_LENSES = (
    "is_fisheye", "latlong", "equirectangular", "orthographic", "rolling_shutter",
    *(f"ftheta_p{number}" for number in range(5)),
)  # fmt: skip
"""Keys of instant-ngp that say, unless they are false or 0, that a ray is not that of a pinhole."""
UNUSED = ("scale", "offset", "aabb_scale", "aabb", "render_aabb")
"""Keys of instant-ngp that place its unit cube in the scene; no ray depends on them."""
TOLERANCE = 1e-3
"""By how much two keys that say the same focal length may differ, as a share of it: rounding in the file."""
UNDISTORT = (
    "Undistort the pictures first, for instance with `colmap image_undistorter`, and write the cameras of the result."
)


@dataclass(frozen=True)
class Lens:
    """What a camera file says about the intrinsics of one frame.

    Attributes:
        where: The file and the frame, for messages.
        numbers: The keys that are used, with their values; a focal length for one axis at least.
    """

    where: str
    numbers: Mapping[str, float]

    def intrinsics(self, height: int, width: int, shrink: int = 1) -> Intrinsics[float]:
        """Return the intrinsics of a picture.

        Args:
            height: Of the picture, in pixels.
            width: Likewise.
            shrink: How many times smaller the picture is than its file, to whose size the keys refer.

        Raises:
            DataError: The file of the picture has another size than the keys say, two keys contradict each other, or
                the principal point is outside of a picture whose size is not said.
        """
        pixels = {"x": width, "y": height}
        self._check_size(shrink * height, shrink * width)
        focal = {axis: self._focal(axis, pixels[axis], shrink) for axis in _axes(self.numbers)}
        square = next(iter(focal.values()))
        centre_x, centre_y = (self._centre(axis, pixels[axis], shrink) for axis in AXES)
        return Intrinsics(focal.get("x", square), focal.get("y", square), centre_x, centre_y)

    def _check_size(self, height: int, width: int) -> None:
        found = {key: self.numbers.get(key, size) for key, size in (("w", width), ("h", height))}
        if found != {"w": width, "h": height}:
            raise DataError(
                f"{self.where}: expected the size of the picture's file, {width} x {height} pixels, in `w` and `h`, "
                f"found {found['w']:g} x {found['h']:g}. Focal lengths and principal points in pixels hold for one "
                "size. Take the pictures of that size, or scale what the camera file says in pixels."
            )

    def _focal(self, axis: str, pixels: int, shrink: int) -> float:
        first, *others = (key for key in FOCAL[axis] if key in self.numbers)
        length = self._focal_length(first, pixels, shrink)
        for other in others:
            found = self._focal_length(other, pixels, shrink)
            if not math.isclose(found, length, rel_tol=TOLERANCE):
                raise DataError(
                    f"{self.where}: expected `{first}` and `{other}` to say the same focal length, found "
                    f"{self.numbers[first]:g} and {self.numbers[other]:g}, which are {shrink * length:g} and "
                    f"{shrink * found:g} pixels. Correct one of them, or take it out."
                )
        return length

    def _focal_length(self, key: str, pixels: int, shrink: int) -> float:
        value = self.numbers[key]
        if key.startswith("fl_"):
            return value / shrink
        angle = value if key.startswith("camera_angle_") else math.radians(value)
        return 0.5 * pixels / math.tan(angle / 2)

    def _centre(self, axis: str, pixels: int, shrink: int) -> float:
        if CENTRE[axis] not in self.numbers:
            return pixels / 2
        centre = self.numbers[CENTRE[axis]] / shrink
        if SIZE[axis] not in self.numbers and not 0 <= centre <= pixels:
            raise DataError(
                f"{self.where}: expected a principal point `{CENTRE[axis]}` within the {shrink * pixels} pixels of the "
                f"picture's file, found {self.numbers[CENTRE[axis]]:g}. Correct it; where it really is outside of the "
                "picture, write the size that it refers to into `w` and `h`."
            )
        return centre


def numbers(content: Mapping[str, Any], where: str) -> dict[str, float]:
    """Return the keys of one level of a camera file that are used, after refusing what is not a pinhole.

    Args:
        content: The top level, or a frame.
        where: Which of them, for messages.

    Raises:
        DataError: A value is no number or out of range, or the camera is no pinhole without distortion.
    """
    model = content.get("camera_model", PINHOLES[0])
    if not isinstance(model, str) or model.upper() not in PINHOLES:
        raise DataError(
            f"{where}: expected the `camera_model` of a pinhole ({', '.join(PINHOLES)}), found {model!r}. {UNDISTORT}"
        )
    for key in (*OTHER_LENSES, *DISTORTION):
        if not _is_zero(content.get(key, 0)):
            raise DataError(
                f"{where}: expected a pinhole without distortion (`{key}` of 0, or left out), found {key} = "
                f"{content[key]!r}. {UNDISTORT}"
            )
    return {key: _number(key, content[key], where) for key in LIMITS if key in content}


def lens(top: Mapping[str, float], own: Mapping[str, float], where: str) -> Lens:
    """Return what a file says about one frame.

    Args:
        top: The numbers of the top level.
        own: Those of the frame.
        where: The file and the frame.

    Raises:
        DataError: There is no focal length, or the frame has one for one axis alone and the top level for the other.
    """
    above, inside = _axes(top), _axes(own)
    if not above and not inside:
        raise DataError(
            f"{where}: expected a field of view `camera_angle_x` between 0 and pi radians, found None, nor a focal "
            "length `fl_x`. Add one of them."
        )
    if inside and set(above) - set(inside):
        raise DataError(
            f"{where}: expected focal lengths for x and y, since the top level of the file says one for "
            f"{' and '.join(above)}, found one for {inside[0]} alone. Add the other one."
        )
    replaced = {key for axis in AXES for key in FOCAL[axis]} if inside else set()
    return Lens(where, {**{key: value for key, value in top.items() if key not in replaced}, **own})


def check_same(numbers: Mapping[str, float], file: str, others: Mapping[str, float], other: str) -> None:
    """Check that the top levels of two files of a scene describe the same camera.

    Args:
        numbers: Those of one file.
        file: Its path.
        others: Those of the other.
        other: Its name.

    Raises:
        DataError: A number that both have differs.
    """
    for key in SAME:
        if key in numbers and key in others and not math.isclose(numbers[key], others[key], rel_tol=1e-4):
            raise DataError(
                f"{file}: expected the `{key}` of {other}, {others[key]:g}, found {numbers[key]:g}. What stands at the "
                "top level describes the one camera of the scene. Correct it, or write the intrinsics of other cameras "
                "into their frames."
            )


def note(keys: list[str], files: str) -> str:
    """Return what is to be said about keys out of ``UNUSED`` that files have."""
    return (
        f"Not used, since no ray depends on it: {', '.join(f'`{key}`' for key in keys)} of {files}, which place "
        "instant-ngp's unit cube in the scene. Poses are taken in the units of the file."
    )


def _axes(numbers: Mapping[str, float]) -> list[str]:
    return [axis for axis in AXES if any(key in numbers for key in FOCAL[axis])]


def _is_zero(value: Any) -> bool:
    return all(map(_is_zero, value)) if isinstance(value, list) else value in (0, False)


def _number(key: str, value: Any, where: str) -> float:
    low, high, what, span = LIMITS[key]
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not low < number < high:
        raise DataError(f"{where}: expected {what} `{key}` {span}, found {value!r}. Correct that entry.")
    return number
