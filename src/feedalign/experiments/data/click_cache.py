"""Click logs as memory-mapped arrays, made once from their files.

A cache is a folder: ``indices.npy`` ``[N, F]``, ``labels.npy`` ``[N]`` and ``about.json``. Its rows lie part after
part, so each part is one stretch of the file. It is written under another name and takes its own only when it is whole.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pooch
from numpy.typing import NDArray

from feedalign.experiments.data.click_data import PARTS, Clicks, consecutive, part_sizes
from feedalign.experiments.data.click_files import count_rows, read_blocks
from feedalign.experiments.data.click_layout import Layout
from feedalign.experiments.data.vocabulary import Counts, Vocabulary
from feedalign.experiments.errors import DataError, OutputError
from feedalign.experiments.files import exclusive, writable_folder, write_atomically

VARIABLE = "FEEDALIGN_CACHE"
# To be raised whenever the same file and options would give other indices than before.
FORMAT = 1
FEWEST = 10
# The hash of a file as large as this is kept beside the caches, and taken again once its size or time changes.
LARGE = 256 * 2**20
INDICES, LABELS, ABOUT = "indices.npy", "labels.npy", "about.json"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Recipe:
    """What the indices of a log depend on, its files apart.

    Attributes:
        layout: How its lines are made.
        minimum_count: How often a category must be among the training rows to have an index of its own.
        split_seed: Seed of the shuffle that deals rows to parts.
        rows: Only the first so many rows.
    """

    layout: Layout
    minimum_count: int
    split_seed: int
    rows: int | None


def cache_root(cache: Path | str | None = None) -> Path:
    """Return the folder of caches: ``cache``, else that of FEEDALIGN_CACHE, else the user's cache folder."""
    chosen = cache or os.environ.get(VARIABLE) or pooch.os_cache("feedalign")
    return Path(chosen).expanduser() / "clicks"


def cached(name: str, paths: Sequence[Path], recipe: Recipe, root: Path, progress: Progress | None = None) -> Clicks:
    """Return the log of some files, from its cache, which is made if need be.

    A second process that asks for the same log meanwhile waits for the first.

    Args:
        name: Of the data set.
        paths: Its files.
        recipe: What is made of them.
        root: The folder of caches; see :func:`cache_root`.
        progress: Called as ``progress(what, rows done, rows)``.

    Raises:
        DataError: A file is not what it should be, or the cache is damaged.
        OutputError: The cache cannot be written.
    """
    writable_folder(root)
    folder = root / f"{name}-{_key(paths, recipe, root)}"
    if not folder.exists():
        building = writable_folder(root / f".{folder.name}")
        # That folder stays, empty: another process may wait for its lock.
        with exclusive(building, wait=-1):
            if not folder.exists():
                _build_whole(paths, recipe, building / "content", folder, progress)
    return _opened(name, folder)


def split(rows: int, seed: int) -> NDArray[np.uint8]:
    """Return the part of each row ``[N]``, as its place in PARTS: 80, 10 and 10 %, shuffled. One byte a row."""
    parts = np.repeat(np.arange(len(PARTS), dtype=np.uint8), part_sizes(rows))
    np.random.default_rng(seed).shuffle(parts)
    return parts


def _key(paths: Sequence[Path], recipe: Recipe, root: Path) -> str:
    hashes = [_hash(path, root) for path in paths]
    contents = json.dumps([FORMAT, hashes, asdict(recipe)], default=repr)
    return hashlib.sha256(contents.encode()).hexdigest()[:16]


def _hash(path: Path, root: Path) -> str:
    about = path.stat()
    name = hashlib.sha256(f"{path.resolve()} {about.st_size} {about.st_mtime_ns}".encode()).hexdigest()[:16]
    known = root / f"hash-{name}"
    if about.st_size >= LARGE and known.is_file():
        return known.read_text(encoding="ascii")
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if about.st_size >= LARGE:
        write_atomically(known, found.encode())
    return found


