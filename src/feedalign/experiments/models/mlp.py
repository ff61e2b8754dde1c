"""Multi-layer perceptrons."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn

from feedalign.experiments.models.layers import Activation, Initialisation, activation, initialise


class MLP(nn.Module):
    """Linear layers with a non-linearity after each but the last.

    Args:
        inputs: Numbers in a sample; samples of any shape are flattened.
        widths: Of the hidden layers.
        outputs: How many numbers come out.
        non_linearity: ``"relu"`` or ``"tanh"``.
        dropout: Probability of zeroing a hidden unit.

    Shapes:
        ``[N, ...]`` to ``[N, outputs]``.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        outputs: int,
        non_linearity: Activation = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        hidden: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
        for i, width in enumerate(widths, start=1):
            hidden[f"linear{i}"] = nn.Linear(inputs, width)
            hidden[f"{non_linearity}{i}"] = activation(non_linearity)
            if dropout:
                hidden[f"dropout{i}"] = nn.Dropout(dropout)
            inputs = width
        self.layers = nn.Sequential(hidden)
        self.head = nn.Linear(inputs, outputs)

    def forward(self, samples: Tensor) -> Tensor:
        """Return the class scores."""
        return self.head(self.layers(samples))  # type: ignore[no-any-return]


@dataclass(frozen=True)
class MLPConfig:
    """A multi-layer perceptron.

    Attributes:
        widths: Of the hidden layers.
        activation: The non-linearity.
        dropout: Probability of zeroing a hidden unit.
        initialisation: First values of the weights.
    """

    widths: tuple[int, ...] = (256, 256)
    activation: Activation = "relu"
    dropout: float = 0.0
    initialisation: Initialisation = "torch"

    def __post_init__(self) -> None:
        if any(width < 1 for width in self.widths):
            found = ", ".join(str(width) for width in self.widths)
            raise ValueError(f"Expected hidden layers of at least 1 unit, found widths of {found}.")

    def build(self, shape: tuple[int, ...], classes: int) -> MLP:
        """Return a new network for samples of a shape, drawn from the global random number generator."""
        model = MLP(prod(shape), self.widths, classes, self.activation, self.dropout)
        initialise(model, self.initialisation)
        return model
