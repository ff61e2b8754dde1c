"""The sources of Python's own standard library as text: no file, no network.

All modules that stand directly in the library's folder, in the order of their names; packages and what a machine
generates are left out. Of every twenty modules the nineteenth is validated on and the twentieth tested on. Other
versions of Python have other texts: a record names the version, and the text by its hash.
"""

import sys
import sysconfig
from pathlib import Path

from feedalign.experiments.data.raw_text import RawTexts, Text
from feedalign.experiments.errors import DataError

GENERATED = "_sysconfigdata"
EVERY = 20


def read(root: Path, *, download: bool = True) -> RawTexts:
    """Return the sources of the Python that runs.

    Raises:
        DataError: This Python came without them.
    """
    del root, download
    folder = Path(sysconfig.get_path("stdlib"))
    known = sys.stdlib_module_names
    files = [file for file in sorted(folder.glob("*.py")) if file.stem in known and not file.stem.startswith(GENERATED)]
    if len(files) < EVERY:
        raise DataError(
            f"Expected the sources of Python's standard library in {folder}, found {len(files)} modules. Use a Python "
            "that has them, or another data set."
        )
    places = {"validation": EVERY - 2, "test": EVERY - 1}
    chosen = {part: files[place::EVERY] for part, place in places.items()}
    held_out = {file for part in chosen.values() for file in part}
    parts = {"train": [file for file in files if file not in held_out], **chosen}
    return RawTexts(**{part: Text(f"Python's sources ({part})", _joined(found)) for part, found in parts.items()})


def _joined(files: list[Path]) -> bytes:
    return b"\n".join(file.read_bytes().replace(b"\r\n", b"\n") for file in files)
