"""Direct Feedback Alignment by hand: block by block, with nothing of the library but the matrices."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


def backward(
    blocks: Sequence[Callable[[Tensor], Tensor]],
    head: Callable[[Tensor], Tensor],
    matrices: Sequence[Tensor],
    x: Tensor,
    loss_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Add DFA's gradients to ``.grad`` of the parameters of a model that nothing is attached to; return the loss.

    Every block is differentiated apart, with ``e @ B_i`` for the gradient at its output.
    """
    points = []
    for block in blocks:
        points.append(block(x.detach()))
        x = points[-1]
    y = head(x.detach())  # [..., C]
    loss = loss_of(y)
    (error,) = torch.autograd.grad(loss, y, retain_graph=True)
    y.backward(error)
    rows = error.reshape(-1, error.shape[-1])  # [N, C]
    for point, matrix in zip(points, matrices, strict=True):
        point.backward((rows @ matrix.to(rows.dtype)).reshape(point.shape))
    return loss.detach()


def chain(seed: int = 0, dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Return a deep enough model, [N, 6] to [N, 4], whose blocks are its first three modules."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        widths = [6, 12, 9, 9]
        blocks = [nn.Sequential(nn.Linear(a, b), nn.Tanh(), nn.Linear(b, b), nn.ReLU()) for a, b in pairwise(widths)]
        return nn.Sequential(*blocks, nn.Linear(9, 4)).to(dtype)


def samples(count: int, seed: int = 5, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return inputs [N, 6] and classes [N] for :func:`chain`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator, dtype=dtype), torch.randint(4, (count,), generator=generator)
