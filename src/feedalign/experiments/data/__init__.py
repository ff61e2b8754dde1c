"""Data sets by name: images here, graphs, click logs and others in modules of their own (graphs, clicks, scenes).

=============  ======  =======  =====  ============  =======
name           train   test     shape  classes       files
=============  ======  =======  =====  ============  =======
digits         1,400   397      1x8x8     10         none
mnist          60,000  10,000   1x28x28   10         4
fashion-mnist  60,000  10,000   1x28x28   10         4
cifar10        50,000  10,000   3x32x32   10         1
=============  ======  =======  =====  ============  =======

A data set is looked for under the data root in its upstream layout, and else downloaded. Every file is
checked by its published hash before it is opened.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from feedalign.errors import nearest
from feedalign.experiments.data import cifar, digits, mnist
from feedalign.experiments.data.images import ImageData, RawImages, Samples, prepare
from feedalign.experiments.data.root import File, data_root
from feedalign.experiments.errors import DataError

__all__ = ["DATASETS", "DataConfig", "ImageData", "Samples", "Source", "data_root", "load", "source"]


@dataclass(frozen=True)
class Source:
    """One row of the table of data sets.

    Attributes:
        title: Its name as people write it.
        read: Reads the raw parts from a data root; ``download=False`` raises where a file is missing.
        places: Where its files are looked for under the data root, the first being where a download goes.
        train: Training images of the whole upstream data set.
        test: Test images.
        validation: How many training images are held out unless a configuration says otherwise.
    """

    title: str
    read: Callable[..., RawImages]
    places: tuple[str, ...]
    train: int
    test: int
    validation: int


def _places(files: tuple[File, ...]) -> tuple[str, ...]:
    forms = zip(*(file.places for file in files), strict=True)
    return tuple(place.path for form in forms for place in form)


DATASETS: dict[str, Source] = {
    "digits": Source("scikit-learn's digits", digits.read, (), 1_400, 397, 200),
    "mnist": Source("MNIST", mnist.reader(mnist.MNIST), _places(mnist.MNIST), 60_000, 10_000, 5_000),
    "fashion-mnist": Source(
        "Fashion-MNIST",
        mnist.reader(mnist.FASHION_MNIST),
        _places(mnist.FASHION_MNIST),
        60_000,
        10_000,
        5_000,
    ),
    "cifar10": Source("CIFAR-10", cifar.read, (*cifar.ARCHIVES, *cifar.FOLDERS), 50_000, 10_000, 5_000),
}


@dataclass(frozen=True)
class DataConfig:
    """Which images, and how they are split.

    Attributes:
        name: A name of the table above.
        validation: How many training images to hold out; by default what the table of data sets says. With 0 the
            last epoch counts.
        limit: Train on at most so many images.
        label_noise: Fraction of the training labels drawn anew, uniformly over all classes.
        split_seed: Seed of the split and of the noise, not of a run: all runs see the same split.
    """

    name: str = "mnist"
    validation: int | None = None
    limit: int | None = None
    label_noise: float = 0.0
    split_seed: int = 0


def source(name: str) -> Source:
    """Return the row of the data set called ``name``.

    Raises:
        DataError: There is none of that name.
    """
    if name not in DATASETS:
        raise DataError(f"There is no data set {name!r}.{nearest(name, DATASETS)} There are: {', '.join(DATASETS)}.")
    return DATASETS[name]


def load(config: DataConfig, root: Path | str | None = None, *, download: bool = True) -> ImageData:
    """Return the data set, checked, split and standardised.

    Args:
        config: Which one, and how it is split.
        root: The data root; see :func:`data_root`.
        download: Whether a missing file may be downloaded.

    Raises:
        DataError: The data set is unknown, missing or damaged, or the split does not fit it.
    """
    row = source(config.name)
    return prepare(
        config.name,
        row.read(data_root(root), download=download),
        validation=row.validation if config.validation is None else config.validation,
        limit=config.limit,
        label_noise=config.label_noise,
        seed=config.split_seed,
    )
