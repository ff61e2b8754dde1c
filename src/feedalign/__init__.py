"""Train any PyTorch model without weight transport: Direct Feedback Alignment and its relatives.

    import feedalign as fa

    handle = fa.attach(model, fa.DFA(seed=0))
    print(handle)                     # which points are cut, and what each receives
    loss_fn(model(x), y).backward()   # the gradients are those of DFA
    handle.remove()                   # the model is bitwise what it was

:func:`splice` is the one idea underneath; its docstring explains it in five lines of code.
"""

import importlib
from typing import TYPE_CHECKING, Any

from feedalign._version import __version__
from feedalign.alignment import Alignment, Cosine, alignment, weight_alignment
from feedalign.attach import Attachment, attach, attached
from feedalign.audit import Audit, audit
from feedalign.conditioning import Conditioning, PointConditioning, conditioning
from feedalign.errors import PointsError, SignalError
from feedalign.feedback import Feedback, Hadamard, Normal, Orthogonal, Regenerated, Sparse, Uniform
from feedalign.rules import (
    BRSF,
    DFA,
    DKP,
    DRTP,
    FA,
    FDFA,
    FRSF,
    IFA,
    USF,
    Backprop,
    Broadcast,
    BroadcastRule,
    GrAPE,
    KolenPollack,
    Layer,
    ProductFA,
    Rule,
    Shallow,
    SignDFA,
    TernaryDFA,
    TransportRule,
    WeightMirror,
    rule,
)
from feedalign.splice import splice
from feedalign.twopass import two_pass

if TYPE_CHECKING:
    from feedalign import optics
    from feedalign.feedback import Crossbar, Hardware, Optical
    from feedalign.hardware import Calibration, Projector, Remote, calibrate, fingerprint, lighton
    from feedalign.optics import Camera

__all__ = [
    "BRSF",
    "DFA",
    "DKP",
    "DRTP",
    "FA",
    "FDFA",
    "FRSF",
    "IFA",
    "USF",
    "Alignment",
    "Attachment",
    "Audit",
    "Backprop",
    "Broadcast",
    "BroadcastRule",
    "Calibration",
    "Camera",
    "Conditioning",
    "Cosine",
    "Crossbar",
    "Feedback",
    "GrAPE",
    "Hadamard",
    "Hardware",
    "KolenPollack",
    "Layer",
    "Normal",
    "Optical",
    "Orthogonal",
    "PointConditioning",
    "PointsError",
    "ProductFA",
    "Projector",
    "Regenerated",
    "Remote",
    "Rule",
    "Shallow",
    "SignDFA",
    "SignalError",
    "Sparse",
    "TernaryDFA",
    "TransportRule",
    "Uniform",
    "WeightMirror",
    "__version__",
    "alignment",
    "attach",
    "attached",
    "audit",
    "calibrate",
    "conditioning",
    "fingerprint",
    "lighton",
    "optics",
    "rule",
    "splice",
    "two_pass",
    "weight_alignment",
]

_LATE = {
    "feedback": ("Crossbar", "Hardware", "Optical"),
    "hardware": ("Calibration", "Projector", "Remote", "calibrate", "fingerprint", "lighton"),
    "optics": ("Camera",),
}
"""Imported when they are used: most programs have no use for light, arrays and devices."""


def __getattr__(name: str) -> Any:
    if name in ("optics", "hardware"):
        return importlib.import_module(f"{__name__}.{name}")
    for module, names in _LATE.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
