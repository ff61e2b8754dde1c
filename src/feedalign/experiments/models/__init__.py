"""Plain networks, one file a family. Nothing in them knows of feedback alignment."""

from feedalign.experiments.models.cnn import CNN, CNNConfig
from feedalign.experiments.models.mlp import MLP, MLPConfig

__all__ = ["CNN", "MLP", "CNNConfig", "MLPConfig"]
