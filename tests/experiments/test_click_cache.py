"""Caches of click logs: made once, whole or not at all, and made anew when what they depend on changes."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from feedalign.experiments.data import click_cache
from feedalign.experiments.data.click_cache import cache_root
from feedalign.experiments.data.click_data import Clicks
from feedalign.experiments.data.clicks import ClickConfig, load_clicks
from feedalign.experiments.errors import DataError, OutputError

LINE = "\t".join(["{label}", *["3"] * 13, *["{category}"] * 26])


class Watched:
    """A progress callback that remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int, int]] = []

    def __call__(self, what: str, done: int, rows: int) -> None:
        self.told.append((what, done, rows))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with a log of 40 rows."""
    write(tmp_path, 40)
    return tmp_path


def write(root: Path, rows: int) -> Path:
    file = root / "criteo" / "train.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(LINE.format(label=row % 2, category=f"c{row % 4}") for row in range(rows)) + "\n")
    return file


def load(root: Path, watched: Watched | None = None, **options: int) -> Clicks:
    return load_clicks(ClickConfig("criteo", **options), root, cache=root / "cache", progress=watched)


def caches(root: Path) -> list[str]:
    """Return the names of the caches that are there, after making sure that nothing else takes space."""
    folder = root / "cache" / "clicks"
    hidden = [path for path in folder.iterdir() if path.name.startswith(".")]
    assert not any(list(path.iterdir()) for path in hidden)
    return sorted(path.name for path in folder.iterdir() if path not in hidden)


def test_a_cache_is_made_once(root: Path) -> None:
    first, second = Watched(), Watched()
    made = load(root, first)
    assert first.told == [("count categories", 40, 40), ("write indices", 40, 40)]
    again = load(root, second)
    assert second.told == []
    np.testing.assert_array_equal(made.indices, again.indices)
    assert isinstance(again.indices, np.memmap)
    assert not again.indices.flags.writeable
    assert len(caches(root)) == 1


@pytest.mark.parametrize("change", [{"minimum_count": 3}, {"split_seed": 1}, {"rows": 30}])
def test_other_options_have_another_cache(root: Path, change: dict[str, int]) -> None:
    load(root)
    watched = Watched()
    load(root, watched, **change)
    assert watched.told
    assert len(caches(root)) == 2


def test_a_changed_file_has_another_cache(root: Path) -> None:
    assert load(root).counts["rows"] == 40
    write(root, 50)
    assert load(root).counts["rows"] == 50
    write(root, 40)
    watched = Watched()
    assert load(root, watched).counts["rows"] == 40
    assert watched.told == [], "the first cache still holds"


def test_a_file_that_was_moved_has_the_same_cache(root: Path) -> None:
    load(root)
    (root / "criteo" / "train.txt").rename(root / "train.txt")
    watched = Watched()
    load(root, watched)
    assert watched.told == []


def test_a_large_file_is_hashed_again_only_when_it_may_have_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_cache, "LARGE", 1)
    file = root / "criteo" / "train.txt"
    load(root)
    about = file.stat()
    # Same size and time: not hashed, so the change is not seen; this is what the documentation says.
    content = file.read_bytes()
    file.write_bytes(content.replace(b"c3", b"c9"))
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
    watched = Watched()
    load(root, watched)
    assert watched.told == []
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
    load(root, watched)
    assert watched.told


def test_what_was_half_written_is_not_taken_for_a_cache(root: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop(what: str, done: int, rows: int) -> None:
        if what == "write indices":
            raise Stop

    with pytest.raises(Stop):
        load_clicks(ClickConfig("criteo"), root, cache=root / "cache", progress=stop)
    assert caches(root) == []
    assert load(root).counts["rows"] == 40


def test_what_a_killed_process_left_behind_is_thrown_away(root: Path) -> None:
    expected = np.array(load(root).indices)
    (name,) = caches(root)
    folder = root / "cache" / "clicks"
    (folder / name).rename(folder / f".{name}" / "content")
    (folder / f".{name}" / "content" / "indices.npy").write_bytes(b"half")
    np.testing.assert_array_equal(load(root).indices, expected)
    assert caches(root) == [name]


def test_two_at_a_time_make_one_cache(root: Path) -> None:
    watched, found = Watched(), []
    threads = [threading.Thread(target=lambda: found.append(load(root, watched))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(watched.told) == 2, "one of them made it, the others waited"
    assert len(caches(root)) == 1


def test_a_damaged_cache_says_what_to_do(root: Path) -> None:
    load(root)
    (name,) = caches(root)
    folder = root / "cache" / "clicks" / name
    content = (folder / "indices.npy").read_bytes()
    (folder / "indices.npy").write_bytes(content[:-1])
    with pytest.raises(DataError, match=rf"The cache {folder} is damaged .*Delete it, and it will be made again"):
        load(root)


def test_a_cache_says_what_it_is_made_of(root: Path) -> None:
    load(root, split_seed=5)
    (name,) = caches(root)
    folder = root / "cache" / "clicks" / name
    about = json.loads((folder / "about.json").read_text())
    assert about["parts"] == [32, 4, 4]
    assert about["files"] == [str(root / "criteo" / "train.txt")]
    assert about["recipe"]["split_seed"] == 5


def test_a_folder_that_cannot_be_written(root: Path) -> None:
    (root / "cache").write_text("a file")
    with pytest.raises(OutputError, match="Expected a folder that can be written"):
        load(root)


def test_a_full_disk_leaves_nothing_behind(root: Path, tmp_path: Path) -> None:
    def full(what: str, done: int, rows: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match=r"Could not write the cache .*: No space left on device\. Free some space"):
        load_clicks(ClickConfig("criteo"), root, cache=root / "cache", progress=full)
    assert caches(root) == []


def test_caches_lie_where_the_variable_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEEDALIGN_CACHE", str(tmp_path))
    assert cache_root() == tmp_path / "clicks"
    assert cache_root(tmp_path / "other") == tmp_path / "other" / "clicks"
    monkeypatch.delenv("FEEDALIGN_CACHE")
    assert cache_root().name == "clicks"
