"""Texts by name, cut into tokens: those of Python itself, WikiText, and one's own.

============  ==========  ==========================================
name          words       from
============  ==========  ==========================================
python        any         the standard library of the Python that runs
wikitext-2    2.1 M       files, or a download
wikitext-103  103 M       files, or a download
text          any         ``text/{train,validation,test}.txt``
============  ==========  ==========================================

The encoding is learned from the training text alone. Tokens are kept in the user's cache folder, under a name made of
the text's hash and the options, so that a text is encoded once.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pooch

from feedalign.errors import nearest
from feedalign.experiments.data import python_sources, token_stream, wikitext
from feedalign.experiments.data.raw_text import PARTS, RawTexts, Text
from feedalign.experiments.data.root import data_root, missing
from feedalign.experiments.data.token_stream import TokenStream
from feedalign.experiments.errors import DataError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

LAYOUT = 1
"""Of the files with tokens: another one, other names."""


@dataclass(frozen=True)
class TextSource:
    """One row of the table of texts.

    Attributes:
        title: Its name as people write it.
        read: Reads the three parts from a data root; ``download=False`` raises where a file is missing.
        places: Where its files are looked for under the data root, the first being where a download goes.
        words: Of the whole upstream training text, the ends of lines counted; None where there is no telling.
    """

    title: str
    read: Callable[..., RawTexts]
    places: tuple[str, ...]
    words: int | None


OWN = tuple(f"text/{part}.txt" for part in PARTS)


def _own(root: Path, *, download: bool = True) -> RawTexts:
    """Return the texts that a user has put into the data root."""
    del download
    for place in OWN:
        if not (root / place).is_file():
            raise DataError(missing(list(OWN), root, "All three are needed: there is nothing to download.\n"))
    return RawTexts(**{part: Text(str(root / file), (root / file).read_bytes()) for part, file in _pairs()})


def _pairs() -> list[tuple[str, str]]:
    return list(zip(PARTS, OWN, strict=True))


TEXTS: dict[str, TextSource] = {
    "python": TextSource("Python's own sources", python_sources.read, (), None),
    "wikitext-2": TextSource("WikiText-2", wikitext.reader("wikitext-2"), wikitext.places("wikitext-2"), 2_088_628),
    "wikitext-103": TextSource(
        "WikiText-103", wikitext.reader("wikitext-103"), wikitext.places("wikitext-103"), 103_227_021
    ),
    "text": TextSource("a text of your own", _own, OWN, None),
}


@dataclass(frozen=True)
class TextConfig:
    """Which text, and how it is cut into tokens.

    Attributes:
        name: A name of the table above.
        vocabulary: How many tokens there may be; a short text gets fewer.
        lowercase: Whether letters are made small.
        limit: Train on, and learn the encoding from, at most so many lines.
    """

    name: str = "python"
    vocabulary: int = 4_000
    lowercase: bool = False
    limit: int | None = None


@dataclass(frozen=True)
class TextData:
    """A text in tokens.

    Attributes:
        name: Of the data set.
        encoding: The tokenizer as JSON.
        digest: What tells the text from any other: SHA-256.
        train: Trained on.
        validation: Decides.
        test: Reported.
    """

    name: str
    encoding: str = field(repr=False)
    digest: str
    train: TokenStream
    validation: TokenStream
    test: TokenStream

    @property
    def tokenizer(self) -> "Tokenizer":
        """The encoding."""
        from tokenizers import Tokenizer

        return Tokenizer.from_str(self.encoding)

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def counts(self) -> dict[str, Any]:
        """How many tokens and words every part has, and which text it is."""
        found: dict[str, Any] = {part: len(getattr(self, part)) for part in PARTS}
        words = {f"{part}_words": getattr(self, part).words for part in PARTS}
        return {**found, **words, "vocabulary": self.vocabulary, "text_sha256": self.digest}


def text_source(name: str) -> TextSource:
    """Return the row of the text called ``name``.

    Raises:
        DataError: There is none of that name.
    """
    if name not in TEXTS:
        raise DataError(f"There is no text {name!r}.{nearest(name, TEXTS)} There are: {', '.join(TEXTS)}.")
    return TEXTS[name]


def cache_folder() -> Path:
    """Return where tokens are kept."""
    return Path(pooch.os_cache("feedalign")) / "tokens"


def load_text(
    config: TextConfig, root: Path | str | None = None, *, download: bool = True, cache: Path | None = None
) -> TextData:
    """Return the text in tokens, made if they are not in the cache.

    Args:
        config: Which one, and how it is cut.
        root: The data root; see :func:`feedalign.experiments.data.data_root`.
        download: Whether a missing file may be downloaded.
        cache: Where tokens are kept; by default :func:`cache_folder`.

    Raises:
        DataError: The text is unknown, missing, empty, not UTF-8 or damaged, or the vocabulary too small.
        OutputError: The cache cannot be written.
    """
    from tokenizers import __version__

    texts = text_source(config.name).read(data_root(root), download=download)
    digest = texts.digest()
    options = f"{LAYOUT} {__version__} {config.vocabulary} {config.lowercase} {config.limit} {digest}"
    key = hashlib.sha256(options.encode()).hexdigest()[:16]
    folder = (cache or cache_folder()) / f"{config.name}-{config.vocabulary}-{key}"
    if not folder.exists():
        token_stream.write(folder, texts, config.vocabulary, config.lowercase, config.limit)
    encoding, streams = token_stream.open_streams(folder, config.vocabulary)
    return TextData(config.name, encoding, digest, **streams)
