"""Data that nothing was chosen on: unequal classes, heavy tails, many classes, short runs, mistakes one way.

What is said must hold everywhere: the truth lies within the bounds, and where every label is right none is flagged, or
only with the warning that right labels of overlapping classes look like that.
"""

import numpy as np
import pytest
from cleansed import EXCHANGED, TURNED, misread_digits
from sklearn.datasets import load_breast_cancer, load_digits, make_classification, make_friedman1

from sgdphases import find_wrong_labels
from sgdphases.sim.cleansing.find import FoundLabels

CLASSES = 8


def random_labels(y: np.ndarray, share: float, classes: int) -> np.ndarray:
    rng = np.random.default_rng(7)
    return np.where(rng.random(len(y)) < share, rng.integers(0, classes, len(y)), y)


def unequal():
    """Eight classes, the largest seventy times as large as the smallest."""
    rng = np.random.default_rng(0)
    y = rng.choice(CLASSES, 3000, p=0.55 ** np.arange(CLASSES) / (0.55 ** np.arange(CLASSES)).sum())
    return 4 * rng.normal(size=(CLASSES, 20))[y] / np.sqrt(2) + 1.2 * rng.normal(size=(3000, 20)), y


def heavy_tails():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 5, 3000)
    return 3 * rng.normal(size=(5, 20))[y] + rng.standard_t(2, size=(3000, 20)), y


def many_classes():
    made = dict(n_informative=30, n_redundant=0, n_classes=50, n_clusters_per_class=1, class_sep=3, flip_y=0)
    return make_classification(5000, 60, random_state=1, **made)


def overlapping():
    made = dict(n_informative=10, n_classes=4, n_clusters_per_class=3, class_sep=1.0, flip_y=0)
    return make_classification(3000, 20, random_state=2, **made)


def overlapping_everywhere():
    made = dict(n_informative=5, n_redundant=2, n_classes=8, n_clusters_per_class=2, class_sep=0.6, flip_y=0)
    return make_classification(1500, 10, random_state=0, **made)


def ordered():
    """Eighths of a quantity that is known up to a deviation of one: next to each class lie two that look like it."""
    x, t = make_friedman1(2500, 10, noise=1.0, random_state=3)
    return x, np.digitize(t, np.quantile(t, np.arange(1, 8) / 8))


def half_digits():
    """Handwritten digits of which only the upper half is seen."""
    x, y = load_digits(return_X_y=True)
    return x[:, :32], y


def cancer():
    return load_breast_cancer(return_X_y=True)


def assert_within(found: FoundLabels, wrong: np.ndarray) -> None:
    low, high = found.noise_interval
    assert low <= wrong.mean() <= high, (low, wrong.mean(), high)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "options"),
    [
        (unequal, {}), (heavy_tails, {}), (cancer, {}),
        (many_classes, {"epochs": 7}), (many_classes, {"epochs": 10}), (many_classes, {"epochs": 30}),
        (unequal, {"epochs": 4, "learning_rate": 0.01}), (unequal, {"epochs": 12, "learning_rate": 0.01}),
    ],
)  # fmt: skip
def test_right_labels_are_not_flagged(data, options):
    x, y = data()
    found = find_wrong_labels(x, y, **options)
    assert not found.has_noise and not found.flagged.any() and found.noise_interval[0] == 0
    assert found.noise_fraction == 0 or np.isnan(found.noise_fraction)


@pytest.mark.slow
@pytest.mark.parametrize(("data", "options"), [(overlapping, {}), (heavy_tails, {"epochs": 8})])
def test_right_labels_of_samples_in_the_midst_of_another_class_may_be_flagged_but_none_need_be_wrong(data, options):
    x, y = data()
    found = find_wrong_labels(x, y, **options)
    assert found.flagged.mean() < 0.1 and found.noise_interval[0] == 0 and not found.noise_fraction > 0.05
    if data is overlapping:
        assert "cannot be told" in str(found.details.share)


@pytest.mark.slow
@pytest.mark.parametrize("data", [overlapping_everywhere, ordered, half_digits])
def test_where_inputs_do_not_determine_classes_no_number_is_given_and_no_label_need_be_wrong(data):
    x, y = data()
    found = find_wrong_labels(x, y)
    assert found.noise_interval[0] == 0 and np.isnan(found.noise_fraction)
    assert "cannot be told" in str(found.details.share)


@pytest.mark.slow
@pytest.mark.parametrize(("turned", "share"), [(TURNED, 0.2), (TURNED, 0.4), (EXCHANGED, 0.35)])
@pytest.mark.parametrize("seed", [0, 1])
def test_mistakes_that_turn_some_classes_into_others_are_found(turned, share, seed):
    x, y, given = misread_digits(turned, share, seed)
    found, wrong = find_wrong_labels(x, given, seed=seed), given != y
    assert_within(found, wrong)
    caught = (found.flagged & wrong).sum()
    assert 2 * caught / (found.flagged.sum() + wrong.sum()) > 0.6


@pytest.mark.slow
@pytest.mark.parametrize(
    ("data", "classes", "least"),
    [(unequal, CLASSES, 0.8), (heavy_tails, 5, 0.95), (many_classes, 50, 0.9), (cancer, 2, 0.75)],
)
def test_labels_wrong_at_random_are_found(data, classes, least):
    x, y = data()
    given = random_labels(y, 0.4, classes)
    found = find_wrong_labels(x, given)
    wrong = given != y
    assert_within(found, wrong)
    caught = (found.flagged & wrong).sum()
    assert 2 * caught / (found.flagged.sum() + wrong.sum()) > least
    assert np.mean(found.suggested_labels[found.flagged & wrong] == y[found.flagged & wrong]) > 0.9
    assert not np.any(found.suggested_labels[found.flagged] == given[found.flagged])


@pytest.mark.slow
def test_mistakes_in_one_direction_lie_within_the_bounds():
    x, y = cancer()
    given = np.where((y == 0) & (np.random.default_rng(7).random(len(y)) < 0.3), 1, y)
    found = find_wrong_labels(x, given)
    assert_within(found, given != y)
    assert found.flagged[given != y].mean() > 0.6 and found.flagged[given == y].mean() < 0.15
