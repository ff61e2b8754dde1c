"""Texts: where they are found, how they are cut into tokens and chunks, and what is said of bad ones."""

import hashlib
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from feedalign.experiments.data import bpe, python_sources, wikitext
from feedalign.experiments.data.raw_text import RawTexts, Text, words
from feedalign.experiments.data.texts import TEXTS, TextConfig, load_text, text_source
from feedalign.experiments.data.token_stream import Shuffled, Streams, TokenStream, encode, open_streams, write
from feedalign.experiments.errors import DataError, OutputError

OWN = TextConfig("text", 300)
TRAIN = " the cat sat on the mat .\n\n the cat <unk> , said the hat .\n" * 40


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data" / "text"
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text(TRAIN, encoding="utf-8")
    (folder / "validation.txt").write_text(" a mat\n a cat\n", encoding="utf-8")
    (folder / "test.txt").write_text(" a hat\n", encoding="utf-8")
    return tmp_path / "data"


def load(root, config=OWN):
    return load_text(config, root, cache=root.parent / "cache")


def test_tokens_are_those_of_the_text(root):
    data = load(root)
    assert bpe.decode(data.tokenizer, data.train.tokens.tolist()) == TRAIN
    assert bpe.decode(data.tokenizer, data.test.tokens.tolist()) == " a hat\n"
    assert data.train.words == len(TRAIN.split()) + TRAIN.count("\n")
    assert data.counts["validation_words"] == 2 * 3
    assert data.counts["train"] == len(data.train)
    assert data.vocabulary == data.counts["vocabulary"] <= 300


def test_encoding_knows_nothing_of_held_out_text(root):
    before = load(root)
    (root / "text" / "test.txt").write_text("Something else entirely, " * 500, encoding="utf-8")
    after = load(root)
    assert after.encoding == before.encoding
    assert np.array_equal(after.train.tokens, before.train.tokens)
    assert len(after.test) > len(before.test)  # and the cache did not hand out the old one


def test_tokens_lie_in_memory_mapped_files_of_two_bytes_each(root):
    data = load(root)
    assert isinstance(data.train.tokens, np.memmap)
    assert data.train.tokens.dtype == np.uint16


def test_large_vocabularies_take_four_bytes_a_token():
    from tokenizers import Tokenizer

    tokenizer = bpe.learn(["ab"], 300)
    tokenizer.add_tokens([f"word{number}" for number in range(70_000)])
    assert isinstance(tokenizer, Tokenizer)
    tokens, count = encode(Text("here", b"word69999 word1\n"), tokenizer)
    assert tokens.dtype == np.uint32
    assert tokenizer.id_to_token(int(tokens[0])) == "word69999"
    assert count == 3


def test_a_text_is_encoded_once(root):
    load(root)
    (folder,) = (root.parent / "cache").iterdir()
    written = (folder / "train.npy").stat().st_mtime_ns
    load(root)
    assert (folder / "train.npy").stat().st_mtime_ns == written
    load(root, replace(OWN, lowercase=True))
    load(root, replace(OWN, vocabulary=280))
    assert len(list((root.parent / "cache").iterdir())) == 3


def test_limit_is_of_the_training_lines_alone(root):
    data = load(root, replace(OWN, limit=2))
    assert data.train.words == words(" the cat sat on the mat .") + words("")
    assert data.counts["validation_words"] == 6


@pytest.mark.parametrize("content", [b"", b"\n\n", b"  \n\t"])
@pytest.mark.parametrize("part", ["train", "validation", "test"])
def test_empty_text_is_refused(root, part, content):
    (root / "text" / f"{part}.txt").write_bytes(content)
    with pytest.raises(DataError, match=rf"{part}.txt is empty: expected at least one line of text, found only blanks"):
        load(root)
    assert not list((root.parent / "cache").glob("*"))  # nothing is left behind


def test_bytes_that_are_not_utf8_are_named(root):
    (root / "text" / "train.txt").write_bytes(b" first\n caf\xe9 au lait\n")
    with pytest.raises(DataError, match=r"train.txt is not text in UTF-8: line 2 holds the byte 0xe9, at byte 11 of"):
        load(root)


