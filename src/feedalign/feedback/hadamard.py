"""Structured feedback by fast Walsh-Hadamard transforms: all entries random enough, none of them stored."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from feedalign.feedback.feedback import Feedback, Kept, Parts, seeded

STAGE = 32
"""Size of the matrices that a transform is composed of: on a CPU the fastest one."""
CHUNK = 2**20
"""Numbers that a CPU transforms at a time: so many fit into its cache, and into little memory."""
ELSEWHERE = 2**26
"""The same on accelerators, which need more to do at once."""


@dataclass(frozen=True)
class Hadamard(Feedback):
    r"""The upper left corner ``[C, D]`` of :math:`S_1 H S_2 H / \sqrt{n} / \sqrt{D}`, with random signs :math:`S`.

    :math:`H` is the Walsh-Hadamard matrix of size :math:`n`, the least power of two that holds :math:`C` and
    :math:`D`. A projection takes :math:`O(n \log n)` operations a row in place of :math:`C D`, and keeps the signs,
    at most :math:`2 n` numbers. Rows are exactly orthogonal when :math:`D = n`, nearly so otherwise; with many entries
    the numbers are close to Gaussian.

    One transform would not do: of its columns only as many differ (but for the sign) as the next power of two of
    :math:`C`, 16 at ten classes, and with :math:`C > n/2 \ge D` rows repeat. A third would improve neither.

    The options are those of :class:`Feedback`.

    References:
        Le, Sarlos & Smola, *Fastfood: approximating kernel expansions in loglinear time*, ICML 2013.
        Yu et al., *Orthogonal Random Features*, NeurIPS 2016 (three transforms).
    """

    def draw(self, rows: int, columns: int, generator: torch.Generator) -> Tensor:
        r"""Return the dense twin by its closed form, :math:`s_c \, w_{c \oplus d}` with :math:`w = H s' / \sqrt{n}`.

        :math:`\oplus` is the exclusive or of the indices: :math:`H S' H` is a convolution on their bits.
        """
        first, second = _signs(rows, columns, generator)
        numbers = transform(second, walsh(STAGE)) / len(second) ** 0.5
        matrix: Tensor = first[:, None] * numbers[torch.arange(rows)[:, None] ^ torch.arange(columns)]
        return matrix

    def keep(self, seed: int, parts: Parts, rows: int, dtype: torch.dtype, device: torch.device) -> Kept:
        """Return a small Walsh-Hadamard matrix, and two vectors of signs a matrix, the second one times the factor."""
        # Sums of many numbers are not for half precision.
        wide = torch.promote_types(dtype, torch.float32)
        return tuple(tensor.to(device=device, dtype=wide) for tensor in (walsh(STAGE), *_vectors(seed, parts, rows)))

    def product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        """Return ``error [N, C]`` times the scaled matrices side by side, ``[N, sum of columns]``."""
        size = max(len(second) for second in kept[2::2])
        rows = max(1, (CHUNK if error.device.type == "cpu" else ELSEWHERE) // size)
        if len(error) <= rows or torch.compiler.is_compiling():
            return self._product(error, parts, kept)
        return torch.cat([self._product(some, parts, kept) for some in torch.split(error, rows)])

    def _product(self, error: Tensor, parts: Parts, kept: Kept) -> Tensor:
        small, *vectors = kept
        made = []
        for (_, columns, _), first, second in zip(parts, vectors[::2], vectors[1::2], strict=True):
            padded = functional.pad(error.to(first.dtype) * first, (0, len(second) - len(first)))
            signal = transform(transform(padded, small) * second, small)[:, :columns]
            # Contiguous, so that a narrow signal does not hold all n numbers.
            made.append(signal.to(error.dtype).contiguous())
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)


def _vectors(seed: int, parts: Parts, rows: int) -> Iterator[Tensor]:
    for key, columns, factor in parts:
        first, second = _signs(rows, columns, seeded(seed, key, rows, columns))
        yield first
        yield second * (factor / len(second) ** 0.5)


def _signs(rows: int, columns: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return the signs before the first transform ``[C]`` and before the second ``[n]``."""
    size = 1 << (max(rows, columns) - 1).bit_length()
    signs = torch.randint(2, (rows + size,), generator=generator).double() * 2 - 1
    return signs[:rows], signs[rows:]


def transform(x: Tensor, small: Tensor) -> Tensor:
    """Return the Walsh-Hadamard transform of ``x [..., n]`` along the last dimension, not normalised.

    A Walsh-Hadamard matrix is a Kronecker product of small ones. Every stage multiplies by one of them along the
    leading bits of the index and moves these to the end, so that after the last stage the order is the natural one.

    Args:
        x: ``n`` is a power of two.
        small: ``walsh(m)`` in the type of ``x`` and on its device; ``m`` is what one stage handles.
    """
    shape, left = x.shape, x.shape[-1]
    while left > 1:
        stage = min(left, len(small))
        x = (x.reshape(*shape[:-1], stage, shape[-1] // stage).mT @ small[:stage, :stage]).reshape(shape)
        left //= stage
    return x


def walsh(size: int) -> Tensor:
    """Return the Walsh-Hadamard matrix ``[size, size]``; its upper left corners are the smaller ones."""
    matrix = torch.ones(1, 1, dtype=torch.float64)
    while len(matrix) < size:
        matrix = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64), matrix)
    return matrix
