"""The scene that is ray-traced: depths against geometry, light against optics, always the same, and no file needed."""

import math

import pytest
import torch

from feedalign.experiments.data import traced
from feedalign.experiments.data.cameras import camera_rays, look_at
from feedalign.experiments.data.scene_images import shrunk
from feedalign.experiments.data.scenes import SceneConfig, load_scene
from feedalign.experiments.errors import DataError

RED, MIRROR, SHINY, FLOOR = range(4)
SIZE = 16


@pytest.fixture(scope="module")
def scene():
    return load_scene(SceneConfig(size=SIZE), "/a folder that is not there")


def seen_from(place, target):
    """A camera, and the only ray of its picture of one pixel."""
    place, target, up = (torch.tensor(vector, dtype=torch.float64) for vector in (place, target, (0.1, 0.2, 1.0)))
    return camera_rays(look_at(place, target, up)[None], 1, 1, 1.0)


def colour_at(place, target):
    origins, directions = seen_from(place, target)
    return traced.colour(origins.view(1, 3), directions.view(1, 3))[0]


def depth_by_geometry(origin, direction):
    """How deep a ray meets the scene, by Pythagoras: from the foot of the perpendicular through each centre."""
    unit = direction / direction.norm()
    depths = [math.inf]
    for centre, radius in zip(traced.CENTRES, traced.RADII, strict=True):
        foot = float((centre - origin) @ unit)
        apart = float((origin + foot * unit - centre).norm())
        if foot > 0 and apart < radius:
            depths.append((foot - math.sqrt(float(radius) ** 2 - apart**2)) / float(direction.norm()))
    if direction[2] < 0:
        depth = float((origin[2] - traced.FLOOR) / -direction[2])
        if (origin + depth * direction)[:2].norm() < traced.FLOOR_RADIUS:
            depths.append(depth)
    return min(depths)


def test_depths_of_all_pixels_are_those_of_geometry():
    pose = traced.hemisphere(6, turn=0.5)[2]
    origins, directions = (rays.reshape(-1, 3) for rays in camera_rays(pose, 24, 24, 24 * 1.389))
    hits = traced.meet(origins, directions)
    expected = torch.tensor(
        [depth_by_geometry(one, way) for one, way in zip(origins, directions, strict=True)], dtype=torch.float64
    )
    torch.testing.assert_close(hits.depths, expected, rtol=1e-9, atol=1e-9)
    met = hits.depths.isfinite()
    assert set(hits.things[met].tolist()) == {RED, MIRROR, SHINY, FLOOR}
    assert 0.2 < met.double().mean() < 0.8
    points = origins[met] + hits.depths[met, None] * directions[met]
    on_floor = hits.things[met] == FLOOR
    torch.testing.assert_close(points[on_floor][:, 2], torch.full((int(on_floor.sum()),), -0.5, dtype=torch.float64))
    # One step along a ray is one unit of depth: what is seen is seen between the ends of the scene's rays.
    assert traced.NEAR < float(hits.depths[met].min()) < float(hits.depths[met].max()) < traced.FAR


def test_the_middle_of_a_sphere_is_its_radius_before_its_centre():
    for number, (centre, radius) in enumerate(zip(traced.CENTRES, traced.RADII, strict=True)):
        place = centre + torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64)
        origins, directions = seen_from(place.tolist(), centre.tolist())
        hits = traced.meet(origins.view(1, 3), directions.view(1, 3))
        assert hits.things.item() == number
        assert hits.depths.item() == pytest.approx(3 - float(radius))


def test_matt_light_follows_the_cosine_law_and_does_not_depend_on_the_view():
    centre, radius = traced.CENTRES[RED], float(traced.RADII[RED])
    normal = torch.tensor([-0.6, 0.0, 0.8], dtype=torch.float64)
    point = (centre + radius * normal).tolist()
    expected = traced.COLOURS[RED] * (0.35 + 0.65 * float(normal @ traced.SUN))
    for away in ((-3.0, 0.0, 4.0), (-2.0, 1.0, 2.0), (0.0, -1.0, 3.0)):
        place = [end + step for end, step in zip(point, away, strict=True)]
        torch.testing.assert_close(colour_at(place, point), expected)


def test_the_floor_is_dark_where_a_sphere_hides_the_sun():
    # From the middle of the red sphere away from the sun, down to the floor.
    centre = traced.CENTRES[RED]
    shadow = centre - traced.SUN * float((centre[2] - traced.FLOOR) / traced.SUN[2])
    lit = shadow.clone()
    lit[1] -= 4 * traced.TILE  # of the same paint
    above = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    near_shadow, near_lit = (colour_at((end + 0.1 * above).tolist(), end.tolist()) for end in (shadow, lit))
    facing = 0.35 + 0.65 * float(traced.SUN[2])
    torch.testing.assert_close(near_shadow / 0.35, near_lit / facing)


