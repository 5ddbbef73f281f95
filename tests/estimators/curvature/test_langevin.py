"""Drift, diffusion, loss change and stationary spread of SGD, predicted and brute-forced."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.curvature.langevin import noise_draws, step_prediction
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.solvable.langevin import langevin_steps, sgd_and_langevin
from sgdphases.theory.ensemble import variance_factor
from sgdphases.theory.langevin import (
    loss_change,
    shuffled_variance,
    stability_limit,
    stationary_covariance,
    stationary_variance,
)


def linear(n=6, d=3, seed=0):
    """A linear model with squared loss: the loss is quadratic, so every prediction is exact."""
    rng = np.random.default_rng(seed)
    model = initial_mlp((d, 1), "relu", rng)
    return NumpyBackend(model, rng.normal(size=(n, d)), rng.normal(size=(n, 1)), loss="squared")


def network(n=40, seed=0):
    rng = np.random.default_rng(seed)
    return NumpyBackend(initial_mlp((4, 5, 3), "tanh", rng), rng.normal(size=(n, 4)), rng.integers(0, 3, n))


@st.composite
def bowls(draw):
    """A Hessian, a noise matrix (maybe of low rank) and a stable learning rate."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = draw(st.integers(1, 6))
    basis, _ = np.linalg.qr(rng.normal(size=(p, p)))
    values = draw(st.sampled_from([1e-2, 1.0, 30.0])) * rng.uniform(0.1, 1.0, p)
    half = rng.normal(size=(p, draw(st.integers(0, p))))
    rate = draw(st.floats(0.01, 0.95)) * 2 / values.max()
    return basis * values @ basis.T, half @ half.T, rate


@given(bowls())
def test_the_stationary_covariance_solves_its_equation_and_is_what_steps_leave_unchanged(bowl):
    h, c, rate = bowl
    s = stationary_covariance(h, c, rate)
    scale = max(np.abs(h @ s).max(), 1e-12)
    np.testing.assert_allclose(h @ s + s @ h - rate * h @ s @ h, rate * c, atol=1e-8 * scale)
    step = np.eye(len(h)) - rate * h
    np.testing.assert_allclose(step @ s @ step.T + rate**2 * c, s, atol=1e-8 * max(np.abs(s).max(), 1e-12))
    assert np.linalg.eigvalsh(s).min() > -1e-9 * scale
    values, vectors = np.linalg.eigh(h)
    along = np.einsum("pl,pq,ql->l", vectors, c, vectors)
    expected = np.einsum("pl,pq,ql->l", vectors, s, vectors)
    np.testing.assert_allclose(stationary_variance(values, along, rate), expected, rtol=1e-6, atol=1e-12 * scale)


@given(bowls())
def test_small_steps_lead_to_the_langevin_equation(bowl):
    h, c, _ = bowl
    rate = 1e-6 / np.linalg.eigvalsh(h).max()
    exact, limit = stationary_covariance(h, c, rate), stationary_covariance(h, c, rate, discrete=False)
    np.testing.assert_allclose(exact, limit, atol=1e-5 * max(np.abs(limit).max(), 1e-300))
    np.testing.assert_allclose(h @ limit + limit @ h, rate * c, atol=1e-8 * max(rate * np.abs(c).max(), 1e-300))


def test_there_is_no_stationary_state_where_the_theory_says_so():
    flat, noise = np.diag([1.0, 0.0]), np.eye(2)
    with pytest.raises(ValueError, match="smallest eigenvalue"):
        stationary_covariance(flat, noise, 0.1)
    with pytest.raises(ValueError, match=r"2 / h_max = 0.5"):
        stationary_covariance(np.diag([1.0, 4.0]), noise, 0.5)
    with pytest.raises(ValueError, match="same size"):
        stationary_covariance(np.eye(3), noise, 0.1)
    with pytest.raises(ValueError, match="learning_rate = 0"):
        stationary_covariance(noise, noise, 0)
    assert stationary_variance([1.0, 4.0, -1.0, 0.0], [1.0] * 4, 0.5).tolist() == [0.5 / 1.5, np.inf, np.inf, np.inf]
    assert stability_limit(4.0) == 0.5 and stability_limit(0.0) == np.inf


