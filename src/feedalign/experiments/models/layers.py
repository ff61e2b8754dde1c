"""What the networks share: non-linearities and initial weights by name."""

from typing import Literal

from torch import nn

Activation = Literal["relu", "tanh"]
Initialisation = Literal["torch", "glorot", "zero"]

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


def activation(name: Activation) -> nn.Module:
    """Return a new non-linearity.

    Raises:
        ValueError: There is none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"Expected an activation out of {', '.join(ACTIVATIONS)}, found {name!r}.")
    return ACTIVATIONS[name]()


def initialise(model: nn.Module, how: Initialisation) -> None:
    """Give the weights of every linear and convolution layer their first values.

    Args:
        model: Changed in place.
        how: ``"torch"`` leaves PyTorch's (uniform, ``1 / sqrt(fan_in)`` wide). ``"glorot"`` draws uniformly as
            in Glorot & Bengio 2010, made for tanh, with biases of zero. ``"zero"`` sets all to zero: DFA can
            start there (Nøkland 2016), backpropagation cannot.

    Raises:
        ValueError: There is no initialisation of that name.
    """
    if how not in ("torch", "glorot", "zero"):
        raise ValueError(f"Expected an initialisation out of torch, glorot, zero, found {how!r}.")
    if how == "torch":
        return
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            if how == "glorot":
                nn.init.xavier_uniform_(layer.weight)
            else:
                nn.init.zeros_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
