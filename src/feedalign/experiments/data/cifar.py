"""CIFAR-10: pickled batches in an archive. Pickles can run code: each is checked by hash before it is opened.

References:
    Krizhevsky, *Learning Multiple Layers of Features from Tiny Images*, 2009.
"""

import hashlib
import io
import tarfile
from pathlib import Path

import torch

from feedalign.experiments.data.images import RawImages, Samples
from feedalign.experiments.data.pickles import ArraysOnly
from feedalign.experiments.data.root import File, Place, fetch, missing, refuse_html
from feedalign.experiments.errors import DataError

FOLDER = "cifar-10-batches-py"
ARCHIVE = File(
    places=(
        Place(
            "cifar-10/cifar-10-python.tar.gz",
            "sha256:6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            170_498_071,
        ),
    ),
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
# An archive may have been packed anew, so it is its members that are checked.
ARCHIVES = (
    "cifar-10/cifar-10-python.tar.gz",
    "cifar-10/cifar-10-python.tar.xz",
    "cifar-10-python.tar.gz",
    "cifar-10-python.tar.xz",
)
FOLDERS = (FOLDER, f"cifar-10/{FOLDER}")
# For batches 4 and 5 only the MD5 sums that the upstream authors publish were at hand.
BATCHES = {
    "data_batch_1": "sha256:54636561a3ce25bd3e19253c6b0d8538147b0ae398331ac4a2d86c6d987368cd",
    "data_batch_2": "sha256:766b2cef9fbc745cf056b3152224f7cf77163b330ea9a15f9392beb8b89bc5a8",
    "data_batch_3": "sha256:0f00d98ebfb30b3ec0ad19f9756dc2630b89003e10525f5e148445e82aa6a1f9",
    "data_batch_4": "md5:634d18415352ddfa80567beed471001a",
    "data_batch_5": "md5:482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "sha256:f53d8d457504f7cff4ea9e021afcf0e0ad8e24a91f3fc42091b8adef61157831",
}


def read(root: Path, *, download: bool = True) -> RawImages:
    """Return images ``[N, 3, 32, 32]``: 10,000 for testing, and 10,000 for training per batch that is there.

    Raises:
        DataError: Something is missing or damaged.
    """
    source = _source(root, download=download)
    contents = _folder(source) if source.is_dir() else _archive(source)
    batches = {name: unpickle(contents[name], name, source) for name in BATCHES if name in contents}
    train = [batch for name, batch in batches.items() if name != "test_batch"]
    if not train or "test_batch" not in batches:
        raise DataError(
            f"{source} is not complete: expected test_batch and at least data_batch_1, found "
            f"{', '.join(batches) or 'no batch'}. Delete it, and it will be downloaded again."
        )
    return RawImages(
        Samples(torch.cat([part.images for part in train]), torch.cat([part.labels for part in train])),
        batches["test_batch"],
    )


def _source(root: Path, *, download: bool) -> Path:
    for folder in FOLDERS:
        if (root / folder).is_dir():
            return root / folder
    for archive in ARCHIVES:
        if (root / archive).is_file():
            return root / archive
    if not download:
        raise DataError(missing([*ARCHIVES, *FOLDERS], root))
    return fetch(ARCHIVE, root)


def _folder(folder: Path) -> dict[str, bytes]:
    found = [name for name in BATCHES if (folder / name).is_file()]
    for name in found:
        refuse_html(folder / name)
    return {name: (folder / name).read_bytes() for name in found}


def _archive(path: Path) -> dict[str, bytes]:
    contents = {}
    refuse_html(path)
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = member.name.removeprefix(f"{FOLDER}/")
                if name in BATCHES and (file := archive.extractfile(member)):
                    contents[name] = file.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, f"a readable archive, found {error}") from error
    except Exception as error:  # lzma and zlib raise errors of their own, with no common parent
        if type(error).__module__ not in {"_lzma", "lzma", "zlib"}:
            raise
        raise _damaged(path, f"a readable archive, found {error}") from error
    return contents


def _damaged(path: Path, expectation: str) -> DataError:
    return DataError(
        f"{path} is truncated or damaged: expected {expectation}. Delete it, and it will be downloaded again."
    )


def unpickle(content: bytes, name: str, source: Path) -> Samples:
    """Return the samples of one batch, whose bytes are checked first.

    Raises:
        DataError: They are not the published ones. Nothing was unpickled then.
    """
    algorithm, _, expected = BATCHES[name].partition(":")
    found = hashlib.new(algorithm, content, usedforsecurity=algorithm != "md5").hexdigest()
    if found != expected:
        raise _damaged(source / name, f"{algorithm} {expected}, found {found}; it was not opened")
    batch = ArraysOnly(io.BytesIO(content), encoding="bytes").load()
    images = torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32))
    return Samples(images, torch.tensor(batch[b"labels"], dtype=torch.int64))
