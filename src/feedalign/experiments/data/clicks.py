"""Click logs by name.

==============  ==========  ======  =====================================================  ==========
name            rows        fields  what                                                   downloaded
==============  ==========  ======  =====================================================  ==========
planted         50,000      9       drawn from a known logit; no file                      built in
criteo          45,840,617  39      Criteo Kaggle: 13 integers, 26 categories              by hand
criteo-sample   8,000       39      the first rows of it                                   by hand
criteo-indexed  20,000      39      other rows of it, whose integers are categories too    by hand
avazu           40,428,967  22      Avazu                                                  by hand
avazu-sample    8,999       22      of its first hour                                      by hand
movielens-100k  100,000     2       user and film; a rating above 3 is positive            yes
movielens-1m    1,000,209   2       the same                                               yes
==============  ==========  ======  =====================================================  ==========

A log in files is read twice, block by block, and kept as memory-mapped indices; see
:mod:`feedalign.experiments.data.click_cache`. Its rows are dealt to training (80 %), validation and test by a seeded
shuffle, whatever split its files may suggest. Integers are put into bins; a category that the training rows have less
often than ``minimum_count`` has index 0, together with all that they do not have; a missing one is a category.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feedalign.errors import nearest
from feedalign.experiments.data import avazu, criteo, movielens, planted
from feedalign.experiments.data.click_cache import Progress, Recipe, cache_root, cached
from feedalign.experiments.data.click_data import PARTS, Clicks
from feedalign.experiments.data.click_sources import ClickSource
from feedalign.experiments.errors import DataError

__all__ = ["CLICKS", "NAMES", "PARTS", "ClickConfig", "ClickSource", "Clicks", "click_source", "load_clicks"]

CLICKS: dict[str, ClickSource] = {
    "criteo": criteo.WHOLE,
    "criteo-sample": criteo.SAMPLE,
    "criteo-indexed": criteo.INDEXED_SAMPLE,
    "avazu": avazu.WHOLE,
    "avazu-sample": avazu.SAMPLE,
    "movielens-100k": movielens.SMALL,
    "movielens-1m": movielens.LARGE,
}
NAMES = ("planted", *CLICKS)
ClickName = Literal[
    "planted",
    "criteo",
    "criteo-sample",
    "criteo-indexed",
    "avazu",
    "avazu-sample",
    "movielens-100k",
    "movielens-1m",
]


@dataclass(frozen=True)
class ClickConfig:
    """Which click log, and how it is made into indices.

    Attributes:
        name: A name of the table above.
        minimum_count: How often a category must be among the training rows to have an index of its own.
        split_seed: Seed of the split into parts, and of the planted log; not of a run: all runs see the same split.
        rows: Use the first so many rows; by default all of them, or as many as the planted log has.
    """

    name: ClickName = "planted"
    minimum_count: int = 10
    split_seed: int = 0
    rows: int | None = None


def click_source(name: str) -> ClickSource:
    """Return the row of the log in files called ``name``.

    Raises:
        DataError: There is none of that name.
    """
    if name not in CLICKS:
        raise DataError(f"There is no click log {name!r}.{nearest(name, NAMES)} There are: {', '.join(NAMES)}.")
    return CLICKS[name]


def load_clicks(
    config: ClickConfig,
    root: Path | str | None = None,
    *,
    cache: Path | str | None = None,
    download: bool = True,
    progress: Progress | None = None,
) -> Clicks:
    """Return the click log, checked, split and indexed.

    Args:
        config: Which one, and how it is made.
        root: The data root; see :func:`~feedalign.experiments.data.root.data_root`.
        cache: The folder of caches; see :func:`~feedalign.experiments.data.click_cache.cache_root`.
        download: Whether a missing file may be downloaded, where that can be.
        progress: Called as ``progress(what, rows done, rows)`` while a cache is made.

    Raises:
        DataError: The log is unknown, missing or damaged, or one of its lines is not what it should be.
        OutputError: The cache cannot be written.
    """
    _check(config)
    if config.name == "planted":
        return planted.read(config.split_seed, config.rows)
    row = click_source(config.name)
    recipe = Recipe(row.layout, config.minimum_count, config.split_seed, config.rows)
    return cached(config.name, row.locate(root, download=download), recipe, cache_root(cache), progress)


def _check(config: ClickConfig) -> None:
    if config.minimum_count < 1:
        raise DataError(
            f"Expected a minimum count of at least 1, found {config.minimum_count}. With 1, every category of the "
            "training rows has an index of its own."
        )
    if config.rows is not None and config.rows < 1:
        raise DataError(f"Expected at least one row, found {config.rows}. Do leave `rows` out to use all of them.")
