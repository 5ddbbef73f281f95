"""Two components count as noise, or not, as networks say that have not seen the labels."""

import numpy as np
import pytest

from sgdphases.estimators.cleansing.confirmed import CONFIRMED, confirmed, scattered
from sgdphases.estimators.cleansing.outside import contradiction
from sgdphases.estimators.cleansing.share import share_from_losses, share_of_wrong
from sgdphases.estimators.cleansing.wrong_labels import wrong_labels


def two_components(share: float, seed: int = 0):
    """Losses in which a class is hard: its samples form most of an upper component of this share."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 3000)
    upper = np.where(labels == 0, rng.random(3000) < 4.5 * share, rng.random(3000) < share / 8)
    log_odds = np.where(upper, 1.0, -2.2) + rng.normal(0, 1, 3000)
    return labels, upper, np.log1p(np.exp(log_odds))


def answers(*classes: np.ndarray) -> np.ndarray:
    """Networks that are sure of these classes; one stands for both."""
    one, other = classes if len(classes) == 2 else classes * 2
    return np.stack([np.eye(10)[one], np.eye(10)[other]])


def held_against(found, losses, labels, outside):
    return confirmed(found, losses, labels, outside, contradiction(outside, labels))


def two_heaps(classes: int, share: float, apart: float):
    """3,000 labels of which a share has losses that are higher by so many deviations, and what is found."""
    rng = np.random.default_rng(0)
    labels, upper = rng.integers(0, classes, 3000), rng.random(3000) < share
    losses = np.log1p(np.exp(np.where(upper, 1.5, 1.5 - apart) + rng.normal(size=3000)))
    found = wrong_labels(losses, labels)
    assert found.found_by == "losses" and (found.mixture.separation > 4) == (apart > 4)
    return rng, labels, upper, losses, found


def unequal(seed: int = 0):
    """Classes of very unequal size, a third of the labels drawn again from all: of the small ones most are wrong."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(10, 6000, p=0.4 ** np.arange(10) / (0.4 ** np.arange(10)).sum())
    labels = np.where(rng.random(6000) < 0.4, rng.integers(0, 10, 6000), truth)
    wrong = labels != truth
    return truth, labels, wrong, np.log1p(np.exp(np.where(wrong, 4.0, -4.0) + rng.normal(size=6000)))


@pytest.mark.parametrize(("agreed", "expected"), [(0.9, False), (0.1, True)])
def test_a_hard_class_is_answered_by_others_and_wrong_labels_are_not(agreed, expected):
    labels, upper, losses = two_components(0.2)
    found = wrong_labels(losses, labels)
    assert found.mixture.is_two and not found.has_noise  # a fifth of the spread lies between labels
    rng = np.random.default_rng(1)
    outside = np.where(upper & (rng.random(3000) > agreed), (labels + 1) % 5, labels)
    judged = held_against(found, losses, labels, answers(outside))
    assert judged.has_noise is expected and (judged.found_by == "losses confirmed") is expected
    assert bool(judged.flagged[upper].mean() > 0.8) is expected
    assert judged.noise_fraction == pytest.approx(upper.mean() if expected else 0, abs=0.04)


def test_a_small_component_of_hard_samples_is_not_confirmed():
    labels, upper, losses = two_components(0.06)
    found = wrong_labels(losses, labels)
    assert held_against(found, losses, labels, answers(np.where(upper, (labels + 1) % 5, labels))) is found


@pytest.mark.parametrize("apart", [3.0, 6.0])
@pytest.mark.parametrize("repeated", [0.2, 0.6])
def test_hard_samples_that_others_answer_are_not_wrong_unless_they_lie_far_apart(apart, repeated):
    rng, labels, upper, losses, found = two_heaps(5, 0.3, apart)
    outside = np.where(upper & (rng.random(3000) > repeated), (labels + 1) % 5, labels)
    judged = held_against(found, losses, labels, answers(outside))
    if apart > 4 or 1 - repeated > CONFIRMED:
        assert judged is found
    else:
        assert judged.is_refuted and not judged.has_noise and not judged.flagged.any() and judged.noise_fraction == 0


