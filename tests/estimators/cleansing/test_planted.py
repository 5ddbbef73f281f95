"""The bound of the share of wrong labels from planted mistakes, on scores drawn from known distributions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.cleansing.planted import LEAST_PLANTED, planted_bound
from sgdphases.estimators.errors import InputError


def drawn(r, *, seed=0, n=4000, count=400, wrong_at=1.3, planted_at=1.3):
    """Scores of n labels, a share r of them wrong, and of planted ones; right ones lie around 0, with deviation 1."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < r
    parts = [rng.normal(wrong_at * wrong), rng.normal(planted_at, 1, count)]
    return np.concatenate(parts), np.repeat([False, True], [n, count])


@pytest.mark.parametrize("r", [0.0, 0.1, 0.3, 0.6])
def test_the_share_is_bounded_from_above(r):
    """Each bound misses one time in 40 at most, so more than 9 of 100 misses have a probability below 5e-4."""
    found = [planted_bound(*drawn(r, seed=seed)) for seed in range(100)]
    assert sum(each < r for each in found) <= 9
    far = [planted_bound(*drawn(r, seed=seed, wrong_at=6, planted_at=6)) for seed in range(20)]
    assert r < np.mean(far) < 1.5 * r + 0.02  # no right label scores so high: what is left are the sampling errors


def test_of_few_planted_labels_nothing_is_concluded():
    assert planted_bound(*drawn(0.1, count=LEAST_PLANTED - 1, wrong_at=6, planted_at=6)) == 1.0
    assert planted_bound(*drawn(0.1, count=LEAST_PLANTED + 150, wrong_at=6, planted_at=6)) < 0.2


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 90))
def test_only_the_order_of_scores_counts(seed, n, count):
    rng = np.random.default_rng(seed)
    scores, planted = rng.integers(0, 6, n + count).astype(float), np.repeat([False, True], [n, count])
    found = planted_bound(scores, planted)
    assert 0 < found <= 1
    order = rng.permutation(n + count)
    assert planted_bound(np.exp(scores[order]), planted[order]) == pytest.approx(found)


@pytest.mark.parametrize(
    ("scores", "planted"),
    [(np.ones(3), np.zeros(3, bool)), (np.ones(3), np.ones(3, bool)), (np.ones(3), np.array([True, False])),
     (np.array([1.0, np.nan, 0.0]), np.array([True, False, False])), (np.ones((3, 1)), np.ones((3, 1), bool))],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(scores, planted):
    with pytest.raises(InputError):
        planted_bound(scores, planted)
