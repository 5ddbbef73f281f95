"""Spread and width along principal directions, on losses whose shape is known."""

import numpy as np
import pytest

from sgdphases.estimators.backends.mlp import MLP
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.curvature.variance_flatness import principal_motion, variance_flatness
from sgdphases.estimators.errors import InputError


def bowl(curvatures, floor=0.5):
    """A linear model whose loss is ``floor + sum_i h_i w_i^2 / 2`` (the bias among the w_i, with h = 1)."""
    k = len(curvatures)
    x = np.concatenate([np.diag(np.sqrt(curvatures)), -np.diag(np.sqrt(curvatures))]) * np.sqrt(k)
    y = np.full((2 * k, 1), np.sqrt(2 * floor))
    return NumpyBackend(MLP((k, 1), "relu", np.zeros(k + 1)), x, y, loss="squared")


def test_principal_motion_is_the_covariance_of_the_path():
    rng = np.random.default_rng(0)
    path = rng.normal(size=(40, 7)) @ rng.normal(size=(7, 7)) + 3
    centre, variances, directions = principal_motion(path, 5)
    values, vectors = np.linalg.eigh(np.cov(path.T, bias=True))
    np.testing.assert_allclose(variances, values[::-1][:5], rtol=1e-9)
    np.testing.assert_allclose(np.abs(np.diag(directions @ vectors[:, ::-1][:, :5])), 1, atol=1e-9)
    np.testing.assert_allclose(centre, path.mean(axis=0))


@pytest.mark.parametrize("psi", [-1.0, 2.0, 4.0])
def test_a_known_relation_is_found(psi):
    """In a quadratic bowl the width is 2 sqrt(2 (e - 1) L / h); the path is made to spread as its power -psi."""
    curvatures = np.array([30.0, 10.0, 3.0, 1.0, 0.3])
    backend = bowl(curvatures)
    width = 2 * np.sqrt(2 * (np.e - 1) * 0.5 / curvatures)
    rng = np.random.default_rng(1)
    steps = rng.normal(size=(60, 5))
    basis = np.linalg.qr(steps - steps.mean(axis=0))[0] * np.sqrt(60)  # columns of mean 0, variance 1, uncorrelated
    path = np.hstack([1e-3 * basis * width ** (-psi / 2), np.zeros((60, 1))])
    before = backend.weights
    found = variance_flatness(backend, path, range(5))
    assert found.exponent == pytest.approx(psi, abs=0.01) and found.exponent_error < 0.01
    order = np.argsort(width ** (-psi))[::-1]
    np.testing.assert_allclose(found.flatness, width[order], rtol=2e-3)
    some = variance_flatness(backend, path, [4, 1])
    np.testing.assert_allclose(some.flatness, found.flatness[[4, 1]], rtol=1e-6)
    np.testing.assert_allclose(found.variances, 1e-6 * width[order] ** (-psi), rtol=1e-3)
    assert backend.weights.tobytes() == before.tobytes()


def test_a_direction_without_walls_is_infinitely_flat():
    backend = bowl(np.array([1.0, 0.0]))
    path = np.zeros((10, 3))
    path[:, 1] = np.arange(10)
    assert np.isinf(variance_flatness(backend, path, [0]).flatness[0])


def test_impossible_paths_are_named():
    backend = bowl(np.array([1.0, 2.0]))
    with pytest.raises(InputError, match=r"\(5, 2\) does not fit a model of 3"):
        variance_flatness(backend, np.zeros((5, 2)))
    with pytest.raises(InputError, match="directions 0 to 3"):
        variance_flatness(backend, np.zeros((5, 3)), [1, 4])
    with pytest.raises(InputError, match="do not move"):
        variance_flatness(backend, np.zeros((5, 3)), [0, 1])
