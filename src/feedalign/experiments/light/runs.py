"""Runs through simulated hardware: the loops of images and graphs, under a kind of record of their own."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from feedalign.experiments.data import ImageData, load
from feedalign.experiments.data.graphs import GraphData
from feedalign.experiments.graph.runs import LOAD
from feedalign.experiments.graph.training import GraphTraining
from feedalign.experiments.light.config import LIGHT, GraphConfig, ImageConfig
from feedalign.experiments.progress import Progress
from feedalign.experiments.records import Record
from feedalign.experiments.runs import Experiment
from feedalign.experiments.vision.training import VisionTraining


class ImageTraining(VisionTraining):
    """A run on images."""

    experiment = LIGHT


class NodeTraining(GraphTraining):
    """A run on a graph."""

    experiment = LIGHT


def _rehearse_images(config: ImageConfig, data: ImageData) -> None:
    config.attach(config.model.build(data.shape, data.classes), data.train.images[:2])


def _rehearse_graph(config: GraphConfig, data: GraphData) -> None:
    config.attach(config.model.build(data.features, data.classes), data.x, data.edge_index)


IMAGES: Experiment[Any, ImageData] = Experiment(load, _rehearse_images, ImageTraining)
GRAPHS: Experiment[Any, GraphData] = Experiment(LOAD, _rehearse_graph, NodeTraining)


def sweep(
    configs: Iterable[ImageConfig | GraphConfig],
    output: Path,
    *,
    root: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Record]:
    """Run several configurations, each in its own folder under ``output``, sharing them out among processes.

    Raises:
        ExperimentError: As :meth:`feedalign.experiments.runs.Experiment.run` does.
    """
    found = list(configs)
    graphs = [config for config in found if isinstance(config, GraphConfig)]
    images = [config for config in found if isinstance(config, ImageConfig)]
    records = GRAPHS.sweep(graphs, output, root=root, progress=progress, shared=True)
    return records + IMAGES.sweep(images, output, root=root, progress=progress, shared=True)
