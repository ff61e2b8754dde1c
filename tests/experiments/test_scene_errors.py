"""Scenes that are missing, damaged or do not fit: an error that names the file, and says what to do."""

import json
import math
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from feedalign.experiments.data.scenes import SceneConfig, load_scene
from feedalign.experiments.errors import DataError

SIZE = 8


class Malice:
    """A pickle that makes a folder when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def write_picture(path, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def rendered(tmp_path):
    """A scene in Blender's format, of two views in each part."""
    for part in ("train", "val", "test"):
        frames = []
        for number in range(2):
            write_picture(tmp_path / "scene" / part / f"r_{number}.png")
            frames.append({"file_path": f"./{part}/r_{number}", "transform_matrix": np.eye(4).tolist()})
        content = {"camera_angle_x": 0.7, "frames": frames}
        (tmp_path / "scene" / f"transforms_{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path / "scene"


@pytest.fixture
def photographed(tmp_path):
    """A forward-facing scene of nine photographs."""
    for number in range(9):
        write_picture(tmp_path / "scene" / "images_4" / f"{number}.png")
    rows = np.zeros((9, 17))
    down_right_back = np.array([[0.0, 1, 0], [-1, 0, 0], [0, 0, 1]])
    rows[:, :15].reshape(9, 3, 5)[:] = np.concatenate(
        [down_right_back, np.zeros((3, 1)), np.array([[4.0 * SIZE], [4 * SIZE], [40]])], axis=1
    )
    rows[:, 3] = np.arange(9)
    rows[:, 15:] = 2, 10
    np.save(tmp_path / "scene" / "poses_bounds.npy", rows)
    return tmp_path / "scene"


@pytest.fixture
def packed(tmp_path):
    """A scene in the tiny layout, of five views; the arrays are given to write it anew."""
    path = tmp_path / "tiny_nerf_data.npz"
    arrays = {
        "images": np.full((5, SIZE, SIZE, 3), 0.5, dtype=np.float32),
        "poses": np.tile(np.eye(4, dtype=np.float32), (5, 1, 1)),
        "focal": np.array(9.0),
    }
    np.savez(path, **arrays)
    return path, arrays


def refused(path, message, **options):
    """Assert that a scene is refused with a message that names the file first of all, and says what to do."""
    name = "tiny-nerf" if path.suffix == ".npz" else "scene"
    root = (
        path.parent
        if path.suffix == ".npz"
        else next(one for one in path.parents if one.name != "scene" and (one / "scene").is_dir())
    )
    with pytest.raises(DataError) as caught:
        load_scene(SceneConfig(name, **options), root)
    said = str(caught.value)
    assert str(path) in said
    assert re.search(message, said), said
    assert re.search(r"\. (Do |Add |Correct |Delete |Scale |Take |Undistort )", said), said


def change(path, edit):
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def test_the_scenes_are_good_before_they_are_damaged(rendered):
    assert len(load_scene(SceneConfig("scene"), rendered.parent).train) == 2


def test_photographs_are_good_before_they_are_damaged(photographed):
    scene = load_scene(SceneConfig("scene", shrink=4), photographed.parent)
    assert scene.counts == {"train": 6, "validation": 1, "test": 2, "height": SIZE, "width": SIZE}
    assert scene.focal == pytest.approx(10)


def test_archives_are_good_before_they_are_damaged(packed):
    path, _ = packed
    assert load_scene(SceneConfig("tiny-nerf"), path.parent).counts["train"] == 3


# Pictures


def test_a_missing_picture(rendered):
    (rendered / "val" / "r_1.png").unlink()
    refused(rendered / "val" / "r_1.png", "^The picture .* is missing")


def test_pictures_cut_short_or_changed(rendered):
    path = rendered / "test" / "r_0.png"
    content = path.read_bytes()
    for damaged in (
        content[:-60],
        content[: len(content) // 2],
        b"",
        b"no picture",
        content[:100] + b"?" + content[101:],
    ):
        path.write_bytes(damaged)
        refused(path, "is not a picture, or is damaged: .* Do fetch it again")


def test_a_picture_of_another_size(rendered):
    write_picture(rendered / "test" / "r_1.png", SIZE + 2)
    refused(rendered / "test" / "r_1.png", "has another size than .*r_0.png: expected 8 x 8 pixels, found 10 x 10")


def test_a_photograph_of_another_size(photographed):
    write_picture(photographed / "images_4" / "8.png", SIZE + 1)
    refused(photographed / "images_4" / "8.png", "expected 8 x 8 pixels, found 9 x 9", shrink=4)


def test_a_picture_of_sixteen_bits(rendered):
    path = rendered / "train" / "r_0.png"
    Image.fromarray(np.zeros((SIZE, SIZE), dtype=np.uint16)).save(path)
    refused(path, "is stored as 'I;16': expected eight bits a channel")


def test_a_picture_that_cannot_be_made_smaller(rendered):
    refused(rendered / "train" / "r_0.png", "multiples of 3, found 8 and 8. Do choose another `shrink`", shrink=3)


def test_a_grey_picture_counts_as_coloured(rendered):
    for part in ("train", "val", "test"):
        for number in range(2):
            Image.new("L", (SIZE, SIZE), 51).save(rendered / part / f"r_{number}.png")
    images = load_scene(SceneConfig("scene"), rendered.parent).train.images
    torch.testing.assert_close(images, torch.full((2, SIZE, SIZE, 3), 0.2))


# Camera files of Blender


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda c: c["frames"][1]["transform_matrix"][1].__setitem__(3, math.nan),
            "train/r_1, found nan in row 1, column 3",
        ),
        (lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(0, 2.0), "rotation .* in the pose of train/r_0"),
        (lambda c: c["frames"][0]["transform_matrix"][0].__setitem__(0, -1.0), "right-handed.* determinant -1"),
        (lambda c: c["frames"][0].update(transform_matrix=[[1, 0], [0, 1]]), r"4 x 4 .* frame 0 .* shape \[2, 2\]"),
        (lambda c: c["frames"][1].pop("transform_matrix"), "in frame 1, found none .KeyError"),
        (lambda c: c["frames"][1].pop("file_path"), "in frame 1, found none"),
        (lambda c: c["frames"][1].update(transform_matrix="one"), "in frame 1, found none"),
        (lambda c: c.update(frames=[3]), "in frame 0, found none"),
        (lambda c: c.update(frames=[]), "a list `frames` of at least one view, found none"),
        (lambda c: c.pop("camera_angle_x"), "`camera_angle_x` between 0 and pi radians, found None"),
        (lambda c: c.update(camera_angle_x=4.0), "`camera_angle_x` between 0 and pi radians, found 4.0"),
    ],
)
def test_a_camera_file_with_a_bad_entry(rendered, edit, message):
    change(rendered / "transforms_train.json", edit)
    refused(rendered / "transforms_train.json", message)


