"""Cameras, rays, normalised device coordinates and paths against closed forms and independent formulas."""

import math
from dataclasses import replace

import pytest
import torch

from feedalign.experiments.data.cameras import Intrinsics, average_pose, centred, look_at, recentred
from feedalign.experiments.data.scenes import Scene, SceneConfig, Views, load_scene
from feedalign.experiments.nerf.ndc import ndc_rays
from feedalign.experiments.nerf.paths import scene_path, spiral, turntable
from feedalign.experiments.nerf.rays import all_rays, camera_rays, pixel_rays, pose_rays

pytestmark = pytest.mark.usefixtures("float64")
UP = (0.0, 0.0, 1.0)


def cameras(count=5, toward=(0.0, 0.0, 0.0)):
    """Cameras at random places on one side of what they look at."""
    places = torch.randn(count, 3) + torch.tensor([1.0, 5.0, 1.0])
    return look_at(places, torch.tensor(toward).expand_as(places), torch.tensor(UP))


def whole(poses):
    """Poses as 4 x 4 matrices."""
    last = torch.tensor([0.0, 0.0, 0.0, 1.0]).expand(*poses.shape[:-2], 1, 4)
    return torch.cat([poses, last], dim=-2)


def projected(points, poses, height, width, focal):
    """Where cameras see points ``[..., 3]``: columns and rows, in pixels from the upper left corner."""
    points = torch.cat([points, torch.ones_like(points[..., :1])], dim=-1)
    x, y, z, _ = torch.linalg.solve(whole(poses), points[..., None])[..., 0].unbind(-1)
    return width / 2 + focal * x / -z, height / 2 - focal * y / -z


def small_scene(**fields):
    """A scene of three views, each of one colour, 4 x 6 pixels."""
    images = (torch.arange(3.0) / 4)[:, None, None, None].expand(3, 4, 6, 3)
    images = images + torch.linspace(0, 0.2, 24).view(4, 6, 1)
    forward = torch.eye(4)[:3].expand(3, 3, 4).clone()
    forward[:, :, 3] = torch.randn(3, 3) * 0.1
    views = Views(images, forward, ("a", "b", "c"))
    scene = Scene("small", views, views, views, 4, 6, centred(5.0, 4, 6), 0.0, 1.0, False, False, (1.5, 8.0))
    return replace(scene, **fields)


def test_rays_of_a_camera_that_is_not_moved():
    origins, directions = camera_rays(torch.eye(4)[:3], 4, 6, 2.0)
    assert directions.shape == (4, 6, 3)
    assert (origins == 0).all()
    # The upper left pixel's centre is 2.5 to the left of the middle and 1.5 above it, at a distance of 2.
    torch.testing.assert_close(directions[0, 0], torch.tensor([-1.25, 0.75, -1.0]))
    torch.testing.assert_close(directions[3, 5], torch.tensor([1.25, -0.75, -1.0]))


def test_points_on_a_ray_are_seen_at_the_centre_of_its_pixel():
    poses = cameras()
    origins, directions = camera_rays(poses, 4, 6, 3.0)
    for depth in (0.5, 7.0):
        columns, rows = projected(origins + depth * directions, poses[:, None, None], 4, 6, 3.0)
        torch.testing.assert_close(columns, (torch.arange(6.0) + 0.5).expand(5, 4, 6))
        torch.testing.assert_close(rows, (torch.arange(4.0) + 0.5)[:, None].expand(5, 4, 6))


def test_rays_of_a_finer_picture_sample_each_pixel_evenly():
    pose = cameras(1)[0]
    _, coarse = camera_rays(pose, 4, 6, 3.0)
    _, fine = camera_rays(pose, 12, 18, 9.0)
    torch.testing.assert_close(fine.view(4, 3, 6, 3, 3).mean(dim=(1, 3)), coarse)


