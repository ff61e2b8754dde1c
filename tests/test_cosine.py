"""Cosines of tensors of any scale, against the formula in NumPy's long doubles."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from feedalign.cosine import PIECE, cosine, row_cosines


def exact(a: Tensor, b: Tensor) -> np.ndarray:
    x, y = (each.double().numpy().astype(np.longdouble) for each in (a, b))
    return ((x * y).sum(-1) / np.sqrt((x**2).sum(-1) * (y**2).sum(-1))).astype(float)


SCALES = [(1.0, 1.0), (1e-8, 1e8), (1e-30, 1.0), (1e-36, 1e-36), (1e30, 1e-30), (1e36, 1e36)]


@pytest.mark.parametrize(("first", "second"), SCALES)
def test_scale_does_not_matter(first: float, second: float) -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(7, 50, generator=generator) for _ in range(2))
    b += 0.5 * a
    a, b = first * a, second * b
    assert cosine([(a, b)]) == pytest.approx(float(exact(a.flatten(), b.flatten())), abs=1e-6)
    np.testing.assert_allclose(row_cosines(a, b, 7), exact(a, b), atol=1e-6)


@pytest.mark.parametrize("dense", ["neither", "one", "the other"])
def test_sparse_gradients_are_compared_by_the_rows_that_they_have(dense: str) -> None:
    a, b = torch.randn(9, 4), torch.randn(9, 4)
    a[[0, 3, 4, 7]], b[[0, 1, 4, 8]] = 0.0, 0.0
    first = a if dense == "one" else a.to_sparse(1)
    second = b if dense == "the other" else b.to_sparse(1)
    assert cosine([(first, second)]) == pytest.approx(float(exact(a.flatten(), b.flatten())), abs=1e-6)


def test_rows_of_very_different_sizes() -> None:
    a, b = torch.randn(4, 9), torch.randn(4, 9)
    sizes = torch.tensor([1.0, 1e-30, 0.0, 1e25])[:, None]
    found = row_cosines(sizes * a, b, 4)
    assert found.dtype == torch.float64
    assert found.isnan().tolist() == [False, False, True, False]
    np.testing.assert_allclose(found[[0, 1, 3]], exact(a, b)[[0, 1, 3]], atol=1e-6)


def test_parts_of_different_sizes_are_one_vector() -> None:
    """Of one vector a long and a short part, of another scale each, as weights and biases have."""
    a = [torch.randn(PIECE + 3), 1e3 * torch.randn(5, 2)]
    b = [torch.randn(PIECE + 3), torch.randn(5, 2)]
    one, other = (torch.cat([part.flatten() for part in parts]) for parts in (a, b))
    assert cosine(list(zip(a, b, strict=True))) == pytest.approx(float(exact(one, other)), abs=1e-6)


def test_half_precision_is_added_up_in_more() -> None:
    a = torch.full((70_000,), 0.01, dtype=torch.bfloat16)
    assert cosine([(a, a)]) == pytest.approx(1, abs=1e-6)
    assert cosine([(a, -2 * a)]) == pytest.approx(-1, abs=1e-6)


def test_nothing_has_no_direction() -> None:
    zero, one = torch.zeros(3), torch.ones(3)
    assert math.isnan(cosine([]))
    assert math.isnan(cosine([(zero, one)]))
    assert math.isnan(cosine([(one, torch.full((3,), math.nan))]))
    assert row_cosines(torch.zeros(2, 3), torch.ones(2, 3), 2).isnan().all()
