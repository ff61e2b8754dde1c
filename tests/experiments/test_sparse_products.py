"""Sparse products against dense ones, to the second derivative; what is remembered of a graph, and what is not."""

import copy
import pickle

import pytest
import torch

from feedalign.experiments.models.features import SparseFeatures, keep, project, sparsify
from feedalign.experiments.models.remembered import Remembered
from feedalign.experiments.models.sparse import pattern

pytestmark = pytest.mark.usefixtures("float64")

ROWS, COLUMNS, WIDTH = 6, 5, 3


@pytest.fixture
def places():
    """Entries in no order, one of them given twice, none in the last row and column."""
    row = torch.tensor([3, 0, 3, 1, 4, 3, 0, 2])
    column = torch.tensor([1, 0, 3, 2, 3, 1, 2, 0])
    return pattern(row, column, ROWS, COLUMNS)[0]


def dense(places, values):
    matrix = torch.zeros(*values.shape[:-1], places.rows, places.columns)
    for entry, (i, j) in enumerate(zip(places.row.tolist(), places.column.tolist(), strict=True)):
        matrix[..., i, j] += values[..., entry]
    return matrix


def test_entries_keep_their_values_when_they_are_sorted():
    row, column, values = torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1]), torch.tensor([7.0, 8.0, 9.0])
    found, order = pattern(row, column, 3, 2)
    assert dense(found, values[order]).tolist() == [[0, 8], [0, 9], [7, 0]]


def test_products_are_the_dense_ones(places):
    values, right = torch.randn(2, 4, 8), torch.randn(2, 4, COLUMNS, WIDTH)
    expected = (dense(places, values) @ right).sum(0)
    torch.testing.assert_close(places.times(values, *right), expected)
    torch.testing.assert_close(places.product(values[0, 0], right[0, 0]), dense(places, values[0, 0]) @ right[0, 0])
    torch.testing.assert_close(places.sums(values[0]), dense(places, values[0]).sum(-1, keepdim=True))


def test_sampled_products_are_the_entries_of_the_dense_ones(places):
    left, right = torch.randn(4, ROWS, WIDTH), torch.randn(2, 4, COLUMNS, WIDTH)
    expected = (left @ right.transpose(-1, -2))[..., places.row, places.column]
    torch.testing.assert_close(places.sampled(left, *right), expected)


@pytest.mark.parametrize("product", ["times", "sampled"])
def test_derivatives_of_products_are_right_and_so_are_theirs(places, product):
    first = torch.randn(2, 2, 8) if product == "times" else torch.randn(2, ROWS, WIDTH)
    tensors = [
        each.requires_grad_() for each in (first, torch.randn(2, COLUMNS, WIDTH), torch.randn(2, COLUMNS, WIDTH))
    ]
    assert torch.autograd.gradcheck(getattr(places, product), tensors)
    assert torch.autograd.gradgradcheck(getattr(places, product), tensors)


def test_softmax_of_a_row_is_that_of_its_entries(places):
    scores = torch.randn(2, 8) * 100
    above, below = places.softmax(scores)
    shares = above / below[..., 0].index_select(1, places.row)
    for i in (0, 1, 2, 3, 4):
        own = places.row == i
        torch.testing.assert_close(shares[:, own], torch.softmax(scores[:, own], 1))


def test_a_pattern_without_entries_gives_zeros():
    nothing = pattern(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), ROWS, COLUMNS)[0]
    right = torch.randn(1, COLUMNS, WIDTH, requires_grad=True)
    product = nothing.times(torch.empty(1, 1, 0), right)
    assert product.shape == (1, ROWS, WIDTH)
    assert not product.count_nonzero()
    product.sum().backward()
    assert not right.grad.count_nonzero()
    assert nothing.sampled(torch.randn(1, ROWS, WIDTH), right).shape == (1, 1, 0)


def test_features_of_mostly_zeros_are_projected_as_others_are():
    x = torch.randn(7, 20) * (torch.rand(7, 20) < 0.1)
    weight, bias = torch.randn(4, 20, requires_grad=True), torch.randn(4)
    sparse = sparsify(x)
    assert isinstance(sparse, SparseFeatures)
    assert (len(sparse), sparse.dtype) == (7, torch.float64)
    project(sparse, weight, bias).square().sum().backward()
    found, weight.grad = weight.grad, None
    project(x, weight, bias).square().sum().backward()
    torch.testing.assert_close(found, weight.grad)


@pytest.mark.parametrize("x", [torch.ones(3, 4), torch.zeros(3, 4, requires_grad=True), torch.zeros(0, 4)])
def test_other_features_stay_as_they_are(x):
    assert sparsify(x) is x


@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
def test_dropout_drops_as_many_as_it_says_and_keeps_the_mean(p):
    kept = keep(torch.empty(401, 501), p)
    assert set(kept.unique().tolist()) == {0, 1 / (1 - p)}
    assert abs(float((kept == 0).double().mean()) - p) < 5 * (p * (1 - p) / kept.numel()) ** 0.5
    neighbours = (kept[:, 1:] == 0) & (kept[:, :-1] == 0)
    assert abs(float(neighbours.double().mean()) - p**2) < 0.01
    torch.manual_seed(1)
    first = keep(torch.empty(9), p)
    torch.manual_seed(1)
    assert torch.equal(first, keep(torch.empty(9), p))


class Counted:
    def __init__(self):
        self.calls = 0

    def __call__(self, tensor, factor):
        self.calls += 1
        return tensor * factor


def test_what_is_made_of_a_tensor_is_made_once_until_anything_changes():
    make = Counted()
    remembered = Remembered(make)
    tensor = torch.ones(3)
    assert remembered(tensor, 2) is remembered(tensor, 2)
    assert make.calls == 1
    tensor += 1
    assert remembered(tensor, 2).tolist() == [4, 4, 4]
    assert remembered(tensor, 3).tolist() == [6, 6, 6]
    assert remembered(tensor.clone(), 3).tolist() == [6, 6, 6]
    assert make.calls == 4


def test_what_is_remembered_stays_behind_when_it_is_copied_and_serves_training_after_inference():
    remembered = Remembered(torch.neg)
    tensor = torch.ones(2)
    with torch.inference_mode():
        assert not remembered(tensor).is_inference()
    for copied in (copy.deepcopy(remembered), pickle.loads(pickle.dumps(remembered))):
        assert copied._made is None
        assert copied(tensor).tolist() == [-1, -1]
