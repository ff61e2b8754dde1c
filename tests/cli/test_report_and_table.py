import subprocess
import sys
from pathlib import Path

import pytest


def test_report_goes_where_it_is_told(command, trained: Path, tmp_path: Path) -> None:
    said = command("report", trained, "--output", tmp_path / "mine.html")
    assert said.code == 0
    assert said.out == f"Report: {tmp_path / 'mine.html'}\n"
    assert (tmp_path / "mine.html").stat().st_size > 10_000


def test_pictures_for_pages(command, trained: Path, tmp_path: Path) -> None:
    said = command("report", trained, "--output", tmp_path / "mine.html", "--pictures", tmp_path / "images")
    assert said.code == 0
    pictures = sorted((tmp_path / "images").iterdir())
    assert {picture.name.rsplit("-", 1)[-1] for picture in pictures} >= {"curves.png", "alignment.png"}
    assert all(picture.read_bytes().startswith(b"\x89PNG") for picture in pictures)
    assert all(f"Picture: {picture}" in said.out for picture in pictures)


def test_a_report_on_nothing_ends_in_two(command, tmp_path: Path) -> None:
    assert "Expected a folder with records, found none" in command("report", tmp_path / "nowhere").message
    said = command("report", tmp_path)
    assert said.code == 2
    assert "Expected at least one record.json" in said.message


def test_tables_are_written_into_documents_and_checked(command, trained: Path, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- results:begin -->\n<!-- results:end -->\n", encoding="utf-8")
    stale = command("table", trained, "--write", document, "--check")
    assert stale.code == 2
    assert "Not up to date" in stale.message
    assert command("table", trained, "--write", document).out == f"{document}: renewed\n"
    assert "| DFA | 2 |" in document.read_text(encoding="utf-8")
    assert command("table", trained, "--write", document, "--check").out == f"{document}: up to date\n"
    assert "backprop" in command("table", trained).out


def test_a_table_without_its_document_ends_in_two(command, trained: Path, tmp_path: Path) -> None:
    said = command("table", trained, "--check")
    assert said.code == 2
    assert "Expected the documents to check, found none. Name them: --write README.md --check." in said.message
    said = command("table", trained, "--write", tmp_path / "absent.md")
    assert said.code == 2
    assert f"Expected a document at {tmp_path / 'absent.md'}, found none that can be read" in said.message


@pytest.mark.parametrize("words", [["table"], ["--help"]])
def test_a_reader_who_has_seen_enough_hears_no_complaint(words: list[str], trained: Path) -> None:
    arguments = [str(trained)] if words == ["table"] else []
    process = subprocess.Popen(
        [sys.executable, "-m", "feedalign", *words, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1
