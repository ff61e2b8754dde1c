"""Criteo's display advertising log: 13 integers and 26 categories a row, 45,840,617 rows over a week.

References:
    Criteo, *Display Advertising Challenge*, Kaggle, 2014.
"""

from feedalign.experiments.data.click_layout import Layout
from feedalign.experiments.data.click_sources import ClickFile, ClickSource

NUMBERS = tuple(f"I{number}" for number in range(1, 14))
CATEGORIES = tuple(f"C{number}" for number in range(1, 27))
RAW = Layout(columns=("label", *NUMBERS, *CATEGORIES), label="label", categories=CATEGORIES, numbers=NUMBERS)
# Integers have been replaced by categories here too, and all are written as numbers; "" is a missing one.
INDEXED = Layout(
    columns=("Id", "Label", *NUMBERS, *CATEGORIES),
    label="Label",
    categories=(*NUMBERS, *CATEGORIES),
    separator=",",
    replaced=((b'""', b""),),
    whole_numbers=True,
)
ROWS = 45_840_617

WHOLE = ClickSource(
    "Criteo Kaggle",
    RAW,
    ((ClickFile("criteo/train.txt"),), (ClickFile("criteo/train.txt.gz"),), (ClickFile("train.txt"),)),
    ROWS,
    "Criteo gives train.txt (45,840,617 lines, about 11 GB) away under terms that you have to accept: see "
    "https://ailab.criteo.com/ressources/ or https://www.kaggle.com/c/criteo-display-ad-challenge.",
)
SAMPLE = ClickSource(
    "Criteo, the first 8,000 rows",
    RAW,
    (
        (
            ClickFile(
                "criteo/criteo_train.txt",
                "sha256:2b0614035f6c931dc4ac2c1a1a26fa954f2b9231703f3a77bcdd53d9d9f29872",
                1_744_474,
            ),
            ClickFile(
                "criteo/criteo_dev.txt",
                "sha256:7ac8a164e43a9903be3d43e640bcd464cfa0d96d7a652ec8ef8a33fe97cac6b9",
                98_922,
            ),
            ClickFile(
                "criteo/criteo_test.txt",
                "sha256:3a7a78b694945482aede520e68300b0e2748603363072822cfbbb9f72d0dfd9a",
                95_122,
            ),
        ),
    ),
    8_000,
    "It lies in data/criteo of https://github.com/Lapis-Hong/Wide-ResDNN.",
)
INDEXED_SAMPLE = ClickSource(
    "Criteo, 20,000 rows of indices",
    INDEXED,
    (
        (
            ClickFile(
                "criteo/indexed/rows_090000_099999.csv",
                "sha256:37f0bd7d25fc150792b3d7e68388067a54e37ed816ddb21c3ce2acefba717e32",
                1_968_042,
            ),
            ClickFile(
                "criteo/indexed/rows_100000_109999.csv",
                "sha256:9366b6e21e45df84e852930220f5de46dbb150304b18ee7e6349938db41b3572",
                1_966_094,
            ),
        ),
    ),
    20_000,
    "It lies in examples/sample_data of https://github.com/tmulc18/DeepCTR.",
)
