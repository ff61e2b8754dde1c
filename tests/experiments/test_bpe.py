"""Byte-pair encoding: learned from the training text alone, the same every time, and back to the same bytes."""

import random

import pytest

from feedalign.experiments.data import bpe
from feedalign.experiments.errors import DataError

LINES = [" the cat sat on the mat .", "", " the <unk> sat on the cat .", " a cat , a mat and the hat"] * 20


@pytest.fixture(scope="module")
def tokenizer():
    return bpe.learn(LINES, 300)


def test_a_pair_that_is_frequent_becomes_a_token_and_saves_room(tokenizer):
    assert len(tokenizer.encode(" the").ids) == 1  # the most frequent word, its blank included
    assert len(tokenizer.encode(" zqx").ids) == 4  # never seen: bytes
    assert tokenizer.get_vocab_size() <= 300


def test_first_merge_is_the_most_frequent_pair():
    """Counted by hand: 'ab' stands there 5 times, no other pair more than 3 times."""
    tokenizer = bpe.learn(["ab ab ab", "ab cab c"], bpe.SMALLEST + 1)
    assert tokenizer.token_to_id("ab") == bpe.SMALLEST
    assert tokenizer.encode("ab").ids == [bpe.SMALLEST]


def test_same_text_gives_the_same_encoding_in_any_order_of_lines(tokenizer):
    assert bpe.learn(LINES, 300).to_str() == tokenizer.to_str()
    mixed = random.Random(0).sample(LINES, len(LINES))
    assert bpe.learn(mixed, 300).to_str() == tokenizer.to_str()


@pytest.mark.parametrize(
    "text",
    [
        " the cat sat",
        "no blank first",
        "日本語 and é and \U0001f600, never seen in training",
        "   deep indentation\tand a tab  ",
        " \x00 control \x7f",
    ],
)
def test_every_text_comes_back(tokenizer, text):
    assert bpe.decode(tokenizer, tokenizer.encode(text).ids) == text


def test_lines_and_unknown_words_come_back(tokenizer):
    end = bpe.end_of(tokenizer)
    ids = [*tokenizer.encode(" a <unk> mat").ids, end, end, *tokenizer.encode(" the <unk>").ids]
    assert bpe.decode(tokenizer, ids) == " a <unk> mat\n\n the <unk>"
    assert tokenizer.encode(" <unk>").ids == [tokenizer.token_to_id("<unk>")]


def test_lowercase_is_part_of_the_encoding():
    small = bpe.learn(LINES, 300, lowercase=True)
    assert small.encode(" The CAT").ids == small.encode(" the cat").ids
    plain = bpe.learn(LINES, 300)
    assert plain.encode(" The CAT").ids != plain.encode(" the cat").ids


def test_short_text_gets_as_many_tokens_as_it_has_pairs():
    assert bpe.learn(["ab"], 4_000).get_vocab_size() == bpe.SMALLEST + 1


def test_vocabulary_must_hold_all_bytes():
    with pytest.raises(DataError, match="at least 258 tokens, one for each byte and 2 more, found 200"):
        bpe.learn(LINES, 200)


def test_encoding_survives_a_file(tokenizer, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(tokenizer.to_str(), encoding="utf-8")
    found = bpe.read(file, tokenizer.get_vocab_size())
    assert found.encode(" the hat <unk>").ids == tokenizer.encode(" the hat <unk>").ids


def test_file_of_another_vocabulary_is_refused(tokenizer, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(tokenizer.to_str(), encoding="utf-8")
    with pytest.raises(DataError, match=r"Expected a tokenizer of 4,000 tokens at .*, found one of \d+: it belongs to"):
        bpe.read(file, 4_000)


@pytest.mark.parametrize("content", ["", "{}", "not json"])
def test_file_that_is_no_tokenizer_is_refused(tmp_path, content):
    file = tmp_path / "tokenizer.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="is not a tokenizer"):
        bpe.read(file)


def test_file_that_is_not_there_is_said_so(tmp_path):
    with pytest.raises(DataError, match=r"Expected a tokenizer at .*, found none: No such file"):
        bpe.read(tmp_path / "tokenizer.json")


def test_encoding_of_somebody_else_has_no_end_of_line():
    from tokenizers import Tokenizer, models

    with pytest.raises(DataError, match="Expected a tokenizer with the token <eos>, found none"):
        bpe.end_of(Tokenizer(models.BPE()))