def _build_whole(paths: Sequence[Path], recipe: Recipe, content: Path, folder: Path, progress: Progress | None) -> None:
    # What a process left behind that was killed while it wrote.
    shutil.rmtree(content, ignore_errors=True)
    try:
        content.mkdir()
        _build(paths, recipe, content, progress or (lambda what, done, total: None))
        content.replace(folder)
    except OSError as error:
        raise OutputError(
            f"Could not write the cache {folder}: {error.strerror}. Free some space, or name another folder by "
            f"{VARIABLE}; then give the same command again."
        ) from error
    finally:
        shutil.rmtree(content, ignore_errors=True)


def _build(paths: Sequence[Path], recipe: Recipe, content: Path, progress: Progress) -> None:
    rows = count_rows(paths, recipe.layout, recipe.rows)
    if rows < FEWEST:
        raise DataError(
            f"Expected at least {FEWEST} rows, so that there are some to train, validate and test on; found {rows} in "
            f"{', '.join(map(str, paths))}. Do use a longer file."
        )
    parts = split(rows, recipe.split_seed)
    vocabularies = _vocabularies(paths, recipe, parts, progress)
    _write(paths, recipe, parts, vocabularies, content, progress)
    about = {
        "fields": recipe.layout.fields,
        "sizes": [vocabulary.size for vocabulary in vocabularies],
        "parts": part_sizes(rows),
        "files": [str(path) for path in paths],
        "recipe": asdict(recipe),
    }
    write_atomically(content / ABOUT, json.dumps(about, indent=2, default=repr).encode())


def _vocabularies(
    paths: Sequence[Path], recipe: Recipe, parts: NDArray[np.uint8], progress: Progress
) -> list[Vocabulary]:
    counts = [Counts() for _ in recipe.layout.fields]
    done = 0
    for block in read_blocks(paths, recipe.layout, len(parts)):
        training = parts[done : done + len(block.labels)] == PARTS.index("train")
        for field, keys in zip(counts, block.keys, strict=True):
            field.add(keys[training])
        done += len(block.labels)
        progress("count categories", done, len(parts))
    return [field.frequent(recipe.minimum_count) for field in counts]


def _write(
    paths: Sequence[Path],
    recipe: Recipe,
    parts: NDArray[np.uint8],
    vocabularies: list[Vocabulary],
    content: Path,
    progress: Progress,
) -> None:
    sizes = part_sizes(len(parts))
    indices = _Array(content / INDICES, (len(parts), len(vocabularies)), np.dtype(np.int32), sizes)
    labels = _Array(content / LABELS, (len(parts),), np.dtype(np.uint8), sizes)
    done = 0
    with indices, labels:
        for block in read_blocks(paths, recipe.layout, len(parts)):
            belong = parts[done : done + len(block.labels)]
            encoded = np.stack(
                [vocabulary.index(keys) for vocabulary, keys in zip(vocabularies, block.keys, strict=True)], axis=1
            )
            for part in range(len(PARTS)):
                indices.append(part, encoded[belong == part])
                labels.append(part, block.labels[belong == part])
            done += len(block.labels)
            progress("write indices", done, len(parts))


class _Array:
    """An ``.npy`` file whose rows are written in order within each part.

    Written with plain calls: a full disk is then an error, where writing through a memory map would kill the process.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], sizes: tuple[int, ...]) -> None:
        self._file = path.open("wb")
        about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, about)
        row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
        starts = np.cumsum([0, *sizes[:-1]], dtype=np.int64) * row + self._file.tell()
        self._places = [int(start) for start in starts]

    def append(self, part: int, rows: NDArray[Any]) -> None:
        """Write rows after those of the part that are there."""
        self._file.seek(self._places[part])
        self._places[part] += self._file.write(rows.tobytes())

    def __enter__(self) -> "_Array":
        return self

    def __exit__(self, *details: object) -> None:
        with self._file:
            self._file.flush()
            os.fsync(self._file.fileno())


def _opened(name: str, folder: Path) -> Clicks:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        indices = np.load(folder / INDICES, mmap_mode="r")
        labels = np.load(folder / LABELS, mmap_mode="r")
        train, validation, test = consecutive(tuple(about["parts"]))
        fields, sizes = tuple(about["fields"]), tuple(about["sizes"])
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"The cache {folder} is damaged ({error}). Delete it, and it will be made again from the files."
        ) from error
    return Clicks(name, fields, sizes, indices, labels, train, validation, test)