def test_a_camera_looks_at_its_target_and_is_upright():
    poses = cameras(toward=(0.3, 0.1, -0.2))
    column, row = projected(torch.tensor([0.3, 0.1, -0.2]).expand(5, 3), poses, 10, 20, 3.0)
    torch.testing.assert_close(torch.stack([column, row]), torch.tensor([[10.0], [5.0]]).expand(2, 5))
    axes = poses[:, :, :3]
    torch.testing.assert_close(axes.mT @ axes, torch.eye(3).expand(5, 3, 3))
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(5))
    assert (axes[:, 2, 1] > 0).all()  # up is up
    torch.testing.assert_close(axes[:, 2, 0], torch.zeros(5))  # and the horizon level


def test_recentred_cameras_have_the_identity_in_their_middle_and_see_each_other_as_before():
    poses = cameras(7)
    moved = recentred(poses)
    torch.testing.assert_close(average_pose(moved), torch.eye(4)[:3])
    before = torch.linalg.solve(whole(poses[:1]), whole(poses))
    after = torch.linalg.solve(whole(moved[:1]), whole(moved))
    torch.testing.assert_close(after, before)
    torch.testing.assert_close(recentred(moved), moved)


def test_the_average_of_one_camera_is_itself():
    poses = cameras(1)
    torch.testing.assert_close(average_pose(poses), poses[0])


@pytest.mark.parametrize("ndc", [False, True])
def test_some_pixels_have_the_rays_and_colours_that_they_have_among_all(ndc):
    scene = small_scene(ndc=ndc)
    rays, colours = all_rays(scene.train, scene)
    assert {len(rays.origins), len(rays.directions), len(rays.viewing), len(colours)} == {3 * 4 * 6}
    pixels = torch.tensor([0, 71, 24, 30, 30, 5])
    some, their_colours = pixel_rays(scene.train, scene, pixels)
    assert torch.equal(their_colours, colours[pixels])
    for one, every in zip(some, rays, strict=True):
        torch.testing.assert_close(one, every[pixels])


def test_every_colour_is_that_of_its_own_view_row_and_column():
    scene = small_scene()
    _, colours = pixel_rays(scene.test, scene, torch.tensor([2 * 24 + 3 * 6 + 1, 24]))
    assert torch.equal(colours[0], scene.test.images[2, 3, 1])
    assert torch.equal(colours[1], scene.test.images[1, 0, 0])


def test_rays_of_new_cameras_are_those_of_views_from_there():
    scene = small_scene(ndc=True)
    rays, _ = all_rays(scene.train, scene)
    for one, every in zip(pose_rays(scene.train.poses[1], scene), rays, strict=True):
        torch.testing.assert_close(one, every[24:48])


def test_viewing_directions_are_of_unit_length_and_of_the_world():
    scene = small_scene()
    plain, bent = pose_rays(scene.train.poses, scene), pose_rays(scene.train.poses, replace(scene, ndc=True))
    torch.testing.assert_close(bent.viewing, plain.viewing)
    torch.testing.assert_close(plain.viewing * plain.directions.norm(dim=1, keepdim=True), plain.directions)
    assert not torch.allclose(bent.directions, plain.directions)


def device_coordinates(points, height, width, focal, near):
    """The same by the perspective matrix of a frustum without a far end, as in graphics."""
    right, top = near * width / 2 / focal, near * height / 2 / focal
    matrix = torch.tensor([[near / right, 0, 0, 0], [0, near / top, 0, 0], [0, 0, -1, -2 * near], [0, 0, -1, 0]])
    *place, weight = (torch.cat([points, torch.ones_like(points[..., :1])], dim=-1) @ matrix.T).unbind(-1)
    return torch.stack(place, dim=-1) / weight[..., None]


@pytest.mark.parametrize("near", [1.0, 0.4])
def test_device_coordinates_are_those_of_the_perspective_matrix(near):
    origins, directions = torch.randn(50, 3) * 0.2, torch.randn(50, 3) * 0.5
    directions[:, 2] = -1 - torch.rand(50)
    start, step = ndc_rays(origins, directions, 30, 40, 25.0, near)
    plane = -(near + origins[:, 2]) / directions[:, 2]
    on_plane = origins + plane[:, None] * directions
    torch.testing.assert_close(start, device_coordinates(on_plane, 30, 40, 25.0, near))
    torch.testing.assert_close(start[:, 2], torch.full((50,), -1.0))
    for travelled in (0.3, 2.0, 1e9):
        points = on_plane + travelled * directions
        share = 1 - on_plane[:, 2] / points[:, 2]  # equal steps of the inverse of depth
        expected = device_coordinates(points, 30, 40, 25.0, near)
        torch.testing.assert_close(start + share[:, None] * step, expected)
    torch.testing.assert_close((start + step)[:, 2], torch.ones(50))  # infinity


