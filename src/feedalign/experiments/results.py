"""The results block of a document: tables made from the committed records, between two markers."""

from pathlib import Path

from feedalign.bench.record import step_table
from feedalign.experiments.comparison import accuracy_table, alignment_table, compare
from feedalign.experiments.errors import RecordError
from feedalign.experiments.files import write_atomically
from feedalign.experiments.records import RECORD, load_all
from feedalign.experiments.report import load_benches
from feedalign.experiments.tables import Table, to_markdown

BEGIN, END = "<!-- results:begin -->", "<!-- results:end -->"


def tables(folder: Path) -> list[Table]:
    """Return the tables of every record at or below a folder.

    Raises:
        RecordError: There is none.
    """
    comparisons, benches = compare(load_all(folder)), load_benches(folder)
    if not comparisons and not benches:
        raise RecordError(f"Expected at least one {RECORD} at or below {folder}, found none.")
    found = [make(comparison) for comparison in comparisons for make in (accuracy_table, alignment_table)]
    return [*(table for table in found if table is not None), *(step_table(record) for record in benches)]


def update(document: Path, folder: Path, *, check: bool = False) -> bool:
    """Write the tables of a folder between the markers of a document and return whether that changes it.

    Args:
        document: A Markdown file.
        folder: Where the records are.
        check: Change nothing.

    Raises:
        RecordError: There is no such document, or it does not hold both markers once, in order; or there is no record.
        OutputError: The document cannot be written.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"Expected a document at {document}, found none that can be read: {error.strerror}."
        ) from error
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise RecordError(f"Expected the lines {BEGIN} and {END} once each in {document}, in this order. Add them.")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    block = "\n".join(to_markdown(table) for table in tables(folder))
    renewed = f"{before}{BEGIN}\n{block}{END}{after}"
    if renewed == text:
        return False
    if not check:
        write_atomically(document, renewed.encode())
    return True
