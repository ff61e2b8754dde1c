"""Byte-pair encoding: learned from the training text alone, the same one for the same text and options.

It works on bytes, so that every text has tokens and gets its bytes back: nothing is unknown. ``<unk>`` is there because
the texts of WikiText hold it as a word.

References:
    Sennrich, Haddow & Birch, *Neural machine translation of rare words with subword units*, ACL 2016.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from feedalign.experiments.errors import DataError

if TYPE_CHECKING:  # only texts need it, and other commands must start without it
    from tokenizers import Tokenizer

END, UNKNOWN = "<eos>", "<unk>"
"""The end of a line, and the word that stands for rare ones in WikiText."""
SPECIAL = (END, UNKNOWN)
SMALLEST = 256 + len(SPECIAL)
"""Tokens there are at least: all bytes, and the special ones."""


def learn(lines: Iterable[str], vocabulary: int, lowercase: bool = False) -> "Tokenizer":
    """Return the encoding of a text.

    Args:
        lines: The training text.
        vocabulary: How many tokens there may be. A short text has fewer pairs to join, and gets fewer.
        lowercase: Whether letters are made small first, here and wherever the encoding is used.

    Raises:
        DataError: The vocabulary cannot even hold all bytes.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    if vocabulary < SMALLEST:
        raise DataError(
            f"Expected a vocabulary of at least {SMALLEST} tokens, one for each byte and {len(SPECIAL)} more, found "
            f"{vocabulary}. Ask for more."
        )
    tokenizer = Tokenizer(models.BPE())
    if lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        # The blank before the word belongs to it, as it does for every other word.
        special_tokens=[AddedToken(END), AddedToken(UNKNOWN, lstrip=True)],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def end_of(tokenizer: "Tokenizer") -> int:
    """Return the number of the token that ends a line.

    Raises:
        DataError: There is none: the encoding was not made by :func:`learn`.
    """
    number = tokenizer.token_to_id(END)
    if number is None:
        raise DataError(f"Expected a tokenizer with the token {END}, found none. Use the tokenizer.json of a run.")
    return int(number)


def decode(tokenizer: "Tokenizer", tokens: Iterable[int]) -> str:
    """Return the text of tokens, a line feed for every end of a line."""
    end, found, line = end_of(tokenizer), [], list[int]()
    for token in tokens:
        if token == end:
            found.append(_decoded(tokenizer, line) + "\n")
            line = []
        else:
            line.append(token)
    return "".join(found) + _decoded(tokenizer, line)


def _decoded(tokenizer: "Tokenizer", line: list[int]) -> str:
    """Return the text of one line; the blank that ``<unk>`` swallowed is back in its place."""
    unknown, parts, run = tokenizer.token_to_id(UNKNOWN), [], list[int]()
    for token in line:
        if token == unknown:
            parts.append(tokenizer.decode(run) + f" {UNKNOWN}")
            run = []
        else:
            run.append(token)
    return "".join(parts) + str(tokenizer.decode(run))


def read(path: Path, vocabulary: int | None = None) -> "Tokenizer":
    """Return the encoding in a file.

    Args:
        path: A ``tokenizer.json``.
        vocabulary: How many tokens it must have.

    Raises:
        DataError: There is no such file, it is not an encoding, or one of another number of tokens.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"Expected a tokenizer at {path}, found none: {error.strerror}.") from error
    except Exception as error:  # the package raises nothing more precise
        raise DataError(
            f"{path} is not a tokenizer of the package tokenizers: {error}. Put the right one back."
        ) from error
    found = tokenizer.get_vocab_size()
    if vocabulary is not None and found != vocabulary:
        raise DataError(
            f"Expected a tokenizer of {vocabulary:,} tokens at {path}, found one of {found:,}: it belongs to another "
            "model. Put the tokenizer.json back that was written with this run."
        )
    return tokenizer
