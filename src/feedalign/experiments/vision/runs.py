"""Runs of image classification."""

from feedalign.experiments.data import ImageData, load
from feedalign.experiments.runs import Experiment
from feedalign.experiments.vision.config import Config
from feedalign.experiments.vision.training import VisionTraining


def _rehearse(config: Config, data: ImageData) -> None:
    config.attach(config.model.build(data.shape, data.classes), data.train.images[:2])


VISION = Experiment(load, _rehearse, VisionTraining)
run, sweep = VISION.run, VISION.sweep
