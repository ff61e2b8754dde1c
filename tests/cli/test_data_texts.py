"""The texts among the data sets of the command line."""

from pathlib import Path


def test_data_list_shows_the_texts(command, data_root: Path, tmp_path: Path) -> None:
    said = command("data", "list", "--data-root", tmp_path)
    assert said.code == 0
    assert f"Texts under {tmp_path}" in said.out
    assert "not there; a download goes to wikitext-2-v1.zip" in said.out
    assert "not there; goes to text/train.txt and so on" in said.out
    assert "wikitext-2/wiki.train.tokens" in command("data", "list", "--data-root", data_root).out


def test_data_check_counts_words_and_says_what_is_a_part(command, data_root: Path) -> None:
    said = command("data", "check", "wikitext-2", "wikitext-103", "--data-root", data_root)
    assert said.code == 0
    assert said.out == (
        "wikitext-2: 2,088,628 training, 217,646 validation and 245,569 test words, complete; every line is UTF-8.\n"
        "wikitext-103: 501,320 training, 217,646 validation and 245,569 test words (the whole of it has 103,227,021); "
        "every line is UTF-8.\n"
    )


def test_bytes_that_are_no_text_end_in_two(command, tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for part in ("train", "validation", "test"):
        (tmp_path / "text" / f"{part}.txt").write_bytes(b"good\nb\xff\n")
    said = command("data", "check", "text", "--data-root", tmp_path)
    assert said.code == 2
    assert "text/train.txt is not text in UTF-8: line 2 holds the byte 0xff" in said.out


def test_own_text_cannot_be_downloaded(command, tmp_path: Path) -> None:
    said = command("data", "fetch", "text", "--data-root", tmp_path)
    assert said.code == 2
    assert "All three are needed: there is nothing to download." in said.message
