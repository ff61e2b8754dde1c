"""Cosines of tensors of any scale, a piece at a time, so that no copy of them is made.

In float32 the squares of numbers under 1e-19 are zero, and the gradients of a scaled loss may well be that small. Where
that matters the products are formed in float64, which takes three times as long.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

PIECE = 2**18
"""So many numbers of each tensor are looked at together: few enough for a processor's cache."""
SAFE = (1e-20, 1e30)
"""Between these a sum of squares in float32 is one to 1e-6: what was too small to be squared does not count."""


def cosine(pairs: Sequence[tuple[Tensor, Tensor]]) -> float:
    """Return the cosine of two vectors, in [-1, 1]; NaN if one of them is zero.

    Args:
        pairs: Their parts, two tensors of one shape each.
    """
    both, first, second = _products(pairs, torch.float32)
    if not (SAFE[0] < min(first, second) and max(first, second) < SAFE[1]):
        both, first, second = _products(pairs, torch.float64)
    return both / (first**0.5 * second**0.5) if first and second else float("nan")


def as_real(tensor: Tensor) -> Tensor:
    """Return a complex tensor as a real one, ``[..., 2]``: a cosine is that of real and imaginary parts."""
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _products(pairs: Sequence[tuple[Tensor, Tensor]], least: torch.dtype) -> list[float]:
    """Return ``a b``, ``a a`` and ``b b``, each piece in ``least`` or the tensors' own type, their sum in float64."""
    totals: Tensor | None = None
    for a, b in (map(as_real, _strided(*pair)) for pair in pairs):
        dtype = torch.promote_types(a.dtype, least)
        for x, y in _pieces(a.detach().reshape(-1), b.detach().reshape(-1), PIECE, dtype):
            products = torch.stack([x @ y, x @ x, y @ y]).double()
            totals = products if totals is None else totals + products.to(totals.device)
    return [0.0, 0.0, 0.0] if totals is None else totals.tolist()


def _strided(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return two tensors without what both leave out, as gradients of sparse embeddings leave rows out."""
    if not (a.is_sparse and b.is_sparse and a.sparse_dim() == b.sparse_dim() == 1):
        return tuple(each.to_dense() if each.is_sparse else each for each in (a, b))  # type: ignore[return-value]
    a, b = a.detach().coalesce(), b.detach().coalesce()
    rows: Tensor = torch.cat([a.indices()[0], b.indices()[0]]).unique()  # type: ignore[no-untyped-call]
    return a.index_select(0, rows).to_dense(), b.index_select(0, rows).to_dense()


def row_cosines(a: Tensor, b: Tensor, rows: int) -> Tensor:
    """Return the cosine of every row of two tensors ``[N, ...]``, NaN where one of the two is zero; ``[N]``, float64.

    Args:
        a: One tensor.
        b: The other, of the same shape.
        rows: ``N``, into which the leading dimensions fall.
    """
    a, b = (as_real(tensor.detach()).reshape(rows, -1) for tensor in (a, b))
    at_once = max(1, PIECE // max(1, a.shape[1]))
    found = []
    for x, y in _pieces(a, b, at_once, torch.promote_types(a.dtype, torch.float32)):
        both, first, second = _row_products(x, y)
        weak = ~((torch.minimum(first, second) > SAFE[0]) & (torch.maximum(first, second) < SAFE[1]))
        if weak.any():
            exact = _row_products(x[weak].double(), y[weak].double())
            both[weak], first[weak], second[weak] = exact
        found.append(both / (first.sqrt() * second.sqrt()))
    return torch.cat(found)


def _row_products(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    first, second = (torch.linalg.vector_norm(rows, dim=1).double().square() for rows in (x, y))
    return (x * y).sum(1).double(), first, second


def _pieces(a: Tensor, b: Tensor, size: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, len(a), size):
        yield a[start : start + size].to(dtype), b[start : start + size].to(dtype)
