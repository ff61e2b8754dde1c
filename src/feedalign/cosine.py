"""Cosines of tensors of any scale: in float64, a piece at a time, so that no copy of them is made.

In float32 the squares of numbers under 1e-19 are zero, and the gradients of a scaled loss may well be that small.
"""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

PIECE = 2**18
"""So many numbers of each tensor are in float64 at a time: few enough for a processor's cache."""


def cosine(pairs: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the cosine of two vectors, in [-1, 1]; NaN if one of them is zero.

    Args:
        pairs: Their parts, two tensors of one shape each.
    """
    totals: Tensor | None = None
    for a, b in pairs:
        for x, y in _pieces(a.detach().reshape(-1), b.detach().reshape(-1), PIECE):
            products = torch.stack([x @ y, x @ x, y @ y])
            totals = products if totals is None else totals + products.to(totals.device)
    if totals is None:
        return float("nan")
    both, first, second = totals.tolist()
    return both / (first**0.5 * second**0.5) if first and second else float("nan")


def row_cosines(a: Tensor, b: Tensor, rows: int) -> Tensor:
    """Return the cosine of every row of two tensors ``[N, ...]``, NaN where one of the two is zero; ``[N]``, float64.

    Args:
        a: One tensor.
        b: The other, of the same shape.
        rows: ``N``, into which the leading dimensions fall.
    """
    a, b = (tensor.detach().reshape(rows, -1) for tensor in (a, b))
    at_once = max(1, PIECE // max(1, a.shape[1]))
    found = []
    for x, y in _pieces(a, b, at_once):
        found.append((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1)))
    return torch.cat(found)


def _pieces(a: Tensor, b: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(a), size):
        yield a[start : start + size].double(), b[start : start + size].double()
