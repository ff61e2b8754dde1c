"""Language models: the next token of a text; a configuration, a rule, a loop, a record."""

from feedalign.experiments.lm.config import Config
from feedalign.experiments.lm.presets import PRESETS, preset
from feedalign.experiments.lm.runs import LM

__all__ = ["LM", "PRESETS", "Config", "preset"]
