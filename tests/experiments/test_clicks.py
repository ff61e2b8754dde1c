"""Click logs in files: real ones against a recipe written row by row, and where they are looked for."""

import csv
import hashlib
import math
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from feedalign.experiments.data.click_cache import split
from feedalign.experiments.data.click_data import PARTS, Clicks, part_sizes
from feedalign.experiments.data.clicks import CLICKS, NAMES, ClickConfig, click_source, load_clicks
from feedalign.experiments.data.movielens import COLONS
from feedalign.experiments.data.root import File, Place
from feedalign.experiments.data.vocabulary import Counts, Vocabulary, log_bins
from feedalign.experiments.errors import DataError


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of caches for all tests of this file."""
    return tmp_path_factory.mktemp("cache")


def by_rows(rows: list[list[object]], labels: list[int], minimum: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and labels as a cache has them, from tokens that sort as indices should; row by row."""
    parts = split(len(rows), seed)
    training = [row for row, part in zip(rows, parts, strict=True) if part == 0]
    vocabularies = []
    for column in zip(*training, strict=True):
        frequent = sorted(token for token, count in Counter(column).items() if count >= minimum)
        vocabularies.append({token: index + 1 for index, token in enumerate(frequent)})
    order = [row for part in range(3) for row in range(len(rows)) if parts[row] == part]
    indices = [[known.get(token, 0) for known, token in zip(vocabularies, rows[row], strict=True)] for row in order]
    return np.array(indices), np.array([labels[row] for row in order])


def usual_bin(text: str) -> float:
    """Return what the usual scripts for Criteo make of an integer, as a number; nothing comes first."""
    if text == "":
        return -math.inf
    value = int(text)
    return int(math.log(value) ** 2) if value > 2 else value - 2


@pytest.mark.parametrize(("minimum", "seed"), [(10, 0), (2, 3)])
def test_criteo_is_what_the_usual_recipe_gives(data_root: Path, cache: Path, minimum: int, seed: int) -> None:
    text = "".join((data_root / "criteo" / f"criteo_{part}.txt").read_text() for part in ("train", "dev", "test"))
    lines = [line.split("\t") for line in text.splitlines()]
    rows = [[*map(usual_bin, line[1:14]), *line[14:]] for line in lines]
    indices, labels = by_rows(rows, [int(line[0]) for line in lines], minimum, seed)
    clicks = load_clicks(ClickConfig("criteo-sample", minimum_count=minimum, split_seed=seed), data_root, cache=cache)
    assert clicks.fields == (*(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27)))
    np.testing.assert_array_equal(clicks.indices, indices)
    np.testing.assert_array_equal(clicks.labels, labels)
    assert clicks.sizes == tuple(int(size) for size in indices[: len(clicks.train)].max(axis=0) + 1)


def test_indexed_criteo_knows_a_number_in_any_notation(data_root: Path, cache: Path) -> None:
    lines = []
    for name in ("rows_090000_099999.csv", "rows_100000_109999.csv"):
        with (data_root / "criteo" / "indexed" / name).open(newline="") as file:
            lines += list(csv.reader(file))[1:]
    assert any("E" in text for line in lines for text in line)
    rows = [[float(text) if text else -math.inf for text in line[2:]] for line in lines]
    indices, labels = by_rows(rows, [int(line[1]) for line in lines], 10, 0)
    clicks = load_clicks(ClickConfig("criteo-indexed"), data_root, cache=cache)
    np.testing.assert_array_equal(clicks.indices, indices)
    np.testing.assert_array_equal(clicks.labels, labels)


def test_avazu_has_a_line_of_names_in_its_first_file_only(data_root: Path, cache: Path) -> None:
    lines = []
    for part in ("train", "dev", "test"):
        lines += (data_root / "avazu" / f"avazu_{part}.csv").read_text().splitlines()
    names, *lines = (line.split(",") for line in lines)
    indices, labels = by_rows([line[2:] for line in lines], [int(line[1]) for line in lines], 10, 0)
    clicks = load_clicks(ClickConfig("avazu-sample"), data_root, cache=cache)
    assert clicks.fields == tuple(names[2:])
    np.testing.assert_array_equal(clicks.indices, indices)
    np.testing.assert_array_equal(clicks.labels, labels)


def test_movielens_counts_a_rating_above_three_as_a_click(data_root: Path, cache: Path) -> None:
    lines = []
    for name in ("ua.base", "ua.test"):
        lines += [line.split("\t") for line in (data_root / "movielens-100k" / name).read_text().splitlines()]
    indices, labels = by_rows([line[:2] for line in lines], [int(int(line[2]) > 3) for line in lines], 10, 0)
    clicks = load_clicks(ClickConfig("movielens-100k"), data_root, cache=cache)
    assert clicks.counts == {
        "rows": 100_000,
        "fields": 2,
        "indices": sum(clicks.sizes),
        "train": 80_000,
        "validation": 10_000,
        "test": 10_000,
    }
    np.testing.assert_array_equal(clicks.indices, indices)
    np.testing.assert_array_equal(clicks.labels, labels)


