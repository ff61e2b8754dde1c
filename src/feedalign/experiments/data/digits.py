"""The 8 x 8 digits that come with scikit-learn: no file, no network."""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

from feedalign.experiments.data.images import RawImages, Samples

TEST = 397


def read(root: Path, *, download: bool = True) -> RawImages:
    """Return 1,400 training and 397 test images ``[N, 1, 8, 8]``, always the same ones.

    scikit-learn states no split of its own. Neighbours in its order share their writer, so it is shuffled.
    """
    del root, download
    digits = load_digits()
    # Sixteen levels of grey, spread over those of a byte.
    images = torch.from_numpy((digits.images * 255 / 16).round().astype(np.uint8))[:, None]
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return RawImages(_part(images, labels, order[TEST:]), _part(images, labels, order[:TEST]))


def _part(images: Tensor, labels: Tensor, chosen: Tensor) -> Samples:
    return Samples(images[chosen], labels[chosen])
