"""Where the files of a click log lie, and where they come from."""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from feedalign.experiments.data.click_layout import Layout
from feedalign.experiments.data.root import File, check, data_root, fetch
from feedalign.experiments.errors import DataError, OutputError
from feedalign.experiments.files import writable_folder


@dataclass(frozen=True)
class ClickFile:
    """A file of a click log under the data root.

    Attributes:
        path: Relative to the data root.
        hash: ``"sha256:..."``, where it is known. Every line of every file is checked when it is read.
        size: In bytes, where it is known.
    """

    path: str
    hash: str = ""
    size: int = 0


@dataclass(frozen=True)
class ClickSource:
    """One row of the table of click logs.

    Attributes:
        title: Its name as people write it.
        layout: How the lines of its files are made.
        forms: The ways in which its files may lie; the first that is complete is read.
        rows: How many rows the whole of it has.
        origin: Where people get it, in words.
        archive: The zip file that is downloaded, where the official address is direct.
    """

    title: str
    layout: Layout
    forms: tuple[tuple[ClickFile, ...], ...]
    rows: int
    origin: str
    archive: File | None = None

    @property
    def places(self) -> tuple[str, ...]:
        """Where its files are looked for under the data root."""
        return tuple(file.path for form in self.forms for file in form)

    @property
    def hashes_known(self) -> bool:
        """Whether the bytes of all its files are known."""
        return all(file.hash for form in self.forms for file in form)

    def find(self, root: Path | str | None = None) -> tuple[str, ...]:
        """Return the paths of its files relative to the data root, or nothing where they are not there."""
        folder = data_root(root)
        for form in self.forms:
            if all((folder / file.path).is_file() for file in form):
                return tuple(file.path for file in form)
        return ()

    def require(self, root: Path | str | None = None) -> None:
        """Check that its files are there or can be downloaded, without opening them.

        Raises:
            DataError: They are not there, and nobody but the user can get them.
        """
        if self.archive is None and not self.find(root):
            raise DataError(self._missing(data_root(root)))

    def locate(self, root: Path | str | None = None, *, download: bool = True) -> tuple[Path, ...]:
        """Return its files, of which those with a known hash are checked; downloaded where that can be.

        Raises:
            DataError: A file is missing or damaged.
            OutputError: What was downloaded could not be unpacked.
        """
        folder = data_root(root)
        for form in self.forms:
            if all((folder / file.path).is_file() for file in form):
                return tuple(_checked(folder, file) for file in form)
        if self.archive is None or not download:
            raise DataError(self._missing(folder))
        _unpack(fetch(self.archive, folder), folder, self.forms[0])
        return tuple(_checked(folder, file) for file in self.forms[0])

    def _missing(self, root: Path) -> str:
        forms = "\n  or ".join(", ".join(str(root / file.path) for file in form) for form in self.forms)
        fetched = " or let `feedalign data fetch` download it," if self.archive else ""
        return (
            f"{self.title} is missing. Expected:\n  {forms}\n"
            f"{self.origin} Do put it there,{fetched} or name the folder that holds it: pass it as the data root "
            "(--data-root), or set FEEDALIGN_DATA. The click log 'planted' needs no file and no network."
        )


def _checked(root: Path, file: ClickFile) -> Path:
    path = root / file.path
    return check(path, file.hash, file.size) if file.hash else path


def _unpack(archive: Path, root: Path, files: tuple[ClickFile, ...]) -> None:
    """Take files out of a zip file in which they lie in a folder of any name."""
    try:
        with zipfile.ZipFile(archive) as packed:
            members = {Path(name).name: name for name in packed.namelist()}
            for file in files:
                target = root / file.path
                writable_folder(target.parent)
                partial = target.with_name(f".{target.name}.partial")
                with packed.open(members[target.name]) as content, partial.open("wb") as copy:
                    shutil.copyfileobj(content, copy)
                partial.replace(target)
    except (zipfile.BadZipFile, KeyError) as error:
        raise DataError(f"{archive} is damaged: {error}. Delete it, and it will be downloaded again.") from error
    except OSError as error:
        raise OutputError(f"Could not unpack {archive} into {root}: {error.strerror}. Do free some space.") from error
