"""Runs on graphs."""

from functools import partial

from feedalign.experiments.data.graphs import GraphData, load_graph
from feedalign.experiments.graph.autoencoder import AutoencoderConfig, AutoencoderTraining
from feedalign.experiments.graph.config import Config
from feedalign.experiments.graph.training import GraphTraining
from feedalign.experiments.runs import Experiment

SPLIT_SEED = 55
"""Of the stratified split that the published figures of DNA are of. All runs share it."""
LOAD = partial(load_graph, seed=SPLIT_SEED)


def _rehearse(config: Config, data: GraphData) -> None:
    config.attach(config.model.build(data.features, data.classes), data.x, data.edge_index)


def _rehearse_autoencoder(config: AutoencoderConfig, data: GraphData) -> None:
    config.attach(config.model.build(data.features), data.x, data.edge_index)


GRAPH = Experiment(LOAD, _rehearse, GraphTraining)
AUTOENCODER = Experiment(LOAD, _rehearse_autoencoder, AutoencoderTraining)
