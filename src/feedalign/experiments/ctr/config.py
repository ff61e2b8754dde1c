"""All that decides the numbers of a run on a click log."""

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

import feedalign as fa
from feedalign.experiments.configured_rule import feedback_for, rule_for
from feedalign.experiments.data.clicks import ClickConfig
from feedalign.experiments.models.click_layers import ClickNetwork
from feedalign.experiments.models.clicks import ClickModelConfig
from feedalign.experiments.names import short_name, transports
from feedalign.experiments.optimisation import OptimiserConfig


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; runs of one name belong into one table.
        data: Which click log, and how it is split.
        model: The network.
        rule: The learning rule, such as ``bp``, ``dfa`` or ``shallow``.
        seed: Of the first weights, the order of rows, dropout and the feedback. The split does not depend on it.
        feedback: Which numbers carry the error, for rules that broadcast one.
        optimiser: How gradients change weights.
        batch: Rows in a step.
        epochs: How often the training rows are seen at most.
        patience: Stop after so many epochs without a better validation AUC.
        clip: Shorten gradients to this norm over all parameters; ``None`` leaves them.
        alignment: On how many validation rows to measure the alignment after every epoch; 0 for not at all.
        device: ``"cpu"``, or ``"auto"`` for an accelerator where there is one.
    """

    name: str = "ctr"
    data: ClickConfig = field(default_factory=ClickConfig)
    model: ClickModelConfig = field(default_factory=ClickModelConfig)
    rule: str = "dfa"
    seed: int = 0
    feedback: fa.Feedback = field(default_factory=fa.Uniform)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adam", 0.001))
    batch: int = 2_048
    epochs: int = 15
    patience: int = 3
    clip: float | None = None
    alignment: int = 0
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 2 or self.patience < 1 or self.alignment < 0:
            raise ValueError(
                "Expected epochs and rows for the alignment of at least 0, a patience of at least 1 and at least 2 "
                f"rows in a batch, found {self.epochs}, {self.alignment}, {self.patience} and {self.batch}."
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"Expected a norm above 0 to clip gradients to, found {self.clip}. Leave it out.")
        if self.model.sparse and (self.optimiser.name, self.optimiser.weight_decay) != ("adam", 0.0):
            raise ValueError(
                "Expected Adam without weight decay for tables with sparse gradients, found "
                f"{self.optimiser.name} with {self.optimiser.weight_decay:g}. Do choose it, or dense tables."
            )
        # One name a rule, so that folders and tables agree: an unknown one raises here.
        object.__setattr__(self, "rule", short_name(self.rule))
        object.__setattr__(self, "feedback", feedback_for(self.rule, self.feedback))
        # Nothing is left to what a version takes for granted: records hold every number.
        object.__setattr__(self, "model", self.model.filled())
        if self.model.kind == "fm" and self.rule != "bp":
            raise ValueError(
                f"Expected the rule bp for fm, found {self.rule}: a factorisation machine has no hidden layer that a "
                "signal could be sent to."
            )

    def attach(self, model: ClickNetwork, indices: Tensor) -> fa.Attachment:
        """Attach the rule to a model, at the points where the published one was cut.

        Args:
            model: The network.
            indices: Some rows ``[N, F]``, from which rules that learn take the shapes of their feedback.

        Raises:
            PointsError: The rule cannot be attached to such a model.
        """
        rule = rule_for(self.rule, self.seed, self.feedback)
        if transports(self.rule) or not model.points:
            return fa.attach(model, rule, points="auto", example=indices)
        if model.sealed and isinstance(rule, fa.BroadcastRule):
            return fa.attach(model, {model.points: rule, model.sealed: fa.Shallow()}, example=indices)
        return fa.attach(model, rule, points=[*model.sealed, *model.points], example=indices)
