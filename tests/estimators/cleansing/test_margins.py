"""Margins against a loop; the order that they give; and where they tell apart what losses do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from sgdphases import InputError
from sgdphases.estimators.cleansing.margins import OUTSIDE, margins, suspicion
from sgdphases.estimators.cleansing.wrong_labels import in_order_of, wrong_labels


@given(st.integers(1, 30), st.integers(2, 6), st.integers(0, 10_000), st.sampled_from([np.float32, np.float64]))
def test_margins_are_those_of_a_loop(n, classes, seed, dtype):
    rng = np.random.default_rng(seed)
    probability = rng.dirichlet(np.ones(classes), n).astype(dtype)
    labels = rng.integers(0, classes, n)
    before = probability.copy()
    found = margins(probability, labels)
    for row, label, margin in zip(probability.astype(float), labels, found, strict=True):
        assert margin == row[label] - max(value for k, value in enumerate(row) if k != label)
    assert (np.abs(found) <= 1 + 1e-6).all() and np.array_equal(probability, before)


@given(st.integers(1, 20), st.integers(0, 10_000))
def test_a_label_is_suspect_by_both_margins_or_by_the_one_there_is(n, seed):
    rng = np.random.default_rng(seed)
    labels, inside = rng.integers(0, 3, n), rng.uniform(-1, 1, n)
    outside = rng.dirichlet(np.ones(3), (2, n))
    both = (margins(outside[0], labels) + margins(outside[1], labels)) / 2
    expected = -(1 - OUTSIDE) * inside - OUTSIDE * both
    np.testing.assert_allclose(suspicion(inside, labels, outside), expected, rtol=0, atol=1e-12)
    assert np.array_equal(suspicion(inside, labels, None), -inside)


@pytest.mark.parametrize("shape, n", [((3,), 3), ((3, 2), 4), ((3, 1), 3)])
def test_shapes_that_do_not_fit_are_refused(shape, n):
    with pytest.raises(InputError, match="do not go with labels"):
        margins(np.zeros(shape), np.zeros(n, int))


@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5]), st.booleans())
def test_another_order_leaves_probabilities_and_how_many_are_flagged(seed, share, per_class):
    rng = np.random.default_rng(seed)
    n = 400
    labels, wrong = rng.integers(0, 2, n), rng.random(n) < share
    losses = np.log1p(np.exp(np.where(wrong, 3.0, -3.0) + rng.normal(size=n)))
    found = wrong_labels(losses, labels, per_class=per_class)
    score = rng.choice(np.arange(50.0), n)  # with ties
    ordered = in_order_of(found, score, labels)
    assert ordered.flagged.sum() == found.flagged.sum() > 0
    for own in [labels == k for k in (0, 1)] if found.per_class else [np.ones(n, bool)]:
        assert np.array_equal(np.sort(ordered.probability[own]), np.sort(found.probability[own]))
        by_score = np.lexsort((ordered.probability[own], score[own]))
        assert (np.diff(ordered.probability[own][by_score]) >= 0).all()
    same = in_order_of(found, losses, labels)
    assert np.array_equal(same.probability, found.probability)


def test_exchanged_labels_and_hard_samples_have_like_losses_and_unlike_margins():
    """A hard sample's label shares its probability with four classes, a wrong one with the right class alone."""
    rng = np.random.default_rng(0)
    n = 1000
    wrong, own = rng.random(n) < 0.4, rng.uniform(0.3, 0.5, n)
    rest = np.where(wrong[:, None], [1.0, 0, 0, 0], rng.dirichlet(np.full(4, 20.0), n))
    probability = np.column_stack([own, (1 - own)[:, None] * rest])
    labels = np.zeros(n, int)
    assert abs(roc_auc_score(wrong, -np.log(own)) - 0.5) < 0.05
    assert roc_auc_score(wrong, suspicion(margins(probability, labels), labels, None)) > 0.99
