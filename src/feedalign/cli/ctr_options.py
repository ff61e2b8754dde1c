"""What the commands for click logs share: which logs, networks and settings, and the names that ``all`` stands for."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import tyro

from feedalign.cli.failures import UsageError
from feedalign.errors import nearest
from feedalign.experiments.ctr import shipped
from feedalign.experiments.ctr.cells import ALONE
from feedalign.experiments.ctr.presets import DATA, LARGE, MODELS, PLANTED, REAL, TITLES
from feedalign.experiments.names import EVERY, expand
from feedalign.experiments.settings import Settings
from feedalign.experiments.studies import chosen

Words = tuple[str, ...]
Logs = Annotated[
    Words,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help=f"Click logs: {', '.join(DATA)}. {PLANTED} is drawn from a known logit and needs no file; "
        f"{', '.join(LARGE)} have millions of rows. {EVERY} stands for {', '.join((PLANTED, *REAL))}.",
    ),
]
Networks = Annotated[
    Words,
    tyro.conf.arg(
        metavar="NAME [NAME ...]",
        help=f"Networks: {', '.join(f'{name} ({title})' for name, title in TITLES.items())}, or {EVERY} of them.",
    ),
]
Which = Literal["tuned", "published"]


def logs(names: Words) -> Words:
    """Return the click logs asked for, with ``all`` spelt out.

    Raises:
        UsageError: There is none, or no log of some name.
    """
    return _known(names, DATA, (PLANTED, *REAL), "click log")


def networks(names: Words) -> Words:
    """Return the networks asked for, with ``all`` spelt out.

    Raises:
        UsageError: There is none, or no network of some name.
    """
    return _known(names, MODELS, MODELS, "network for clicks")


def rules_of(kind: str, names: Words) -> Words:
    """Return the rules asked for that a network can learn by: a factorisation machine has backpropagation alone.

    Raises:
        UsageError: There is none.
        ValueError: There is no rule of some name.
    """
    if not names:
        raise UsageError("Expected at least one rule, found none. Name some, such as --rule bp dfa shallow.")
    found = expand(names)
    return tuple(rule for rule in found if rule == "bp") if kind == ALONE else found


def tuned(folder: Path | None) -> dict[str, Settings]:
    """Return the tuned settings: those of a folder of ``feedalign tune``, else those of the package.

    Raises:
        RecordError: The folder holds none.
    """
    return shipped() if folder is None else {**shipped(), **chosen(folder)}


def _known(names: Words, known: Words, every: Iterable[str], what: str) -> Words:
    if not names:
        raise UsageError(f"Expected at least one {what}, found none. Name some, or write {EVERY}.")
    found = tuple(dict.fromkeys(one for name in names for one in (every if name == EVERY else (name,))))
    for name in found:
        if name not in known:
            raise UsageError(f"There is no {what} {name!r}.{nearest(name, known)} There are: {', '.join(known)}.")
    return found