def test_labels_wrong_at_random_in_classes_of_unequal_size_are_found():
    truth, labels, wrong, losses = unequal()
    found = wrong_labels(losses, labels)
    assert found.mixture.is_two and not found.is_learnt and not found.has_noise
    judged = held_against(found, losses, labels, answers(truth))
    assert judged.found_by == "losses confirmed" and np.mean(judged.flagged == wrong) > 0.99
    assert judged.noise_fraction == pytest.approx(wrong.mean(), abs=0.02)


@pytest.mark.parametrize("unlearnt", ["one class for another", "no two alike", "lies close"])
def test_classes_that_are_not_learnt_are_not_wrong_labels(unlearnt):
    """The small classes have right labels, most of them high losses, and these are never answered."""
    rng = np.random.default_rng(0)
    labels = rng.choice(5, 6000, p=[0.4, 0.25, 0.2, 0.1, 0.05])
    apart, part = (1.0, 1.0) if unlearnt == "lies close" else (4.0, 0.85)
    upper = (labels >= 3) & (rng.random(6000) < part)
    losses = np.log1p(np.exp(np.where(upper, apart, -apart - 1) + rng.normal(size=6000)))
    found = wrong_labels(losses, labels)
    assert found.mixture.is_two and not found.is_learnt and not found.is_of_classes
    one = np.where(upper, rng.choice(3, 6000, p=[0.47, 0.29, 0.24]), labels)  # as often as these are
    other = np.where(upper, rng.permutation(one), one) if unlearnt == "no two alike" else one
    if unlearnt == "one class for another":
        one = other = np.where(upper, labels - 2, labels)
    assert scattered(answers(one, other), labels, upper) == (unlearnt == "lies close")
    assert held_against(found, losses, labels, answers(one, other)) is found


@pytest.mark.parametrize("apart", [3.0, 8.0])
@pytest.mark.parametrize("rare", [0.03, 0.3])
def test_a_class_that_is_not_learnt_is_not_taken_for_wrong_labels(rare, apart):
    """Its labels have high losses, a few others do, too, and networks never answer it.

    False-positive rate of the mixture: none, the two populations are far apart.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random(3000) < rare).astype(int)
    upper = (labels == 1) | (rng.random(3000) < 0.2 * rare)
    losses = np.log1p(np.exp(np.where(upper, apart, -apart) + rng.normal(size=3000)))
    found = wrong_labels(losses, labels)
    assert found.mixture.is_two and found.is_of_classes and found.whole_classes == (1,) and not found.is_refuted
    outside = answers(np.zeros(3000, int))
    against = contradiction(outside, labels)
    assert confirmed(found, losses, labels, outside, against) is found and not found.flagged.any()
    said = share_of_wrong(found, labels, labels, np.zeros(3000, int), against)
    assert np.isnan(said.fraction) and said.low == 0 and said.high > labels.mean()
    assert np.isnan(share_from_losses(found, upper.mean(), 3000).fraction)
    assert wrong_labels(losses, labels, known_fraction=upper.mean()).flagged[upper].mean() > 0.99


def test_nothing_is_scattered_among_all_or_none():
    labels = np.arange(20) % 5
    for chosen in (np.ones(20, bool), np.zeros(20, bool)):
        assert not scattered(answers(labels), labels, chosen)


def test_what_is_found_anyway_stays_as_it_is():
    rng = np.random.default_rng(0)
    labels, wrong = rng.integers(0, 5, 1000), rng.random(1000) < 0.3
    losses = np.log1p(np.exp(np.where(wrong, 4, -3) + rng.normal(size=1000)))
    found = wrong_labels(losses, labels)
    assert found.has_noise and held_against(found, losses, labels, answers(labels)) is found


@pytest.mark.parametrize("apart", [3.0, 6.0])
@pytest.mark.parametrize("know", [True, False])
def test_most_labels_are_wrong_only_if_networks_that_know_something_say_so(know, apart):
    """Nine in ten have high losses: wrong, if networks give the same other class; else the network may just begin."""
    rng, labels, upper, losses, found = two_heaps(10, 0.85, apart)
    truth = np.where(upper, (labels + 1) % 10, labels)
    one, other = (np.where(rng.random(3000) < (0.5 if know else 0.05), truth, rng.integers(0, 10, 3000)) for _ in "12")
    judged = held_against(found, losses, labels, answers(one, other))
    assert judged is found if know else judged.is_refuted and not judged.flagged.any()
