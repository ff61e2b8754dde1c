"""All that decides the numbers of a run through simulated hardware: that of images or a graph, and the hardware."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import feedalign as fa
from feedalign.experiments.configured_rule import rule_for
from feedalign.experiments.graph import Config as PlainGraphConfig
from feedalign.experiments.vision import Config as PlainImageConfig
from feedalign.optics.bench import Bench

LIGHT = "light"
"""The kind that records name."""


@dataclass(frozen=True)
class BenchConfig:
    """A simulated device with a clock, in the place of feedback that is a function of a seed.

    Attributes:
        recovery: How the linear projection is recovered.
        tau: Projections in which the medium decorrelates to 1/e; None for a medium at rest.
        phase_walk: Of the reference, in radians a projection.
        watch: Projections between two looks at the device; 0 for never, so that the fault does what it does.
        columns: Pixels.
    """

    recovery: Literal["anchor", "phase", "offaxis", "none"] = "anchor"
    tau: float | None = None
    phase_walk: float = 0.0
    watch: int = 0
    columns: int = 1024

    def build(self, seed: int) -> fa.Hardware:
        """Return a device of its own for a run."""
        tau = math.inf if self.tau is None else self.tau
        bench = Bench(self.columns, recovery=self.recovery, tau=tau, phase_walk=self.phase_walk, seed=seed)
        return fa.Hardware(bench, watch=self.watch)


@dataclass(frozen=True)
class ImageConfig(PlainImageConfig):
    """A run on images.

    Attributes:
        bench: The device, where there is one.
    """

    bench: BenchConfig | None = None

    def build_rule(self) -> fa.Rule:
        """Return the rule, with a device of its own."""
        return _rule(self, self.bench)


@dataclass(frozen=True)
class GraphConfig(PlainGraphConfig):
    """A run on a graph."""


def _rule(config: Any, bench: BenchConfig | None) -> fa.Rule:
    feedback = config.feedback if bench is None else bench.build(config.seed)
    return rule_for(config.rule, config.seed, feedback)
