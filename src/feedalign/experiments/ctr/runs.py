"""Runs on click logs."""

from feedalign.experiments.ctr.config import Config
from feedalign.experiments.ctr.training import ClickTraining
from feedalign.experiments.data.clicks import Clicks, load_clicks
from feedalign.experiments.runs import Experiment


def _rehearse(config: Config, data: Clicks) -> None:
    config.attach(config.model.build(data.sizes), data.batch(slice(2))[0])


CTR = Experiment(load_clicks, _rehearse, ClickTraining)
