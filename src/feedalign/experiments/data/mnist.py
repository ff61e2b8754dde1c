"""MNIST and Fashion-MNIST: four idx files each, in the same format.

References:
    LeCun, Cortes & Burges, *The MNIST database of handwritten digits*.
    Xiao, Rasul & Vollgraf, *Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms*, 2017.
"""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from feedalign.experiments.data.images import RawImages, Samples
from feedalign.experiments.data.root import Content, File, Place, fetch

# The size of each file unpacked: the two data sets have the same shapes.
NAMES = {
    "train-images-idx3-ubyte": 47_040_016,
    "train-labels-idx1-ubyte": 60_008,
    "t10k-images-idx3-ubyte": 7_840_016,
    "t10k-labels-idx1-ubyte": 10_008,
}


class _Hashes(NamedTuple):
    size: int
    packed: str
    unpacked: str


def _files(folder: str, torchvision: str, urls: tuple[str, ...], hashes: tuple[_Hashes, ...]) -> tuple[File, ...]:
    return tuple(
        File(
            places=(
                *(
                    Place(
                        f"{path}/{name}.gz",
                        f"sha256:{known.packed}",
                        known.size,
                        Content(f"sha256:{known.unpacked}", unpacked_size),
                    )
                    for path in (folder, f"{torchvision}/raw")
                ),
                Place(f"{torchvision}/raw/{name}", f"sha256:{known.unpacked}", unpacked_size),
            ),
            urls=tuple(f"{url}{name}.gz" for url in urls),
        )
        for (name, unpacked_size), known in zip(NAMES.items(), hashes, strict=True)
    )


# Of files with the official MD5 sums: size and SHA-256 as published (gzip), SHA-256 unpacked. The latter tells a file
# that was compressed again.
MNIST = _files(
    "mnist",
    "MNIST",
    ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
    (
        _Hashes(
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        _Hashes(
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        _Hashes(
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        _Hashes(
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
)
FASHION_MNIST = _files(
    "fashion-mnist",
    "FashionMNIST",
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",),
    (
        _Hashes(
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        _Hashes(
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        _Hashes(
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        _Hashes(
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    ),
)


def reader(files: tuple[File, ...]) -> Callable[..., RawImages]:
    """Return the function that reads one of the two: images ``[N, 1, 28, 28]``, 60,000 and 10,000."""

    def read(root: Path, *, download: bool = True) -> RawImages:
        # All four are checked before the first is parsed.
        paths = [fetch(file, root, download=download) for file in files]
        train_images, train_labels, test_images, test_labels = (_idx(path) for path in paths)
        return RawImages(
            Samples(train_images[:, None], train_labels.long()),
            Samples(test_images[:, None], test_labels.long()),
        )

    return read


def _idx(path: Path) -> Tensor:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    # Byte 3 is the number of dimensions; their sizes follow, four bytes each, big end first.
    dimensions = content[3]
    shape = np.frombuffer(content, ">u4", count=dimensions, offset=4)
    pixels = np.frombuffer(content, np.uint8, offset=4 + 4 * dimensions)
    return torch.from_numpy(pixels.reshape(shape.tolist()).copy())
