"""The training loop on graphs: the whole graph a step, or the sampled neighbourhoods of some of its nodes."""

from collections.abc import Iterator
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss, one_hot

from feedalign.experiments import records
from feedalign.experiments.data import Samples
from feedalign.experiments.data.graphs import GraphData, neighbour_batches
from feedalign.experiments.embedding import embed
from feedalign.experiments.graph.config import Config
from feedalign.experiments.lines import lean
from feedalign.experiments.models.network import GraphNetwork
from feedalign.experiments.progress import Progress
from feedalign.experiments.training import Training

PARTS = ("train", "validation", "test")
EVALUATED = 256
"""Nodes that are evaluated at a time, where neighbours are sampled."""
TAKEN_FOR_ZERO = 1e-8
"""Public software takes what is smaller in a gradient for zero, and a cosine with zero for 1."""


class GraphTraining(Training[Config]):
    """A run on a graph: all nodes are seen, the training nodes have labels.

    Args:
        config: What is run.
        data: The graph.
        directory: The folder of the run.
        progress: Who is told.
    """

    experiment = "graph"
    reported = tuple(f"{part}_{what}" for part in PARTS for what in ("loss", "accuracy"))

    def __init__(self, config: Config, data: GraphData, directory: Path, progress: Progress) -> None:
        super().__init__(config, directory, progress)
        self.data = data = data.to(self.accelerator.device)
        self.network: GraphNetwork = config.model.build(data.features, data.classes)
        self.parameters = sum(parameter.numel() for parameter in self.network.parameters())
        self.handle = config.attach(self.network, data.x, data.edge_index)
        optimiser = config.build_optimiser(self.network)
        self.model, self.optimiser = self.accelerator.prepare(self.network, optimiser)
        self.steps = 1 if config.neighbours is None else ceil(int(data.train.sum()) / config.batch)
        self.schedule = torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)
        # Rules that send targets must not be told those of nodes that are validated or tested on.
        self.targets = one_hot(data.y, data.classes) * data.train[:, None]
        self.ahead: Tensor | None = None

    def batches(self) -> Iterator[Tensor]:
        """Yield the loss of the one step, or of each batch of training nodes that is left."""
        if self.config.neighbours is not None:
            yield from self.sampled(self.config.neighbours)
        elif self.step == 0:
            scores, self.ahead = self.ahead if self.ahead is not None else self.forward(), None
            yield self.loss(scores, self.data.y, self.data.train)

    def sampled(self, neighbours: tuple[int, ...]) -> Iterator[Tensor]:
        """Yield the loss of each batch of training nodes with some of their neighbours."""
        found = neighbour_batches(self.data, self.data.train, neighbours, self.config.batch, self.generator)
        for part in islice(found, self.step, None):
            own = torch.arange(len(part.nodes), device=part.x.device) < part.seeds
            self.handle.targets = one_hot(part.y, self.data.classes) * own[:, None]
            yield self.loss(self.model(part.x, part.edge_index), part.y, own)

    def forward(self) -> Tensor:
        """Return the scores of all nodes ``[N, C]`` for a training step."""
        self.handle.targets = self.targets
        scores: Tensor = self.model(self.data.x, self.data.edge_index)
        return scores

    def loss(self, scores: Tensor, labels: Tensor, chosen: Tensor) -> Tensor:
        """Return the mean loss of the nodes chosen: the others have an error of zero."""
        criterion = nll_loss if self.config.model.log_softmax else cross_entropy
        return criterion(scores[chosen], labels[chosen])

    def evaluate(self) -> dict[str, Any]:
        """Return loss and accuracy of every part: of the whole graph, or neighbourhood by neighbourhood."""
        if self.config.neighbours is not None:
            return self.evaluate_sampled(len(self.config.neighbours))
        scores, figures = self.scores(), {}
        for name in PARTS:
            mask = getattr(self.data, name)
            for what, total in self.totals(scores, self.data.y, mask).items():
                figures[f"{name}_{what}"] = total / int(mask.sum())
        return figures

    def evaluate_sampled(self, hops: int) -> dict[str, Any]:
        """Return the same from batches with all their neighbours, which memory has to hold one at a time."""
        figures: dict[str, Any] = {}
        self.network.eval()
        for name in PARTS:
            mask, sums = getattr(self.data, name), {"loss": 0.0, "accuracy": 0.0}
            for part in neighbour_batches(self.data, mask, (-1,) * hops, EVALUATED, torch.Generator()):
                own = torch.arange(len(part.nodes), device=part.x.device) < part.seeds
                with torch.no_grad():
                    scores = self.network(part.x, part.edge_index)
                for what, total in self.totals(scores, part.y, own).items():
                    sums[what] += total
            figures |= {f"{name}_{what}": total / int(mask.sum()) for what, total in sums.items()}
        self.network.train()
        return figures

    def scores(self) -> Tensor:
        """Return the scores of all nodes in evaluation mode ``[N, C]``."""
        if not self.random and self.epoch < self.config.epochs:
            # Without dropout this is what the next step would compute again.
            self.ahead = self.forward()
            return self.ahead.detach()
        with torch.no_grad():
            scores: Tensor = self.network.eval()(self.data.x, self.data.edge_index)
        self.network.train()
        return scores

    def totals(self, scores: Tensor, labels: Tensor, chosen: Tensor) -> dict[str, float]:
        """Return the loss and the number of right answers, both summed over the nodes chosen."""
        right = scores[chosen].argmax(1) == labels[chosen]
        loss = self.loss(scores, labels, chosen).item() * len(right)
        return {"loss": loss, "accuracy": right.sum().item()}

    def measures(self, epoch: int) -> bool:
        """Return whether an epoch is evaluated: with sampled neighbours, which takes longer, only some are."""
        return self.config.neighbours is None or self.keeps(epoch)

    @property
    def random(self) -> bool:
        """Whether two forward passes in training differ."""
        model = self.config.model
        return any((model.dropout, model.attention_dropout, model.output_attention_dropout))

    def aligned(self) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point under the loss of all nodes, as in the publication."""
        return self.alignment_on(torch.ones_like(self.data.train)) if self.config.alignment else None

    def alignment_on(self, chosen: Tensor) -> dict[str, dict[str, Any]] | None:
        """Return the alignment at every point under the loss of some nodes.

        Dropout is off: behind a point it would zero most of the true gradient at random, and no rule can know where.
        """
        self.network.eval()
        found = self.measured(lambda: self.loss(self.forward(), self.data.y, chosen))
        self.network.train()
        return found

    def counts(self) -> dict[str, Any]:
        """Return how large the graph is."""
        return self.data.counts

    def keeps(self, epoch: int) -> bool:
        """Return whether an epoch has a line on the curve."""
        return epoch % self.config.every == 0

    def written(self, line: dict[str, Any]) -> dict[str, Any]:
        """Return a line without what is the same in all, with four digits a number: hundreds of runs are kept."""
        return lean(line)

    def extras(self) -> dict[str, Any]:
        """Return the alignment under the training loss, and write the embedding where one is wanted.

        Most nodes have an error of zero there. They are left out: what they receive is zero, which has no direction.
        """
        if self.config.embedding and self.config.seed == 0:
            records.write_json(self.directory / records.EMBEDDING, self.embedding())
        if not self.config.alignment:
            return {}
        labelled = self.alignment_on(self.data.train)
        if not labelled:
            return {}
        return {"alignment_of_training_nodes": labelled, "negligible_gradients": self.negligible()}

    def negligible(self) -> dict[str, float]:
        """Return the share of nodes whose true gradient is below ``TAKEN_FOR_ZERO`` in every element, by point.

        Under the loss of all nodes and without dropout, as the alignment is.
        """
        outputs: dict[str, Tensor] = {}

        def keep(point: str, output: Tensor) -> None:
            outputs[point] = output

        hooks = [
            self.network.get_submodule(str(point)).register_forward_hook(
                lambda _, inputs, output, point=str(point): keep(point, output)
            )
            for point in self.handle.points
        ]
        self.network.eval()
        try:
            with self.handle.off():
                loss = self.loss(
                    self.network(self.data.x, self.data.edge_index), self.data.y, torch.ones_like(self.data.train)
                )
        finally:
            self.network.train()
            for hook in hooks:
                hook.remove()
        gradients = torch.autograd.grad(loss, list(outputs.values()))
        return {
            point: (gradient.abs().amax(1) < TAKEN_FOR_ZERO).float().mean().item()
            for point, gradient in zip(outputs, gradients, strict=True)
        }

    def embedding(self) -> dict[str, Any]:
        """Return t-SNE of the hidden layer on test nodes."""
        chosen = self.data.test.nonzero()[:, 0][: self.config.embedding]
        layer = self.network.hidden_layer
        activities = _activities(self.network, layer, self.data)[chosen]
        return embed(activities, Samples(self.data.x[chosen], self.data.y[chosen]), layer, self.config.rule)


def _activities(model: nn.Module, layer: str, data: GraphData) -> Tensor:
    seen: list[Tensor] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda _, inputs, output: seen.append(output.detach()))
    try:
        with torch.no_grad():
            model.eval()(data.x, data.edge_index)
    finally:
        hook.remove()
        model.train()
    return seen[0].float()
