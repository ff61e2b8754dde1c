"""Which numbers carry the error to the points: one file a family."""

import importlib
from typing import TYPE_CHECKING, Any

from feedalign.feedback.feedback import Feedback, Kept, Parts, Projection, Site, dense, kept
from feedalign.feedback.hadamard import Hadamard
from feedalign.feedback.normal import Normal
from feedalign.feedback.orthogonal import Orthogonal
from feedalign.feedback.regenerated import Regenerated
from feedalign.feedback.sparse import Sparse
from feedalign.feedback.uniform import Uniform

if TYPE_CHECKING:
    from feedalign.feedback.crossbar import Crossbar
    from feedalign.feedback.hardware import Hardware
    from feedalign.feedback.optical import Optical
    from feedalign.feedback.simulated import Simulated

__all__ = [
    "Crossbar",
    "Feedback",
    "Hadamard",
    "Hardware",
    "Kept",
    "Normal",
    "Optical",
    "Orthogonal",
    "Parts",
    "Projection",
    "Regenerated",
    "Simulated",
    "Site",
    "Sparse",
    "Uniform",
    "dense",
    "kept",
]

_LATE = {"Crossbar": "crossbar", "Hardware": "hardware", "Optical": "optical", "Simulated": "simulated"}
"""Imported when they are used: most programs have no use for light, arrays and devices."""


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_LATE[name]}"), name)
