"""Wrong labels from a network's own confusions: how many, which, and that they are those that images invite."""

import numpy as np
import pytest

from sgdphases import UsageError
from sgdphases.sim.cleansing.network_mistakes import network_mistakes
from sgdphases.sim.data.label_noise.input_dependent import mistakes_from


def striped(n, seed=0):
    """Images of three classes with a bright stripe each, the third class faint: like the first, more often than not."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    x = rng.normal(0, 0.5, (n, 3, 8, 8)).astype(np.float32)
    x[np.arange(n), :, np.array([1, 5, 1])[y]] += np.array([2.0, 2.0, 1.6])[y][:, None, None]
    return x, y


def test_exactly_as_many_labels_are_wrong_as_asked_for_and_the_same_each_time():
    x, y = striped(60)
    first = network_mistakes(x, y, 3, 0.25, seed=1, epochs=2)
    assert first.shape == y.shape and first.min() >= 0 and first.max() < 3
    assert (first != y).sum() == 15
    assert np.array_equal(first, network_mistakes(x, y, 3, 0.25, seed=1, epochs=2))
    assert np.array_equal(network_mistakes(x, y, 3, 0.0, epochs=1), y)


def test_a_device_that_is_not_there_is_named():
    x, y = striped(60)
    with pytest.raises(UsageError, match="device = 'cuda:99'"):
        network_mistakes(x, y, 3, 0.25, epochs=1, device="cuda:99")


def test_mistakes_are_made_between_the_classes_that_look_alike():
    x, y = striped(240)
    wrong = network_mistakes(x, y, 3, 0.2, epochs=12)
    between = {(0, 2), (2, 0)}
    pairs = [(int(a), int(b)) for a, b in zip(y[wrong != y], wrong[wrong != y], strict=True)]
    assert np.mean([pair in between for pair in pairs]) > 0.8  # two thirds of the pairs of classes are others


def test_draws_follow_the_probabilities_of_mistakes():
    """Of samples with a doubt of 0.5, as many as all doubts allow: the sure ones stay right; z below 4.5, p = 7e-6."""
    n, rng = 4000, np.random.default_rng(0)
    y = np.zeros(n, dtype=int)
    probabilities = np.tile([1 - 2e-9, 1e-9, 1e-9], (n, 1))
    probabilities[: n // 2] = [0.5, 0.375, 0.125]
    labels = mistakes_from(probabilities, y, n // 4, rng)
    assert (labels != y).sum() == n // 4 and not labels[n // 2 :].any()
    ones = (labels == 1).sum()
    assert abs(ones - 0.75 * n / 4) < 4.5 * np.sqrt(n / 4 * 0.75 * 0.25)


@pytest.mark.parametrize(("classes", "fraction"), [(1, 0.1), (3, 1.5), (3, -0.1)])
def test_what_cannot_be_is_refused(classes, fraction):
    x, y = striped(60)
    with pytest.raises(UsageError):
        network_mistakes(x, y, classes, fraction)