def test_camera_files_of_two_cameras(rendered):
    change(rendered / "transforms_val.json", lambda content: content.update(camera_angle_x=0.8))
    refused(rendered / "transforms_val.json", "expected the `camera_angle_x` of transforms_train.json, 0.7, found 0.8")


def test_a_missing_camera_file(rendered):
    (rendered / "transforms_test.json").unlink()
    refused(rendered / "transforms_test.json", "^The camera file .* is missing")


@pytest.mark.parametrize("content", ['{"camera_angle_x": 0.7, "fra', "[1, 2]", "\x00\x01", "\ud83e"])
def test_a_camera_file_that_is_no_json(rendered, content):
    (rendered / "transforms_train.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    refused(rendered / "transforms_train.json", "Do fetch it again")


def test_a_view_in_two_parts(rendered):
    change(rendered / "transforms_test.json", lambda content: content["frames"][0].update(file_path="train/r_0"))
    with pytest.raises(DataError, match=r"`train` and `test` to share no view, found 'train/r_0' in both"):
        load_scene(SceneConfig("scene"), rendered.parent)


# Camera files of photographs


def rewritten(folder, edit):
    rows = np.load(folder / "poses_bounds.npy")
    np.save(folder / "poses_bounds.npy", edit(rows))
    return folder / "poses_bounds.npy"


def entry(row, column, value):
    def edit(rows):
        rows[row, column] = value
        return rows

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda rows: rows[:8], r"expected an array \[9, 17\], one row for each picture, found \[8, 17\]"),
        (lambda rows: rows[:, :16], r"found \[9, 16\]"),
        (entry(2, 8, math.nan), "pose of 2.png, found nan in row 1, column 3"),
        (entry(4, 0, 0.5), "expected a rotation .* in the pose of 4.png"),
        (entry(5, 15, math.nan), r"0 < nearest < farthest, found .*nan.* for 5.png"),
        (entry(5, 15, 11), r"0 < nearest < farthest, found .* \[11.0, 10.0\] for 5.png"),
        (entry(5, 16, math.inf), "0 < nearest < farthest"),
        (entry(1, 14, 50), "the same height, width and focal length for all pictures"),
        (lambda rows: rows.astype(str) + "?", "is damaged or of another format"),
    ],
)
def test_a_camera_file_that_does_not_fit_the_photographs(photographed, edit, message):
    refused(rewritten(photographed, edit), message, shrink=4)


