"""Training through simulated light and analogue arrays: what a fault of the hardware does to accuracy and alignment."""

from feedalign.experiments.light.conditions import CONDITIONS, SYSTEMS, Condition, System, configs
from feedalign.experiments.light.config import LIGHT, BenchConfig, GraphConfig, ImageConfig
from feedalign.experiments.light.runs import sweep

__all__ = [
    "CONDITIONS",
    "LIGHT",
    "SYSTEMS",
    "BenchConfig",
    "Condition",
    "GraphConfig",
    "ImageConfig",
    "System",
    "configs",
    "sweep",
]
