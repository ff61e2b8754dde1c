"""The graph autoencoder: a GCN whose codes tell linked pairs of nodes from others, and its training loop."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor

import feedalign as fa
from feedalign.experiments.configured_rule import feedback_for, rule_for
from feedalign.experiments.data.graphs import GraphConfig, GraphData, LinkData, LinkPart, link_split
from feedalign.experiments.lines import lean
from feedalign.experiments.models.gae import GAE, GAEConfig
from feedalign.experiments.names import short_name, transports
from feedalign.experiments.optimisation import OptimiserConfig
from feedalign.experiments.progress import Progress
from feedalign.experiments.training import Training

PARTS = ("train", "validation", "test")


@dataclass(frozen=True)
class AutoencoderConfig:
    """All that decides the numbers of a run.

    Attributes:
        name: Of the configuration; runs of one name belong into one table.
        data: Which graph. Its labels are not used.
        model: The network.
        rule: The learning rule, such as ``bp``, ``dfa`` or ``shallow``.
        seed: Of the first weights, the unlinked pairs of each step and the feedback.
        split_seed: Decides which edges are held out, so that all runs see the same ones.
        feedback: Which numbers carry the error, for rules that broadcast one.
        optimiser: How gradients change weights.
        epochs: Steps with the whole graph.
        every: Epochs between two lines of the curve. The best epoch is looked for among all.
        alignment: Measure the alignment on the training pairs with every line.
        device: ``"cpu"``, or ``"auto"`` for an accelerator where there is one.
    """

    name: str = "gae"
    data: GraphConfig = field(default_factory=GraphConfig)
    model: GAEConfig = field(default_factory=GAEConfig)
    rule: str = "dfa"
    seed: int = 0
    split_seed: int = 0
    feedback: fa.Feedback = field(default_factory=fa.Uniform)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig("adam", 0.01))
    epochs: int = 400
    every: int = 10
    alignment: bool = False
    device: Literal["auto", "cpu"] = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.every < 1:
            raise ValueError(
                f"Expected epochs of at least 0 and at least 1 between lines, found {self.epochs} and {self.every}."
            )
        object.__setattr__(self, "rule", short_name(self.rule))
        object.__setattr__(self, "feedback", feedback_for(self.rule, self.feedback))

    def attach(self, model: GAE, x: Tensor, edge_index: Tensor) -> fa.Attachment:
        """Attach the rule to a model; its error is the gradient at the codes.

        Raises:
            PointsError: The rule cannot be attached to such a model.
        """
        points = "auto" if transports(self.rule) else list(model.points)
        rule = rule_for(self.rule, self.seed, self.feedback)
        return fa.attach(model, rule, points=points, example=(x, edge_index))


class AutoencoderTraining(Training[AutoencoderConfig]):
    """A run on a graph of which some edges are held out.

    Args:
        config: What is run.
        data: The whole graph.
        directory: The folder of the run.
        progress: Who is told.
    """

    experiment = "gae"
    chosen_by = "validation_auc"
    reported = tuple(f"{part}_{what}" for part in PARTS for what in ("loss", "auc", "ap"))

    def __init__(self, config: AutoencoderConfig, data: GraphData, directory: Path, progress: Progress) -> None:
        super().__init__(config, directory, progress)
        self.data: LinkData = link_split(data, config.split_seed).to(self.accelerator.device)
        self.network: GAE = config.model.build(self.data.features)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.handle = config.attach(self.network, self.data.x, self.data.edge_index)
        optimiser = config.optimiser.build(self.network)
        self.model, self.optimiser = self.accelerator.prepare(self.network, optimiser)
        self.steps = 1
        self.schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)

    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of the one step: all training edges, and as many unlinked pairs drawn anew."""
        negative = self.data.fresh_negatives(self.generator)  # also where the step is done: draws stay in order
        if self.step == 0:
            yield self.loss(self.forward(), LinkPart(self.data.train.positive, negative))

    def forward(self) -> Tensor:
        """Return the codes of all nodes ``[N, D]``."""
        codes: Tensor = self.model(self.data.x, self.data.edge_index)
        return codes

    def loss(self, codes: Tensor, part: LinkPart) -> Tensor:
        """Return the mean cross-entropy of linked pairs plus that of unlinked ones."""
        return self.network.reconstruction_loss(codes, part.positive, part.negative)

    def evaluate(self) -> dict[str, Any]:
        """Return loss, area under the ROC curve and average precision of every part."""
        with torch.no_grad():
            codes = self.network.eval()(self.data.x, self.data.edge_index)
        self.network.train()
        figures: dict[str, Any] = {}
        for name in PARTS:
            part: LinkPart = getattr(self.data, name)
            scores = torch.cat([self.network.decode(codes, pairs) for pairs in part]).cpu().numpy()
            linked = torch.arange(len(scores)).numpy() < part.positive.shape[1]
            figures[f"{name}_loss"] = self.loss(codes, part).item()
            figures[f"{name}_auc"] = float(roc_auc_score(linked, scores))
            figures[f"{name}_ap"] = float(average_precision_score(linked, scores))
        return figures

    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at the point under the loss of the training pairs."""
        return self.measured(lambda: self.loss(self.forward(), self.data.train)) if self.config.alignment else None

    def counts(self) -> dict[str, Any]:
        """Return how large the graph is, and how many edges are in every part."""
        return self.data.counts

    def keeps(self, epoch: int) -> bool:
        """Return whether an epoch has a line on the curve."""
        return epoch % self.config.every == 0

    def written(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line without what is the same in all, with four digits a number: hundreds of runs are kept."""
        return lean(line)
