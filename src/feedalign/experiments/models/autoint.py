"""AutoInt: fields attend to each other, beside a perceptron.

Letters: ``N`` rows, ``F`` fields, ``A`` width of a field in the attention, ``H`` heads.

References:
    Song et al., *AutoInt: Automatic Feature Interaction Learning via Self-Attentive Neural Networks*, CIKM 2019.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.experiments.models.click_layers import ClickNetwork, FirstOrder, Table, hidden_layers, names


class Attention(nn.Module):
    """Self-attention between the fields of a row.

    Args:
        width: ``A``.
        heads: ``H``, which divides the width.

    Shapes:
        ``[N, F, A]`` to the same.

    Raises:
        ValueError: The heads do not divide the width.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"Expected heads that divide the width of the attention, found {heads} and {width}.")
        self.heads = heads
        self.incoming = nn.Linear(width, 3 * width)
        self.outgoing = nn.Linear(width, width)

    def forward(self, fields: Tensor) -> Tensor:
        """Return what every field gathers from all fields."""
        split = self.incoming(fields).unflatten(2, (3, self.heads, -1))  # [N, F, 3, H, A/H]
        queries, keys, values = split.permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(queries, keys, values)
        return self.outgoing(gathered.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class AutoInt(ClickNetwork):
    """Attention between fields, a perceptron and a weight for every category, summed.

    The points are the embeddings, their projection, every attention layer but the last, the rectified sum of the last
    one and the projected embeddings, and every hidden layer.

    Args:
        sizes: Categories of each field.
        width: Of an embedding.
        attention: Width ``A`` of a field in the attention.
        heads: ``H``.
        layers: Of attention.
        hidden: Widths of the hidden layers.
        dropout: Probability of zeroing a hidden unit.
        sparse: Whether tables have sparse gradients.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        width: int,
        attention: int,
        heads: int,
        layers: int,
        hidden: Sequence[int],
        dropout: float,
        sparse: bool = False,
    ) -> None:
        super().__init__()
        fields = len(sizes)
        self.first_order = FirstOrder(sizes, sparse)
        self.table = Table(sizes, width, sparse)
        self.projection = nn.Linear(width, attention)
        self.attention = nn.ModuleList(Attention(attention, heads) for _ in range(layers))
        self.residual = nn.Linear(width, attention)
        self.attended = nn.Sequential(nn.ReLU(), nn.Flatten())
        self.attention_head = nn.Linear(fields * attention, 1)
        self.mlp = hidden_layers(fields * width, hidden, dropout)
        self.head = nn.Linear(hidden[-1], 1)
        self.points = (
            "table", "projection", *names("attention", layers - 1), "attended", *names("mlp", len(hidden)),
        )  # fmt: skip

    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits."""
        vectors = self.table(indices)
        fields = self.projection(vectors)
        for layer in self.attention:
            fields = layer(fields)
        attended = self.attention_head(self.attended(fields + self.residual(vectors)))
        deep = self.head(self.mlp(vectors.flatten(1)))
        return self.first_order(indices) + attended + deep  # type: ignore[no-any-return]
