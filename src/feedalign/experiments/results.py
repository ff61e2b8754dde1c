"""The tables in a document: made from the committed records, between two markers."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from feedalign.bench.tables import TABLES, bench_tables, ratio_table
from feedalign.experiments.accuracy_tables import accuracy_table, overview_table, rules_table
from feedalign.experiments.alignment_tables import alignment_tables
from feedalign.experiments.comparison import Comparison, compare
from feedalign.experiments.errors import RecordError
from feedalign.experiments.files import write_atomically
from feedalign.experiments.records import RECORD, load_all
from feedalign.experiments.report import load_benches
from feedalign.experiments.tables import Table, to_markdown
from feedalign.experiments.theory import STUDIES, studied
from feedalign.experiments.theory.study import PREFIX, Study, Written


def tables(folder: Path) -> list[Table]:
    """Return the tables of every record at or below a folder.

    Raises:
        RecordError: There is none.
    """
    comparisons, benches, studies = _read(folder)
    found = [table for one in comparisons for table in (accuracy_table(one), *alignment_tables(one))]
    found += [table for record in benches for table in bench_tables(record)]
    return [*found, *(table for study, record in studies for table in study.tables(record))]


def overview(folder: Path) -> list[Table]:
    """Return one table of all accuracies and one of all step times.

    Raises:
        RecordError: There is no record.
    """
    comparisons, benches, _ = _read(folder)
    found = [overview_table(comparisons)] if comparisons else []
    return [*found, *(ratio_table(record) for record in benches if record["experiment"] == "bench-step")]


def rules(folder: Path) -> list[Table]:
    """Return the one table of all rules, from those of the configurations that compare all rules that were run.

    Raises:
        RecordError: There is no record of one.
    """
    comparisons, _, _ = _read(folder)
    by_name = {comparison.name: comparison for comparison in comparisons}
    found = [by_name[name] for name in OF_ALL_RULES if name in by_name]
    if not found:
        raise RecordError(
            f"Expected records of {' or '.join(OF_ALL_RULES)} at or below {folder}, found none. "
            f"`feedalign train vision --preset {OF_ALL_RULES[0]} --rule all` makes some."
        )
    return [rules_table(found)]


OF_ALL_RULES = ("mnist-rules", "cifar10-rules")


def bench(kind: str, folder: Path) -> list[Table]:
    """Return the tables of every benchmark of one kind.

    Raises:
        RecordError: There is none.
    """
    found = [record for record in load_benches(folder) if record["experiment"] == kind]
    if not found:
        raise RecordError(
            f"Expected a record of {kind} at or below {folder}, found none. `feedalign {kind.replace('-', ' ')}` makes "
            "one."
        )
    return [table for record in found for table in bench_tables(record)]


def theory(name: str, folder: Path) -> list[Table]:
    """Return the tables of one study of the theory.

    Raises:
        RecordError: There is none.
    """
    found = [study.tables(record) for study, record in studied(folder) if study.name == name]
    if not found:
        raise RecordError(
            f"Expected a record of {PREFIX}{name} at or below {folder}, found none. `feedalign theory {name}` makes "
            "one."
        )
    return [table for tables in found for table in tables]


BLOCKS: dict[str, Callable[[Path], list[Table]]] = {
    "results": tables,
    "overview": overview,
    "rules": rules,
    **{kind: partial(bench, kind) for kind in TABLES},
    **{study.experiment: partial(theory, study.name) for study in STUDIES.values()},
}
"""What may stand between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` in a document."""


def update(document: Path, folder: Path, *, check: bool = False) -> bool:
    """Write the tables of a folder between the markers of a document and return whether that changes it.

    Args:
        document: A Markdown file.
        folder: Where the records are.
        check: Change nothing.

    Raises:
        RecordError: There is no such document, or it does not hold a pair of markers in order; or there is no record.
        OutputError: The document cannot be written.
    """
    try:
        text = document.read_text(encoding="utf-8")
    except OSError as error:
        raise RecordError(
            f"Expected a document at {document}, found none that can be read: {error.strerror}."
        ) from error
    if not any(mark in text for name in BLOCKS for mark in markers(name)):
        begin, end = markers("results")
        raise RecordError(f"Expected the lines {begin} and {end} once each in {document}, in this order. Add them.")
    renewed = text
    for name in BLOCKS:
        renewed = _renew(renewed, name, document, folder)
    if renewed == text:
        return False
    if not check:
        write_atomically(document, renewed.encode())
    return True


def markers(name: str) -> tuple[str, str]:
    """Return the lines that a block stands between."""
    return f"<!-- {name}:begin -->", f"<!-- {name}:end -->"


def _renew(text: str, name: str, document: Path, folder: Path) -> str:
    begin, end = markers(name)
    if begin not in text and end not in text:
        return text
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise RecordError(f"Expected the lines {begin} and {end} once each in {document}, in this order. Add them.")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    block = "\n".join(to_markdown(table) for table in BLOCKS[name](folder))
    return f"{before}{begin}\n{block}{end}{after}"


def _read(folder: Path) -> tuple[list[Comparison], list[dict[str, Any]], list[tuple[Study, Written]]]:
    comparisons, benches, studies = compare(load_all(folder)), load_benches(folder), studied(folder)
    if not comparisons and not benches and not studies:
        raise RecordError(f"Expected at least one {RECORD} at or below {folder}, found none.")
    return comparisons, benches, studies