def test_interrupted_write_leaves_no_tokens(root, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OutputError, match=r"Could not write .*: No space left on device"):
        load(root)
    monkeypatch.undo()
    assert not list((root.parent / "cache").iterdir())
    assert bpe.decode(load(root).tokenizer, load(root).test.tokens.tolist()) == " a hat\n"


def test_stopped_write_leaves_no_tokens_either(root, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "save", stopped)
    with pytest.raises(KeyboardInterrupt):
        load(root)
    assert not list((root.parent / "cache").iterdir())


@pytest.mark.parametrize("damage", ["short", "missing", "other counts", "no tokenizer"])
def test_damaged_tokens_are_noticed(root, damage):
    load(root)
    (folder,) = (root.parent / "cache").iterdir()
    file = folder / "train.npy"
    if damage == "short":
        file.write_bytes(file.read_bytes()[:-7])
    elif damage == "missing":
        file.unlink()
    elif damage == "other counts":
        (folder / "counts.json").write_text('{"train": {"tokens": 3, "words": 1}}', encoding="utf-8")
    else:
        (folder / "tokenizer.json").unlink()
    with pytest.raises(DataError, match=r"is damaged|Expected a tokenizer"):
        load(root)


def test_two_processes_may_write_the_same(root):
    texts = text_source("text").read(root)
    folder = root.parent / "cache" / "one"
    write(folder, texts, 300, False, None)
    before = (folder / "train.npy").stat().st_ino
    write(folder, texts, 300, False, None)
    assert (folder / "train.npy").stat().st_ino == before
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_tokens_of_a_larger_vocabulary_are_refused(root):
    folder = root.parent / "cache" / "one"
    write(folder, text_source("text").read(root), 300, False, None)
    with pytest.raises(DataError, match=r"Expected at most 259 tokens in .*, found \d+"):
        open_streams(folder, 259)


def test_missing_text_says_what_is_looked_for(tmp_path):
    with pytest.raises(DataError, match=r"text/train.txt"):
        load(tmp_path)


def test_unknown_text_names_the_nearest():
    with pytest.raises(DataError, match=r"no text 'wikitext2'.* Did you mean 'wikitext-2'"):
        load_text(TextConfig("wikitext2"))


def stream(count):
    return TokenStream("training", np.arange(count, dtype=np.uint16), count)


def test_chunks_read_on_into_the_next_one():
    tokens, following = stream(10).batch(torch.tensor([0, 2]), 3)
    assert tokens.tolist() == [[0, 1, 2], [6, 7, 8]]
    assert following.tolist() == [[1, 2, 3], [7, 8, 9]]
    assert tokens.dtype == torch.int64


@pytest.mark.parametrize("count", [2, 3, 4, 9, 10, 11, 40])
@pytest.mark.parametrize("batch", [1, 4])
def test_every_token_is_foretold_once(count, batch):
    batches = list(stream(count).every_token(3, batch))
    seen = [token for _, following in batches for token in following.flatten().tolist()]
    assert seen == list(range(1, count))
    assert all(torch.equal(tokens + 1, following) for tokens, following in batches)


def test_text_shorter_than_a_chunk_is_refused():
    with pytest.raises(DataError, match="Expected more than 8 tokens, a chunk and one to be foretold, in the training"):
        stream(8).chunks(8)
    assert stream(9).chunks(8) == 1


@pytest.mark.parametrize(("chunks", "batch"), [(7, 3), (3, 7), (5, 5), (1, 2)])
def test_shuffled_chunks_come_once_a_pass(chunks, batch):
    order = Shuffled(chunks, batch, seed=3)
    seen = torch.cat([order(step) for step in range(chunks)])  # `batch` passes
    passes = seen.view(batch, chunks)
    assert all(sorted(one.tolist()) == list(range(chunks)) for one in passes)
    assert torch.equal(order(2), Shuffled(chunks, batch, seed=3)(2))  # a step alone is that of the whole


def test_shuffled_passes_and_seeds_differ():
    order, other = Shuffled(50, 50, seed=0), Shuffled(50, 50, seed=1)
    assert not torch.equal(order(0), order(1))
    assert not torch.equal(order(0), other(0))