def test_what_the_camera_sees_fills_the_cube():
    origins, directions = camera_rays(torch.eye(4)[:3], 30, 40, 25.0)
    start, step = ndc_rays(origins, directions, 30, 40, 25.0)
    for place in (start, start + step):
        torch.testing.assert_close(place[..., 0].amax(), torch.tensor(39 / 40))  # the centre of the last pixel
        torch.testing.assert_close(place[..., 1].amin(), torch.tensor(-29 / 30))
    torch.testing.assert_close(step[..., :2], torch.zeros(30, 40, 2))  # its rays are parallel


def test_what_a_camera_with_other_intrinsics_sees_fills_the_cube():
    camera = Intrinsics(25.0, 35.0, 12.0, 19.0)
    origins, directions = camera_rays(torch.eye(4)[:3], 30, 40, camera)
    start, step = ndc_rays(origins, directions, 30, 40, camera)
    # The centres of the first and the last pixel, which are half a pixel from the edges of 40 columns and 30 rows.
    for place in (start, start + step):
        torch.testing.assert_close(place[..., 0].aminmax(), (torch.tensor(-39 / 40), torch.tensor(39 / 40)))
        torch.testing.assert_close(place[..., 1].aminmax(), (torch.tensor(-29 / 30), torch.tensor(29 / 30)))
    torch.testing.assert_close(start[0, 0, :2], torch.tensor([-39 / 40, 29 / 30]))
    # A frustum that is not symmetric, by its edges at the near plane, as in graphics.
    near, far_away = 0.4, 1e9
    left, right = -near * 12 / 25, near * 28 / 25
    bottom, top = -near * 11 / 35, near * 19 / 35
    matrix = torch.tensor(
        [
            [2 * near / (right - left), 0, (right + left) / (right - left), 0],
            [0, 2 * near / (top - bottom), (top + bottom) / (top - bottom), 0],
            [0, 0, -1, -2 * near],
            [0, 0, -1, 0],
        ]
    )
    origins, directions = torch.randn(50, 3) * 0.2, torch.randn(50, 3) * 0.5
    directions[:, 2] = -1 - torch.rand(50)
    start, step = ndc_rays(origins, directions, 30, 40, camera, near)
    for travelled in (0.3, 2.0, far_away):
        points = origins + (travelled - (near + origins[:, 2:]) / directions[:, 2:]) * directions
        share = 1 + near / points[:, 2:]
        *place, weight = (torch.cat([points, torch.ones(50, 1)], dim=1) @ matrix.T).unbind(-1)
        torch.testing.assert_close(start + share * step, torch.stack(place, dim=-1) / weight[:, None])


def by_one_focal_length(poses, height, width, focal):
    """Rays of centred cameras with square pixels, as they were before there were other intrinsics."""
    rows = torch.arange(height, dtype=poses.dtype)[:, None]
    columns = torch.arange(width, dtype=poses.dtype)[None, :]
    right = (columns + 0.5 - width / 2) / focal + torch.zeros_like(rows)
    up = (height / 2 - rows - 0.5) / focal + torch.zeros_like(columns)
    local = torch.stack([right, up, -torch.ones_like(right)], dim=-1)
    directions = torch.einsum("...ij,hwj->...hwi", poses[..., :3], local)
    return poses[..., None, None, :, 3].expand_as(directions).reshape(-1, 3), directions.reshape(-1, 3)


