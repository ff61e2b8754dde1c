"""Graph networks: nodes that are classified, links that are foretold; a configuration, a rule, a loop, a record."""

from feedalign.experiments.graph.autoencoder import AutoencoderConfig
from feedalign.experiments.graph.config import Config
from feedalign.experiments.graph.presets import autoencoder_presets, preset, presets, shipped
from feedalign.experiments.graph.runs import AUTOENCODER, GRAPH

__all__ = ["AUTOENCODER", "GRAPH", "AutoencoderConfig", "Config", "autoencoder_presets", "preset", "presets", "shipped"]
