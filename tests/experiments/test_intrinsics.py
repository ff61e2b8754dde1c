"""Intrinsics in camera files, from the file to the picture: against formulas in NumPy, or refused by name."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from feedalign.experiments.data import traced
from feedalign.experiments.data.cameras import Intrinsics, centred
from feedalign.experiments.data.scenes import SceneConfig, load_scene
from feedalign.experiments.errors import DataError
from feedalign.experiments.models.nerf import FieldConfig
from feedalign.experiments.nerf.films import film
from feedalign.experiments.nerf.metrics import psnr
from feedalign.experiments.nerf.pictures import keep_pictures
from feedalign.experiments.nerf.rays import Rays, all_rays, pixel_rays, pose_rays
from feedalign.experiments.nerf.rendering import Radiance, RenderingConfig
from feedalign.experiments.nerf.views import render, score, strip

HEIGHT, WIDTH = 12, 20
PARTS = ("train", "val", "test")
ANGLE = 0.69
FOCAL = 0.5 * WIDTH / math.tan(ANGLE / 2)
MIDDLE = (WIDTH / 2, HEIGHT / 2)


def pose(turn: float) -> np.ndarray:
    """A camera that looks at the origin, written without the library."""
    place = np.array([4 * math.cos(turn), 4 * math.sin(turn), 1.5])
    back = place / np.linalg.norm(place)
    right = np.cross([0, 0, 1.0], back)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3] = np.stack([right, np.cross(back, right), back, place], axis=1)
    return matrix


def turn_of(part: str, number: int) -> float:
    return 2 * number + 0.5 * PARTS.index(part)


def directions(part: str, number: int, intrinsics: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """Directions ``[H, W, 3]`` through centres of pixels, float64: the inverse of the matrix K of the books, whose y
    points down and whose z points forward."""
    focal_x, focal_y, centre_x, centre_y = intrinsics
    matrix = np.array([[focal_x, 0, centre_x], [0, focal_y, centre_y], [0, 0, 1]])
    columns, rows = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    local = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ np.linalg.inv(matrix).T
    return local @ np.diag([1.0, -1, -1]) @ pose(turn_of(part, number))[:3, :3].T


def colours(part: str, number: int, intrinsics: tuple[float, ...], size: tuple[int, int]) -> np.ndarray:
    """The traced scene as that camera sees it, ``[H, W, 3]``, one ray a pixel."""
    rays = torch.from_numpy(directions(part, number, intrinsics, size)).reshape(-1, 3)
    places = torch.from_numpy(pose(turn_of(part, number))[:3, 3]).expand_as(rays)
    return traced.colour(places, rays, background=torch.ones(3)).clamp(0, 1).view(*size, 3).numpy()


Extra = Callable[[str, int], dict[str, Any]]


def write_scene(
    folder: Path,
    top: dict[str, Any],
    frame: Extra = lambda part, number: {},
    intrinsics: Callable[[str, int], tuple[float, ...]] | None = None,
    views: int = 2,
) -> Path:
    """Write a scene; its pictures are what cameras with these intrinsics see, and noise without."""
    folder.mkdir(exist_ok=True)
    for part in PARTS:
        frames = []
        for number in range(views):
            path = folder / part / f"r_{number}.png"
            path.parent.mkdir(exist_ok=True)
            if intrinsics is None:
                pixels = np.random.default_rng(number).random((HEIGHT, WIDTH, 3))
            else:
                pixels = colours(part, number, intrinsics(part, number), (HEIGHT, WIDTH))
            Image.fromarray((pixels * 255).round().astype(np.uint8)).save(path)
            matrix = pose(turn_of(part, number)).tolist()
            frames.append({"file_path": f"{part}/r_{number}", "transform_matrix": matrix, **frame(part, number)})
        content = {**top, "frames": frames}
        (folder / f"transforms_{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder.parent


def varied(part: str, number: int) -> tuple[float, float, float, float]:
    """Intrinsics that differ from view to view in all four numbers."""
    shift = number + PARTS.index(part) / 4
    return FOCAL * (1 + shift / 8), FOCAL * (1.3 - shift / 8), 7.5 + shift, 8 - shift


def keys_of(part: str, number: int) -> dict[str, float]:
    return dict(zip(("fl_x", "fl_y", "cx", "cy"), varied(part, number), strict=True))


FOCALS = {"fl_x": FOCAL, "fl_y": FOCAL}
ZEROS = {**{f"k{number}": 0 for number in range(1, 7)}, "p1": 0.0, "p2": 0, "is_fisheye": False}
ONE_CAMERA = {
    "field of view": ({"camera_angle_x": ANGLE}, (FOCAL, FOCAL, *MIDDLE)),
    "field of view in degrees": ({"x_fov": math.degrees(ANGLE)}, (FOCAL, FOCAL, *MIDDLE)),
    "focal length": ({"fl_x": 17.0}, (17, 17, *MIDDLE)),
    "vertical focal length alone": ({"fl_y": 17.0}, (17, 17, *MIDDLE)),
    "vertical field of view alone": ({"camera_angle_y": 1.2}, (6 / math.tan(0.6), 6 / math.tan(0.6), *MIDDLE)),
    "pixels that are not square": ({"fl_x": 17.0, "fl_y": 34}, (17, 34, *MIDDLE)),
    "two fields of view": ({"camera_angle_x": ANGLE, "camera_angle_y": 1.2}, (FOCAL, 6 / math.tan(0.6), *MIDDLE)),
    "principal point": ({**FOCALS, "cx": 6.0, "cy": 7.25}, (FOCAL, FOCAL, 6, 7.25)),
    "its column alone": ({"camera_angle_x": ANGLE, "cx": 6}, (FOCAL, FOCAL, 6, MIDDLE[1])),
    "outside of the picture": ({**FOCALS, "cx": -3.0, "w": WIDTH, "h": HEIGHT}, (FOCAL, FOCAL, -3, MIDDLE[1])),
    "all that COLMAP's OPENCV says, without distortion": (
        {
            "camera_angle_x": ANGLE, **FOCALS, "cx": 9, "cy": 5, "w": WIDTH, "h": HEIGHT, **ZEROS,
            "camera_model": "OPENCV",
        },
        (FOCAL, FOCAL, 9, 5),
    ),
    "the same in every frame": ({}, (FOCAL, 1.5 * FOCAL, 9, 5)),
}  # fmt: skip


def check_rays(scene: Any, intrinsics: Callable[[str, int], tuple[float, ...]], shrink: int = 1) -> None:
    """Compare the rays of all parts of a scene, and of some pixels, with NumPy's."""
    size = (HEIGHT // shrink, WIDTH // shrink)
    for part, views in zip(PARTS, (scene.train, scene.validation, scene.test), strict=True):
        expected = np.stack(
            [
                directions(part, number, tuple(one / shrink for one in intrinsics(part, number)), size).reshape(-1, 3)
                for number in range(len(views))
            ]
        )
        places = np.stack([pose(turn_of(part, number))[:3, 3] for number in range(len(views))])
        rays, _ = all_rays(views, scene)
        assert rays.directions.dtype == torch.float32
        np.testing.assert_allclose(rays.directions.view(expected.shape), expected, atol=2e-6)
        np.testing.assert_allclose(rays.origins.view(expected.shape)[:, 0], places, atol=1e-6)
        unit = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
        np.testing.assert_allclose(rays.viewing.view(expected.shape), unit, atol=1e-6)
        pixels = torch.tensor([0, 3, expected.shape[0] * expected.shape[1] - 1, expected.shape[1]])
        some, _ = pixel_rays(views, scene, pixels)
        np.testing.assert_allclose(some.directions, expected.reshape(-1, 3)[pixels], atol=2e-6)


@pytest.mark.parametrize("shrink", [1, 2, 4])
@pytest.mark.parametrize("name", ONE_CAMERA)
def test_rays_of_one_camera_follow_its_intrinsics(name: str, shrink: int, tmp_path: Path) -> None:
    top, expected = ONE_CAMERA[name]
    own = dict(zip(("fl_x", "fl_y", "cx", "cy"), expected, strict=True)) if not top else {}
    root = write_scene(tmp_path / "own", top, lambda part, number: own)
    scene = load_scene(SceneConfig("own", shrink=shrink), root)
    assert scene.camera == pytest.approx([number / shrink for number in expected])
    assert scene.train.intrinsics is None
    assert scene.notes == ()
    check_rays(scene, lambda part, number: expected, shrink)


@pytest.mark.parametrize("shrink", [1, 2])
def test_rays_of_every_frame_follow_its_own_intrinsics(shrink: int, tmp_path: Path) -> None:
    # The top level is replaced: all of it is wrong for each of the frames.
    top = {"camera_angle_x": 1.5, "fl_y": 3.0, "cx": 1.0, "cy": 2.0}
    root = write_scene(tmp_path / "own", top, keys_of)
    scene = load_scene(SceneConfig("own", shrink=shrink), root)
    check_rays(scene, varied, shrink)
    mean = [sum(found) / 2 / shrink for found in zip(*(varied("train", number) for number in range(2)), strict=True)]
    assert scene.camera == pytest.approx(mean)  # of new cameras


def test_a_frame_replaces_only_what_it_says(tmp_path: Path) -> None:
    def frame(part: str, number: int) -> dict[str, float]:
        return [{"fl_x": 2 * FOCAL}, {"cy": 2.0}][number]

    root = write_scene(tmp_path / "own", {"camera_angle_x": ANGLE, "cx": 9.0}, frame)
    expected = [(2 * FOCAL, 2 * FOCAL, 9.0, MIDDLE[1]), (FOCAL, FOCAL, 9.0, 2.0)]
    check_rays(load_scene(SceneConfig("own"), root), lambda part, number: expected[number])


def test_photographs_show_what_lies_on_their_rays(tmp_path: Path) -> None:
    """Pictures that were traced along NumPy's rays, and traced again along those of the scene that was read."""
    root = write_scene(tmp_path / "own", {"camera_angle_x": ANGLE}, keys_of, varied)
    scene = load_scene(SceneConfig("own"), root)

    def difference(one: Any) -> float:
        rays, photographed = all_rays(one.train, one)
        seen = traced.colour(rays.origins.double(), rays.directions.double(), background=torch.ones(3)).clamp(0, 1)
        # An edge may be met on its other side by a direction in float32.
        return float((seen - photographed).abs().amax(dim=1).quantile(0.98))

    assert difference(scene) <= 0.5 / 255 + 1e-4
    without = replace(scene, train=replace(scene.train, intrinsics=None), camera=centred(FOCAL, HEIGHT, WIDTH))
    assert difference(without) > 0.3  # what a reader that knows `camera_angle_x` alone would make of them


@pytest.fixture
def scene(tmp_path: Path) -> Any:
    return load_scene(SceneConfig("own"), write_scene(tmp_path / "own", {"camera_angle_x": ANGLE}, keys_of, varied))


@pytest.fixture
def model() -> Radiance:
    torch.manual_seed(0)
    field, rendering = FieldConfig(16, 2, skip=None, directions=True), RenderingConfig(coarse=8, fine=0, chunk=10**6)
    return Radiance(field, rendering, 2.0, 6.0, white=True).eval()


def rendered(model: Radiance, number: int, part: str = "test") -> torch.Tensor:
    """What a model sees along NumPy's rays, ``[H, W, 3]``."""
    rays = torch.from_numpy(directions(part, number, varied(part, number), (HEIGHT, WIDTH)).reshape(-1, 3)).float()
    places = torch.from_numpy(pose(turn_of(part, number))[:3, 3]).float().expand_as(rays)
    with torch.no_grad():
        seen = model(Rays(places, rays, torch.nn.functional.normalize(rays, dim=1))).fine
    return seen.colour.view(HEIGHT, WIDTH, 3).clamp(0, 1)


def test_held_out_views_are_rendered_and_scored_through_their_own_cameras(
    model: Radiance, scene: Any, tmp_path: Path
) -> None:
    found = score(model, scene, scene.test)
    for number, name in enumerate(scene.test.names):
        error = (rendered(model, number) - scene.test.images[number]).square().mean().item()
        assert found["views"][name]["psnr"] == pytest.approx(psnr(error), abs=1e-3)
    (last,) = score(model, scene, scene.test.pick([1]))["views"].values()
    assert last["psnr"] == found["views"][scene.test.names[1]]["psnr"]
    keep_pictures(model, scene, tmp_path, 2)
    with Image.open(tmp_path / "view1-seen.png") as image:
        assert np.abs(np.asarray(image) / 255 - rendered(model, 1).numpy()).max() <= 0.5 / 255 + 1e-4


def test_films_and_strips_of_held_out_views_are_theirs_and_of_new_cameras_the_scenes(
    model: Radiance, scene: Any
) -> None:
    poses = scene.test.poses
    (_, frame) = film(model, scene, poses, views=scene.test)
    torch.testing.assert_close(frame, torch.cat([scene.test.images[1], rendered(model, 1)], dim=1), atol=1e-4, rtol=0)
    column = strip(model, scene, poses, scene.test)[:, 1]
    torch.testing.assert_close(column, rendered(model, 1)[:, WIDTH // 2], atol=1e-4, rtol=0)
    (_, frame) = film(model, scene, poses)
    torch.testing.assert_close(frame, render(model, scene, poses[1], camera=scene.camera).colour)
    assert not torch.allclose(frame, rendered(model, 1), atol=1e-3)
    torch.testing.assert_close(strip(model, scene, poses)[:, 1], frame[:, WIDTH // 2])


def test_intrinsics_go_with_their_views(scene: Any) -> None:
    assert torch.equal(scene.test.pick([1]).intrinsics, scene.test.intrinsics[1:])
    assert scene.to("meta").train.intrinsics.device.type == "meta"
    limited = replace(scene, train=scene.train.pick([1, 0]))
    rays, _ = pixel_rays(limited.train, limited, torch.tensor([5]))
    expected, _ = pixel_rays(scene.train, scene, torch.tensor([HEIGHT * WIDTH + 5]))
    assert torch.equal(rays.directions, expected.directions)


def test_a_limit_of_views_leaves_each_its_camera(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "own", {"camera_angle_x": ANGLE}, keys_of, views=4)
    few = load_scene(SceneConfig("own", limit=2, held_limit=1), root)
    every = load_scene(SceneConfig("own"), root)
    assert torch.equal(few.train.intrinsics, every.train.intrinsics[[0, 2]])
    assert torch.equal(few.test.intrinsics, every.test.intrinsics[:1])
    one = load_scene(SceneConfig("own", limit=1), root)
    assert one.train.intrinsics is not None  # other parts have other cameras


def test_one_focal_length_is_not_read_off_cameras_that_have_more(scene: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"found views with intrinsics of their own in `train`. Do use `camera`"):
        _ = scene.focal
    root = write_scene(tmp_path / "other", {**FOCALS, "cx": 6})
    with pytest.raises(DataError, match=r"square pixels and the principal point in the middle .*centre_x=6.0"):
        _ = load_scene(SceneConfig("other"), root).focal
    root = write_scene(tmp_path / "plain", {"fl_x": 17.0})
    assert load_scene(SceneConfig("plain"), root).focal == 17.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda own: own[:1], r"`train.intrinsics` of shape \[2, 4\] .*, found \[1, 4\]"),
        (lambda own: own * math.nan, "finite `train.intrinsics`"),
        (lambda own: own.double(), "dtype torch.float32, found .* torch.float64"),
        (lambda own: own * torch.tensor([1.0, 0, 1, 1]), "focal lengths above 0 in `train.intrinsics`, found 0"),
    ],
)
def test_intrinsics_that_are_none_are_refused(
    change: Callable[[torch.Tensor], torch.Tensor], message: str, scene: Any
) -> None:
    with pytest.raises(DataError, match=message):
        replace(scene, train=replace(scene.train, intrinsics=change(scene.train.intrinsics))).check()


PINHOLE = r"expected a pinhole without distortion \(`{0}` of 0, or left out\), found {0} = {1}"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        *(({key: 0.3}, PINHOLE.format(key, "0.3")) for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2", "s1")),
        ({"k1": -1e-9}, PINHOLE.format("k1", "-1e-09")),
        ({"k1": None}, PINHOLE.format("k1", "None")),
        ({"distortion_params": [0, 0.1, 0, 0]}, PINHOLE.format("distortion_params", r"\[0, 0.1, 0, 0\]")),
        ({"is_fisheye": True}, PINHOLE.format("is_fisheye", "True")),
        ({"equirectangular": True}, PINHOLE.format("equirectangular", "True")),
        ({"rolling_shutter": [0, 0, 0.01]}, PINHOLE.format("rolling_shutter", r"\[0, 0, 0.01\]")),
        ({"camera_model": "OPENCV_FISHEYE"}, r"`camera_model` of a pinhole \(PINHOLE, .*, found 'OPENCV_FISHEYE'"),
        ({"camera_model": 3}, "`camera_model` of a pinhole .*, found 3. Undistort the pictures first"),
        (
            {"fl_x": 2 * FOCAL, "camera_angle_x": ANGLE},
            r"`fl_x` and `camera_angle_x` to say the same focal length, found 55.6\d* and 0.69, which are 55.6\d* and "
            r"27.8\d* pixels. Correct one of them",
        ),
        ({**FOCALS, "camera_angle_y": 0.3}, "`fl_y` and `camera_angle_y` to say the same focal length"),
        ({"camera_angle_x": ANGLE, "x_fov": 41}, r"`camera_angle_x` and `x_fov` to say the same .* 0.69 and 41"),
        ({"w": 800, "h": 800}, "the size of the picture's file, 20 x 12 pixels, in `w` and `h`, found 800 x 800"),
        ({"h": 24}, "found 20 x 24. Focal lengths and principal points in pixels hold for one size"),
        ({"fl_x": FOCAL, "cx": 400.0}, "a principal point `cx` within the 20 pixels of the picture's file, found 400"),
        ({"fl_x": FOCAL, "cy": -1}, "a principal point `cy` within the 12 pixels of the picture's file, found -1"),
        ({"fl_x": 0.0}, "a focal length `fl_x` above 0 pixels, found 0.0"),
        ({"fl_y": -3}, "a focal length `fl_y` above 0 pixels, found -3"),
        ({"fl_x": "12"}, "a focal length `fl_x` above 0 pixels, found '12'"),
        ({"fl_x": True}, "a focal length `fl_x` above 0 pixels, found True"),
        ({"fl_x": math.nan}, "a focal length `fl_x` above 0 pixels, found nan"),
        ({"fl_x": 10**400}, "a focal length `fl_x` above 0 pixels, found 1000"),
        ({"camera_angle_y": 3.2}, "a field of view `camera_angle_y` between 0 and pi radians, found 3.2"),
        ({"x_fov": 180}, "a field of view `x_fov` between 0 and 180 degrees, found 180"),
        ({"cx": None}, "a principal point `cx` in pixels, found None"),
        ({"w": 0}, "a size of the picture `w` above 0 pixels, found 0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("level", ["top level", "frame 1 (test/r_1)"])
def test_what_is_no_pinhole_or_contradicts_itself_is_refused(
    extra: dict[str, Any], message: str, level: str, tmp_path: Path
) -> None:
    said = extra if {"fl_x", "fl_y", "camera_angle_x"} & set(extra) else {"camera_angle_x": ANGLE, **extra}

    def frame(part: str, number: int) -> dict[str, Any]:
        return said if (part, number) == ("test", 1) else {"fl_x": FOCAL}

    root = write_scene(tmp_path / "own", *(({}, frame) if level.startswith("frame") else (said,)))
    with pytest.raises(DataError, match=message) as caught:
        load_scene(SceneConfig("own"), root)
    file = "transforms_test.json, frame 1 (test/r_1):" if level.startswith("frame") else "transforms_train.json, "
    assert str(caught.value).startswith(f"{tmp_path}/own/{file}")


@pytest.mark.parametrize(
    ("top", "frame", "message"),
    [
        (
            {},
            {},
            r"frame 0 \(train/r_0\): expected a field of view `camera_angle_x` .*, found None, nor a focal length",
        ),
        ({"cx": 3.0, "w": WIDTH}, {}, "nor a focal length `fl_x`. Add one of them"),
        (FOCALS, {"fl_x": 20.0}, "expected focal lengths for x and y, .* says one for x and y, found one for x alone"),
        ({"fl_x": 20.0}, {"camera_angle_y": 1.0}, "says one for x, found one for y alone. Add the other one"),
    ],
)
def test_focal_lengths_that_are_not_said_are_not_guessed(
    top: dict[str, Any], frame: dict[str, Any], message: str, tmp_path: Path
) -> None:
    root = write_scene(tmp_path / "own", top, lambda part, number: frame)
    with pytest.raises(DataError, match=message):
        load_scene(SceneConfig("own"), root)


@pytest.mark.parametrize("key", ["fl_x", "fl_y", "camera_angle_x", "cx", "cy"])
def test_files_of_two_cameras_are_refused(key: str, tmp_path: Path) -> None:
    top = {"fl_x": FOCAL, "fl_y": FOCAL, "cx": 9.0, "cy": 5.0, "camera_angle_x": ANGLE}
    root = write_scene(tmp_path / "own", top)
    path = tmp_path / "own" / "transforms_val.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, key: top[key] * 1.01}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"val.json: expected the `{key}` of transforms_train.json, .* their frames"):
        load_scene(SceneConfig("own"), root)


def test_a_camera_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    root = write_scene(tmp_path / "own", {"camera_angle_x": ANGLE})
    path = tmp_path / "own" / "transforms_train.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_scene(SceneConfig("own"), root).focal == pytest.approx(FOCAL)


def test_keys_that_no_ray_depends_on_are_named_and_change_nothing(tmp_path: Path) -> None:
    extra = {"aabb_scale": 16, "scale": 0.33, "offset": [0.5, 0.5, 0.5]}
    root = write_scene(tmp_path / "own", {"camera_angle_x": ANGLE, **extra})
    scene = load_scene(SceneConfig("own"), root)
    (note,) = scene.notes
    assert "`aabb_scale`, `offset`, `scale`" in note
    assert f"{tmp_path}/own/transforms_*.json" in note
    check_rays(scene, lambda part, number: (FOCAL, FOCAL, *MIDDLE))
    assert torch.equal(scene.train.poses, load_scene(SceneConfig("own"), root).train.poses)


def test_rays_of_new_cameras_take_other_intrinsics(scene: Any) -> None:
    rays = pose_rays(scene.test.poses[1], scene, Intrinsics(*varied("test", 1)))
    expected = directions("test", 1, varied("test", 1), (HEIGHT, WIDTH)).reshape(-1, 3)
    np.testing.assert_allclose(rays.directions, expected, atol=2e-6)