@pytest.mark.parametrize("batch_size", [1, 2, 5, 6])
@pytest.mark.parametrize("rate", [0.01, 0.4])
def test_the_loss_change_of_a_quadratic_loss_is_exact(batch_size, rate):
    backend = linear()
    start, before = backend.weights, mean_scores(backend)[0]
    changes, displacements = [], []
    for batch in combinations(range(6), batch_size):
        backend.load_weights(start)
        backend.train(np.array(batch), batch_size, rate)
        changes.append(mean_scores(backend)[0] - before)
        displacements.append(backend.weights - start)
    backend.load_weights(start)
    found = step_prediction(backend, batch_size=batch_size)
    assert found.curvature_of_noise_error == 0
    assert found.loss_change(rate) == pytest.approx(np.mean(changes), rel=1e-9)
    covariance = np.cov(np.array(displacements).T, bias=True)
    assert rate**2 * found.total_variance == pytest.approx(np.trace(covariance), rel=1e-9, abs=1e-12)


@given(st.integers(0, 1000), st.floats(1e-3, 1.0))
def test_the_loss_change_of_a_network_is_right_to_second_order(seed, scale):
    """Halving the learning rate divides what the prediction misses by eight, up to the next order."""
    backend = network(n=5, seed=seed)
    start, before = backend.weights, mean_scores(backend)[0]
    found = step_prediction(backend, batch_size=2)
    missed = []
    for rate in (0.02 * scale, 0.01 * scale):
        changes = []
        for batch in combinations(range(5), 2):
            backend.load_weights(start)
            backend.train(np.array(batch), 2, rate)
            changes.append(mean_scores(backend)[0] - before)
        missed.append(abs(np.mean(changes) - found.loss_change(rate)))
    assert missed[1] <= missed[0] / 5 + 1e-13 or missed[0] < 1e-9 * scale**3


def test_the_trace_by_probes_agrees_within_its_error():
    """Five standard errors: a right estimate fails by chance once in a million."""
    backend = network()
    exactly = step_prediction(backend, batch_size=7)
    probed = step_prediction(backend, batch_size=7, probes=300, rng=np.random.default_rng(1))
    assert probed.curvature_of_noise_error > 0
    gap = abs(probed.curvature_of_noise - exactly.curvature_of_noise)
    assert gap < 5 * probed.curvature_of_noise_error < 0.5 * abs(exactly.curvature_of_noise)
    with pytest.raises(ValueError, match="probes = 1"):
        step_prediction(backend, batch_size=7, probes=1)


@pytest.mark.parametrize("replacement", [False, True])
def test_drawn_noise_has_the_covariance_of_minibatch_gradients(replacement):
    """20,000 draws; entries within 6 standard errors: of 1,500 entries one fails by chance in 300,000 runs."""
    backend = network(n=12)
    table = backend.sample_gradients(np.arange(12))
    c = variance_factor(12, 4, replacement=replacement) * np.cov(table.T, bias=True)
    draws = noise_draws(backend, 20_000, np.random.default_rng(0), batch_size=4, replacement=replacement)
    assert np.abs(draws.mean(axis=0)).max() < 6 * np.sqrt(np.diag(c).max() / 20_000)
    error = np.sqrt((np.outer(np.diag(c), np.diag(c)) + c**2) / 20_000)
    assert (np.abs(draws.T @ draws / 20_000 - c) <= 6 * error + 1e-15).all()


def test_full_batches_make_no_noise():
    assert not noise_draws(network(), 3, np.random.default_rng(0), batch_size=40).any()


def test_one_langevin_step_without_noise_is_a_step_of_descent():
    one, other = network(), network()
    langevin_steps(one, 3, np.random.default_rng(0), learning_rate=0.1, batch_size=40)
    other.train(np.tile(np.arange(40), 3), 40, 0.1)
    np.testing.assert_allclose(one.weights, other.weights, atol=1e-12)


def test_sgd_and_langevin_go_the_same_way():
    """Losses and displacements of 40 replicas agree within 5 standard errors at three times; weights return."""
    backend = network()
    before = backend.weights
    found = sgd_and_langevin(backend, [0, 20, 60], learning_rate=0.2, batch_size=4, n_replicas=40)
    assert backend.weights.tobytes() == before.tobytes()
    for name in ("loss", "squared_displacement"):
        values = found[name]
        gap = np.abs(values.sel(process="sgd").mean("replica") - values.sel(process="langevin").mean("replica"))
        error = np.sqrt((values.var("replica", ddof=1) / 40).sum("process"))
        assert (gap <= 5 * error + 1e-12).all(), (name, gap.values, error.values)
    assert (found["loss"].isel(step=2) < found["loss"].isel(step=0)).all()