@pytest.mark.parametrize("name", ["traced", "lego", "tiny-lego", "fern"])
def test_scenes_with_one_focal_length_have_the_very_rays_of_it(name, request):
    root = None if name == "traced" else request.getfixturevalue("data_root")
    shrink = {"fern": 8, "lego": 5}.get(name, 1)
    scene = load_scene(SceneConfig(name, shrink=shrink, size=24, limit=3, held_limit=1, ndc=False), root)
    assert scene.train.intrinsics is None
    places, directions = by_one_focal_length(scene.train.poses, scene.height, scene.width, scene.focal)
    rays, _ = all_rays(scene.train, scene)
    assert torch.equal(rays.origins, places)
    assert torch.equal(rays.directions, directions)


def test_rays_that_do_not_point_forward_have_no_device_coordinates():
    with pytest.raises(ValueError, match=r"Expected rays that point forward .* for forward-facing scenes only"):
        ndc_rays(torch.zeros(2, 3), torch.tensor([[0.0, 0, -1], [0.0, 1, 0]]), 4, 4, 2.0)


def test_a_turntable_goes_once_around_at_one_height():
    poses = turntable(4.0, 8, elevation=math.pi / 6)
    torch.testing.assert_close(poses[0, :, 3], torch.tensor([4 * math.cos(math.pi / 6), 0.0, 2.0]))
    torch.testing.assert_close(poses[2, :, 3], torch.tensor([0.0, 4 * math.cos(math.pi / 6), 2.0]))
    torch.testing.assert_close(poses[:, :, 3] - 4 * poses[:, :, 2], torch.zeros(8, 3))  # they look at the origin
    eighth = math.pi / 4
    turn = torch.tensor(
        [[math.cos(eighth), -math.sin(eighth), 0], [math.sin(eighth), math.cos(eighth), 0], [0, 0, 1.0]]
    )
    torch.testing.assert_close(turn @ poses, poses.roll(-1, 0))


def test_a_spiral_goes_around_the_middle_and_looks_at_one_point():
    offsets = torch.tensor([[1.0, 0, 0], [-1, 0, 0], [0, 2, 0], [0, -2, 0], [0, 0, 0.5], [0, 0, -0.5]])
    poses = torch.eye(4)[:3].repeat(6, 1, 1)
    poses[:, :, 3] = offsets
    near, far, count = 1.5, 8.0, 16
    path = spiral(poses, (near, far), count)
    focus = 1 / (0.25 / (0.9 * near) + 0.75 / (5 * far))
    point = torch.tensor([0.0, 0.0, -focus]).expand(count, 3)
    column, row = projected(point, path, 10, 20, 3.0)
    torch.testing.assert_close(torch.stack([column, row]), torch.tensor([[10.0], [5.0]]).expand(2, count))
    x, y, z = path[:, :, 3].unbind(1)
    # 0.9 of the way through two cameras with an offset and four without, sorted: 4.5 of 5 steps, half between both.
    assert [float(radius.abs().max()) for radius in (x, y, z)] == pytest.approx([1.0, 2.0, 0.5])
    torch.testing.assert_close(x**2 + (y / 2) ** 2, torch.ones(count))
    torch.testing.assert_close(x[: count // 2], x[count // 2 :])  # twice around
    torch.testing.assert_close(z[: count // 2], -z[count // 2 :])  # first before the middle, then behind it


def test_a_spiral_moves_with_the_cameras():
    poses = cameras(6)
    turned = torch.linalg.qr(torch.randn(3, 3)).Q
    turned = turned * torch.linalg.det(turned)
    shift = torch.randn(3, 1)
    moved = turned @ poses
    moved[:, :, 3:] += shift
    expected = turned @ spiral(poses, (1.0, 3.0), 5)
    expected[:, :, 3:] += shift
    torch.testing.assert_close(spiral(moved, (1.0, 3.0), 5), expected)


def test_the_path_of_a_scene_is_that_of_its_kind():
    around = load_scene(SceneConfig(size=4, limit=3, held_limit=1))
    path = scene_path(around, 6)
    assert path.dtype == torch.float32
    torch.testing.assert_close(path, turntable(4.0, 6).float())
    before = small_scene(forward_facing=True)
    torch.testing.assert_close(scene_path(before, 6), spiral(before.train.poses, (1.5, 8.0), 6))
