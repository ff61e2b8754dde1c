"""Image classification: a configuration, the data, a model, a rule attached to it, a loop, a record."""

from feedalign.experiments.runs import run_folder
from feedalign.experiments.settings import Preset, with_settings
from feedalign.experiments.vision.config import Config
from feedalign.experiments.vision.presets import PRESETS, preset, preset_row
from feedalign.experiments.vision.runs import run, sweep
from feedalign.experiments.vision.tuning import Tuning, tune, tuning_table

__all__ = [
    "PRESETS",
    "Config",
    "Preset",
    "Tuning",
    "preset",
    "preset_row",
    "run",
    "run_folder",
    "sweep",
    "tune",
    "tuning_table",
    "with_settings",
]
