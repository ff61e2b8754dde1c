"""Image classification: a configuration, the data, a model, a rule attached to it, a loop, a record."""

from feedalign.experiments.vision.config import Config
from feedalign.experiments.vision.runs import run, run_folder, sweep

__all__ = ["Config", "run", "run_folder", "sweep"]