def test_streams_go_on_where_they_were():
    order = Streams(12, 3)
    assert [order(step).tolist() for step in range(5)] == [[0, 4, 8], [1, 5, 9], [2, 6, 10], [3, 7, 11], [0, 4, 8]]


def test_streams_of_a_text_shorter_than_a_batch_repeat_it():
    assert Streams(2, 5)(0).tolist() == [0, 1, 0, 1, 0]


def test_python_is_there_without_files(tmp_path):
    texts = python_sources.read(tmp_path)
    assert texts.digest() == python_sources.read(tmp_path).digest()
    assert b"def " in texts.train.content
    sizes = [len(part.content) for part in (texts.train, texts.validation, texts.test)]
    assert sizes[0] > 5 * max(sizes[1:]) > 0
    assert texts.validation.content not in texts.train.content


def test_python_without_its_sources_is_said_so(tmp_path, monkeypatch):
    monkeypatch.setattr(python_sources.sysconfig, "get_path", lambda _: str(tmp_path))
    with pytest.raises(DataError, match=r"Expected the sources of Python's standard library in .*, found 0 modules"):
        python_sources.read(tmp_path)


def test_published_counts_of_words(data_root):
    """Those of Merity et al. 2017, table 1, ends of lines counted."""
    found = wikitext.reader("wikitext-2")(data_root, download=False)
    counts = [sum(map(words, getattr(found, part).lines())) for part in ("train", "validation", "test")]
    assert counts == [TEXTS["wikitext-2"].words, 217_646, 245_569]


def test_beginning_of_a_training_text_does(data_root):
    found = wikitext.reader("wikitext-103")(data_root, download=False)
    assert sum(map(words, found.train.lines())) == 501_320
    assert sum(map(words, found.validation.lines())) == 217_646


def test_changed_file_is_not_opened(data_root, tmp_path):
    folder = tmp_path / "wikitext-2"
    folder.mkdir()
    for part in ("train", "valid", "test"):
        (folder / f"wiki.{part}.tokens").write_bytes(
            (data_root / "wikitext-2" / f"wiki.{part}.tokens").read_bytes().replace(b"Valkyria", b"valkyria")
        )
    with pytest.raises(DataError, match=r"wiki.train.tokens is damaged or was changed"):
        wikitext.reader("wikitext-2")(tmp_path, download=False)


def test_missing_wikitext_says_where_it_may_lie(tmp_path):
    with pytest.raises(DataError, match=r"(?s)wikitext-2-v1.zip.*wikitext-2/wiki.train.tokens"):
        wikitext.reader("wikitext-2")(tmp_path, download=False)


def test_half_a_data_set_says_what_lacks(tmp_path):
    (tmp_path / "wikitext-2").mkdir()
    (tmp_path / "wikitext-2" / "wiki.train.raw").write_text(" a\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"Expected .*wiki.valid.raw beside .*wiki.train.raw, found no such file"):
        wikitext.reader("wikitext-2")(tmp_path, download=False)


LINES = ["", " = Title = \n", "", " some text , with <unk> . \n"]


def test_parquet_is_the_same_text_as_files(tmp_path):
    polars = pytest.importorskip("polars")
    folder, plain = tmp_path / "parquet" / "wikitext-2-raw-v1", tmp_path / "plain" / "wikitext-2-raw"
    folder.mkdir(parents=True)
    plain.mkdir(parents=True)
    for part, word in wikitext.NAMES.items():
        rows = [*LINES, f" {part} \n"]
        for number, shard in enumerate((rows[:2], rows[2:])):
            polars.DataFrame({"text": shard}).write_parquet(folder / f"{part}-0000{number}-of-00002.parquet")
        text = "".join(row.rstrip("\n") + "\n" for row in rows)
        (plain / f"wiki.{word}.raw").write_text(text, encoding="utf-8")
    read = wikitext.reader("wikitext-2")
    one, two = (read(tmp_path / where, download=False) for where in ("parquet", "plain"))
    assert [list(one.train.lines()), list(one.test.lines())] == [list(two.train.lines()), list(two.test.lines())]
    (folder / "train-00000-of-00002.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="is not a Parquet file with a column of text"):
        read(tmp_path / "parquet", download=False)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([" a ", None, " b "], r"train-00001-of-00002.parquet, row 2: expected text in the column `text`, found None"),
        ([" a ", " b ", None], r"row 3: expected text .*, found None in a column of type String"),
        ([None, None], r"row 1: expected text .*, found None in a column of type Null"),
        ([3, 4], r"row 1: expected text .*, found 3 in a column of type Int64. Correct or drop that row"),
        ([0.5], r"row 1: expected text .*, found 0.5 in a column of type Float64"),
        ([b"a"], r"row 1: expected text .*, found b'a' in a column of type Binary"),
        ([["a"]], r"row 1: expected text .*, found \['a'\] in a column of type List"),
        ([True], r"row 1: expected text .*, found True in a column of type Boolean"),
    ],
)
def test_parquet_of_something_else_than_text_is_refused(rows, message, tmp_path):
    polars = pytest.importorskip("polars")
    folder = tmp_path / "wikitext-2-raw"
    folder.mkdir()
    for part in ("train", "validation", "test"):
        polars.DataFrame({"text": [" good "]}).write_parquet(folder / f"{part}-00000-of-00002.parquet")
    assert list(wikitext.reader("wikitext-2")(tmp_path, download=False).train.lines()) == [" good"]
    polars.DataFrame({"text": rows}).write_parquet(folder / "train-00001-of-00002.parquet")
    with pytest.raises(DataError, match=message):
        wikitext.reader("wikitext-2")(tmp_path, download=False)


