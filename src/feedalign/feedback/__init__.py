"""Which numbers carry the error to the points: one file a family."""

from feedalign.feedback.crossbar import Crossbar
from feedalign.feedback.feedback import Feedback, Kept, Parts, Projection, Site, dense, kept
from feedalign.feedback.hadamard import Hadamard
from feedalign.feedback.hardware import Hardware
from feedalign.feedback.normal import Normal
from feedalign.feedback.optical import Optical
from feedalign.feedback.orthogonal import Orthogonal
from feedalign.feedback.regenerated import Regenerated
from feedalign.feedback.simulated import Simulated
from feedalign.feedback.sparse import Sparse
from feedalign.feedback.uniform import Uniform

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
