r"""The graph autoencoder: an encoder learns where to put nodes, so that those with an edge lie in one direction.

Letters: ``N`` nodes, ``F`` features, ``Z`` width of the code, ``E`` edges.

References:
    Kipf & Welling, *Variational Graph Auto-Encoders*, NeurIPS workshop 2016.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.experiments.models.convolutions import GCNConv
from feedalign.experiments.models.edges import check, normalised
from feedalign.experiments.models.features import sparsify
from feedalign.experiments.models.remembered import Remembered


class GAE(nn.Module):
    """Two graph convolutions with a ReLU between them, and inner products for a decoder.

    The point is behind the ReLU, and the error is that of the code. The decoder has no weights, so nothing is
    transported through it.

    Args:
        features: ``F``.
        hidden: Width between the convolutions.
        code: ``Z``.

    Attributes:
        points: The feedback points, names of modules.
        hidden_layer: The module whose output is the last but the code.
    """

    points: tuple[str, ...] = ("hidden",)
    hidden_layer: str = "hidden"

    def __init__(self, features: int, hidden: int, code: int) -> None:
        super().__init__()
        self._features = Remembered(sparsify)
        self._edges = Remembered(normalised)
        self.conv1 = GCNConv(features, hidden)
        self.hidden = nn.ReLU()
        self.conv2 = GCNConv(hidden, code)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the code ``[N, Z]`` of all nodes.

        Args:
            x: Features, ``[N, F]``.
            edge_index: Nodes that edges lead from and to, ``[2, E]``; an undirected edge is given both ways.

        Raises:
            ValueError: The edges are not ``[2, E]``, or name a node that does not exist.
        """
        edges = self._edges(edge_index, len(x), x.dtype)
        hidden = self.hidden(self.conv1(x if x.requires_grad else self._features(x), edges))
        return self.conv2(hidden, edges)  # type: ignore[no-any-return]

    def encode(self, x: Tensor, edge_index: Tensor) -> Tensor:
        """Return the code ``[N, Z]`` of all nodes: the model itself, called with its hooks."""
        return self(x, edge_index)  # type: ignore[no-any-return]

    def decode(self, code: Tensor, edges: Tensor) -> Tensor:
        """Return the logits ``[E]`` of edges ``[2, E]``: inner products of the codes of their nodes."""
        check(edges, len(code))
        return (code.index_select(0, edges[0]) * code.index_select(0, edges[1])).sum(1)

    def reconstruction_loss(self, code: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the cross-entropy of edges and of pairs without one, each averaged.

        Args:
            code: Of all nodes, ``[N, Z]``.
            positive: Edges to be found, ``[2, E]``.
            negative: Pairs of nodes without an edge, ``[2, E']``.
        """
        found, invented = self.decode(code, positive), self.decode(code, negative)
        return -F.logsigmoid(found).mean() - F.logsigmoid(-invented).mean()


@dataclass(frozen=True)
class GAEConfig:
    """A graph autoencoder.

    Attributes:
        hidden: Width between the convolutions.
        code: Width of the code.
    """

    hidden: int = 32
    code: int = 16

    def build(self, features: int) -> GAE:
        """Return a new autoencoder, drawn from the global random number generator."""
        return GAE(features, self.hidden, self.code)
