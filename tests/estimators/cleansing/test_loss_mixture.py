"""Mixtures of losses: known ones come back, and one mode is not taken for two."""

import numpy as np
import pytest
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture
from two_lengths import examples

from sgdphases.estimators.cleansing.mixture import SCALES, fit_mixture, fraction_interval
from sgdphases.estimators.errors import InputError, UsageError

KINDS = list(SCALES)


def losses_of(log_odds):
    """Losses whose log-odds, log((1-p)/p) with p = exp(-loss), these are."""
    return np.logaddexp(0, log_odds)


def two_heaps(seed, n=2000, fraction=0.3, gap=4.0, deviation=1.0, start=-1.5):
    rng = np.random.default_rng(seed)
    wrong = rng.random(n) < fraction
    return losses_of(rng.normal(start + gap * wrong, deviation)), wrong


@examples(5, 25, st.floats(0.05, 0.85), st.floats(3.5, 7), st.floats(0.3, 1.2), st.integers(0, 2**31))
def test_a_known_mixture_comes_back(fraction, distance, deviation, seed):
    """Tolerances are five standard errors of the complete data, and more for what overlaps: at 3.5 deviations an
    estimate of the fraction is at most twice as uncertain. False alarms: below 1e-5 an example."""
    n = 4000
    losses, wrong = two_heaps(seed, n, fraction, distance * deviation, deviation, start=1 - distance * deviation)
    found = fit_mixture(losses)
    share = wrong.mean()
    error = np.sqrt(share * (1 - share) / n)
    assert abs(found.fraction - share) < 2 * 5 * error
    smaller = min(share, 1 - share) * n
    assert abs(found.mean_w - 1) < 2 * 5 * deviation / np.sqrt(smaller) + 0.02
    assert abs(found.deviation_c - deviation) < 5 * deviation * np.sqrt(2 / n) + 0.02
    assert found.is_two and found.distance < 1.95 / np.sqrt(n) + 0.01  # Kolmogorov-Smirnov at 0.1 %


@examples(5, 25, st.integers(0, 2**31), st.floats(0.3, 3), st.floats(-5, 5))
def test_scale_and_shift_move_the_fit_along(seed, scale, shift):
    scores = np.concatenate([np.random.default_rng(seed).normal(m, 1, n) for m, n in ((0, 300), (5, 100))])
    one, other = fit_mixture(scores, "score"), fit_mixture(scale * scores + shift, "score")
    assert other.fraction == pytest.approx(one.fraction, abs=2e-3)
    for name in ("mean_c", "mean_w"):
        assert getattr(other, name) == pytest.approx(scale * getattr(one, name) + shift, abs=0.03 * scale)
    assert other.loss_threshold == pytest.approx(scale * one.loss_threshold + shift, abs=0.05 * scale)
    assert other.is_two and one.is_two


@pytest.mark.parametrize("kind", ["log-odds", "score"])
def test_scikit_learn_finds_the_same(kind):
    values = SCALES["log-odds"](two_heaps(3)[0])
    found = fit_mixture(losses_of(values) if kind == "log-odds" else values, kind)
    covariance = "tied" if kind == "log-odds" else "full"
    model = GaussianMixture(2, covariance_type=covariance, tol=1e-8, max_iter=5000, random_state=0)
    model.fit(values[:, None])
    upper = model.means_.ravel().argmax()
    assert found.fraction == pytest.approx(model.weights_[upper], abs=3e-3)
    assert sorted([found.mean_c, found.mean_w]) == pytest.approx(sorted(model.means_.ravel()), abs=0.02)
    one = GaussianMixture(1).fit(values[:, None])
    gain = one.bic(values[:, None]) - model.bic(values[:, None])
    assert found.gain == pytest.approx(gain, rel=0.02)


def test_two_gaussians_of_the_losses_are_found_again_from_one_start():
    """20,000 draws: means lie within 0.05, six standard errors, of those drawn from; the distance below 0.02."""
    rng = np.random.default_rng(0)
    wrong = rng.random(20_000) < 0.3
    losses = np.maximum(np.where(wrong, rng.normal(4, 0.5, 20_000), rng.normal(1, 0.2, 20_000)), 0)
    found = fit_mixture(losses, "loss", starts=(0.5,))
    assert found.fraction == pytest.approx(0.3, abs=0.05) and found.distance < 0.02
    assert (found.mean_c, found.mean_w) == pytest.approx((1, 4), abs=0.05)
    assert (found.deviation_c, found.deviation_w) == pytest.approx((0.2, 0.5), abs=0.05)


