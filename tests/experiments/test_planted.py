"""The planted click log: its logit is what its description says, and its best AUC is right."""

from itertools import combinations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from feedalign.experiments.data import planted
from feedalign.experiments.data.clicks import ClickConfig, load_clicks
from feedalign.experiments.data.planted import FREQUENCIES
from feedalign.experiments.errors import DataError


def latent(seed: int) -> np.ndarray:
    """The latent vectors of a seed."""
    shape = (planted.FIELDS, planted.CATEGORIES, planted.RANK)
    return planted.standardised(np.random.default_rng(seed).standard_normal(shape))


def test_it_needs_no_file_and_is_what_it_was() -> None:
    one, again, other = (load_clicks(ClickConfig(split_seed=seed)) for seed in (0, 0, 1))
    assert one.counts == {
        "rows": 50_000,
        "fields": 9,
        "indices": 63,
        "train": 40_000,
        "validation": 5_000,
        "test": 5_000,
    }
    np.testing.assert_array_equal(one.indices, again.indices)
    np.testing.assert_array_equal(one.labels, again.labels)
    assert not np.array_equal(one.labels, other.labels)
    assert one.indices.min() == 1, "index 0 is for what was never seen"


def test_categories_come_with_their_frequencies() -> None:
    clicks = load_clicks(ClickConfig())
    for field in range(9):
        shares = np.bincount(clicks.indices[:, field], minlength=7)[1:] / 50_000
        np.testing.assert_allclose(shares, FREQUENCIES, atol=0.012)


def test_parts_have_the_stated_deviations_over_rows() -> None:
    generator = np.random.default_rng(7)
    rows = generator.choice(planted.CATEGORIES, size=(200_000, planted.FIELDS), p=FREQUENCIES)
    found = planted.parts(rows, latent(3))
    stated = {"linear": planted.LINEAR, "pairwise": planted.PAIRWISE, "triple": planted.TRIPLE}
    assert list(found) == list(stated)
    for name, values in found.items():
        assert abs(values.mean()) < 0.02, name
        assert values.std() == pytest.approx(stated[name], rel=0.03), name
    for one, other in combinations(found.values(), 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 0.03


def test_no_sum_of_functions_of_two_fields_expresses_any_of_the_triples() -> None:
    """Given any two of its fields, the mean of a triple's term is zero: it is orthogonal to all functions of them."""
    categories = np.arange(planted.CATEGORIES)
    grid = np.stack(np.meshgrid(categories, categories, categories, indexing="ij"), axis=-1).reshape(-1, 3)
    rows = np.concatenate([grid, np.zeros((len(grid), 6), int)], axis=1)
    vectors = latent(0)
    term = planted.parts(rows, vectors)["triple"]
    # The other two triples are the same in all these rows.
    term = (term - term.reshape(6, 6, 6).transpose(2, 0, 1) @ FREQUENCIES @ FREQUENCIES @ FREQUENCIES).reshape(6, 6, 6)
    assert np.abs(term).max() > 0.5
    for axis in range(3):
        np.testing.assert_allclose(np.tensordot(FREQUENCIES, term, axes=(0, axis)), 0, atol=1e-12)


def test_the_expected_auc_is_that_of_all_pairs() -> None:
    probabilities = np.random.default_rng(0).random(40)
    above = total = 0.0
    for i in range(40):
        for j in range(40):
            if i != j:
                pair = probabilities[i] * (1 - probabilities[j])
                total += pair
                above += pair * (probabilities[i] > probabilities[j])
    assert planted.expected_auc(probabilities) == pytest.approx(above / total, rel=1e-12)


def test_the_true_logit_reaches_the_best_auc() -> None:
    clicks = load_clicks(ClickConfig(rows=200_000))
    logit = sum(planted.parts(clicks.indices[clicks.test].astype(np.int64) - 1, latent(0)).values())
    assert clicks.best_auc == pytest.approx(roc_auc_score(clicks.labels[clicks.test], logit), abs=0.01)


def test_the_best_of_pairs_is_far_from_the_best_of_all() -> None:
    """What any factorisation machine can reach: logistic regression on every pair of categories."""
    clicks = load_clicks(ClickConfig())
    pairs = np.stack(
        [7 * clicks.indices[:, one] + clicks.indices[:, other] for one, other in combinations(range(9), 2)], axis=1
    )
    encoded = OneHotEncoder(handle_unknown="ignore").fit(pairs[clicks.train])
    model = LogisticRegression(C=0.1, max_iter=60, tol=1e-3)
    model.fit(encoded.transform(pairs[clicks.train]), clicks.labels[clicks.train])
    scores = model.decision_function(encoded.transform(pairs[clicks.test]))
    reached = roc_auc_score(clicks.labels[clicks.test], scores)
    assert 0.6 < reached < clicks.best_auc - 0.15


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(DataError, match=r"Expected at least 100 rows of the planted log, found 99\."):
        load_clicks(ClickConfig(rows=99))
