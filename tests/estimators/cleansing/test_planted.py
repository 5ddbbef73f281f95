"""The share of wrong labels from planted mistakes, on scores drawn from known distributions."""

from dataclasses import astuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.cleansing.planted import LEAST_PLANTED, PlantedShare, planted_share
from sgdphases.estimators.cleansing.share import LEARNT, share_of_wrong
from sgdphases.estimators.cleansing.wrong_labels import from_planted, wrong_labels
from sgdphases.estimators.errors import InputError


def drawn(r, *, seed=0, n=4000, count=400, wrong_at=1.3, planted_at=1.3, arbitrary_at=3.0):
    """Scores of n labels, a share r of them wrong, and of planted ones; right ones lie around 0, with deviation 1."""
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < r
    parts = [rng.normal(wrong_at * wrong), rng.normal(planted_at, 1, count), rng.normal(arbitrary_at, 1, count)]
    kind = np.repeat([0, 1, 2], [n, count, count])
    return np.concatenate(parts), kind == 1, kind == 2


@pytest.mark.parametrize("r", [0.0, 0.1, 0.3, 0.6])
def test_the_share_is_bounded_from_above(r):
    """Each bound misses one time in 40 at most, so more than 9 of 100 misses have a probability below 5e-4."""
    found = [planted_share(*drawn(r, seed=seed)) for seed in range(100)]
    assert sum(each.high < r for each in found) <= 9
    far = [planted_share(*drawn(r, seed=seed, wrong_at=6, planted_at=6, arbitrary_at=12)) for seed in range(20)]
    assert np.mean([each.fraction for each in far]) == pytest.approx(r, abs=0.03)  # no right label scores so high


def test_wrong_labels_that_have_nothing_to_do_with_the_input_are_seen_and_counted():
    found = [planted_share(*drawn(0.4, seed=seed, wrong_at=5, planted_at=2, arbitrary_at=5)) for seed in range(20)]
    assert all(each.is_seen and each.level > 1 and each.arbitrary > 0.5 for each in found)
    assert np.mean([each.fraction for each in found]) == pytest.approx(0.4, abs=0.06)


def test_those_that_score_like_plausible_mistakes_bound_the_share_and_show_nothing():
    alike = [planted_share(*drawn(0.4, seed=seed, wrong_at=2, planted_at=2, arbitrary_at=5)) for seed in range(20)]
    assert np.mean([each.fraction for each in alike]) == pytest.approx(0.4, abs=0.08)
    assert not any(each.is_seen for each in alike)


@pytest.mark.parametrize("planted_at", [0.0, 0.3, 1, 3])
@pytest.mark.parametrize("arbitrary_at", [1.5, 3, 5])
def test_without_wrong_labels_none_are_seen_however_hard_the_right_ones_are(planted_at, arbitrary_at):
    sets = [drawn(0.0, seed=seed, planted_at=planted_at, arbitrary_at=arbitrary_at) for seed in range(20)]
    assert not any(planted_share(*each).is_seen for each in sets)


def test_of_few_planted_labels_nothing_is_concluded():
    found = planted_share(*drawn(0.5, count=LEAST_PLANTED - 1, wrong_at=5, planted_at=2, arbitrary_at=5))
    assert found.high == 1.0 and not found.is_seen
    assert planted_share(*drawn(0.5, count=LEAST_PLANTED + 150, wrong_at=5, planted_at=2, arbitrary_at=5)).is_seen


@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 30))
def test_only_the_order_of_scores_counts(seed, n, count):
    rng = np.random.default_rng(seed)
    scores, kind = rng.integers(0, 6, n + 2 * count).astype(float), np.repeat([0, 1, 2], [n, count, count])
    found = planted_share(scores, kind == 1, kind == 2)
    assert 0 <= found.fraction <= 1 and 0 <= found.high <= 1 and found.level >= 0 and 0 <= found.arbitrary <= 1
    order = rng.permutation(n + 2 * count)
    again = planted_share(np.exp(scores[order]), kind[order] == 1, kind[order] == 2)
    assert astuple(again) == pytest.approx(astuple(found))


NONE, ALL, FIRST = np.zeros(3, bool), np.ones(3, bool), np.array([True, False, False])


@pytest.mark.parametrize(
    ("scores", "plausible", "arbitrary"),
    [(np.ones(3), NONE, FIRST), (np.ones(3), FIRST, NONE), (np.ones(3), FIRST, ~FIRST), (np.ones(3), FIRST, FIRST),
     (np.ones(3), FIRST[:2], FIRST), (np.array([1.0, np.nan, 0.0]), FIRST, FIRST[::-1]), (np.ones(3), ALL, ALL)],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(scores, plausible, arbitrary):
    with pytest.raises(InputError):
        planted_share(scores, plausible, arbitrary)


def test_as_many_labels_are_flagged_as_read_off_and_no_more_than_are_disagreed_with():
    scores = np.exp(drawn(0.4, n=1000, count=0)[0])
    labels, inside = np.zeros(1000, dtype=int), np.zeros(1000, dtype=int)
    outside = (np.arange(1000) < 450).astype(int)
    found = from_planted(scores, labels, 0.3, outside)
    assert found.has_noise and found.found_by == "planted mistakes"
    assert found.flagged.sum() == 300 and scores[found.flagged].min() > scores[~found.flagged].max()
    assert from_planted(scores, labels, 0.7, outside).flagged.sum() == 450
    inside[:200] = 1
    known = PlantedShare(0.3, 0.36, 0.9, 0.0, True)
    share = share_of_wrong(found, labels, inside, outside, planted=known)
    assert share.fraction == 0.3 and share.high == 0.36 and 0.05 < share.low < (1 - LEARNT) * 0.2
    little = PlantedShare(0.2, 0.25, 0.5, 0.0, False)
    unseen = share_of_wrong(wrong_labels(scores, labels), labels, inside, outside, planted=little)
    assert np.isnan(unseen.fraction) and (unseen.low, unseen.high) == (0.0, 0.25)
