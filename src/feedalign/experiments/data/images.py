"""What an image data set is: arrays as they come, and the tensors that an experiment trains on."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from feedalign.experiments.errors import DataError


class Samples(NamedTuple):
    """Images and their labels: ``[N, C, H, W]`` and ``[N]`` (int64)."""

    images: Tensor
    labels: Tensor


class RawImages(NamedTuple):
    """A data set as it comes: the images are uint8."""

    train: Samples
    test: Samples


@dataclass(frozen=True, eq=False)
class ImageData:
    """A data set ready for training. Images are float32, standardised with the training part's mean and std.

    Attributes:
        name: Of the data set.
        train: What is trained on.
        validation: Held out of the upstream training part; decides about epochs and settings.
        test: The upstream test part; decides about nothing.
        classes: How many there are.
        mean: Of the training part, one a channel, pixels scaled to [0, 1].
        std: Likewise.
    """

    name: str
    train: Samples
    validation: Samples
    test: Samples
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train.images.shape[1:]
        return channels, height, width

    @property
    def counts(self) -> dict[str, int]:
        """How many samples each part holds."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {name: len(part.labels) for name, part in parts.items()}


def prepare(
    name: str,
    raw: RawImages,
    *,
    validation: int,
    limit: int | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
) -> ImageData:
    """Split, shorten, corrupt and standardise, all decided by ``seed`` and by no global state.

    Args:
        name: Of the data set.
        raw: The upstream parts.
        validation: How many of the training samples to hold out; with 0, no epoch can be chosen.
        limit: Keep at most so many training samples (after the hold-out).
        label_noise: Fraction of the *training* labels that are drawn anew, uniformly over all classes.
            Validation and test labels stay true.
        seed: Of the split and the noise.

    Raises:
        DataError: The numbers do not fit the data set.
    """
    total = len(raw.train.labels)
    if not 0 <= validation < total:
        raise DataError(
            f"{name} has {total:,} training samples: expected to hold out 0 to {total - 1:,}, found {validation:,}."
        )
    if limit is not None and limit < 1:
        raise DataError(f"Expected a limit of at least 1 training sample, found {limit}. Leave it out to use all.")
    if not 0 <= label_noise <= 1:
        raise DataError(f"Expected a fraction of label noise in [0, 1], found {label_noise}.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=generator)
    held_out, kept = order[:validation], order[validation:][:limit]
    images, labels = raw.train.images[kept].float().div_(255), raw.train.labels[kept]
    classes = int(raw.train.labels.max()) + 1
    std, mean = torch.std_mean(images, dim=(0, 2, 3), keepdim=True)

    def standardised(pixels: Tensor) -> Tensor:
        return pixels.float().div_(255).sub_(mean).div_(std)

    return ImageData(
        name=name,
        train=Samples(images.sub_(mean).div_(std), noisy(labels, label_noise, classes, generator)),
        validation=Samples(standardised(raw.train.images[held_out]), raw.train.labels[held_out]),
        test=Samples(standardised(raw.test.images), raw.test.labels),
        classes=classes,
        mean=tuple(mean.flatten().tolist()),
        std=tuple(std.flatten().tolist()),
    )


def noisy(labels: Tensor, fraction: float, classes: int, generator: torch.Generator) -> Tensor:
    """Return the labels with a fraction drawn anew, uniformly over all classes, the true one included.

    References:
        Zhang et al., *Understanding deep learning requires rethinking generalization*, ICLR 2017.
    """
    chosen = torch.randperm(len(labels), generator=generator)[: round(fraction * len(labels))]
    drawn = torch.randint(classes, (len(chosen),), generator=generator)
    return labels.index_copy(0, chosen, drawn)
