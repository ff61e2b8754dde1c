"""Image classification: a configuration, the data, a model, a rule attached to it, a loop, a record."""

from feedalign.experiments.vision.config import Config
from feedalign.experiments.vision.presets import PRESETS, Preset, preset, with_settings
from feedalign.experiments.vision.runs import run, run_folder, sweep
from feedalign.experiments.vision.tuning import tune

__all__ = ["PRESETS", "Config", "Preset", "preset", "run", "run_folder", "sweep", "tune", "with_settings"]