def test_movielens_1m_separates_by_two_colons(data_root: Path, cache: Path, tmp_path: Path) -> None:
    ratings = (data_root / "movielens-100k" / "ua.test").read_text()
    (tmp_path / "ml-1m").mkdir()
    (tmp_path / "ml-1m" / "ratings.dat").write_text(ratings.replace("\t", "::"))
    clicks = load_clicks(ClickConfig("movielens-1m", minimum_count=1), tmp_path, cache=cache)
    lines = [line.split("\t") for line in ratings.splitlines()]
    indices, labels = by_rows([line[:2] for line in lines], [int(int(line[2]) > 3) for line in lines], 1, 0)
    np.testing.assert_array_equal(clicks.indices, indices)
    np.testing.assert_array_equal(clicks.labels, labels)


@pytest.mark.parametrize("name", ["planted", "criteo-sample", "criteo-indexed", "avazu-sample", "movielens-100k"])
def test_every_log_keeps_the_promises_of_a_log(data_root: Path, cache: Path, name: str) -> None:
    clicks = load_clicks(ClickConfig(name), data_root, cache=cache)
    total = len(clicks.labels)
    assert clicks.name == name
    assert tuple(len(getattr(clicks, part)) for part in PARTS) == part_sizes(total)
    np.testing.assert_array_equal(np.concatenate([getattr(clicks, part) for part in PARTS]), np.arange(total))
    assert clicks.indices.dtype == np.int32
    assert (clicks.indices >= 0).all()
    assert (clicks.indices.max(axis=0) < clicks.sizes).all()
    assert set(np.unique(clicks.labels)) == {0, 1}


@pytest.mark.parametrize("rows", [np.array([3, 0, 3]), torch.tensor([3, 0, 3]), [3, 0, 3]])
def test_a_batch_has_the_rows_asked_for(data_root: Path, cache: Path, rows: object) -> None:
    clicks = load_clicks(ClickConfig("criteo-sample"), data_root, cache=cache)
    indices, labels = clicks.batch(rows)
    assert (indices.dtype, labels.dtype) == (torch.int64, torch.float32)
    assert indices.shape == (3, 39)
    np.testing.assert_array_equal(indices, clicks.indices[[3, 0, 3]])
    np.testing.assert_array_equal(labels, clicks.labels[[3, 0, 3]])
    for chosen, expected in zip(clicks.batch(slice(1, 4)), clicks.batch([1, 2, 3]), strict=True):
        torch.testing.assert_close(chosen, expected)


def test_categories_of_the_test_part_alone_are_unseen(tmp_path: Path) -> None:
    parts = split(100, 0)
    lines = [_line(row % 2, "new" if parts[row] else "old") for row in range(100)]
    clicks = _criteo(tmp_path, "\n".join(lines))
    assert set(clicks.indices[clicks.train, -1]) == {1}
    assert set(clicks.indices[clicks.test, -1]) == {0} == set(clicks.indices[clicks.validation, -1])


def test_rare_categories_share_index_0_and_the_count_is_of_training_rows(tmp_path: Path) -> None:
    training = np.flatnonzero(split(100, 0) == 0)
    category = dict.fromkeys(range(100), "common") | dict.fromkeys(training[:4], "four") | {training[5]: "one"}
    lines = [_line(row % 2, category[row]) for row in range(100)]
    found = {minimum: _criteo(tmp_path, "\n".join(lines), minimum).sizes[-1] for minimum in (1, 4, 5, 100)}
    assert found == {1: 4, 4: 3, 5: 2, 100: 1}


def test_the_first_rows_alone_are_used(data_root: Path, cache: Path, tmp_path: Path) -> None:
    few = load_clicks(ClickConfig("criteo-sample", rows=1_000), data_root, cache=cache)
    lines = (data_root / "criteo" / "criteo_train.txt").read_bytes().splitlines(keepends=True)
    same = _criteo(tmp_path, b"".join(lines[:1_000]).decode())
    np.testing.assert_array_equal(few.indices, same.indices)
    assert few.counts["rows"] == 1_000


def test_bins_of_integers() -> None:
    values = np.array([-3, 0, 1, 2, 3, 4, 7, 8, 1_000_000, 2**62])
    assert log_bins(values).tolist() == [-5, -2, -1, 0, 1, 1, 3, 4, 190, int(math.log(2**62) ** 2)]


