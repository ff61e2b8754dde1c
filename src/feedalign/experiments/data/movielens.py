"""MovieLens: who rated which film, as a log of two fields; a rating above 3 counts as a click.

References:
    Harper & Konstan, *The MovieLens datasets: history and context*, ACM TiiS, 2015.
"""

from feedalign.experiments.data.click_layout import Layout
from feedalign.experiments.data.click_sources import ClickFile, ClickSource
from feedalign.experiments.data.root import File, Place

RATINGS = tuple((str(rating), int(rating > 3)) for rating in range(1, 6))
TABS = Layout(
    columns=("user", "film", "rating", "timestamp"),
    label="rating",
    categories=("user", "film"),
    labels=RATINGS,
)
COLONS = Layout(
    columns=TABS.columns,
    label=TABS.label,
    categories=TABS.categories,
    labels=RATINGS,
    replaced=((b"::", b"\t"),),
)
URL = "https://files.grouplens.org/datasets/movielens"
ORIGIN = "GroupLens gives it away for research: see https://grouplens.org/datasets/movielens."


def _archive(name: str, digest: str, size: int) -> File:
    return File((Place(f"movielens/{name}.zip", f"sha256:{digest}", size),), (f"{URL}/{name}.zip",))


def _parts(folder: str) -> tuple[ClickFile, ...]:
    return (
        ClickFile(
            f"{folder}/ua.base", "sha256:67b5bcdb380c29f85d56a012ecd88612ae020f30a6730d117a334ee8203b91f2", 1_792_501
        ),
        ClickFile(
            f"{folder}/ua.test", "sha256:d0497e202417720f57a184ec8c66be2d1afa4ff41bb53787c57b28d6bf79bc42", 186_672
        ),
    )


# Both parts of the split by user; all ratings are split anew, as those of every log here.
SMALL = ClickSource(
    "MovieLens 100K",
    TABS,
    (_parts("movielens-100k"), _parts("ml-100k")),
    100_000,
    ORIGIN,
    _archive("ml-100k", "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229", 4_924_029),
)
LARGE = ClickSource(
    "MovieLens 1M",
    COLONS,
    ((ClickFile("movielens-1m/ratings.dat"),), (ClickFile("ml-1m/ratings.dat"),)),
    1_000_209,
    ORIGIN,
    _archive("ml-1m", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", 5_917_549),
)