def test_a_page_in_place_of_a_parquet_file_is_called_one(tmp_path):
    pytest.importorskip("polars")
    folder = tmp_path / "wikitext-2-raw"
    folder.mkdir()
    for part in ("train", "validation", "test"):
        (folder / f"{part}-00000-of-00001.parquet").write_text("<!doctype html><html></html>", encoding="utf-8")
    with pytest.raises(DataError, match=r"train-00000-of-00001.parquet is an HTML page"):
        wikitext.reader("wikitext-2")(tmp_path, download=False)


MARK = b"\xef\xbb\xbf"


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path):
    contents = {"plain": b"", "marked": MARK}
    found = {}
    for name, mark in contents.items():
        (tmp_path / name / "text").mkdir(parents=True)
        for part in ("train", "validation", "test"):
            (tmp_path / name / "text" / f"{part}.txt").write_bytes(mark + f"first {part}\nsecond\n".encode())
        found[name] = load_text(TextConfig("text", vocabulary=300), tmp_path / name, cache=tmp_path / "cache")
    plain, marked = found["plain"], found["marked"]
    assert (marked.digest, marked.encoding, marked.counts) == (plain.digest, plain.encoding, plain.counts)
    assert marked.train.tokens.tolist() == plain.train.tokens.tolist()
    assert next(Text("", MARK + b"first\n").lines()) == "first"
    assert list(Text("", b"a\n" + MARK + b"b\n").lines()) == ["a", "\ufeffb"]  # it marks nothing but a beginning
    with pytest.raises(DataError, match="found only blanks"):
        next(Text("", MARK + b"\n").lines())
    with pytest.raises(DataError, match="line 2 holds the byte 0xff, at byte 5 of the file"):
        list(Text("", MARK + b"a\n\xff\xfe\n").lines())


def test_archive_is_read_where_its_hash_is_right(tmp_path, monkeypatch):
    archive = tmp_path / "wikitext-2-v1.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for word in wikitext.NAMES.values():
            packed.writestr(f"wikitext-2/wiki.{word}.tokens", f" {word} text \n")
    with pytest.raises(DataError, match="damaged or was changed"):
        wikitext.reader("wikitext-2")(tmp_path, download=False)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    monkeypatch.setitem(wikitext.ARCHIVES, "wikitext-2", {archive.name: digest})
    texts = wikitext.reader("wikitext-2")(tmp_path, download=False)
    assert list(texts.validation.lines()) == [" valid text"]


def test_digest_tells_parts_apart():
    def texts(*parts):
        return RawTexts(*(Text("", part) for part in parts)).digest()

    assert texts(b"a", b"b", b"c") != texts(b"b", b"a", b"c")
    assert texts(b"ab", b"c", b"d") != texts(b"a", b"bc", b"d")
