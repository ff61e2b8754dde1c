"""The scenes among the data sets of the command line."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def photographs(data_root: Path, tmp_path: Path) -> Path:
    """A data root with fern alone."""
    shutil.copytree(data_root / "nerf" / "nerf_llff_fern", tmp_path / "nerf_llff_data" / "fern")
    return tmp_path


def test_data_list_shows_the_scenes(command, photographs: Path) -> None:
    said = command("data", "list", "--data-root", photographs)
    assert said.code == 0
    assert f"Scenes under {photographs}" in said.out
    rows = {words[0]: " ".join(words[1:]) for words in map(str.split, said.out.splitlines()) if words}
    assert rows["traced"].endswith("built in 50")
    assert rows["fern"].endswith("nerf_llff_data/fern 20")
    assert rows["lego"].endswith("not there; goes to nerf_synthetic/lego 400")


def test_data_check_reads_scenes(command, data_root: Path) -> None:
    said = command("data", "check", "traced", "tiny-lego", "--data-root", data_root)
    assert said.code == 0
    assert said.out == (
        "traced: 40 training, 4 validation and 6 test views; built in, no file to check.\n"
        "tiny-lego: 88 training, 4 validation and 8 test views; every picture was read, but no hashes are known.\n"
    )


def test_data_check_of_everything_checks_the_scenes_that_are_there(command, photographs: Path) -> None:
    (photographs / "nerf_llff_data" / "fern" / "images_8" / "image003.png").write_bytes(b"no picture")
    said = command("data", "check", "--data-root", photographs)
    assert said.code == 2
    assert "traced: 40 training" in said.out
    assert "image003.png is not a picture, or is damaged" in said.out
    assert "Not usable: mnist," in said.message
    assert "fern" in said.message
    assert "lego" not in said.message  # which is not there


def test_a_part_of_a_scene_is_called_one(command, data_root: Path, photographs: Path) -> None:
    said = command("data", "check", "fern", "--data-root", photographs)
    assert said.out.startswith("fern: 15 training, 2 validation and 3 test views; every picture was read")
    said = command("data", "check", "lego", "--data-root", data_root)
    assert said.out.startswith("lego: 100 training, 13 validation and 25 test views (a part: there are 400 in all);")


def test_fetching_a_scene_says_where_to_get_it(command, tmp_path: Path) -> None:
    said = command("data", "fetch", "lego", "--data-root", tmp_path)
    assert said.code == 2
    assert "The scene 'lego' is missing." in said.message
    assert "Download nerf_synthetic.zip from https://drive.google.com/" in said.message
