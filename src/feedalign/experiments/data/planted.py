"""A click log whose labels are drawn from a known logit: no file, no network.

Each category has a latent vector; a field's are standardised under its frequencies. The logit is a sum of three parts,
each of a stated standard deviation over rows:

    linear    sum of the first latent coordinate, over fields
    pairwise  sum of the products of latent vectors, over pairs of fields: what a factorisation machine expresses
    triple    sum of the products of three signs, over triples of fields: orthogonal to every sum of functions of two
              fields, so a factorisation machine cannot express any of it, and a network can
"""

from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from feedalign.experiments.data.click_data import Clicks, consecutive, part_sizes
from feedalign.experiments.errors import DataError

Numbers = NDArray[np.float64]
ROWS = 50_000
FEWEST = 100
FIELDS, CATEGORIES, RANK = 9, 6, 2
TRIPLES = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
LINEAR, PAIRWISE, TRIPLE, BIAS = 0.5, 1.0, 2.0, -1.0
# The first categories of a field are more common than the last, as in a real log.
FREQUENCIES = 1.0 / np.arange(3, CATEGORIES + 3)
FREQUENCIES /= FREQUENCIES.sum()


def read(seed: int = 0, rows: int | None = None) -> Clicks:
    """Return the log of a seed: 9 fields of 6 categories, 50,000 rows unless told otherwise.

    Rows are drawn independently, so the first 80 % train, and the split needs no shuffle. Index 0 stands for unseen
    categories, as in every log; no row has it.

    Raises:
        DataError: Fewer than 100 rows are asked for.
    """
    rows = ROWS if rows is None else rows
    if rows < FEWEST:
        raise DataError(f"Expected at least {FEWEST} rows of the planted log, found {rows}. Do ask for more.")
    generator = np.random.default_rng(seed)
    latent = standardised(generator.standard_normal((FIELDS, CATEGORIES, RANK)))
    categories = generator.choice(CATEGORIES, size=(rows, FIELDS), p=FREQUENCIES)
    probabilities = 1 / (1 + np.exp(-sum(parts(categories, latent).values()) - BIAS))
    train, validation, test = consecutive(part_sizes(rows))
    return Clicks(
        name="planted",
        fields=tuple(f"F{number + 1}" for number in range(FIELDS)),
        sizes=(CATEGORIES + 1,) * FIELDS,
        indices=(categories + 1).astype(np.int32),
        labels=(generator.random(rows) < probabilities).astype(np.uint8),
        train=train,
        validation=validation,
        test=test,
        best_auc=expected_auc(probabilities[test]),
    )


def parts(categories: NDArray[np.int64], latent: Numbers) -> dict[str, Numbers]:
    """Return the parts ``[N]`` of the logit of rows ``[N, F]``, from standardised latent vectors ``[F, C, K]``.

    Each part is divided by the deviation that it has over rows, and multiplied by the stated one. The terms of a part
    are uncorrelated, so their variances add up.
    """
    fields = np.arange(FIELDS)
    vectors = latent[fields, categories]
    signs = standardised(np.sign(latent[:, :, :1]))[fields, categories, 0]
    pairs = list(combinations(range(FIELDS), 2))
    pairwise = sum((vectors[:, one] * vectors[:, other]).sum(axis=1) for one, other in pairs)
    spread = sum(((_covariance(latent[one]) * _covariance(latent[other])).sum()) for one, other in pairs)
    return {
        "linear": LINEAR * vectors[:, :, 0].sum(axis=1) / FIELDS**0.5,
        "pairwise": PAIRWISE * pairwise / spread**0.5,
        "triple": TRIPLE * sum(signs[:, triple].prod(axis=1) for triple in TRIPLES) / len(TRIPLES) ** 0.5,
    }


def standardised(values: Numbers) -> Numbers:
    """Return values ``[F, C, K]`` with mean 0 and variance 1 over a field's categories, by their frequencies."""
    centred: Numbers = values - np.einsum("c,fck->fk", FREQUENCIES, values)[:, None]
    deviations: Numbers = np.einsum("c,fck->fk", FREQUENCIES, centred**2)[:, None] ** 0.5
    scaled: Numbers = centred / deviations
    return scaled


def expected_auc(probabilities: Numbers) -> float:
    """Return the expected AUC ``[]`` of ranking rows by the probabilities ``[N]`` from which their labels are drawn.

    The positives that a pair (i, j) is expected to have in i and not in j, counted where i ranks above j.
    """
    ordered = np.sort(probabilities)
    below = np.cumsum(1 - ordered) - (1 - ordered)
    total = ordered.sum() * (1 - ordered).sum() - (ordered * (1 - ordered)).sum()
    return float((ordered * below).sum() / total)


def _covariance(vectors: Numbers) -> Numbers:
    covariance: Numbers = np.einsum("c,ck,cl->kl", FREQUENCIES, vectors, vectors)
    return covariance
