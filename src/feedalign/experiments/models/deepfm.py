"""DeepFM: a factorisation machine and a perceptron on the same embeddings.

References:
    Guo et al., *DeepFM: A Factorization-Machine based Neural Network for CTR Prediction*, IJCAI 2017.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from feedalign.experiments.models.click_layers import ClickNetwork, FirstOrder, Table, hidden_layers, names
from feedalign.experiments.models.fm import interactions


class DeepFM(ClickNetwork):
    """A factorisation machine plus a perceptron that reads the same embeddings.

    The points are the hidden layers. Where they are cut, so is the perceptron's input, and to that no signal is sent:
    the embeddings learn through the factorisation machine alone, as published.

    Args:
        sizes: Categories of each field.
        width: Of an embedding.
        hidden: Widths of the hidden layers.
        dropout: Probability of zeroing a hidden unit.
        sparse: Whether tables have sparse gradients.
    """

    sealed = ("deep_input",)

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        hidden: Sequence[int],
        dropout: float,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        self.first_order = FirstOrder(sizes, sparse)
        self.table = Table(sizes, width, sparse)
        self.deep_input = nn.Flatten()
        self.mlp = hidden_layers(len(sizes) * width, hidden, dropout)
        self.head = nn.Linear(hidden[-1], 1)
        self.points = names("mlp", len(hidden))

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits."""
        vectors = self.table(indices)
        deep = self.head(self.mlp(self.deep_input(vectors)))
        return self.first_order(indices) + interactions(vectors) + deep  # type: ignore[no-any-return]
