"""What the commands for graphs share: which graphs, networks and settings, and the names that ``all`` stands for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.failures import UsageError
from feedalign.errors import nearest
from feedalign.experiments.data.graphs import graph_source
from feedalign.experiments.graph import shipped
from feedalign.experiments.graph.presets import CITATIONS, KARATE, MODELS, TITLES
from feedalign.experiments.names import EVERY, expand
from feedalign.experiments.settings import Settings
from feedalign.experiments.studies import chosen

Words = tuple[str, ...]
Graphs = Annotated[
    Words,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help=f"Graphs: {', '.join((KARATE, *CITATIONS))}. {EVERY} stands for all but {KARATE}, which is built in.",
    ),
]
Models = Annotated[
    Words,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help=f"Networks: {', '.join(f'{name} ({title})' for name, title in TITLES.items())}, or {EVERY} of them.",
    ),
]
Which = Literal["tuned", "published"]


def graphs(names: Words) -> Words:
    """Return the graphs asked for, with ``all`` spelt out.

    Raises:
        UsageError: There is none.
        DataError: There is no graph of some name.
    """
    found = _spelt_out(names, CITATIONS, "graph")
    for name in found:
        graph_source(name)
    return found


def models(names: Words) -> Words:
    """Return the networks asked for, with ``all`` spelt out.

    Raises:
        UsageError: There is none, or no network of some name.
    """
    found = _spelt_out(names, MODELS, "network")
    for name in found:
        if name not in MODELS:
            raise UsageError(
                f"There is no graph network {name!r}.{nearest(name, MODELS)} There are: {', '.join(MODELS)}."
            )
    return found


def rules(names: Words) -> Words:
    """Return the rules asked for, with ``all`` spelt out.

    Raises:
        UsageError: There is none.
        ValueError: There is no rule of some name.
    """
    if not names:
        raise UsageError("Expected at least one rule, found none. Name some, such as --rule bp dfa shallow.")
    return expand(names)


def preset_name(cell: str, settings: Which) -> str:
    """Return the name of the preset of a cell, such as ``cora-gcn``, with these settings. Karate has one of each."""
    return f"{cell}-published" if settings == "published" and not cell.startswith(KARATE) else cell


def tuned(folder: Path | None) -> dict[str, Settings]:
    """Return the tuned settings: those of a folder of ``feedalign tune``, else those of the package.

    Raises:
        RecordError: The folder holds none.
    """
    return shipped() if folder is None else {**shipped(), **chosen(folder)}


def _spelt_out(names: Words, every: Iterable[str], what: str) -> Words:
    if not names:
        raise UsageError(f"Expected at least one {what}, found none. Name some, or write {EVERY}.")
    return tuple(dict.fromkeys(one for name in names for one in (every if name == EVERY else (name,))))
