r"""Which matrices a layer can be, and how near the nearest of them comes to what feedback asks for.

Where DFA aligns, the weights between two points turn towards :math:`M = B_\text{above}^T B_\text{below}` (strong weight
alignment). A dense layer can be any matrix. A convolution, written as a matrix from all features below to all features
above, is zero outside its kernels (locality) and repeats the same numbers at every position (sharing; in one dimension
it is a Toeplitz matrix). These matrices form a linear subspace, so the best cosine with :math:`M` is that of the
orthogonal projection of :math:`M`: the mean over the entries that share a parameter, and zero where there is none.

Letters: ``C`` width of the error, ``p`` parameters of the layer, ``D`` entries of its matrix. Biases play no part.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call


@dataclass(frozen=True)
class Freedom:
    """How much of a matrix a layer can choose.

    Attributes:
        parameters: Numbers that the layer chooses, ``p``; those that no input ever meets are left out.
        entries: Entries of the matrix that hold one of them.
        size: All entries of the matrix, ``D``.
    """

    parameters: int
    entries: int
    size: int

    @property
    def bound(self) -> float:
        r"""The root mean square of the best cosine with a random matrix: :math:`\sqrt{p / D}`.

        For any matrix whose entries are uncorrelated and of equal variance, such as a product of Gaussian feedback.
        """
        return math.sqrt(self.parameters / self.size)

    @property
    def locality(self) -> float:
        """What zeros leave of it: the bound of a layer of the same connections that shares nothing."""
        return math.sqrt(self.entries / self.size)

    @property
    def sharing(self) -> float:
        """What sharing leaves of that; ``bound = locality * sharing``."""
        return math.sqrt(self.parameters / self.entries)


@dataclass(frozen=True, eq=False)
class Overlap:
    """How a layer lies to the matrix that feedback asks for.

    Attributes:
        cosine: Of the layer's weights as they are: weight alignment.
        best: The largest that any weights reach.
        weights: Such weights, of the shape of the layer's and of arbitrary scale.
    """

    cosine: float
    best: float
    weights: Tensor


def freedom(layer: nn.Module, shape: tuple[int, ...]) -> Freedom:
    """Return how much of its matrix a layer can choose.

    Args:
        layer: As for :func:`overlap`.
        shape: Of one input, without the batch dimension: ``(channels, *positions)`` for convolutions.
    """
    counts = _counts(layer, shape)
    with torch.no_grad():
        above = _applied(layer, layer.weight, torch.ones(1, *shape)).numel()
    return Freedom(int((counts > 0).sum()), int(counts.sum()), above * math.prod(shape))


def overlap(layer: nn.Module, below: Tensor, above: Tensor) -> Overlap:
    r"""Return how the matrix ``W`` of a layer lies to :math:`M = B_\text{above}^T B_\text{below}`.

    Exact for any shape, and neither matrix is ever formed: the sum of :math:`M` over the entries that share a parameter
    is the gradient that the layer's weights receive for inputs ``below`` and output gradients ``above``.

    Args:
        layer: A module with a ``weight`` whose every entry appears in the matrix as it is, at any number of places:
            ``nn.Linear``, convolutions of any size, stride, zero padding, dilation and groups,
            :class:`feedalign.theory.local.LocallyConnected`.
        below: Feedback of the point at the layer's input, ``[C, *shape of one input]``.
        above: Feedback of the point at its output, ``[C, *shape of one output]``.

    Raises:
        ValueError: The layer pads with other things than zeros, so that an entry may be a sum of parameters.
    """
    below, above = below.double(), above.double()
    counts = _counts(layer, tuple(below.shape[1:]))
    weight = layer.weight.detach().double()  # type: ignore[operator]
    sums = _sums(layer, below, above)
    of_target = _gram(below).mul(_gram(above)).sum().clamp(min=0).sqrt()  # |B_above^T B_below|
    cosine = (weight * sums).sum() / ((weight.square() * counts).sum().sqrt() * of_target)
    weights = torch.where(counts > 0, sums / counts.clamp(min=1), 0)
    best = (weights.square() * counts).sum().sqrt() / of_target
    return Overlap(cosine.item(), best.item(), weights)


def matrix(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return the matrix of a layer, ``[features above, features below]``, float64.

    Args:
        layer: As for :func:`overlap`.
        shape: Of one input.
    """
    features = math.prod(shape)
    with torch.no_grad():
        units = torch.eye(features, dtype=torch.float64).reshape(features, *shape)
        return _applied(layer, layer.weight, units).flatten(1).T


def _gram(feedback: Tensor) -> Tensor:
    rows = feedback.flatten(1)
    return rows @ rows.T


def _counts(layer: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Return at how many places of the matrix each parameter stands."""
    ones = torch.ones(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        above = torch.ones_like(_applied(layer, layer.weight, ones))
    return _sums(layer, ones, above).round()


def _sums(layer: nn.Module, below: Tensor, above: Tensor) -> Tensor:
    """Return the sum of ``above.T @ below`` over the places of each parameter."""
    weight = layer.weight.detach().double().requires_grad_()  # type: ignore[operator]
    with torch.enable_grad():
        product = (_applied(layer, weight, below) * above).sum()
    return torch.autograd.grad(product, weight)[0]


def _applied(layer: nn.Module, weight: Tensor | nn.Module, inputs: Tensor) -> Tensor:
    """Return what the layer makes of inputs with these weights and without its bias, in float64."""
    if getattr(layer, "padding_mode", "zeros") != "zeros":
        raise ValueError(
            f"Expected a layer that pads with zeros, found padding_mode={layer.padding_mode!r}: an entry of its matrix "
            "may be a sum of several weights. Take padding_mode='zeros'."
        )
    assert isinstance(weight, Tensor)
    parameters = {name: torch.zeros_like(p, dtype=torch.float64) for name, p in layer.named_parameters()}
    outputs: Tensor = functional_call(layer, {**parameters, "weight": weight.double()}, (inputs.double(),))
    return outputs
