r"""Deep & Cross: layers that multiply by the input, beside a perceptron.

References:
    Wang et al., *Deep & Cross Network for Ad Click Predictions*, ADKDD 2017.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feedalign.experiments.models.click_layers import ClickNetwork, Table, hidden_layers, names


class CrossLayer(nn.Module):
    r"""One crossing: :math:`x_{l+1} = x_0 (w^T x_l) + b + x_l`, every :math:`x` of ``[N, D]``.

    Args:
        width: ``D``.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Linear(width, 1, bias=False)
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, first: Tensor, x: Tensor) -> Tensor:
        """Return the crossing of ``x`` with the ``first`` one."""
        return first * self.weight(x) + self.bias + x  # type: ignore[no-any-return]


class DeepCross(ClickNetwork):
    """Cross layers beside a perceptron, both on the embeddings, and a linear layer on both.

    The points are the embeddings, every cross layer but the last, every hidden layer, and what both parts say side by
    side. So every part but the linear layer is taught by signals, the embeddings too.

    Args:
        sizes: Categories of each field.
        width: Of an embedding.
        cross: How many cross layers.
        hidden: Widths of the hidden layers.
        dropout: Probability of zeroing a hidden unit.
        sparse: Whether tables have sparse gradients.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        cross: int,
        hidden: Sequence[int],
        dropout: float,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        inputs = len(sizes) * width
        self.features = nn.Sequential(Table(sizes, width, sparse), nn.Flatten())
        self.cross = nn.ModuleList(CrossLayer(inputs) for _ in range(cross))
        self.mlp = hidden_layers(inputs, hidden, dropout)
        self.stack = nn.Identity()
        self.head = nn.Linear(inputs + hidden[-1], 1)
        self.points = ("features", *names("cross", cross - 1), *names("mlp", len(hidden)), "stack")

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits."""
        features = self.features(indices)
        crossed = features
        for layer in self.cross:
            crossed = layer(features, crossed)
        return self.head(self.stack(torch.cat([crossed, self.mlp(features)], dim=1)))  # type: ignore[no-any-return]
