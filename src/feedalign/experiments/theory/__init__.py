"""The studies of *Align, then memorise*, in the order of the story."""

from importlib import import_module
from importlib.util import find_spec

from feedalign.errors import nearest
from feedalign.experiments.errors import ExperimentError
from feedalign.experiments.theory.study import Study

NAMES = (
    *("ode", "phases", "degeneracy", "relu"),
    *("linear", "targets", "deep", "noise", "width"),
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


def study(name: str) -> Study:
    """Return the study of a name.

    Raises:
        ExperimentError: There is none.
    """
    if name not in STUDIES:
        raise ExperimentError(f"There is no study {name!r}.{nearest(name, STUDIES)} The studies: {', '.join(STUDIES)}.")
    return STUDIES[name]
