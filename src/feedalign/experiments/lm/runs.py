"""Runs of language models."""

import torch

from feedalign.experiments.data.texts import TextData, load_text
from feedalign.experiments.lm.config import Config
from feedalign.experiments.lm.training import LmTraining
from feedalign.experiments.runs import Experiment


def _rehearse(config: Config, data: TextData) -> None:
    data.train.chunks(config.model.context)
    example, _ = data.train.batch(torch.arange(1), config.model.context)
    config.attach(config.model.build(data.vocabulary), example)


LM = Experiment(load_text, _rehearse, LmTraining)
