"""Files of click logs that are not as they should be, and those that only look so."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from feedalign.experiments.data.click_data import Clicks
from feedalign.experiments.data.click_files import read_blocks
from feedalign.experiments.data.clicks import CLICKS, ClickConfig, load_clicks
from feedalign.experiments.data.criteo import INDEXED, RAW
from feedalign.experiments.errors import DataError

ROWS = 30
REMEDY = " Do mend the line or leave it out."


def line(row: int) -> list[str]:
    return [
        str(row % 2),
        *(str(row * number) for number in range(13)),
        *(f"{row % 3}{number:07x}" for number in range(26)),
    ]


def lines(change: dict[int, list[str]] | None = None) -> list[str]:
    """Return the rows of a log, some of them replaced."""
    return ["\t".join((change or {}).get(row, line(row))) for row in range(ROWS)]


def load(folder: Path, content: bytes, name: str = "criteo", file: str = "criteo/train.txt") -> Clicks:
    (folder / file).parent.mkdir(exist_ok=True)
    (folder / file).write_bytes(content)
    return load_clicks(ClickConfig(name, minimum_count=2), folder, cache=folder / "cache")


def refusal(folder: Path, content: bytes, name: str = "criteo", file: str = "criteo/train.txt") -> str:
    """Return what is said of a file, after the folder of data sets."""
    with pytest.raises(DataError) as raised:
        load(folder, content, name, file)
    assert not list((folder / "cache").rglob("*.npy")), "something was left behind"
    return str(raised.value).replace(f"{folder}/", "")


def same(one: Clicks, other: Clicks) -> bool:
    return np.array_equal(one.indices, other.indices) and np.array_equal(one.labels, other.labels)


@pytest.fixture
def plain(tmp_path: Path) -> Clicks:
    """The log of a file without any fault."""
    (tmp_path / "plain").mkdir()
    return load(tmp_path / "plain", ("\n".join(lines()) + "\n").encode())


def changed(row: int, column: int, text: str) -> dict[int, list[str]]:
    return {row: [*line(row)[:column], text, *line(row)[column + 1 :]]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({6: line(6)[:-1]}, "line 7: expected 40 columns between tabs, found 39."),
        ({29: line(29)[:12]}, "line 30: expected 40 columns between tabs, found 12."),
        ({0: [*line(0), "more"]}, "line 1: expected 40 columns between tabs, found 41."),
        ({5: [""]}, "line 6: expected 40 columns, found an empty line."),
        (changed(4, 3, "12a"), "line 5: expected an integer or nothing in column I3, found '12a'."),
        (changed(4, 13, "1.5"), "line 5: expected an integer or nothing in column I13, found '1.5'."),
        (changed(4, 1, "9" * 19), f"line 5: expected an integer or nothing in column I1, found '{'9' * 19}'."),
        (changed(8, 0, "2"), "line 9: expected 0 or 1 as the label in column label, found '2'."),
        (changed(8, 0, ""), "line 9: expected 0 or 1 as the label in column label, found nothing."),
        (changed(8, 0, "1.0"), "line 9: expected 0 or 1 as the label in column label, found '1.0'."),
        (
            changed(9, 39, "123456789"),
            "line 10: expected a category of at most 8 characters in column C26, found '123456789'.",
        ),
        (changed(9, 20, "caf\u00e9"), "line 10: expected ASCII text, found other bytes."),
        (changed(9, 20, "a\0b"), "line 10: expected ASCII text, found other bytes."),
        # As many separators as there should be, one of them in the wrong line.
        ({2: line(2)[:-1], 3: [*line(3), "x"]}, "line 3: expected 40 columns between tabs, found 39."),
    ],
)
def test_a_line_that_is_wrong_is_named(tmp_path: Path, change: dict[int, list[str]], said: str) -> None:
    content = "\n".join(lines(change)).encode()
    assert refusal(tmp_path, content) == f"criteo/train.txt, {said}{REMEDY}"


def test_a_mended_file_is_read_anew(tmp_path: Path, plain: Clicks) -> None:
    refusal(tmp_path, "\n".join(lines({3: ["0"]})).encode())
    assert same(load(tmp_path, "\n".join(lines()).encode()), plain)


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\r\n"])
def test_an_empty_file(tmp_path: Path, content: bytes) -> None:
    assert refusal(tmp_path, content) == "criteo/train.txt is empty: expected rows of 40 columns, found none."


def test_nothing_but_the_names_of_columns(tmp_path: Path) -> None:
    names = ",".join(CLICKS["avazu"].layout.columns).encode()
    said = refusal(tmp_path, names + b"\n", "avazu", "avazu/train.csv")
    assert said == "avazu/train.csv is empty: expected rows of 24 columns, found none."


def test_other_names_of_columns_than_expected(tmp_path: Path) -> None:
    columns = ["id", "clicked", *CLICKS["avazu"].layout.columns[2:]]
    row = ",".join(["1", "0", *["x"] * 22])
    content = "\n".join([",".join(columns), *[row] * 20]).encode()
    said = refusal(tmp_path, content, "avazu", "avazu/train.csv")
    assert said.startswith("avazu/train.csv, line 1: expected 0 or 1 as the label in column click, found 'clicked'.")


def test_lines_are_counted_with_the_line_of_names(tmp_path: Path) -> None:
    names = ",".join(CLICKS["avazu"].layout.columns)
    rows = [",".join(["1", str(row % 2), *["x"] * 22]) for row in range(20)]
    rows[4] = rows[4][:-2]
    said = refusal(tmp_path, "\n".join([names, *rows]).encode(), "avazu", "avazu/train.csv")
    assert said.startswith("avazu/train.csv, line 6: expected 24 columns between commas, found 23.")


def test_a_rating_that_is_none(tmp_path: Path) -> None:
    rows = [f"{row}::{row}::{row % 5 + 1}::0" for row in range(20)]
    said = refusal(tmp_path, "\n".join([*rows, "1::1::6::0"]).encode(), "movielens-1m", "ml-1m/ratings.dat")
    expected = "line 21: expected 1, 2, 3, 4 or 5 as the label in column rating, found '6'."
    assert said == f"ml-1m/ratings.dat, {expected}{REMEDY}"


@pytest.mark.parametrize("text", ["x", "1.5", "inf", "1e30"])
def test_an_index_that_is_no_whole_number(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(",".join(["1", "0", *['""'] * 38, text]) + "\n")
    with pytest.raises(DataError, match=rf"line 1: expected a whole number or nothing in column C26, found '{text}'"):
        list(read_blocks([file], INDEXED))


def test_too_few_rows(tmp_path: Path) -> None:
    said = refusal(tmp_path, "\n".join(lines()[:9]).encode())
    assert said == (
        "Expected at least 10 rows, so that there are some to train, validate and test on; found 9 in "
        "criteo/train.txt. Do use a longer file."
    )


@pytest.mark.parametrize("cut", [1, 8, 40])
def test_a_truncated_gzip_file(tmp_path: Path, cut: int) -> None:
    packed = gzip.compress("\n".join(lines()).encode())
    said = refusal(tmp_path, packed[:-cut], file="criteo/train.txt.gz")
    assert said == "criteo/train.txt.gz is truncated: its compressed data end too early. Do get it again."


def test_a_damaged_gzip_file(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress("\n".join(lines()).encode()))
    packed[-6] ^= 1
    said = refusal(tmp_path, bytes(packed), file="criteo/train.txt.gz")
    assert said.startswith("criteo/train.txt.gz is damaged: expected gzip data, found CRC check failed")
    packed[len(packed) // 2] ^= 255
    assert "criteo/train.txt.gz is " in refusal(tmp_path, bytes(packed), file="criteo/train.txt.gz")


@pytest.mark.parametrize("file", ["criteo/train.txt.gz", "criteo/train.txt"])
def test_gzip_is_known_by_its_bytes(tmp_path: Path, plain: Clicks, file: str) -> None:
    assert same(load(tmp_path, gzip.compress("\n".join(lines()).encode()), file=file), plain)


def test_a_file_that_was_unpacked_and_kept_its_name(tmp_path: Path, plain: Clicks) -> None:
    assert same(load(tmp_path, "\n".join(lines()).encode(), file="criteo/train.txt.gz"), plain)


@pytest.mark.parametrize("end", ["", "\r\n", "\n\n\n", "\r\n\r\n"])
def test_line_ends_do_not_matter(tmp_path: Path, plain: Clicks, end: str) -> None:
    between = "\r\n" if "\r" in end else "\n"
    assert same(load(tmp_path, (between.join(lines()) + end).encode()), plain)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_blocks_of_any_size_hold_the_same_rows(tmp_path: Path, ends: str) -> None:
    file = tmp_path / "train.txt"
    file.write_bytes((ends.join(lines()) + ends * 3).encode())
    (whole,) = read_blocks([file], RAW)
    for size in (50, 97, 1_000):
        blocks = list(read_blocks([file], RAW, block=size))
        assert len(blocks) > 1
        np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), whole.labels)
        for field, keys in enumerate(whole.keys):
            np.testing.assert_array_equal(np.concatenate([block.keys[field] for block in blocks]), keys)


@pytest.mark.parametrize("size", [50, 1_000, 10**6])
def test_lines_are_counted_across_blocks(tmp_path: Path, size: int) -> None:
    file = tmp_path / "train.txt"
    file.write_text("\n".join(lines(changed(23, 2, "?"))))
    with pytest.raises(
        DataError, match=r"train\.txt, line 24: expected an integer or nothing in column I2, found '\?'"
    ):
        list(read_blocks([file], RAW, block=size))


def test_the_first_rows_are_read_and_no_more(tmp_path: Path) -> None:
    files = [tmp_path / "one.txt", tmp_path / "two.txt"]
    files[0].write_text("\n".join(lines()))
    files[1].write_text("\n".join(lines({20: ["broken"]})))
    for count in (1, 30, 31, 50):
        for size in (300, 10**6):
            labels = np.concatenate([block.labels for block in read_blocks(files, RAW, count, block=size)])
            assert labels.tolist() == [row % ROWS % 2 for row in range(count)]


def test_options_that_mean_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Expected a minimum count of at least 1, found 0\."):
        load_clicks(ClickConfig(minimum_count=0))
    with pytest.raises(DataError, match=r"Expected at least one row, found 0\."):
        load_clicks(ClickConfig("criteo", rows=0), tmp_path)
