r"""AFN, the adaptive factorisation network: products of powers of the embeddings, with powers that are learned.

Letters: ``N`` rows, ``F`` fields, ``D`` width of an embedding, ``L`` logarithmic units.

References:
    Cheng et al., *Adaptive Factorization Network: Learning Adaptive-Order Feature Interactions*, AAAI 2020.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feedalign.experiments.models.click_layers import ClickNetwork, FirstOrder, Table, hidden_layers, names

LEAST = 1e-7
"""Added to magnitudes before the logarithm, as published."""


class Logarithmic(nn.Module):
    r"""Products of powers, computed as sums of logarithms.

    .. math:: z_{ld} = \max\Big(0, \prod_f (1 + |x_{fd}| + 10^{-7})^{w_{lf}} - 1\Big)

    Args:
        fields: ``F``.
        units: ``L``.

    Shapes:
        ``[N, F, D]`` to ``[N, D * L]``.
    """

    def __init__(self, fields: int, units: int) -> None:
        super().__init__()
        self.powers = nn.Linear(fields, units, bias=False)

    def forward(self, vectors: Tensor) -> Tensor:
        """Return the products of powers."""
        logarithms = torch.log1p(vectors.abs() + LEAST)
        return torch.relu(torch.expm1(self.powers(logarithms.transpose(1, 2)))).flatten(1)


class AFN(ClickNetwork):
    """A logarithmic layer under a perceptron, and a weight for every category.

    The points are the logarithmic layer and every hidden layer. The signal at the first of them also teaches the
    embeddings, which lie below it. In the published code they are cut off from it and never change.

    Args:
        sizes: Categories of each field.
        width: Of an embedding.
        units: Of the logarithmic layer.
        hidden: Widths of the hidden layers.
        dropout: Probability of zeroing a hidden unit.
        frozen: Leave the embeddings as they are drawn wherever the backward pass is cut, as published.
        sparse: Whether tables have sparse gradients.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        units: int,
        hidden: Sequence[int],
        dropout: float,
        frozen: bool = False,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.first_order = FirstOrder(sizes, sparse)
        self.table = Table(sizes, width, sparse)
        self.logarithmic = Logarithmic(len(sizes), units)
        self.mlp = hidden_layers(width * units, hidden, dropout)
        self.head = nn.Linear(hidden[-1], 1)
        self.points = ("logarithmic", *names("mlp", len(hidden)))
        self.sealed = ("table",) if frozen else ()

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits."""
        deep = self.head(self.mlp(self.logarithmic(self.table(indices))))
        return self.first_order(indices) + deep  # type: ignore[no-any-return]
