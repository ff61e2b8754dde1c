"""Where data sets are looked for, how a file is checked before it is opened, and how it is downloaded."""

import gzip
import hashlib
import os
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path

import pooch
from requests.exceptions import RequestException

from feedalign.experiments.errors import DataError

VARIABLE = "FEEDALIGN_DATA"
BEGINNING = 512
"""Bytes of a file in which an HTML page says what it is."""


@dataclass(frozen=True)
class Content:
    """What a gzip file unpacks to.

    Attributes:
        hash: ``"sha256:..."``.
        size: In bytes; no more than one byte above it is ever unpacked.
    """

    hash: str
    size: int


@dataclass(frozen=True)
class Place:
    """One form in which a file may lie under the data root.

    Attributes:
        path: Relative to the data root.
        hash: ``"sha256:..."`` of the file in this form.
        size: In bytes; None where only the hash is known.
        content: Of a gzip file that may have been compressed again, to other bytes; None of other files.
    """

    path: str
    hash: str
    size: int | None
    content: Content | None = None


@dataclass(frozen=True)
class File:
    """One upstream file.

    Attributes:
        places: Where it may lie, the first being where a download goes.
        urls: Where it comes from, tried in turn.
    """

    places: tuple[Place, ...]
    urls: tuple[str, ...]


def data_root(root: Path | str | None = None) -> Path:
    """Return the folder of data sets: ``root``, else that of FEEDALIGN_DATA, else the user's cache folder."""
    chosen = root or os.environ.get(VARIABLE) or pooch.os_cache("feedalign")
    return Path(chosen).expanduser()


def check(path: Path, known_hash: str, size: int | None) -> Path:
    """Return the path of a file whose bytes are the expected ones.

    Raises:
        DataError: They are not; an HTML page is called one.
    """
    found = path.stat().st_size
    if size is not None and found != size:
        refuse_html(path)
        kind = "truncated" if found < size else "not the upstream file"
        raise DataError(
            f"{path} is {kind}: expected {size:,} bytes, found {found:,}. Delete it, and it will be downloaded again."
        )
    algorithm, _, digest = known_hash.partition(":")
    actual = pooch.file_hash(str(path), alg=algorithm)
    if actual != digest:
        refuse_html(path)
        raise DataError(
            f"{path} is damaged or was changed: expected {algorithm} {digest}, found {actual}. "
            "It was not opened. Delete it, and it will be downloaded again."
        )
    return path


def check_place(path: Path, place: Place) -> Path:
    """Return the path of a file whose bytes are the expected ones, or whose content is, where that is enough.

    Raises:
        DataError: They are not.
    """
    try:
        return check(path, place.hash, place.size)
    except DataError:
        if place.content is None or not _unpacks_to(path, place.content):
            raise
    return path


def _unpacks_to(path: Path, content: Content) -> bool:
    try:
        with gzip.open(path) as file:
            found = file.read(content.size + 1)
    except (OSError, EOFError, zlib.error):
        return False
    algorithm, _, digest = content.hash.partition(":")
    return hashlib.new(algorithm, found).hexdigest() == digest


def refuse_html(path: Path) -> None:
    """Raise if a file is an HTML page, as a server sends in place of a file that it does not give away.

    Raises:
        DataError: It is one.
    """
    with path.open("rb") as file:
        start = file.read(BEGINNING).removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<") and any(mark in start.lower() for mark in (b"<!doctype html", b"<html")):
        first = start.splitlines()[0][:60].decode("utf-8", "replace")
        raise DataError(
            f"{path} is an HTML page, saved under the name of a data file: expected the data, found a page that begins "
            f"with {first!r}. Delete it and get the file itself: where a download asks for a login or a consent, a "
            "server sends a page instead."
        )


def fetch(file: File, root: Path, *, download: bool = True) -> Path:
    """Return a checked copy of a file, downloaded if it lies nowhere under the root.

    Raises:
        DataError: The copy found is damaged, or there is none and it cannot be downloaded.
    """
    for place in file.places:
        if (root / place.path).is_file():
            return check_place(root / place.path, place)
    if not download:
        raise DataError(missing([place.path for place in file.places], root))
    return _downloaded(file, root)


def missing(places: list[str], root: Path, failure: str = "") -> str:
    """Return the message for a file that lies nowhere: what was looked for, where, and the ways out."""
    looked = "".join(f"\n  {root / place}" for place in places)
    put = "Put" if failure else "Let `feedalign data fetch` download it, put"
    return (
        f"A data file is missing. Expected one of these:{looked}\n{failure}"
        f"{put} the file there, or name the folder that holds it: pass it as the data root (--data-root), or "
        f"set {VARIABLE}. "
        "The data set 'digits' needs no file and no network, nor does the graph 'karate'."
    )


def _downloaded(file: File, root: Path) -> Path:
    place = file.places[0]
    target = root / place.path
    failures = []
    for url in file.urls:
        try:
            # pooch writes to a temporary file, and gives it the name only once the hash is right.
            return Path(
                pooch.retrieve(
                    url,
                    known_hash=place.hash,
                    fname=target.name,
                    path=target.parent,
                    progressbar=sys.stderr.isatty(),
                )
            )
        except RequestException as error:
            failures.append(f"It could not be downloaded from {url} ({_reason(error)}). Is there a network?\n")
        except ValueError:
            failures.append(f"What {url} sent has another checksum than {place.hash}, so it was thrown away.\n")
        except OSError as error:
            failures.append(f"It could not be saved to {target} ({error.strerror}).\n")
    raise DataError(missing([place.path for place in file.places], root, "".join(failures)))


def _reason(error: RequestException) -> str:
    status = error.response.status_code if error.response is not None else None
    return f"HTTP {status}" if status else type(error).__name__
