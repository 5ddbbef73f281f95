"""The sign of R_cw against the learning rate: prediction against simulation of a valley with known floor."""

import numpy as np
import pytest

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.curvature.alignment_reversal import floor_and_curvature
from sgdphases.estimators.curvature.hessian import leading_curvature
from sgdphases.estimators.errors import InputError
from sgdphases.theory.alignment_reversal import FloorAndCurvature, predicted_alignment, turning_rate


def valley(noise=1.0, floor_c=1.0, floor_w=1.0):
    """Two sharp directions; on the floor the populations pull against one another."""
    return FloorAndCurvature(
        inner_cw=-floor_c * floor_w,
        squared_c=floor_c**2,
        squared_w=floor_w**2,
        curvatures=np.array([10.0, 5.0]),
        noises=noise * np.array([1.0, 0.5]),
        pull_cw=np.array([80.0, 20.0]),
        pull_cc=np.array([120.0, 30.0]),
        pull_ww=np.array([90.0, 20.0]),
    )


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1, 0.15])
def test_the_prediction_is_what_a_quadratic_valley_does(rate):
    """Displacements along two sharp directions simulated by SGD's own recursion; R_cw of the averages within 0.03.

    The averages of 4,000 walkers err by about two percent of each term.
    """
    rng = np.random.default_rng(0)
    curvature, noise = np.array([10.0, 5.0]), np.array([1.0, 0.5])
    # Population Hessians along the two sharp directions, in a plane of their own each, and opposed floor gradients.
    angle = np.array([0.4, 0.9])
    pushed_c = np.zeros((2, 5))
    pushed_w = np.zeros((2, 5))
    pushed_c[[0, 1], [0, 2]] = [11.0, 6.0]
    pushed_w[0, :2] = 9.0 * np.array([np.cos(angle[0]), np.sin(angle[0])])
    pushed_w[1, 2:4] = 4.0 * np.array([np.cos(angle[1]), np.sin(angle[1])])
    floor_c, floor_w = np.array([0, 0, 0, 0, 1.5]), np.array([0, 0, 0, 0, -2.0])
    x = np.zeros((4000, 2))
    for _ in range(400):
        x = x - rate * (curvature * x + np.sqrt(noise) * rng.normal(size=x.shape))
    g_c, g_w = floor_c + x @ pushed_c, floor_w + x @ pushed_w
    simulated = (g_c * g_w).sum(axis=1).mean() / np.sqrt((g_c**2).sum(axis=1).mean() * (g_w**2).sum(axis=1).mean())
    given_floor = FloorAndCurvature(
        float(floor_c @ floor_w), float(floor_c @ floor_c), float(floor_w @ floor_w), curvature, noise,
        (pushed_c * pushed_w).sum(axis=1), (pushed_c**2).sum(axis=1), (pushed_w**2).sum(axis=1),
    )  # fmt: skip
    assert predicted_alignment(given_floor, rate) == pytest.approx(simulated, abs=0.03)


def test_the_sign_turns_at_the_turning_rate():
    floor = valley(noise=0.2)
    rate = turning_rate(floor)
    assert 0 < rate < 0.2
    assert predicted_alignment(floor, 0.99 * rate) < 0 < predicted_alignment(floor, 1.01 * rate)
    assert predicted_alignment(floor, 1e-9) == pytest.approx(-1, abs=1e-6)


def test_weak_noise_waits_for_the_edge_of_stability():
    assert turning_rate(valley(noise=0.0)) == pytest.approx(0.2)
    assert turning_rate(valley(noise=1e-6)) == pytest.approx(0.2, rel=1e-3)
    assert np.isnan(predicted_alignment(valley(), 0.2))


def test_gradients_aligned_on_the_floor_need_no_spread():
    aligned = FloorAndCurvature(**{**vars(valley()), "inner_cw": 0.5})
    assert turning_rate(aligned) == 0.0


def test_what_is_measured_is_what_dense_matrices_give():
    rng = np.random.default_rng(0)
    backend = NumpyBackend(initial_mlp((4, 5, 3), "tanh", rng), rng.normal(size=(24, 4)), rng.integers(0, 3, 24))
    wrong, p = np.arange(24) % 3 == 0, backend.n_parameters
    curvature = leading_curvature(backend, 3, tolerance=1e-10)
    found = floor_and_curvature(backend, curvature, batch_size=6, wrong=wrong)
    table = backend.sample_gradients(np.arange(24))
    displaced = (curvature.directions @ table.mean(axis=0)) / curvature.eigenvalues
    pushed = [
        curvature.directions @ backend.hessian_products(np.flatnonzero(group), np.eye(p)) / group.sum()
        for group in (~wrong, wrong)
    ]
    g_c, g_w = (
        table[group].mean(axis=0) - displaced @ push for group, push in zip((~wrong, wrong), pushed, strict=True)
    )
    np.testing.assert_allclose(
        curvature.directions @ (2 * g_c + g_w), 0, atol=1e-6
    )  # two thirds of the samples are clean
    assert found.inner_cw == pytest.approx(g_c @ g_w)
    assert (found.squared_c, found.squared_w) == pytest.approx((g_c @ g_c, g_w @ g_w))
    c = (24 - 6) / (6 * 23) * np.cov(table.T, bias=True)
    np.testing.assert_allclose(found.noises, np.diag(curvature.directions @ c @ curvature.directions.T), rtol=1e-6)
    np.testing.assert_allclose(found.pull_cw, (pushed[0] * pushed[1]).sum(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.pull_cc, (pushed[0] ** 2).sum(axis=1), rtol=1e-6)
    with pytest.raises(InputError, match="empty"):
        floor_and_curvature(backend, curvature, batch_size=6, wrong=np.zeros(24, bool))
