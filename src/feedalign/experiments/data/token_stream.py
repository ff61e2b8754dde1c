"""A text as one long row of tokens in a file that is mapped into memory, and how it is cut into chunks and batches."""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from feedalign.experiments.data import bpe
from feedalign.experiments.data.raw_text import PARTS, RawTexts, Text, words
from feedalign.experiments.errors import DataError, OutputError
from feedalign.experiments.files import writable_folder

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER, COUNTS = "tokenizer.json", "counts.json"
LINES = 10_000
"""Encoded at a time."""


@dataclass(frozen=True)
class TokenStream:
    """One part of a data set in tokens.

    Attributes:
        name: For messages.
        tokens: ``[n]``, in a file.
        words: How many words they stand for, the ends of lines counted.
    """

    name: str
    tokens: np.ndarray[Any, np.dtype[Any]]
    words: int

    def __len__(self) -> int:
        return len(self.tokens)

    def chunks(self, context: int) -> int:
        """Return how many whole chunks there are, each with a token after it to be foretold.

        Raises:
            DataError: There is none.
        """
        found = (len(self) - 1) // context
        if found < 1:
            raise DataError(
                f"Expected more than {context} tokens, a chunk and one to be foretold, in the {self.name} text, found "
                f"{len(self):,}. Use a longer text or a smaller context."
            )
        return found

    def batch(self, chunks: Tensor, context: int) -> tuple[Tensor, Tensor]:
        """Return what is read and what is to be foretold.

        Args:
            chunks: Their numbers ``[N]``.
            context: Tokens in each.

        Returns:
            Tokens ``[N, context]`` and the tokens after each of them, int64.
        """
        starts = chunks.numpy() * context
        rows = np.stack([self.tokens[start : start + context + 1] for start in starts]).astype(np.int64)
        found = torch.from_numpy(rows)
        return found[:, :-1], found[:, 1:]

    def every_token(self, context: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the whole text in batches of chunks, in order, and what is left in one shorter chunk.

        So every token but the first is foretold once, from those before it in its chunk.
        """
        whole = self.chunks(context) if len(self) > context else 0
        for start in range(0, whole, batch):
            yield self.batch(torch.arange(start, min(start + batch, whole)), context)
        rest = torch.from_numpy(np.asarray(self.tokens[whole * context :]).astype(np.int64))
        if len(rest) > 1:
            yield rest[None, :-1], rest[None, 1:]


@dataclass(frozen=True)
class Shuffled:
    """All chunks in an order drawn anew for each pass; a batch may hold the end of one pass and the start of the next.

    The order depends on the seed and the number of the pass alone, so that a run goes on anywhere.

    Attributes:
        chunks: How many there are.
        batch: How many go into a batch.
        seed: Of the run.
    """

    chunks: int
    batch: int
    seed: int

    def __call__(self, step: int) -> Tensor:
        """Return the numbers of the chunks of a step ``[batch]``, counted from 0."""
        numbers = range(step * self.batch, (step + 1) * self.batch)
        passes = {number // self.chunks for number in numbers}
        orders = {one: _order(self.chunks, self.seed, one) for one in passes}
        return torch.stack([orders[number // self.chunks][number % self.chunks] for number in numbers])


@lru_cache(maxsize=2)  # drawing it anew at every step would take longer than the step where there are many chunks
def _order(chunks: int, seed: int, number: int) -> Tensor:
    # Seeds and passes far apart in one number: no run has another one's order.
    return torch.randperm(chunks, generator=torch.Generator().manual_seed((seed << 24) + number))


@dataclass(frozen=True)
class Streams:
    """The text cut into as many long pieces as a batch has rows, read side by side from their beginnings, as published.

    What is left over, less than a chunk a row, is not read.

    Attributes:
        chunks: How many there are.
        batch: How many pieces.
    """

    chunks: int
    batch: int

    def __call__(self, step: int) -> Tensor:
        """Return the numbers of the chunks of a step ``[batch]``, counted from 0."""
        each = max(1, self.chunks // self.batch)
        return (torch.arange(self.batch) * each + step % each) % self.chunks


Order = Callable[[int], Tensor]


def encode(text: Text, tokenizer: "Tokenizer", limit: int | None = None) -> tuple[np.ndarray[Any, np.dtype[Any]], int]:
    """Return the tokens of a text, a line's end after each, and how many words they stand for."""
    kind = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    end, lines = bpe.end_of(tokenizer), text.lines(limit)
    found, count = list[np.ndarray[Any, np.dtype[Any]]](), 0
    while part := list(islice(lines, LINES)):
        count += sum(map(words, part))
        found += [np.asarray([*one.ids, end], kind) for one in tokenizer.encode_batch(part)]
    return np.concatenate(found), count


def write(folder: Path, texts: RawTexts, vocabulary: int, lowercase: bool, limit: int | None) -> None:
    """Learn the encoding of the training text and write it, and all parts in tokens, into a folder: all or nothing.

    Raises:
        DataError: A text is empty or not UTF-8, or the vocabulary too small.
        OutputError: The folder cannot be written.
    """
    tokenizer = bpe.learn(texts.train.lines(limit), vocabulary, lowercase)
    parent = writable_folder(folder.parent)
    temporary = Path(tempfile.mkdtemp(dir=parent, prefix=f".{folder.name}."))
    try:
        counts = {}
        for part in PARTS:
            tokens, counted = encode(getattr(texts, part), tokenizer, limit if part == "train" else None)
            np.save(temporary / f"{part}.npy", tokens)
            counts[part] = {"tokens": len(tokens), "words": counted}
        (temporary / TOKENIZER).write_text(tokenizer.to_str(), encoding="utf-8")
        (temporary / COUNTS).write_text(json.dumps(counts), encoding="utf-8")
        temporary.chmod(0o755)
        if not folder.exists():  # else another process was faster, and wrote the same
            temporary.rename(folder)
    except OSError as error:
        if not folder.exists():
            raise OutputError(f"Could not write {folder}: {error.strerror}. Free some space.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def open_streams(folder: Path, vocabulary: int) -> tuple[str, dict[str, TokenStream]]:
    """Return the encoding as JSON, and every part in tokens, of a folder that :func:`write` made.

    Args:
        folder: Where they are.
        vocabulary: How many tokens there are at most.

    Raises:
        DataError: A file is missing or damaged.
    """
    try:
        counts = json.loads((folder / COUNTS).read_text(encoding="utf-8"))
        streams = {
            part: TokenStream(part, np.load(folder / f"{part}.npy", mmap_mode="r"), counts[part]["words"])
            for part in PARTS
        }
        if any(len(stream) != counts[part]["tokens"] for part, stream in streams.items()):
            raise ValueError("another number of tokens than was written")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{folder} is damaged: {error}. Delete that folder, and it will be made again from the text."
        ) from error
    tokenizer = bpe.read(folder / TOKENIZER)
    if tokenizer.get_vocab_size() > vocabulary:
        raise DataError(
            f"Expected at most {vocabulary:,} tokens in {folder / TOKENIZER}, found {tokenizer.get_vocab_size():,}. "
            "Delete that folder, and it will be made again from the text."
        )
    return tokenizer.to_str(), streams
