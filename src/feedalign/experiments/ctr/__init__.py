"""Click logs: rows of categories, of which a network says how likely each is a click."""

from feedalign.experiments.ctr.config import Config
from feedalign.experiments.ctr.presets import preset, presets, shipped
from feedalign.experiments.ctr.runs import CTR

__all__ = ["CTR", "Config", "preset", "presets", "shipped"]
