"""Small images for deep nets: 14 x 14 at most, standardised with one mean and one deviation."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from feedalign.experiments.data import DataConfig, load
from feedalign.experiments.data.images import noisy

SIZE = 14


@dataclass(frozen=True, eq=False)
class SmallImages:
    """A data set as rows of pixels: ``[N, d]`` and ``[N]``."""

    name: str
    inputs: Tensor
    labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    classes: int

    def corrupted(self, share: float, seed: int) -> Tensor:
        """Return the training labels, a share of them drawn anew, uniformly over all classes. Test labels stay true."""
        return noisy(self.labels, share, self.classes, torch.Generator().manual_seed(seed))


def small_images(name: str, samples: int, tested: int = 2000) -> SmallImages:
    """Return a data set of small images.

    Args:
        name: Of the data set.
        samples: How many to train on at most.
        tested: How many of the test images to use at most.

    Raises:
        DataError: The data set is unknown, missing or damaged.
    """
    data = load(DataConfig(name, validation=0, limit=samples))
    train, test = _small(data.train.images), _small(data.test.images[:tested])
    mean, std = train.mean(), train.std()
    return SmallImages(
        name=name,
        inputs=(train - mean) / std,
        labels=data.train.labels,
        test_inputs=(test - mean) / std,
        test_labels=data.test.labels[:tested],
        classes=data.classes,
    )


def _small(images: Tensor) -> Tensor:
    if max(images.shape[2:]) > SIZE:
        images = F.interpolate(images, size=(SIZE, SIZE), mode="bilinear", antialias=True)
    return images.flatten(1)
