"""WikiText-2 and WikiText-103: good articles of Wikipedia, in any of the forms in which they are passed on.

``wiki.*.tokens`` (rare words replaced by ``<unk>``) and ``wiki.*.raw`` in a folder, the official archives of these, or
the Parquet files of the Hugging Face hub. Files whose hash is known are checked by it; the others are told apart from a
part of them by how many words they hold.

References:
    Merity, Xiong, Bradbury & Socher, *Pointer sentinel mixture models*, ICLR 2017.
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

from feedalign.experiments.data.raw_text import PARTS, RawTexts, Text
from feedalign.experiments.data.root import File, Place, check, fetch, missing, refuse_html
from feedalign.experiments.errors import DataError

NAMES = {"train": "train", "validation": "valid", "test": "test"}
"""What the parts are called in the names of files."""
URLS = ("https://wikitext.smerity.com", "https://s3.amazonaws.com/research.metamind.io/wikitext")
ARCHIVES = {
    "wikitext-2": {
        "wikitext-2-v1.zip": "92675f1d63015c1c8b51f1656a52d5bdbc33aafa60cc47a218a66e7ee817488c",
        "wikitext-2-raw-v1.zip": "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
    },
    "wikitext-103": {
        "wikitext-103-v1.zip": "242ba0f20b329cfdf1ccc61e9e9e5b59becf189db7f7a81cd2a0e2fc31539590",
        "wikitext-103-raw-v1.zip": "91c00ae287f0d699e18605c84afc9e45c192bc6b7797ff8837e5474655a33794",
    },
}
# SHA-256 and bytes of files in a folder.
KNOWN: dict[str, dict[str, tuple[str, int]]] = {
    "wikitext-2": {
        "wiki.train.tokens": ("9e9fa1ad55b1c2c95b08e37dd8e653f638fac2c6de904b79e813611eefbc985f", 10_797_148),
        "wiki.valid.tokens": ("f0737ed31fc1329026e95cb8b98e19c2a182c39c240ab909dc31abf2f8af58e8", 1_121_681),
        "wiki.test.tokens": ("d790b833ef8cf03a90db7bf1271b7520b83c45ce07ba3c1a9699df81e239eca0", 1_256_449),
    },
    "wikitext-103": {
        "wiki.valid.tokens": ("9aee9f52d6e77de6c7751fc5e7c44287db3ec0eaf15477098acc6b93c1c4250b", 1_142_309),
        "wiki.test.tokens": ("56db52eb157b1ab5c89646eef70510c1eca6e12a3bfdb99f0d6b05b4eacb75b9", 1_281_077),
    },
}
SHARDS = {"wikitext-2": 1, "wikitext-103": 2}
"""Parquet files of the training text, as they are passed on."""
ENDINGS = (".tokens", ".head.tokens", ".raw")
"""The second one is the beginning of a training text: smaller, and said to be a part wherever it is used."""


def folders(name: str) -> tuple[str, ...]:
    """Return the folders in which the files may lie."""
    return (name, f"{name}-v1", f"{name}-raw", f"{name}-raw-v1")


def places(name: str) -> tuple[str, ...]:
    """Return where a data set is looked for, the first being where a download goes."""
    files = (f"{folder}/wiki.train{ending}" for folder in folders(name) for ending in ENDINGS)
    shards = (f"{folder}/train-00000-of-{SHARDS[name]:05}.parquet" for folder in folders(name))
    return (*ARCHIVES[name], *files, *shards)


def reader(name: str) -> Callable[..., RawTexts]:
    """Return a function that reads the data set from a data root."""

    def read(root: Path, *, download: bool = True) -> RawTexts:
        for folder in (root / one for one in folders(name)):
            if found := _files(name, folder) or _parquet(name, folder):
                return RawTexts(**found)
        for archive in ARCHIVES[name]:
            if (root / archive).is_file():
                return _unpacked(name, check(root / archive, f"sha256:{ARCHIVES[name][archive]}", None))
        archive, digest = next(iter(ARCHIVES[name].items()))
        if not download:
            raise DataError(missing(list(places(name)), root))
        file = File((Place(archive, f"sha256:{digest}", None),), tuple(f"{url}/{archive}" for url in URLS))
        return _unpacked(name, fetch(file, root))

    return read


def _files(name: str, folder: Path) -> dict[str, Text]:
    """Return the parts in files of one ending; none where there is no training text."""
    for ending in ENDINGS:
        if not (folder / f"wiki.train{ending}").is_file():
            continue
        # A beginning of the training text lies beside whole other parts.
        others = ending.replace(".head", "")
        paths = {part: folder / f"wiki.{word}{others}" for part, word in NAMES.items()}
        paths["train"] = folder / f"wiki.train{ending}"
        if absent := [path for path in paths.values() if not path.is_file()]:
            raise DataError(f"Expected {absent[0]} beside {paths['train']}, found no such file. Put all three there.")
        return {part: Text(str(path), _checked(name, path).read_bytes()) for part, path in paths.items()}
    return {}


def _checked(name: str, path: Path) -> Path:
    known = KNOWN[name].get(path.name)
    return check(path, f"sha256:{known[0]}", known[1]) if known else path


def _parquet(name: str, folder: Path) -> dict[str, Text]:
    """Return the parts in Parquet files, one row a line; none where there are no such files."""
    shards = {part: sorted(folder.glob(f"{part}-*.parquet")) for part in PARTS}
    if not shards["train"]:
        return {}
    if absent := [part for part, files in shards.items() if not files]:
        raise DataError(f"Expected {folder}/{absent[0]}-*.parquet beside those of the other parts, found none.")
    return {part: Text(f"{folder}/{part}-*.parquet", _rows(files)) for part, files in shards.items()}


def _rows(files: list[Path]) -> bytes:
    try:
        import polars
    except ModuleNotFoundError as error:
        raise DataError(
            f"Expected the package polars, which reads {files[0]}, found that it is not installed. "
            'Do: pip install "feedalign[ctr]", or put the .tokens files there instead.'
        ) from error
    lines: list[str] = []
    for file in files:
        try:
            column = polars.read_parquet(file, columns=["text"])["text"]
        except (polars.exceptions.PolarsError, OSError) as error:
            refuse_html(file)
            raise DataError(f"{file} is not a Parquet file with a column of text: {error}. Get it again.") from error
        rows = column.to_list()
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, str):
                raise DataError(
                    f"{file}, row {number:,}: expected text in the column `text`, found {row!r} in a column of type "
                    f"{column.dtype}. Correct or drop that row, or get the file again."
                )
        lines += rows
    return "".join(line.rstrip("\n") + "\n" for line in lines).encode()


def _unpacked(name: str, archive: Path) -> RawTexts:
    with zipfile.ZipFile(archive) as packed:
        members: Mapping[str, str] = {Path(member).name: member for member in packed.namelist()}
        ending = ".raw" if "wiki.train.raw" in members else ".tokens"
        return RawTexts(
            **{
                part: Text(f"{archive}:{name}", packed.read(members[f"wiki.{word}{ending}"]))
                for part, word in NAMES.items()
            }
        )
