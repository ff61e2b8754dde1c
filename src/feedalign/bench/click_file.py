"""Long files in Criteo's format, made of real rows: repeated, with some of their entries replaced."""

from pathlib import Path

import numpy as np
import polars as pl

from feedalign.experiments.data.criteo import CATEGORIES, NUMBERS, RAW

# Of a category's entries, how many are one that was not there before. The 45,840,617 rows of the whole file have
# 33,762,577 different categories, which is 0.74 a row; this gives 26 times 0.0283.
NEW = 0.0283


def write_rows(rows: int, sources: tuple[Path, ...], target: Path, seed: int = 0) -> None:
    """Write ``rows`` rows to ``target``.

    Args:
        rows: How many.
        sources: Files of real rows.
        target: The new file.
        seed: Of what is replaced.
    """
    generator = np.random.default_rng(seed)
    schema = dict.fromkeys(RAW.columns, pl.String)
    real = pl.concat([
        pl.read_csv(path, has_header=False, schema=schema, separator="\t", quote_char=None) for path in sources
    ])  # fmt: skip
    with target.open("wb") as file:
        for start in range(0, rows, len(real)):
            _perturbed(real.head(rows - start), generator).write_csv(file, include_header=False, separator="\t")


def _perturbed(rows: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
    numbers = [
        rows[name].cast(pl.Int64) + pl.Series(generator.poisson(0.5, len(rows)), dtype=pl.Int64) for name in NUMBERS
    ]
    categories = [_renewed(rows[name], generator) for name in CATEGORIES]
    return rows.with_columns(*numbers, *categories)


def _renewed(column: pl.Series, generator: np.random.Generator) -> pl.Series:
    chosen = np.flatnonzero(generator.random(len(column)) < NEW)
    new = [f"{number:08x}" for number in generator.integers(0, 2**32, len(chosen))]
    return column.scatter(chosen, new) if len(chosen) else column
