"""Two components that may be hard classes count as noise where networks that have not seen the labels say so."""

import numpy as np
import pytest

from sgdphases.estimators.cleansing.wrong_labels import CONFIRMED, confirmed, wrong_labels


def two_components(share: float, seed: int = 0):
    """Losses in which a class is hard: its samples form most of an upper component of this share."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 3000)
    upper = np.where(labels == 0, rng.random(3000) < 4.5 * share, rng.random(3000) < share / 8)
    log_odds = np.where(upper, 1.0, -2.2) + rng.normal(0, 1, 3000)
    return labels, upper, np.log1p(np.exp(log_odds))


@pytest.mark.parametrize(("agreed", "expected"), [(0.9, False), (0.1, True)])
def test_a_hard_class_is_answered_by_others_and_wrong_labels_are_not(agreed, expected):
    labels, upper, losses = two_components(0.2)
    found = wrong_labels(losses, labels)
    assert found.mixture.is_two and not found.has_noise  # a fifth of the spread lies between labels
    rng = np.random.default_rng(1)
    outside = np.where(upper & (rng.random(3000) > agreed), (labels + 1) % 5, labels)
    judged = confirmed(found, losses, labels, outside)
    assert judged.has_noise is expected and (judged.found_by == "losses confirmed") is expected
    assert bool(judged.flagged[upper].mean() > 0.8) is expected
    assert judged.noise_fraction == pytest.approx(upper.mean() if expected else 0, abs=0.04)


def test_a_small_component_of_hard_samples_is_not_confirmed():
    labels, upper, losses = two_components(0.06)
    found = wrong_labels(losses, labels)
    assert confirmed(found, losses, labels, np.where(upper, (labels + 1) % 5, labels)) is found


def test_what_is_found_anyway_stays_as_it_is():
    rng = np.random.default_rng(0)
    labels, wrong = rng.integers(0, 5, 1000), rng.random(1000) < 0.3
    losses = np.log1p(np.exp(np.where(wrong, 4, -3) + rng.normal(size=1000)))
    found = wrong_labels(losses, labels)
    assert found.has_noise and confirmed(found, losses, labels, labels) is found and CONFIRMED == 0.5
