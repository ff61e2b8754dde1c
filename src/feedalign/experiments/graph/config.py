"""All that decides the numbers of a run on a graph."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

import feedalign as fa
from feedalign.experiments.configured_rule import feedback_for, rule_for
from feedalign.experiments.data.graphs import GraphConfig
from feedalign.experiments.models.graph import GraphModelConfig
from feedalign.experiments.models.network import GraphNetwork
from feedalign.experiments.names import short_name, transports
from feedalign.experiments.optimisation import OptimiserConfig


@dataclass(frozen=True)
class Config:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; runs of one name belong into one table.
        data: Which graph, and how its nodes are split.
        model: The network.
        rule: The learning rule, such as ``bp``, ``dfa`` or ``shallow``.
        seed: Of the first weights, dropout, sampled neighbours and the feedback. The split does not depend on it.
        feedback: Which numbers carry the error, for rules that broadcast one.
        optimiser: How gradients change weights. Weight decay is for the layers that the publication has it for.
        epochs: Steps with the whole graph; or, with sampled neighbours, how often the training nodes are seen.
        every: Epochs between two lines of the curve. The best epoch is looked for among all; with sampled neighbours,
            among those with a line.
        alignment: Measure the alignment on all nodes with every line.
        embedding: At the end of the run with seed 0, embed the hidden layer on so many test nodes; 0 for not at all.
        neighbours: How many neighbours to sample a hop, outermost last; ``None`` trains on the whole graph at once.
        batch: Training nodes in a step, where neighbours are sampled.
        device: ``"cpu"``, or ``"auto"`` for an accelerator where there is one.
    """

    name: str = "graph"
    data: GraphConfig = field(default_factory=GraphConfig)
    model: GraphModelConfig = field(default_factory=lambda: GraphModelConfig("gcn"))
    rule: str = "dfa"
    seed: int = 0
    feedback: fa.Feedback = field(default_factory=fa.Uniform)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adam", 0.01))
    epochs: int = 250
    every: int = 10
    alignment: bool = False
    embedding: int = 0
    neighbours: tuple[int, ...] | None = None
    batch: int = 256
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.every < 1 or self.batch < 1:
            raise ValueError(
                "Expected epochs of at least 0, and at least 1 between lines and in a batch, found "
                f"{self.epochs}, {self.every} and {self.batch}."
            )
        # One name a rule, so that folders and tables agree: an unknown one raises here.
        object.__setattr__(self, "rule", short_name(self.rule))
        object.__setattr__(self, "feedback", feedback_for(self.rule, self.feedback))
        # Nothing is left to what a version takes for granted: records hold every number.
        object.__setattr__(self, "model", self.model.filled())

    def attach(self, model: GraphNetwork, x: Tensor, edge_index: Tensor) -> fa.Attachment:
        """Attach the rule to a model, at the points where the published one was cut.

        Args:
            model: The network.
            x: Features ``[N, F]``, from which rules that learn take the shapes of their feedback.
            edge_index: Edges ``[2, E]``.

        Raises:
            PointsError: The rule cannot be attached to such a model.
        """
        points = "auto" if transports(self.rule) else list(model.points)
        rule = rule_for(self.rule, self.seed, self.feedback)
        return fa.attach(model, rule, points=points, example=(x, edge_index))

    def build_optimiser(self, model: GraphNetwork) -> torch.optim.Optimizer:
        """Return the optimiser; weight decay is for the layers that the publication has it for."""
        decayed = {id(parameter) for parameter in model.decayed()}
        return self.optimiser.build(model, [one for one in model.parameters() if id(one) not in decayed])
