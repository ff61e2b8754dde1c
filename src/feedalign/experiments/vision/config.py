"""All that decides the numbers of an image classification run."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor, nn

import feedalign as fa
from feedalign.experiments.configured_rule import feedback_for, rule_for
from feedalign.experiments.data import DataConfig
from feedalign.experiments.models import CNNConfig, MLPConfig
from feedalign.experiments.names import short_name
from feedalign.experiments.optimisation import OptimiserConfig, ScheduleConfig


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; runs of one name belong into one table.
        data: Which images, and how they are split.
        model: The network.
        rule: The learning rule, such as ``bp``, ``dfa`` or ``shallow``, or a variant: a rule with other feedback.
        seed: Of the first weights, the order of batches, dropout and the feedback.
        feedback: Which numbers carry the error, for rules that broadcast one. What the rule asks of them is changed
            here: a matrix of its own for every point if they are learned, and what makes a variant.
        points: Where the backward pass is cut: names or globs, or ``"auto"``. For rules that go from layer to layer,
            the layers.
        optimiser: How gradients change weights.
        schedule: How the learning rate changes.
        epochs: How often the training part is seen.
        batch: Samples in a step. The last one of an epoch may be smaller.
        alignment: Measure the alignment on so many training samples after every epoch; 0 for not at all.
        embedding: At the end, embed the last hidden layer on so many test samples; 0 for not at all.
        device: ``"cpu"``, or ``"auto"`` for an accelerator where there is one.
        precision: ``"no"`` for float32, else mixed with ``"bf16"`` or ``"fp16"``.
    """

    name: str = "vision"
    data: DataConfig = field(default_factory=DataConfig)
    model: MLPConfig | CNNConfig = field(default_factory=MLPConfig)
    rule: str = "dfa"
    seed: int = 0
    feedback: fa.Feedback = field(default_factory=fa.Uniform)
    points: str | tuple[str, ...] = "auto"
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    epochs: int = 15
    batch: int = 128
    alignment: int = 512
    embedding: int = 0
    device: Literal["auto", "cpu"] = "auto"
    precision: Literal["no", "bf16", "fp16"] = "no"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1:
            raise ValueError(
                f"Expected epochs of at least 0 and a batch of at least 1, found {self.epochs} and {self.batch}."
            )
        # One name a rule, so that folders and tables agree: an unknown one raises here.
        object.__setattr__(self, "rule", short_name(self.rule))
        object.__setattr__(self, "feedback", feedback_for(self.rule, self.feedback))
        self.build_rule()

    def attach(self, model: nn.Module, example: Tensor) -> fa.Attachment:
        """Attach the rule to a model at the configured points.

        Args:
            model: The network.
            example: A few images, from which rules that learn take the shapes of their feedback.

        Raises:
            PointsError: The model has no such points.
        """
        points = self.points if isinstance(self.points, str) else list(self.points)
        return fa.attach(model, self.build_rule(), points=points, example=example)

    def build_rule(self) -> fa.Rule:
        """Return the rule."""
        return rule_for(self.rule, self.seed, self.feedback)