def test_the_spread_around_a_minimum_is_the_one_predicted():
    """A linear model's SGD with one sample a step, by the discrete Lyapunov equation with the noise at the minimum.

    The noise matrix is that at the minimum; SGD's own spread adds a part of relative order alpha, hence the small rate.
    400 replicas: the trace within 5 standard errors, and 10 % for that part.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 2)), rng.normal(size=30)
    design = np.hstack([x, np.ones((30, 1))])
    best = np.linalg.lstsq(design, y, rcond=None)[0]
    residual = design @ best - y
    c = variance_factor(30, 1, replacement=True) * np.cov((design * residual[:, None]).T, bias=True)
    predicted = stationary_covariance(design.T @ design / 30, c, 0.02)
    weights = np.tile(best, (400, 1))
    for _ in range(1500):
        drawn = rng.integers(0, 30, 400)
        miss = (design[drawn] * weights).sum(axis=1) - y[drawn]
        weights -= 0.02 * miss[:, None] * design[drawn]
    spread = ((weights - best) ** 2).sum(axis=1)
    error = spread.std(ddof=1) / np.sqrt(400)
    assert abs(spread.mean() - np.trace(predicted)) < 5 * error + 0.1 * np.trace(predicted)
    assert abs(spread.mean() - 2 * np.trace(predicted)) > 5 * error + 0.1 * np.trace(predicted)


def test_no_gradient_no_change():
    assert loss_change(0.1, 0.0, 0.0, 0.0) == 0.0


def test_impossible_requests_are_named():
    backend = network()
    with pytest.raises(UsageError, match="substeps = 0"):
        langevin_steps(backend, 1, np.random.default_rng(0), learning_rate=0.1, batch_size=4, substeps=0)
    with pytest.raises(UsageError, match="rising"):
        sgd_and_langevin(backend, [5, 5], learning_rate=0.1, batch_size=4)
    part = NumpyBackend(backend.mlp, np.zeros((4, 4)), np.arange(4) % 3, parameters="layers.0.weight")
    with pytest.raises(UsageError, match="all parameters"):
        langevin_steps(part, 1, np.random.default_rng(0), learning_rate=0.1, batch_size=2)


@given(st.integers(1, 12), st.floats(0.01, 1.9), st.floats(0.1, 10.0))
def test_reshuffled_noise_spreads_as_its_covariance_says(steps_per_epoch, move, curvature):
    """The variance at every moment of an epoch from the full covariance of all noises of many epochs."""
    rate = move / curvature
    m, epochs = steps_per_epoch, 1 + int(np.ceil(40 / (steps_per_epoch * min(move, 2 - move))))
    block = np.eye(m) - np.ones((m, m)) / m if m > 1 else np.zeros((1, 1))
    block *= m / max(m - 1, 1)
    total = []
    for moment in range(m):
        kernel = (1 - move) ** np.arange(m * epochs - moment)[::-1]
        part = np.concatenate([kernel, np.zeros(moment)])
        total.append(sum(p @ block @ p for p in part.reshape(epochs, m)))
    expected = rate**2 * 3.0 * np.mean(total)
    assert shuffled_variance(curvature, 3.0, rate, m) == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_long_epochs_make_no_difference_to_sharp_directions():
    h = np.array([5.0, 50.0, 100.0])
    far, near = shuffled_variance(h, 2.0, 0.01, 10_000), stationary_variance(h, 2.0, 0.01)
    np.testing.assert_allclose(far, near, rtol=0.01)
    assert shuffled_variance(0.01, 2.0, 0.01, 20) < 0.01 * stationary_variance(0.01, 2.0, 0.01)
    assert np.isinf(shuffled_variance([200.0, -1.0, 0.0], 1.0, 0.01, 20)).all()
    with pytest.raises(ValueError, match="steps_per_epoch = 0"):
        shuffled_variance(1.0, 1.0, 0.1, 0)
