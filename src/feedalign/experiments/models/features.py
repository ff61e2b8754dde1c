"""The features of nodes, most of which are zero: the words of a paper, out of all words."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from feedalign.experiments.models.sparse import Pattern, pattern

DENSE = 0.25
"""With more than this share of numbers other than zero, a dense product is the faster one."""


@dataclass(frozen=True, eq=False)
class SparseFeatures:
    """Features ``[N, F]`` of which only those other than zero are kept. No gradient is taken with respect to them.

    Attributes:
        pattern: Where they are.
        values: What they are, ``[E]``.
    """

    pattern: Pattern
    values: Tensor

    def __len__(self) -> int:
        return self.pattern.rows

    @property
    def dtype(self) -> torch.dtype:
        """Of the values."""
        return self.values.dtype


Features = Tensor | SparseFeatures


def sparsify(x: Tensor) -> Features:
    """Return features ``[N, F]`` without their zeros; as they are if there are few zeros, or a gradient is wanted."""
    if x.requires_grad or not x.numel() or int(x.count_nonzero()) > DENSE * x.numel():
        return x
    places = x.nonzero().t()
    found, order = pattern(places[0], places[1], *x.shape)
    return SparseFeatures(found, x[places[0], places[1]].index_select(0, order))


def project(x: Features, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x [N, F]`` times the transpose of ``weight [D, F]``, plus a bias."""
    if isinstance(x, Tensor):
        return F.linear(x, weight, bias)
    product = x.pattern.product(x.values, weight.t().contiguous())
    return product if bias is None else product + bias


class Dropout(nn.Module):
    """Dropout, of features or of anything else.

    PyTorch draws a number of 32 bits for every unit; 16 are enough, and take a fifth of the time on a CPU. So the
    probability is a multiple of 1 / 65,536.

    Args:
        p: Probability of zeroing a unit. What is left is divided by ``1 - p``.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"Expected a dropout of at least 0 and less than 1, found {p}.")
        self.p = p

    def forward(self, x: Features) -> Features:
        """Return ``x`` with some units zeroed in training, as it is otherwise."""
        if isinstance(x, SparseFeatures):
            return SparseFeatures(x.pattern, self.drop(x.values))
        return self.drop(x)

    def drop(self, x: Tensor) -> Tensor:
        """Return a tensor with some units zeroed in training, as it is otherwise."""
        return x * keep(x, self.p) if self.training and self.p else x

    def extra_repr(self) -> str:
        """Return what ``print`` shows."""
        return f"p={self.p}"


def keep(like: Tensor, p: float) -> Tensor:
    """Return a tensor of one shape with ``like`` that is 0 with probability ``p`` and ``1 / (1 - p)`` otherwise."""
    count = like.numel()
    drawn = torch.empty(-(-count // 4), dtype=torch.int64, device=like.device).random_(-(2**63), None)
    kept = drawn.view(torch.int16)[:count].view(like.shape) >= round(p * 2**16) - 2**15
    return kept.to(like.dtype).mul_(1 / (1 - p))
