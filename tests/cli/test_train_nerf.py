"""``feedalign train nerf``, ``tune nerf``, ``render`` and ``bench nerf``."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from feedalign.cli import main
from feedalign.cli.train_nerf import TrainNerf
from feedalign.experiments.records import load_all

SHORT = ("--iterations", "8", "--rays", "32", "--tested", "1", "--threads", "1", "--device", "cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    assert main(["train", "nerf", "--rule", "dfa", *SHORT, "--output", str(folder)]) == 0
    (run,) = load_all(folder)
    return run.directory


def test_a_scene_is_trained_reported_and_kept(trained: Path, command) -> None:
    assert {"record.json", "curve.jsonl", "checkpoint.pt", "strip.png", "view0-seen.png"} <= {
        path.name for path in trained.iterdir()
    }
    report = (trained.parent / "report.html").read_text()
    assert "Scenes" in report
    assert "views that were held out" in report
    said = command("train", "nerf", "--rule", "dfa", *SHORT, "--output", trained.parent.parent)
    assert "holds this run already, finished" in said.err
    assert "New views of scenes" in said.out
    assert f"feedalign render {trained}" in said.out


def test_a_film_and_a_strip_come_from_the_checkpoint(trained: Path, command, tmp_path: Path) -> None:
    words = ("render", trained, "--frames", "2", "--grid", "8", "--threads", "1")
    assert command(*words, "--depth", "--output", tmp_path / "film.gif").code == 0
    with Image.open(tmp_path / "film.gif") as image:
        assert (image.n_frames, image.size) == (2, (128, 64))
    assert command(*words, "--path", "turntable", "--output", tmp_path / "strip.png").code == 0
    with Image.open(tmp_path / "strip.png") as image:
        assert image.size == (2, 64)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--output", "film.mp4"), "Expected a file that ends in .gif or .png, found film.mp4."),
        (("--output", "film.gif", "--frames", "0"), "Expected at least one frame"),
        (("--output", "film.gif", "--dual"), "Expected a coarse and a fine field for --dual, found a run with one."),
    ],
)
def test_films_that_cannot_be_made_are_refused(words, expected: str, trained: Path, command) -> None:
    said = command("render", trained, *words, "--threads", "1")
    assert said.code == 2
    assert expected in said.message


def test_a_folder_without_a_run_is_named(command, tmp_path: Path) -> None:
    said = command("render", tmp_path, "--output", tmp_path / "x.gif")
    assert said.code == 2
    assert f"Expected a record at {tmp_path}" in said.message


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--preset", "lego-40"), "There is no preset 'lego-40'. Did you mean 'lego-400'?"),
        (("--data", "leg"), "There is no scene 'leg'. Did you mean 'lego'?"),
        (("--rule", "dfb"), "There is no rule 'dfb'. Did you mean 'dfa'?"),
        (("--seeds", "0"), "Expected at least one seed"),
        (("--threads", "0"), "Expected at least one thread, found 0."),
        (("--rays", "0"), "Expected at least one ray in a step"),
    ],
)
def test_mistakes_are_named_before_anything_runs(words, expected: str, command, tmp_path: Path) -> None:
    said = command("train", "nerf", *words, "--output", tmp_path)
    assert said.code == 2
    assert expected in said.message
    assert not list(tmp_path.iterdir())


def test_runs_with_other_settings_have_another_name() -> None:
    assert {config.name for config in TrainNerf().configs()} == {"traced"}
    same, other = TrainNerf(iterations=600), TrainNerf(iterations=70, learning_rate=0.01, shrink=2)
    assert {config.name for config in same.configs()} == {"traced"}
    (config, *_) = other.configs()
    assert config.name == "traced_shrink-2_iterations-70_learning-rate-0.01"
    assert (config.iterations, config.every, config.data.shrink) == (70, 35, 2)


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A data root with a folder of one's own: pictures of noise, each through another lens."""
    for part in ("train", "val", "test"):
        frames = []
        for number in range(2):
            path = tmp_path / "own" / part / f"r_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(number).integers(0, 256, (12, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
            matrix = np.eye(4)
            matrix[:3, 3] = number / 10, 0, 4
            lens = {"fl_x": 20.0 + number, "fl_y": 24.0, "cx": 7.5, "cy": 6.5, "w": 16, "h": 12}
            frames.append({"file_path": f"{part}/r_{number}", "transform_matrix": matrix.tolist(), **lens})
        content = {"aabb_scale": 16, "camera_model": "OPENCV", "k1": 0, "frames": frames}
        (tmp_path / "own" / f"transforms_{part}.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


def test_a_scene_of_ones_own_with_a_lens_a_frame_is_trained_and_rendered(own: Path, command) -> None:
    words = ("train", "nerf", "--data", "own", "--rule", "dfa", *SHORT, "--data-root", own, "--output", own / "runs")
    said = command(*words)
    assert said.code == 0
    assert "Not used, since no ray depends on it: `aabb_scale`" in said.message
    (run,) = load_all(own / "runs")
    assert run.record.data == {"train": 2, "validation": 2, "test": 2, "height": 12, "width": 16, "name": "own"}
    assert len(run.record.metrics["test"]["views"]) == 1
    render = ("render", run.directory, "--data-root", own, "--frames", "2", "--grid", "4", "--threads", "1")
    for path in ("test", "turntable"):
        assert command(*render, "--path", path, "--output", own / f"{path}.gif").code == 0
        assert command(*render, "--path", path, "--output", own / f"{path}.png").code == 0
    with Image.open(own / "test.gif") as image:
        assert image.size == (32, 12)  # beside the photographs


def test_a_lens_that_is_no_pinhole_ends_in_two(own: Path, command) -> None:
    path = own / "own" / "transforms_val.json"
    path.write_text(path.read_text(encoding="utf-8").replace("OPENCV", "OPENCV_FISHEYE"), encoding="utf-8")
    said = command("train", "nerf", "--data", "own", "--data-root", own, "--output", own / "runs", *SHORT)
    assert said.code == 2
    assert f"{path}, top level: expected the `camera_model` of a pinhole" in said.message
    assert "found 'OPENCV_FISHEYE'. Undistort the pictures first" in said.message
    assert not (own / "runs").exists()


def test_a_search_of_no_runs_is_refused(command) -> None:
    said = command("tune", "nerf", "--runs", "0")
    assert said.code == 2
    assert "Expected at least one trial and run, found 7 and 0." in said.message


def test_every_rule_is_given_the_same_trials(command, tmp_path: Path) -> None:
    words = ("--iterations", "4", "--rule", "dfa", "shallow", "--threads", "1", "--keep", tmp_path / "kept.json")
    said = command("tune", "nerf", *words, "--output", tmp_path)
    assert said.code == 0
    assert "best (dB)" in said.out
    trials = json.loads((tmp_path / "traced" / "tuning.json").read_text())["trials"]
    settings = {rule: [trial["settings"] for trial in found] for rule, found in trials.items()}
    assert settings["dfa"] == settings["shallow"]
    assert len(settings["dfa"]) == 7
    assert set(json.loads((tmp_path / "kept.json").read_text())["traced"]) == {"dfa", "shallow"}
    assert not load_all(tmp_path)


def test_rays_per_second_are_measured_and_shown(command, tmp_path: Path) -> None:
    words = ("--systems", "tiny", "--rays", "16", "--rounds", "2", "--warmup", "1", "--output", tmp_path)
    said = command("bench", "nerf", *words)
    assert said.code == 0
    cases = {case["rule"]: case for case in json.loads((tmp_path / "record.json").read_text())["cases"]}
    assert list(cases) == [
        "backprop", "dfa", "shallow", "backprop-skipping", "dfa-skipping", "render", "render-skipping",
    ]  # fmt: skip
    # DFA forms no gradient for the input of the second layer and of the head: two thirds of what backprop does there.
    inside, outside = 128 * 128 + 128 * 4, 63 * 128
    assert cases["dfa"]["arithmetic_limit"] == pytest.approx(
        (3 * inside + 2 * outside) / (2 * inside + 2 * outside), rel=0.02
    )
    assert cases["render-skipping"]["arithmetic_limit"] > 2
    assert cases["dfa-skipping"]["arithmetic_limit"] > cases["backprop-skipping"]["arithmetic_limit"] > 2
    assert cases["dfa"]["rays_per_second"] == pytest.approx(16 / cases["dfa"]["median_seconds"])
    assert command("report", tmp_path).code == 0
    assert "Rays of radiance fields" in (tmp_path / "report.html").read_text()
    said = command("bench", "nerf", "--systems", "huge", "--output", tmp_path)
    assert "systems out of tiny, published, paper; found 'huge'" in said.message
