"""All that decides the numbers of an image classification run."""

from dataclasses import dataclass, field
from typing import Literal

from torch import nn

import feedalign as fa
from feedalign.experiments.data import DataConfig
from feedalign.experiments.models import CNNConfig, MLPConfig
from feedalign.experiments.optimisation import OptimiserConfig, ScheduleConfig
from feedalign.rules import RULES, BroadcastRule
from feedalign.rules.table import ALIASES

SHORT_NAMES = {rule: alias for alias, rule in ALIASES.items()}


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; runs of one name belong into one table.
        data: Which images, and how they are split.
        model: The network.
        rule: The learning rule: ``bp``, ``dfa`` or ``shallow``.
        seed: Of the first weights, the order of batches, dropout and the feedback.
        feedback: Which numbers carry the error, for rules that deliver one.
        points: Where the backward pass is cut: names or globs, or ``"auto"``.
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
        object.__setattr__(self, "rule", SHORT_NAMES.get(self.rule, self.rule))
        self.build_rule()

    def attach(self, model: nn.Module) -> fa.Attachment:
        """Attach the rule to a model at the configured points.

        Raises:
            PointsError: The model has no such points.
        """
        points = self.points if isinstance(self.points, str) else list(self.points)
        return fa.attach(model, self.build_rule(), points=points)

    def build_rule(self) -> fa.Rule:
        """Return the rule.

        Raises:
            ValueError: There is none of that name.
        """
        broadcasts = self.rule in RULES and issubclass(RULES[self.rule].rule, BroadcastRule)
        options = {"seed": self.seed, "feedback": self.feedback} if broadcasts else {}
        return fa.rule(self.rule, **options)
