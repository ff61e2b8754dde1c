"""Which numbers carry the error to the points: one file a family."""

from feedalign.feedback.feedback import Feedback, Projection, Site, dense
from feedalign.feedback.normal import Normal
from feedalign.feedback.orthogonal import Orthogonal
from feedalign.feedback.uniform import Uniform

__all__ = ["Feedback", "Normal", "Orthogonal", "Projection", "Site", "Uniform", "dense"]
