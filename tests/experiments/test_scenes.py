"""Scenes from files: the real ones in their upstream layouts, and small ones whose every pixel is known."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import avg_pool2d, grid_sample

from feedalign.experiments.data.cameras import camera_rays, centred
from feedalign.experiments.data.scenes import SCENES, Scene, SceneConfig, Views, load_scene
from feedalign.experiments.errors import DataError
from feedalign.experiments.nerf.rays import all_rays


@pytest.fixture(scope="module")
def lego(data_root):
    """Lego, 50 x 50 on black: 88 views as in the tiny layout, and as many as that holds out."""
    return load_scene(SceneConfig("lego", shrink=4, background="black"), data_root)


@pytest.fixture(scope="module")
def fern(data_root):
    return load_scene(SceneConfig("fern", shrink=8), data_root)


@pytest.fixture
def made(tmp_path):
    """A scene in Blender's format with a picture of four pixels: opaque red, half green, clear blue and grey."""
    pixels = np.array([[[255, 0, 0, 255], [0, 255, 0, 128]], [[0, 0, 255, 0], [51, 51, 51, 255]]], dtype=np.uint8)
    for number, part in enumerate(("train", "val", "test")):
        (tmp_path / "own" / part).mkdir(parents=True)
        Image.fromarray(pixels).save(tmp_path / "own" / part / "r_0.png")
        matrix = np.eye(4)
        matrix[:3, 3] = 0.5, number, 4
        frame = {"file_path": f"./{part}/r_0", "transform_matrix": matrix.tolist()}
        content = {"camera_angle_x": math.pi / 2, "frames": [frame]}
        (tmp_path / "own" / f"transforms_{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def check_invariants(scene):
    assert scene.check() is scene
    names = [name for part in (scene.train, scene.validation, scene.test) for name in part.names]
    assert len(set(names)) == len(names)
    rays, colours = all_rays(scene.test, scene)
    assert len(colours) == len(scene.test) * scene.height * scene.width
    assert all(tensor.isfinite().all() and tensor.dtype == torch.float32 for tensor in (*rays, colours))


def test_transparent_pixels_show_the_background(made):
    white = load_scene(SceneConfig("own"), made)
    half = 128 / 255
    expected = torch.tensor([[[1, 0, 0], [1 - half, 1, 1 - half]], [[1, 1, 1], [0.2, 0.2, 0.2]]])
    torch.testing.assert_close(white.train.images[0], expected)
    assert white.white
    black = load_scene(SceneConfig("own", background="black"), made)
    expected = torch.tensor([[[1, 0, 0], [0, half, 0]], [[0, 0, 0], [0.2, 0.2, 0.2]]])
    torch.testing.assert_close(black.train.images[0], expected)
    assert not black.white


def test_smaller_pictures_are_means_over_the_background(made):
    scene = load_scene(SceneConfig("own", shrink=2), made)
    half = 128 / 255
    red, blue = 1 + (1 - half) + 1 + 0.2, 0 + (1 - half) + 1 + 0.2  # clear blue counts as white
    torch.testing.assert_close(scene.train.images, torch.tensor([red, 0 + 1 + 1 + 0.2, blue]).view(1, 1, 1, 3) / 4)
    assert (scene.height, scene.width) == (1, 1)


def test_cameras_of_a_scene_in_blenders_format(made):
    scene = load_scene(SceneConfig("own"), made)
    assert scene.focal == pytest.approx(1.0)  # two pixels over a right angle
    assert torch.equal(scene.test.poses[0], torch.tensor([[1.0, 0, 0, 0.5], [0, 1, 0, 2], [0, 0, 1, 4]]))
    assert scene.train.names == ("train/r_0",)
    assert (scene.near, scene.far, scene.ndc, scene.forward_facing) == (2, 6, False, False)
    check_invariants(scene)


def test_a_scene_of_your_own_may_be_named_by_its_full_path(made):
    scene = load_scene(SceneConfig(str(made / "own")), made / "elsewhere")
    assert len(scene.train) == 1


def test_lego(lego):
    assert lego.counts == {"train": 100, "validation": 13, "test": 25, "height": 100, "width": 100}
    assert lego.focal == pytest.approx(138.88887889922103)
    distances = torch.linalg.vector_norm(lego.train.poses[:, :, 3], dim=1)
    torch.testing.assert_close(distances, torch.full((100,), 4.0311), rtol=1e-4, atol=0)  # as all of Blender's scenes
    check_invariants(lego)


def test_the_tiny_layout_holds_the_same_as_the_whole_scene(lego, data_root):
    tiny = load_scene(SceneConfig("tiny-lego"), data_root)
    assert tiny.counts == {"train": 88, "validation": 4, "test": 8, "height": 100, "width": 100}
    assert tiny.focal == pytest.approx(lego.focal)
    assert not tiny.white
    images = torch.cat([part.images for part in (tiny.train, tiny.validation, tiny.test)])
    poses = torch.cat([part.poses for part in (tiny.train, tiny.validation, tiny.test)])
    assert torch.equal(poses, lego.train.poses)
    # Someone else made it smaller, and averaged colours without regard to opacity: edges differ a little.
    assert (images - lego.train.images).abs().mean() < 1e-3
    check_invariants(tiny)


def test_a_held_out_view_is_held_against_its_own_picture(lego, data_root):
    """The published tiny example scored the held-out view against the last training picture."""
    tiny = load_scene(SceneConfig("tiny-lego"), data_root)
    _, colours = all_rays(tiny.test, tiny)
    difference = (colours.view(8, 100, 100, 3)[:, None] - lego.train.images[None]).abs().mean(dim=(2, 3, 4))
    assert difference.argmin(dim=1).tolist() == list(range(92, 100))


def test_the_tiny_layout_made_smaller(data_root):
    tiny, small = (load_scene(SceneConfig("tiny-lego", shrink=shrink, limit=2), data_root) for shrink in (1, 4))
    torch.testing.assert_close(small.train.images[1, 10, 7], tiny.train.images[1, 40:44, 28:32].mean(dim=(0, 1)))
    assert small.focal == pytest.approx(tiny.focal / 4)


def test_fern(fern, data_root):
    assert fern.counts == {"train": 15, "validation": 2, "test": 3, "height": 378, "width": 504}
    assert fern.test.names == ("image000.png", "image008.png", "image016.png")
    assert fern.validation.names == ("image005.png", "image014.png")
    assert fern.focal == pytest.approx(3260.52633 / 8)
    assert (fern.near, fern.far, fern.ndc, fern.white, fern.forward_facing) == (0, 1, True, False, True)
    bounds = np.load(data_root / "nerf" / "nerf_llff_fern" / "poses_bounds.npy")[:, 15:]
    assert fern.depths == pytest.approx((4 / 3, 4 / 3 * bounds.max() / bounds.min()))
    check_invariants(fern)


def test_cameras_of_fern_stand_around_the_origin_and_look_ahead(fern):
    poses = torch.cat([part.poses for part in (fern.train, fern.validation, fern.test)])
    torch.testing.assert_close(poses[:, :, 3].mean(dim=0), torch.zeros(3), atol=1e-6, rtol=0)
    back = poses[:, :, 2].mean(dim=0)
    torch.testing.assert_close(back / back.norm(), torch.tensor([0.0, 0, 1]), atol=1e-6, rtol=0)
    assert (poses[:, 1, 1] > 0.9).all()  # none of them upside down


def test_axes_of_photographs_are_down_right_and_backward(data_root, fern):
    """Angles and distances between two cameras, straight from the file."""
    rows = np.load(data_root / "nerf" / "nerf_llff_fern" / "poses_bounds.npy")
    first, second = (rows[number, :15].reshape(3, 5) for number in (0, 8))
    mine, other = fern.test.poses[0].double().numpy(), fern.test.poses[1].double().numpy()
    columns = {0: (1, 1), 1: (0, -1), 2: (2, 1)}  # right, up and back of ours in those of the file
    for ours, (theirs, sign) in columns.items():
        for ours_too, (theirs_too, sign_too) in columns.items():
            expected = sign * sign_too * first[:, theirs] @ second[:, theirs_too]
            assert mine[:, ours] @ other[:, ours_too] == pytest.approx(expected, abs=1e-6)
        shift = sign * first[:, theirs] @ (second[:, 3] - first[:, 3]) * (4 / 3) / rows[:, 15:].min()
        assert mine[:, ours] @ (other[:, 3] - mine[:, 3]) == pytest.approx(shift, abs=1e-5)


def disagreement(scene, axes):
    """How much three photographs differ from a fourth at the best depth for each pixel, with cameras turned by axes."""
    poses, factor = scene.train.poses.clone(), 9
    poses[:, :, :3] = poses[:, :, :3] @ axes
    height, width, focal = scene.height // factor, scene.width // factor, scene.focal / factor
    images = avg_pool2d(scene.train.images.permute(0, 3, 1, 2), factor)
    origins, directions = camera_rays(poses[1], height, width, focal)
    errors = []
    for inverse in torch.linspace(1 / scene.depths[1], 1 / scene.depths[0], 16):
        others = []
        for other in (0, 2, 3):
            points = (origins + directions / inverse - poses[other, :, 3]) @ poses[other, :, :3]
            x, y = focal * points[..., 0] / -points[..., 2], focal * points[..., 1] / points[..., 2]
            places = torch.stack([x / (width / 2), y / (height / 2)], dim=-1)[None]
            seen = grid_sample(images[other, None], places, align_corners=False, padding_mode="border")[0]
            others.append((seen - images[1]).abs().mean(dim=0))
        errors.append(torch.stack(others).mean(dim=0))
    return torch.stack(errors).amin(dim=0).mean()


def test_photographs_agree_where_their_cameras_say(data_root):
    """An oracle that knows nothing of file formats: only with the right axes do the views of one place look alike."""
    scene = load_scene(SceneConfig("fern", shrink=8, limit=5, held_limit=1), data_root)
    right = disagreement(scene, torch.eye(3))
    rolled = torch.tensor([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    for wrong in (rolled, rolled @ rolled, rolled.T, torch.diag(torch.tensor([-1.0, 1, -1]))):
        assert right < 0.75 * disagreement(scene, wrong)


def test_fern_without_device_coordinates(fern, data_root):
    plain = load_scene(SceneConfig("fern", shrink=8, ndc=False, limit=1, held_limit=1), data_root)
    assert (plain.near, plain.far) == pytest.approx((0.9 * fern.depths[0], fern.depths[1]))
    assert not plain.ndc
    assert plain.forward_facing


def test_every_nth_photograph_is_held_out(data_root):
    scene = load_scene(SceneConfig("fern", shrink=8, hold_out=5, held_limit=1), data_root)
    assert scene.test.names == ("image000.png",)
    assert len(scene.train) == 20 - 4 - 3
    scene = load_scene(SceneConfig("fern", shrink=8, hold_out=5, limit=1), data_root)
    assert [name[6:8] for name in scene.test.names] == ["00", "05", "10", "15"]
    assert [name[6:8] for name in scene.validation.names] == ["03", "09", "16"]


def test_names_of_scenes_are_the_papers(data_root):
    assert set(SCENES) > {"traced", "tiny-nerf", "lego", "ship", "fern", "trex"}
    assert len(SCENES) == 3 + 8 + 8


def test_upstream_layouts_are_found(data_root, tmp_path):
    shutil.copytree(data_root / "nerf" / "nerf_llff_fern", tmp_path / "nerf_llff_data" / "fern")
    config = SceneConfig("fern", shrink=8, limit=1, held_limit=1)
    assert torch.equal(load_scene(config, tmp_path).train.images, load_scene(config, data_root).train.images)


def test_scenes_move_as_a_whole(made):
    scene = load_scene(SceneConfig("own"), made).to("meta")
    assert {part.images.device.type for part in (scene.train, scene.validation, scene.test)} == {"meta"}
    assert scene.train.poses.device.type == "meta"


def test_configurations_can_be_keys():
    assert len({SceneConfig(), SceneConfig("traced"), SceneConfig("lego")}) == 2


def valid():
    def views(name):
        return Views(torch.full((1, 2, 2, 3), 0.5), torch.eye(4)[None, :3], (name,))

    return Scene("s", views("a"), views("b"), views("c"), 2, 2, centred(1.0, 2, 2), 2.0, 6.0, False, True, (2.0, 6.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"test": s.train}, r"expected `train` and `test` to share no view, found 'a' in both"),
        (lambda s: {"validation": s.train.pick([])}, r"expected views .* in `validation`, found 0"),
        (lambda s: {"test": s.test.pick([0, 0])}, r"expected views with different names in `test`, found 2 with 1"),
        (lambda s: {"height": 3}, r"`train.images` of shape \[1, 3, 2, 3\] .*, found \[1, 2, 2, 3\]"),
        (lambda s: {"test": replace(s.test, poses=s.test.poses * math.nan)}, r"finite `test.poses`.* 12 of them not"),
        (lambda s: {"test": replace(s.test, poses=s.test.poses.double())}, r"`test.poses`.* and torch.float64"),
        (lambda s: {"train": replace(s.train, images=s.train.images * 4)}, r"`train.images` within 0 and 1, .* to 2"),
        (lambda s: {"near": 6.0}, r"0 <= near < far, found 1, 6 and 6"),
        (lambda s: {"camera": centred(0.0, 2, 2)}, r"focal length above 0"),
    ],
)
def test_a_scene_that_cannot_be_learnt_is_refused(change, message):
    scene = valid()
    assert scene.check() is scene
    with pytest.raises(DataError, match=message):
        replace(scene, **change(scene)).check()