def test_photographs_of_another_size_than_the_cameras(photographed):
    path = rewritten(photographed, lambda rows: rows * np.where(np.isin(np.arange(17), (4, 9)), 2, 1))
    refused(path, r"does not fit .*: expected a picture of 16 x 16 pixels .* 64 x 64 made 4 times", shrink=4)


def test_hidden_files_are_no_photographs(photographed):
    before = load_scene(SceneConfig("scene", shrink=4), photographed.parent)
    for name in (".DS_Store", "._0.png", "._8.png", ".hidden.jpg"):
        (photographed / "images_4" / name).write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")
    (photographed / "._images_2").write_bytes(b"Mac OS X")
    after = load_scene(SceneConfig("scene", shrink=4), photographed.parent)
    assert after.train.names == before.train.names
    assert torch.equal(after.train.images, before.train.images)


def test_a_size_of_photographs_that_is_not_there(photographed):
    refused(photographed / "images", "found those for a `shrink` of 4. Do choose another `shrink`")
    refused(photographed / "images_2", "found those for a `shrink` of 4", shrink=2)
    for path in (photographed / "images_4").iterdir():
        path.unlink()
    refused(photographed / "images_4", "is empty: expected pictures", shrink=4)
    (photographed / "images_4").rmdir()
    refused(photographed / "images_4", "found none", shrink=4)


def test_too_few_photographs_for_three_parts(photographed):
    refused(photographed, "held out, found 9. Do add pictures", shrink=4, hold_out=20)


def test_a_camera_file_that_is_a_pickle_is_never_opened(photographed, tmp_path):
    path = photographed / "poses_bounds.npy"
    for content in (pickle.dumps(Malice(tmp_path / "made")), b"", b"\x93NUMPY\x01\x00"):
        path.write_bytes(content)
        refused(path, "is damaged or of another format", shrink=4)
    np.save(path, np.array([Malice(tmp_path / "made")], dtype=object), allow_pickle=True)
    refused(path, "is damaged or of another format", shrink=4)
    np.savez(photographed / "other.npz", rows=np.zeros(3))
    (photographed / "other.npz").rename(path)
    refused(path, "is damaged or of another format", shrink=4)
    assert not (tmp_path / "made").exists()


# Archives


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: {"poses": a["poses"][:4]}, r"`poses` \[V, 4, 4\] .* found \[5, 8, 8, 3\], \[4, 4, 4\]"),
        (lambda a: {"images": a["images"][..., :2]}, r"found \[5, 8, 8, 2\]"),
        (lambda a: {"focal": np.ones(5)}, r"one `focal`, found .* and \[5\]"),
        (lambda a: {"images": a["images"] * 255}, "within 0 and 1 in `images`, found 127.5 to 127.5"),
        (lambda a: {"images": a["images"] * np.nan}, "within 0 and 1 in `images`, found nan"),
        (lambda a: {"poses": a["poses"] * np.nan}, "pose of view 0, found nan in row 0, column 0"),
        (lambda a: {"images": a["images"][:2], "poses": a["poses"][:2]}, "at least 3 views, .* found 2"),
        (lambda a: {"images": a["images"].astype(str) + "?"}, "is damaged or of another layout .ValueError"),
        (lambda a: {"images": np.array([[None]], dtype=object)}, "is damaged or of another layout"),
    ],
)
def test_an_archive_with_a_bad_array(packed, edit, message):
    path, arrays = packed
    np.savez(path, **{**arrays, **edit(arrays)})
    refused(path, message)


