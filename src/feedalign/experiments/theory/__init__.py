"""The studies of *Align, then memorise*, in the order of the story."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from feedalign.errors import nearest
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.theory.study import PREFIX, Study, Written, load_studies

NAMES = (
    *("ode", "phases", "degeneracy", "relu"),
    *("linear", "targets", "deep", "noise", "width", "forecast"),
    *("convolutions", "bound"),
)


def _found() -> dict[str, Study]:
    """Return the studies that exist."""
    studies = {}
    for name in NAMES:
        module = f"{__name__}.{name}"
        if find_spec(module) is not None:
            try:
                studies[name] = import_module(module).STUDY
            except (ImportError, AttributeError, SyntaxError, NameError):
                continue
    return studies


STUDIES: dict[str, Study] = _found()


def studied(folder: Path) -> list[tuple[Study, Written]]:
    """Return the records of studies at or below a folder, each with its study, in the order of the story.

    Raises:
        RecordError: A ``record.json`` there is not a record; the message names it.
        ExperimentError: There is no such study.
    """
    found = [(study(record["experiment"].removeprefix(PREFIX)), record) for record in load_studies(folder)]
    return sorted(found, key=lambda pair: list(STUDIES).index(pair[0].name))


def study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        ExperimentError: There is none.
    """
    if name not in STUDIES:
        raise ExperimentError(f"There is no study {name!r}.{nearest(name, STUDIES)} The studies: {', '.join(STUDIES)}.")
    return STUDIES[name]