def test_the_highlight_moves_with_the_view():
    centre, radius = traced.CENTRES[SHINY], float(traced.RADII[SHINY])
    above = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    normal = (traced.SUN + above) / (traced.SUN + above).norm()  # halfway between the sun and a camera straight above
    point = centre + radius * normal
    matt = traced.COLOURS[SHINY] * (0.35 + 0.65 * float(normal @ traced.SUN))
    aside = torch.tensor([-1.0, 0.5, 1.0], dtype=torch.float64)
    torch.testing.assert_close(colour_at((point + 3 * above).tolist(), point.tolist()), matt + 0.6)
    halfway = traced.SUN + aside / aside.norm()
    expected = matt + 0.6 * float(normal @ (halfway / halfway.norm())) ** 40
    torch.testing.assert_close(colour_at((point + 3 * aside).tolist(), point.tolist()), expected)


def test_the_mirror_shows_what_is_there():
    """Straight down onto its top, a mirror shows the sky above; onto its side, what is beside it."""
    centre, radius = traced.CENTRES[MIRROR], float(traced.RADII[MIRROR])
    above = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    top = centre + radius * above
    halfway = (traced.SUN + above) / (traced.SUN + above).norm()
    own = traced.COLOURS[MIRROR] * (0.35 + 0.65 * traced.SUN[2]) + 0.3 * halfway[2] ** 40
    seen = colour_at((top + above).tolist(), top.tolist())
    torch.testing.assert_close(seen, 0.3 * own + 0.7 * traced.ZENITH)
    # Seen so that the mirrored ray goes to the red sphere, the mirror turns red.
    toward_red = traced.CENTRES[RED] - centre
    toward_red = toward_red / toward_red.norm()
    side = centre + radius * toward_red
    reflected = colour_at((side + 0.05 * toward_red).tolist(), side.tolist())
    assert reflected[0] > 1.5 * reflected[2]


def test_the_background_shows_exactly_where_nothing_is():
    pose = traced.hemisphere(3, turn=0.0)[1]
    white, black = (traced.picture(pose, SIZE, 1.389 * SIZE, white) for white in (True, False))
    through = white - black
    torch.testing.assert_close(through, through[..., :1].expand_as(through), rtol=0, atol=1.01 / 255)
    corner, middle = through[0, 0], through[SIZE // 2, SIZE // 2]
    assert (corner == 1).all()
    assert (middle == 0).all()
    edges = (through[..., 0] > 0.1) & (through[..., 0] < 0.9)
    assert edges.sum() > SIZE  # smooth edges all around


def test_levels_are_those_of_a_byte(scene):
    levels = scene.train.images * 255
    torch.testing.assert_close(levels, levels.round(), rtol=0, atol=1e-4)


def test_it_is_the_same_every_time(scene):
    again = load_scene(SceneConfig(size=SIZE))
    for part in ("train", "validation", "test"):
        assert torch.equal(getattr(again, part).images, getattr(scene, part).images)
        assert torch.equal(getattr(again, part).poses, getattr(scene, part).poses)


def test_it_has_three_parts_seen_from_different_places(scene):
    assert scene.counts == {"train": 40, "validation": 4, "test": 6, "height": SIZE, "width": SIZE}
    poses = torch.cat([part.poses for part in (scene.train, scene.validation, scene.test)])
    places = poses[:, :, 3]
    torch.testing.assert_close(places.norm(dim=1), torch.full((50,), 4.0))
    torch.testing.assert_close(4 * poses[:, :, 2], places)  # all look at the middle
    assert (places[:, 2] > 0.6).all()  # from above
    apart = torch.cdist(places, places) + 9 * torch.eye(50)
    assert apart.min() > 0.05


def test_views_from_the_sides_do_not_look_alike(scene):
    """The mean of all training views is a poor answer to any test view: there is something to learn."""
    error = (scene.train.images.mean(dim=0) - scene.test.images).square().mean(dim=(1, 2, 3))
    assert (-10 * error.log10() < 17).all()  # decibels


def test_fewer_views_are_spread_over_the_whole_path(scene):
    few = load_scene(SceneConfig(size=SIZE, limit=4, held_limit=2))
    assert few.train.names == ("train/0", "train/10", "train/20", "train/30")
    assert torch.equal(few.train.images, scene.train.images[::10])
    assert torch.equal(few.test.poses, scene.test.poses[::3])
    assert len(few.validation) == 2


def test_a_smaller_picture_is_the_mean_of_a_larger_one(scene):
    config = SceneConfig(size=2 * SIZE, limit=1, held_limit=1)
    large, small = load_scene(config), load_scene(SceneConfig(size=2 * SIZE, shrink=2, limit=1, held_limit=1))
    assert (small.height, small.width) == (SIZE, SIZE)
    assert small.focal == pytest.approx(scene.focal)
    torch.testing.assert_close(small.train.images, shrunk(large.train.images, 2, "it"), rtol=0, atol=1.01 / 255)
    with pytest.raises(DataError, match=r"`size` of the scene 'traced' that is a multiple of `shrink`, 3, found 16"):
        load_scene(SceneConfig(size=16, shrink=3))
