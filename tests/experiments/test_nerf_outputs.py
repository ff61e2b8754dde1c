"""What is made of a trained scene: scores, pictures, strips, films, tables and figures."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from feedalign.experiments import records
from feedalign.experiments.data.scenes import SceneConfig, load_scene
from feedalign.experiments.nerf.films import film, write_gif
from feedalign.experiments.nerf.metrics import psnr, ssim
from feedalign.experiments.nerf.paths import turntable
from feedalign.experiments.nerf.pictures import as_image, depth_colours, keep_pictures, write_png
from feedalign.experiments.nerf.plots import nerf_pictures
from feedalign.experiments.nerf.presets import preset
from feedalign.experiments.nerf.tables import nerf_tables, published
from feedalign.experiments.nerf.views import Picture, box, find_empty_space, render, score, some, strip
from feedalign.experiments.styles import style
from feedalign.experiments.tables import to_markdown


class Ball(nn.Module):
    """A dense orange ball of radius 1 around the origin."""

    def forward(self, positions, directions):
        inside = positions.norm(dim=-1, keepdim=True) < 1
        colour = torch.tensor([9.0, 0.0, -9.0]).expand(positions.shape)
        return torch.cat([colour, torch.where(inside, 1e4, -1.0)], dim=-1)


@pytest.fixture(scope="module")
def scene():
    return load_scene(SceneConfig("traced", size=16, limit=8, held_limit=3))


@pytest.fixture
def model(scene):
    found = preset("traced").build(scene.near, scene.far, scene.white)
    found.coarse = Ball()
    return found


def test_psnr_and_ssim_of_known_pictures():
    assert psnr(0.01) == pytest.approx(20)
    assert psnr(0.0) == float("inf")
    truth = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0))
    assert ssim(truth, truth) == pytest.approx(1)
    # Of constant pictures only the comparison of brightness is left.
    dark, light = torch.full((16, 16, 3), 0.2), torch.full((16, 16, 3), 0.6)
    assert ssim(dark, light) == pytest.approx((2 * 0.2 * 0.6 + 1e-4) / (0.2**2 + 0.6**2 + 1e-4), abs=1e-6)
    with pytest.raises(ValueError, match="Expected pictures of at least 11 pixels a side"):
        ssim(truth[:10], truth[:10])


def test_a_ball_is_seen_as_a_disc_of_the_right_size(model, scene):
    pose = turntable(4.0, 1)[0].float()
    picture = render(model, scene, pose)
    assert picture.colour.shape == (16, 16, 3)
    # The tangent cone of a ball of radius 1 from distance 4 has half-angle asin(1/4).
    radius = scene.focal * np.tan(np.arcsin(1 / 4))
    rows, columns = np.mgrid[0:16, 0:16] + 0.5 - 8
    distance = np.hypot(rows, columns)
    covered = picture.opacity.numpy() > 0.5
    assert covered[distance < radius - 0.7].all()
    assert not covered[distance > radius + 0.7].any()
    torch.testing.assert_close(picture.colour[8, 8], torch.tensor([1.0, 0.5, 0.0]), atol=0.01, rtol=0)
    assert picture.depth[8, 8].item() == pytest.approx(3, abs=0.15)
    assert picture.colour[0, 0].eq(1).all()
    assert model.training  # as it was


def test_a_column_is_that_of_the_whole_picture_and_a_strip_its_columns(model, scene):
    poses = turntable(4.0, 3).float()
    whole = [render(model, scene, pose).colour for pose in poses]
    torch.testing.assert_close(render(model, scene, poses[1], column=5).colour[:, 0], whole[1][:, 5])
    found = strip(model, scene, poses)
    assert found.shape == (16, 3, 3)
    torch.testing.assert_close(found[:, 2], whole[2][:, 8])


def test_empty_space_is_skipped_in_whole_pictures(model, scene):
    pose = scene.test.poses[0]
    plain = render(model, scene, pose)
    grid = find_empty_space(model, scene, 32)
    assert grid.share < 0.5
    torch.testing.assert_close(render(model, scene, pose).colour, plain.colour, atol=1e-5, rtol=0)


def test_the_box_holds_what_all_cameras_reach(scene):
    low, high = box(scene)
    stand = scene.train.poses[:, :, 3].norm(dim=1)
    assert torch.equal(low, -high)
    assert high.max().item() == pytest.approx(scene.far - stand.min().item(), abs=1e-5)


def test_scores_are_means_over_views(model, scene):
    seen = []
    found = score(model, scene, scene.test, told=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert list(found["views"]) == list(scene.test.names)
    for what in ("psnr", "ssim"):
        assert found[what] == pytest.approx(np.mean([view[what] for view in found["views"].values()]))
    name, pose, truth = scene.test.names[1], scene.test.poses[1], scene.test.images[1]
    error = (render(model, scene, pose).colour - truth).square().mean().item()
    assert found["views"][name]["psnr"] == pytest.approx(psnr(error))
    assert list(score(model, scene, scene.test, count=1)["views"]) == [scene.test.names[0]]


def test_some_views_are_evenly_chosen(scene):
    assert some(scene.train, None) is scene.train
    assert some(scene.train, 4).names == scene.train.names[::2]
    assert len(some(scene.train, 99)) == 8


def test_depths_are_dark_where_near_and_white_where_nothing_is(scene):
    depth, opacity = torch.tensor([[scene.near, scene.far, 3.0]]), torch.tensor([[1.0, 1.0, 0.1]])
    near, far, nothing = depth_colours(Picture(torch.zeros(1, 3, 3), depth, opacity), scene)[0]
    assert near.sum() < far.sum()
    assert nothing.eq(1).all()


def test_pictures_are_kept_small(model, scene, tmp_path):
    written = keep_pictures(model, scene, tmp_path, 2)
    assert {path.name for path in written} == {
        "strip.png", *(f"view{number}-{what}.png" for number in (0, 1) for what in ("truth", "seen", "depth"))
    }  # fmt: skip
    with Image.open(tmp_path / "view0-truth.png") as image:
        truth = np.asarray(image)
    assert np.abs(truth / 255 - scene.test.images[0].numpy()).max() <= 0.5 / 255 + 1e-6
    assert write_png(tmp_path / "large.png", torch.rand(300, 400, 3)).exists()
    with Image.open(tmp_path / "large.png") as image:
        assert image.size == (200, 150)


def test_colours_become_levels_of_a_byte():
    levels = np.asarray(as_image(torch.tensor([[[0.0, 0.5, 1.0], [-1.0, 2.0, 0.2]]])))
    assert levels.tolist() == [[[0, 128, 255], [0, 255, 51]]]


def test_a_film_is_an_endless_gif_of_its_frames(model, scene, tmp_path):
    frames = film(model, scene, scene.test.poses, depth=True, views=scene.test)
    assert frames[0].shape == (16, 3 * 16, 3)
    torch.testing.assert_close(frames[1][:, :16], scene.test.images[1])
    path = write_gif(tmp_path / "film.gif", frames, per_second=10)
    with Image.open(path) as image:
        assert (image.n_frames, image.size, image.info["duration"], image.info["loop"]) == (3, (48, 16), 100, 0)
    with pytest.raises(ValueError, match="Expected at least one frame"):
        write_gif(tmp_path / "none.gif", [])


def test_the_dual_picture_needs_both_fields_and_lies_between(scene):
    torch.manual_seed(0)
    config = preset("lego-400")
    both = replace(config, rendering=replace(config.rendering, coarse=16, fine=8)).build(scene.near, scene.far, True)
    pose = scene.test.poses[0]
    both.fine.load_state_dict(both.coarse.state_dict())
    plain = render(both, scene, pose).colour
    both.dual = True
    torch.testing.assert_close(render(both, scene, pose).colour, plain)


@pytest.fixture
def recorded(tmp_path, model, scene):
    """Runs of three rules as their folders would be: records with made-up figures, real pictures."""
    for number, rule in enumerate(("bp", "dfa", "shallow")):
        for seed in range(2):
            folder = tmp_path / f"{rule}-seed{seed}"
            folder.mkdir()
            config = replace(preset("tiny-lego", rule, seed), device="cpu")
            views = {f"{i}": {"psnr": 25.0 - number + i + seed, "ssim": 0.9 - 0.1 * number} for i in range(2)}
            scored = {"psnr": 25.5 - number + seed, "ssim": 0.9 - 0.1 * number, "views": views}
            cosine = {"mean": 0.5, "std": 0.2, "n": 60, "zero_error": 20, "undefined": 0}
            record = records.Record(
                experiment="nerf", name="tiny-lego", rule=rule, seed=seed, config=records.describe(config), versions={},
                device="cpu", threads=1, commit=None, dirty=False, started="2026-01-01T00:00:00", wall_seconds=1.0,
                peak_memory_bytes=1, parameters=1, alignment={"coarse.layers.0": cosine} if rule == "dfa" else None,
                data={"name": "tiny-lego", "width": 100, "height": 100},
                metrics={"final": {}, "best": {}, "test": scored, "validation": scored},
            )  # fmt: skip
            records.save(record, folder)
            line = {"step": 0, "train_psnr": 10.0, "validation_psnr": 9.0}
            records.write_curve(folder / records.CURVE, [line, {**line, "step": 250, "train_psnr": 20.0}])
            if seed == 0:
                keep_pictures(model, scene, folder, 2)
    return records.load_all(tmp_path)


def test_tables_hold_means_over_seeds_beside_the_published_figures(recorded):
    tables = {table.title: table for table in nerf_tables(recorded)}
    quality, _, alignment, views = tables.values()
    assert quality.rows == (
        ("tiny-lego", "100 x 100", "5,000", "2", "26.00 ± 6.35", "25.00 ± 6.35", "24.00 ± 6.35", "32.54", "24.93"),
    )
    assert "larger pictures" in quality.notes[0]
    assert alignment.rows == (("tiny-lego", "DFA", "coarse.layers.0", "0.500 ± 0.000", "0.20", "25"),)
    assert views.rows[1] == ("1", "26.00", "25.00", "24.00", "0.900", "0.800", "0.700")
    assert all(to_markdown(table) for table in tables.values())


def test_every_published_scene_has_both_figures():
    found = published()["psnr"]
    assert len(found) == 16
    assert found["lego"] == {"bp": 32.54, "dfa": 24.93}
    assert found["fern"] == {"bp": 25.17, "dfa": 21.82}
    assert all(json.dumps(rules) and rules["bp"] > rules["dfa"] for rules in found.values())


def test_figures_have_a_column_a_rule(recorded):
    figures = dict(nerf_pictures(recorded))
    assert list(figures) == ["nerf-tiny-lego-views", "nerf-tiny-lego-strips", "nerf-tiny-lego-psnr"]
    titles = [axes.get_title() for axes in figures["nerf-tiny-lego-views"].axes[:4]]
    assert titles == ["photograph", "backprop", "DFA", "shallow"]
    shown = [axes for axes in figures["nerf-tiny-lego-views"].axes if axes.images]
    assert len(shown) == 2 + 2 * 2 * 3  # two photographs; picture and depth of two views under three rules
    lines = figures["nerf-tiny-lego-psnr"].axes[0].get_lines()
    assert [line.get_color() for line in lines[::2]] == [
        style(rule)["color"] for rule in ("backprop", "dfa", "shallow")
    ]
    assert all("tiny-lego" in figure.get_label() for figure in figures.values())


def test_runs_without_pictures_have_curves_alone(recorded):
    for run in recorded:
        for path in run.directory.glob("*.png"):
            path.unlink()
    assert [name for name, _ in nerf_pictures(recorded)] == ["nerf-tiny-lego-psnr"]