@examples(4, 15, st.integers(0, 2**31), st.floats(0.3, 2), st.floats(-5, 2))
def test_one_heap_is_one(seed, deviation, mean):
    """Losses with normal log-odds: two must be e^5 times likelier after paying for their two parameters, a factor
    of 1000 more."""
    losses = losses_of(np.random.default_rng(seed).normal(mean, deviation, 1000))
    found = fit_mixture(losses)
    assert not found.is_two and not found.wrong_probability(losses).any()
    assert fraction_interval(losses, found) == (0.0, 0.0)


def test_hard_samples_that_are_believed_are_no_wrong_labels():
    rng = np.random.default_rng(0)
    easy_and_hard = losses_of(np.concatenate([rng.normal(-8, 1, 800), rng.normal(-2, 1, 200)]))
    found = fit_mixture(easy_and_hard)
    assert found.gain > 10 and found.separation > 2 and not found.is_two
    assert fit_mixture(easy_and_hard + 3).is_two  # the same two modes where the network disbelieves the upper one


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_rise_with_the_loss_and_cross_at_the_threshold(kind):
    losses, wrong = two_heaps(1)
    found = fit_mixture(losses, kind)
    grid = np.linspace(losses.min(), losses.max(), 400)
    probability = found.wrong_probability(grid)
    assert found.is_two and (np.diff(probability) >= -1e-12).all() and probability[0] < 0.1 < 0.9 < probability[-1]
    assert found.wrong_probability(np.array([found.loss_threshold]))[0] == pytest.approx(0.5, abs=1e-6)
    assert losses[~wrong].mean() < found.midpoint < losses[wrong].mean()
    lower, upper = found.densities(np.array([SCALES[kind](np.array([found.loss_threshold]))[0]]))
    assert lower == pytest.approx(upper)
    assert np.mean((probability > 0.5) == (grid > found.loss_threshold)) == 1


def test_probabilities_are_calibrated_where_the_model_holds():
    """Binomial shares in ten bins within five standard errors: a false alarm in 1e-5 of seeds."""
    losses, wrong = two_heaps(2, n=20_000, gap=2.5)
    probability = fit_mixture(losses).wrong_probability(losses)
    place = np.minimum((probability * 10).astype(int), 9)
    for tenth in range(10):
        own = place == tenth
        expected = probability[own].mean()
        error = np.sqrt(expected * (1 - expected) / own.sum())
        assert abs(wrong[own].mean() - expected) < 5 * error + 0.02


def test_the_interval_covers_the_fraction():
    """95 % intervals over 20 data sets; fewer than 14 that cover have a probability below 1e-4."""
    covered = 0
    for seed in range(20):
        losses, _ = two_heaps(seed, n=300, fraction=0.25)
        low, high = fraction_interval(losses, fit_mixture(losses))
        assert 0 < low < high < 1
        covered += low <= 0.25 <= high
    assert covered >= 14


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("losses", [[], [0.3], [0.0] * 50, [1.7] * 50, [0.0] * 25 + [60.0] * 25])
def test_degenerate_losses_do_not_break_it(kind, losses):
    found = fit_mixture(np.array(losses, dtype=float), kind)
    probability = found.wrong_probability(np.array(losses, dtype=float))
    assert np.isfinite(probability).all() and ((probability >= 0) & (probability <= 1)).all()
    if len(set(losses)) < 2:
        assert not found.is_two and found.fraction == 0
    else:
        assert found.fraction == pytest.approx(0.5, abs=0.01)


def test_what_cannot_be_fitted_is_refused():
    with pytest.raises(UsageError, match=r"gamma.*log-odds"):
        fit_mixture(np.ones(30), "gamma")
    with pytest.raises(InputError, match="not negative"):
        fit_mixture(np.linspace(-1, 1, 30))
    with pytest.raises(InputError, match="2 losses are not finite"):
        fit_mixture(np.array([1.0, np.nan, np.inf]))
    with pytest.raises(InputError, match="one number a sample"):
        fit_mixture(np.ones((3, 3)))