def test_counts_are_those_of_one_count_of_all() -> None:
    generator = np.random.default_rng(0)
    blocks = [generator.integers(0, 60_000, 20_000).astype(np.uint64) ** 3 for _ in range(40)]
    counts = Counts()
    for block in blocks:
        counts.add(block)
    keys, times = np.unique(np.concatenate(blocks), return_counts=True)
    vocabulary = counts.frequent(14)
    np.testing.assert_array_equal(vocabulary.keys, keys[times >= 14])
    assert 1 < vocabulary.size < len(keys)


def test_a_vocabulary_of_nothing_knows_nothing() -> None:
    empty = Counts().frequent(1)
    assert empty.size == 1
    assert empty.index(np.array([0, 5], np.uint64)).tolist() == [0, 0]
    largest = np.iinfo(np.uint64).max
    assert Vocabulary(np.array([5, 9], np.uint64)).index(np.array([9, 0, largest, 5, 6], np.uint64)).tolist() == [
        2, 0, 0, 1, 0,
    ]  # fmt: skip


def test_the_split_is_a_shuffle_of_exact_sizes() -> None:
    parts = split(100_003, 0)
    assert np.bincount(parts).tolist() == [80_003, 10_000, 10_000]
    assert not np.array_equal(parts, split(100_003, 1))
    # Of each tenth of the file, a tenth tests: standard deviation 28.5.
    tested = [int((tenth == 2).sum()) for tenth in np.array_split(parts, 10)]
    assert all(abs(count - 1_000) < 150 for count in tested)
    assert len(set(tested)) > 1


def test_an_unknown_log_is_said_to_be_one() -> None:
    with pytest.raises(DataError, match=r"There is no click log 'criteo-sampel'\. Did you mean 'criteo-sample'\?"):
        click_source("criteo-sampel")
    assert {"planted", "criteo", "avazu", "movielens-1m"} <= set(NAMES)


@pytest.mark.parametrize("name", ["criteo", "avazu"])
def test_what_cannot_be_downloaded_says_where_it_is_and_how_it_must_lie(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        load_clicks(ClickConfig(name), tmp_path, cache=tmp_path / "cache")
    message = str(raised.value)
    assert f"{CLICKS[name].title} is missing. Expected:\n  {tmp_path}/{name}/train" in message
    assert "https://www.kaggle.com/c/" in message
    assert "FEEDALIGN_DATA" in message
    assert "'planted' needs no file" in message


def test_a_missing_log_is_not_downloaded_if_it_must_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)MovieLens 1M is missing\..*or let `feedalign data fetch` download it"):
        load_clicks(ClickConfig("movielens-1m"), tmp_path, cache=tmp_path / "cache", download=False)


def test_a_changed_sample_is_refused(data_root: Path, tmp_path: Path) -> None:
    (tmp_path / "criteo").mkdir()
    for part in ("train", "dev", "test"):
        content = (data_root / "criteo" / f"criteo_{part}.txt").read_bytes()
        (tmp_path / "criteo" / f"criteo_{part}.txt").write_bytes(content.replace(b"0\t1\t1\t5", b"1\t1\t1\t5"))
    with pytest.raises(DataError, match=r"criteo_train\.txt is damaged or was changed: expected sha256"):
        load_clicks(ClickConfig("criteo-sample"), tmp_path, cache=tmp_path / "cache")


def test_an_archive_is_checked_and_unpacked(data_root: Path, tmp_path: Path) -> None:
    ratings = (data_root / "movielens-100k" / "ua.test").read_bytes().replace(b"\t", b"::")
    archive = tmp_path / "movielens" / "ml-1m.zip"
    archive.parent.mkdir()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("ml-1m/README", "read me")
        packed.writestr("ml-1m/ratings.dat", ratings)
    place = Place("movielens/ml-1m.zip", f"sha256:{_sha256(archive)}", archive.stat().st_size)
    source = replace(CLICKS["movielens-1m"], archive=File((place,), ()))
    assert source.layout == COLONS
    (path,) = source.locate(tmp_path)
    assert path == tmp_path / "movielens-1m" / "ratings.dat"
    assert path.read_bytes() == ratings
    assert sorted(file.name for file in path.parent.iterdir()) == ["ratings.dat"]
    path.unlink()
    archive.write_bytes(archive.read_bytes()[:-1] + b"!")
    with pytest.raises(DataError, match=r"ml-1m\.zip is damaged or was changed"):
        source.locate(tmp_path)


def _line(label: int, category: str) -> str:
    return "\t".join([str(label), *[""] * 13, *["x"] * 25, category])


def _criteo(folder: Path, text: str, minimum: int = 10) -> Clicks:
    (folder / "criteo").mkdir(exist_ok=True)
    (folder / "criteo" / "train.txt").write_text(text)
    return load_clicks(ClickConfig("criteo", minimum_count=minimum), folder, cache=folder / "cache")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
