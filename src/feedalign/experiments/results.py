"""The tables in a document: made from the committed records, between two markers."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from feedalign.bench.tables import TABLES, bench_tables, ratio_table
from feedalign.experiments.accuracy_tables import accuracy_table, overview_table, rules_table
from feedalign.experiments.alignment_tables import alignment_tables
from feedalign.experiments.comparison import Comparison, classified, compare
from feedalign.experiments.ctr.cells import CTR
from feedalign.experiments.ctr.pictures import ctr_pictures
from feedalign.experiments.ctr.tables import ctr_tables
from feedalign.experiments.errors import RecordError
from feedalign.experiments.files import write_atomically
from feedalign.experiments.graph.tables import GRAPH, graph_tables, of_graphs, tuned_runs
from feedalign.experiments.headlines import headlines
from feedalign.experiments.light.config import LIGHT
from feedalign.experiments.light.pictures import light_pictures
from feedalign.experiments.light.tables import light_tables
from feedalign.experiments.lm.config import CHOSEN_BY
from feedalign.experiments.lm.rows import LM
from feedalign.experiments.lm.tables import lm_tables
from feedalign.experiments.nerf.plots import nerf_pictures
from feedalign.experiments.nerf.tables import NERF, nerf_tables
from feedalign.experiments.records import RECORD, Run, load_all, read_json
from feedalign.experiments.report import load_benches
from feedalign.experiments.studies import TUNING
from feedalign.experiments.study_tables import study_tables
from feedalign.experiments.tables import Table, to_markdown
from feedalign.experiments.theory import STUDIES, studied
from feedalign.experiments.theory.claims import claims_table
from feedalign.experiments.theory.study import PREFIX, Study, Written

IMAGES = "images"


@dataclass(frozen=True)
class Shown:
    """A picture of a record: the name of its file, without ending, and what it says to those who cannot see it."""

    name: str
    caption: str


Block = Table | Shown


def tables(folder: Path) -> list[Table]:
    """Return the tables of every record at or below a folder.

    Raises:
        RecordError: There is none.
    """
    comparisons, benches, studies = _read(folder)
    found = [table for one in comparisons for table in (accuracy_table(one), *alignment_tables(one))]
    runs = load_all(folder)
    found += [table for _, make in FAMILIES.values() for table in make(runs)]
    found += [table for record in benches for table in bench_tables(record)]
    return [*found, *(table for study, record in studies for table in study.tables(record))]


def overview(folder: Path) -> list[Table]:
    """Return one table of all accuracies, one of each family that has another figure, and one of all step times.

    Raises:
        RecordError: There is no record.
    """
    comparisons, benches, _ = _read(folder)
    comparisons += compare(tuned_runs(load_all(folder, GRAPH)))
    found = [overview_table(comparisons)] if comparisons else []
    found += headlines(load_all(folder))
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


def theory(name: str, folder: Path) -> list[Block]:
    """Return the pictures and tables of one study of the theory.

    Raises:
        RecordError: There is none.
    """
    pictures: list[Block] = [*theory_pictures(name, folder)]
    return [*pictures, *(table for study, record in _of(name, folder) for table in study.tables(record))]


def theory_pictures(name: str, folder: Path) -> list[Block]:
    """Return the pictures of one study of the theory.

    Raises:
        RecordError: There is none.
    """
    return [
        Shown(study.file(what), str(figure.get_label()) or what)
        for study, record in _of(name, folder)
        for what, figure in study.pictures(record).items()
    ]


def _of(name: str, folder: Path) -> list[tuple[Study, Written]]:
    found = [(study, record) for study, record in studied(folder) if study.name == name]
    if not found:
        raise RecordError(
            f"Expected a record of {PREFIX}{name} at or below {folder}, found none. `feedalign theory {name}` makes "
            "one."
        )
    return found


def theory_claims(folder: Path) -> list[Block]:
    """Return the table of what the theory says and what was measured.

    Raises:
        RecordError: There is no record of a study.
    """
    found = studied(folder)
    if not found:
        raise RecordError(f"Expected records of studies at or below {folder}, found none. `feedalign theory all`.")
    return [claims_table({study.name: record for study, record in found})]


def family(kind: str, folder: Path) -> list[Table]:
    """Return the tables of one family of experiments.

    Args:
        kind: One of :data:`FAMILIES`.
        folder: Where the records are, or above them.

    Raises:
        RecordError: There is no record of one.
    """
    words, make = FAMILIES[kind]
    found = make(load_all(folder))
    if not found:
        raise RecordError(
            f"Expected records of {words} at or below {folder}, found none. `feedalign train {kind}` makes some."
        )
    return found


def lm_searches(folder: Path) -> list[Table]:
    """Return the tables of every search for the settings of a language model.

    Raises:
        RecordError: There is none.
    """
    summaries = (read_json(file) for file in sorted(folder.rglob(TUNING)))
    found = [table for one in summaries if one.get("chosen_by") == CHOSEN_BY for table in study_tables(one)]
    if not found:
        raise RecordError(
            f"Expected a search for a language model at or below {folder}, found none. `feedalign tune lm` makes one."
        )
    return found


def ctr_shown(folder: Path) -> list[Block]:
    """Return the pictures of networks for click logs."""
    return [Shown(name, str(figure.get_label())) for name, figure in ctr_pictures(load_all(folder))]


def nerf_shown(folder: Path) -> list[Block]:
    """Return the pictures of scenes.

    Raises:
        RecordError: There is no record of one.
    """
    family(NERF, folder)
    return [Shown(name, str(figure.get_label())) for name, figure in nerf_pictures(load_all(folder))]


def light_shown(folder: Path) -> list[Block]:
    """Return the pictures of training through simulated light.

    Raises:
        RecordError: There is no record of it.
    """
    family(LIGHT, folder)
    return [Shown(name, str(figure.get_label())) for name, figure in light_pictures(load_all(folder))]


FAMILIES: dict[str, tuple[str, Callable[[Sequence[Run]], list[Table]]]] = {
    GRAPH: ("graph networks", graph_tables),
    CTR: ("click logs", ctr_tables),
    LM: ("language models", lm_tables),
    NERF: ("scenes", nerf_tables),
    LIGHT: ("simulated light", light_tables),
}
"""By the name of the experiment, and of its command: what it is of, and its tables."""
BLOCKS: dict[str, Callable[[Path], Sequence[Block]]] = {
    "results": tables,
    "overview": overview,
    "rules": rules,
    **{kind: partial(family, kind) for kind in FAMILIES},
    f"{LM}-search": lm_searches,
    f"{CTR}-pictures": ctr_shown,
    f"{NERF}-pictures": nerf_shown,
    f"{LIGHT}-pictures": light_shown,
    **{kind: partial(bench, kind) for kind in TABLES},
    "theory-claims": theory_claims,
    **{study.experiment: partial(theory, study.name) for study in STUDIES.values()},
    **{f"{study.experiment}-pictures": partial(theory_pictures, study.name) for study in STUDIES.values()},
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
    block = "\n".join(_markdown(item, document) for item in BLOCKS[name](folder))
    return f"{before}{begin}\n{block}{end}{after}"


def _markdown(item: Block, document: Path) -> str:
    if isinstance(item, Table):
        return to_markdown(item)
    # Pages are at different depths, and share the folder of pictures that is the nearest above.
    above = next((parent for parent in document.absolute().parents if (parent / IMAGES).is_dir()), document.parent)
    place = os.path.relpath(above.absolute() / IMAGES / f"{item.name}.png", document.absolute().parent)
    return f"![{item.caption}]({Path(place).as_posix()})\n\n*{item.caption}*\n"


def _read(folder: Path) -> tuple[list[Comparison], list[dict[str, Any]], list[tuple[Study, Written]]]:
    runs, benches, studies = load_all(folder), load_benches(folder), studied(folder)
    if not runs and not benches and not studies:
        raise RecordError(f"Expected at least one {RECORD} at or below {folder}, found none.")
    # Graph networks have tables of their own, and so has what is not told by an accuracy.
    return compare(run for run in classified(runs) if not of_graphs(run)), benches, studies