def test_an_archive_without_an_array(packed):
    path, arrays = packed
    del arrays["focal"]
    np.savez(path, **arrays)
    refused(path, "is damaged or of another layout .KeyError")


def test_archives_cut_short_or_changed(packed):
    path, _ = packed
    content = path.read_bytes()
    for damaged in (content[:-100], content[:2000] + b"?" + content[2001:], b"", b"no archive"):
        path.write_bytes(damaged)
        refused(path, "is damaged or of another layout")


def test_an_archive_with_a_pickle_is_never_opened(packed, tmp_path):
    path, arrays = packed
    np.savez(path, **{**arrays, "images": np.array([Malice(tmp_path / "made")], dtype=object)}, allow_pickle=True)
    refused(path, "is damaged or of another layout .ValueError")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images", pickle.dumps(Malice(tmp_path / "made")))
    refused(path, "is damaged or of another layout")
    assert not (tmp_path / "made").exists()


def test_an_archive_on_white(packed):
    refused(packed[0], "expected the background 'black'.* Do leave `background` out", background="white")


# Pages in place of files

PAGE = b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html><body>Please sign in</body></html>\n"


def refused_as_a_page(path, **options):
    kept = path.read_bytes()
    path.write_bytes(PAGE)
    refused(
        path, "is an HTML page, saved under the name of a data file: .* that begins with '<!DOCTYPE html>'", **options
    )
    path.write_bytes(kept)


def test_pages_in_place_of_files_of_blenders_format(rendered):
    refused_as_a_page(rendered / "test" / "r_1.png")
    refused_as_a_page(rendered / "transforms_val.json")


def test_pages_in_place_of_photographs_and_their_cameras(photographed):
    refused_as_a_page(photographed / "images_4" / "3.png", shrink=4)
    refused_as_a_page(photographed / "poses_bounds.npy", shrink=4)


def test_a_page_in_place_of_an_archive(packed):
    refused_as_a_page(packed[0])


# Configurations


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"shrink": 0}, "Expected `shrink` of a scene to be at least 1, found 0"),
        ({"limit": 0}, "Expected `limit` of a scene to be at least 1, found 0"),
        ({"held_limit": -1}, "Expected `held_limit` of a scene to be at least 1, found -1"),
        ({"hold_out": 1}, "Expected `hold_out` of a scene to be at least 2, found 1"),
        ({"size": 1}, "Expected `size` of a scene to be at least 2, found 1"),
        ({"background": "grey"}, "Expected the background 'white' or 'black', found 'grey'"),
    ],
)
def test_a_configuration_that_makes_no_sense(fields, message):
    with pytest.raises(DataError, match=message):
        load_scene(SceneConfig(**fields))


def test_an_unknown_scene(tmp_path):
    with pytest.raises(
        DataError, match=r"There is no scene 'leggo'. Did you mean 'lego'\? There are: traced, tiny-nerf,"
    ):
        load_scene(SceneConfig("leggo"), tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("ship", r"nerf_synthetic/ship\n.*Download nerf_synthetic.zip from https://drive.google.com/\S+ by hand"),
        ("trex", r"nerf_llff_data/trex\n.*Download nerf_llff_data.zip from https://drive.google.com/\S+ by hand"),
        ("tiny-nerf", r"tiny_nerf_data.npz\n.*Download it from https://people.eecs.berkeley.edu/\S+ by hand"),
        ("tiny-lego", "It is not published: 'lego' with a `shrink`"),
    ],
)
def test_a_missing_scene_says_where_to_get_it_and_how_it_must_lie(tmp_path, name, remedy):
    with pytest.raises(DataError) as caught:
        load_scene(SceneConfig(name), tmp_path)
    said = str(caught.value)
    assert f"The scene {name!r} is missing. Expected it in one of these:\n  {tmp_path}/" in said
    assert re.search(remedy, said, re.DOTALL), said
    assert "The scene 'traced' needs no file." in said
