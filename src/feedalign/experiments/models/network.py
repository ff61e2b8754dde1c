"""What the networks that classify nodes share."""

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from feedalign.experiments.models.features import Features, project, sparsify
from feedalign.experiments.models.remembered import Remembered


class GraphNetwork(nn.Module, ABC):
    """A network that classifies nodes.

    Attributes:
        points: The feedback points, names of modules.
        hidden_layer: The module whose output is the last but the classes.
    """

    points: tuple[str, ...] = ("hidden",)
    hidden_layer: str = "hidden"

    def __init__(self) -> None:
        super().__init__()
        self._features = Remembered(sparsify)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the class scores ``[N, C]`` of all nodes.

        Args:
            x: Features, ``[N, F]``.
            edge_index: Nodes that edges lead from and to, ``[2, E]``; an undirected edge is given both ways.

        Raises:
            ValueError: The edges are not ``[2, E]``, or name a node that does not exist.
        """
        return self.classify(x if x.requires_grad else self._features(x), edge_index)

    @abstractmethod
    def classify(self, x: Features, edge_index: Tensor) -> Tensor:
        """Return the class scores of all nodes, from features that may be sparse."""

    def decayed(self) -> Iterator[nn.Parameter]:
        """Return the parameters that the published settings put weight decay on: here all."""
        return self.parameters()


class FeatureLinear(nn.Linear):
    """A linear layer of features that may be sparse."""

    def forward(self, x: Features) -> Tensor:
        """Return the map of ``x``."""
        return project(x, self.weight, self.bias)
