"""The studies of *Align, then memorise*, in the order of the story."""

from pathlib import Path

from feedalign.errors import nearest
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.theory import (
    bound,
    convolutions,
    deep,
    degeneracy,
    forecast,
    linear,
    noise,
    ode,
    phases,
    relu,
    targets,
    width,
)
from feedalign.experiments.theory.study import PREFIX, Study, Written, load_studies

STUDIES: dict[str, Study] = {
    module.STUDY.name: module.STUDY
    for module in (
        ode,
        phases,
        degeneracy,
        relu,
        linear,
        targets,
        deep,
        noise,
        width,
        forecast,
        convolutions,
        bound,
    )
}


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
