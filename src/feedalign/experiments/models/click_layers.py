"""What the networks for click logs share: one table for the categories of all fields, hidden layers, points.

Letters: ``N`` rows, ``F`` fields, ``V`` categories of all fields together, ``D`` width of an embedding.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn


class Table(nn.Embedding):
    """A vector for every category of every field, in one table: a row of indices is one look-up.

    The first values are those of Glorot & Bengio 2010 for a matrix of this shape: the more categories, the smaller.

    Args:
        sizes: Categories of each field. An index counts from 0 within its field.
        width: ``D``.
        sparse: Whether the gradient holds only the rows that a batch names. A step then touches no others, and the
            optimiser must be one that takes such gradients.

    Shapes:
        ``[N, F]``, integers, to ``[N, F, D]``.
    """

    offsets: Tensor

    def __init__(self, sizes: Sequence[int], width: int, sparse: bool = False) -> None:
        super().__init__(sum(sizes), width, sparse=sparse)
        first = torch.tensor([0, *accumulate(sizes[:-1])])
        self.register_buffer("offsets", first, persistent=False)

    def reset_parameters(self) -> None:
        """Draw the values anew."""
        nn.init.xavier_uniform_(self.weight)

    def forward(self, indices: Tensor) -> Tensor:
        """Return the vectors of the categories."""
        return super().forward(indices + self.offsets)


class FirstOrder(nn.Module):
    """A weight for every category, summed over fields: logistic regression.

    The first weights are zero, so that before training no category is thought better than another.

    Args:
        sizes: Categories of each field.
        sparse: As for :class:`Table`.

    Shapes:
        ``[N, F]``, integers, to ``[N, 1]``.
    """

    def __init__(self, sizes: Sequence[int], sparse: bool = False) -> None:
        super().__init__()
        self.table = Table(sizes, 1, sparse)
        nn.init.zeros_(self.table.weight)
        self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, indices: Tensor) -> Tensor:
        """Return the sum of the weights."""
        return self.table(indices).sum(1) + self.bias  # type: ignore[no-any-return]


def hidden_layers(inputs: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Return hidden layers, each one module: linear, batch normalisation, ReLU, dropout.

    Args:
        inputs: Width of what comes in.
        widths: Of the layers.
        dropout: Probability of zeroing a unit.
    """
    return nn.Sequential(
        *(
            nn.Sequential(nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(), nn.Dropout(dropout))
            for before, after in zip((inputs, *widths[:-1]), widths, strict=True)
        )
    )


class ClickNetwork(nn.Module, ABC):
    """A network that says how likely a row is a click.

    Attributes:
        points: The feedback points, names of modules, from the input to the output; none where nothing is hidden.
        sealed: Modules at which the backward pass is cut too, and to which no signal is sent. What lies below learns
            through its other ways to the output, or not at all.
    """

    points: tuple[str, ...] = ()
    sealed: tuple[str, ...] = ()

    @abstractmethod
    def forward(self, indices: Tensor) -> Tensor:
        """Return the logits ``[N, 1]`` of rows of indices ``[N, F]``."""

    def sparse_tables(self) -> list[nn.Parameter]:
        """Return the parameters whose gradients are sparse."""
        tables = (module for module in self.modules() if isinstance(module, Table) and module.sparse)
        return [parameter for table in tables for parameter in table.parameters()]


def names(prefix: str, count: int) -> tuple[str, ...]:
    """Return the names of the first modules of a list of modules: ``("mlp.0", "mlp.1")``."""
    return tuple(f"{prefix}.{number}" for number in range(count))
