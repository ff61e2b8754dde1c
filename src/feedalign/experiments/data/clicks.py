"""Click logs by name."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feedalign.experiments.data import planted
from feedalign.experiments.data.click_data import PARTS, Clicks

__all__ = ["PARTS", "ClickConfig", "Clicks", "load_clicks"]

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


def load_clicks(config: ClickConfig, root: Path | str | None = None) -> Clicks:
    """Return the click log, checked, split and indexed.

    Args:
        config: Which one, and how it is made.
        root: The data root; see :func:`~feedalign.experiments.data.root.data_root`.
    """
    return planted.read(config.split_seed, config.rows)
