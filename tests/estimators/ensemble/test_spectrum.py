"""The spectrum of C, the Gram route, and the sharp and floor parts, against dense matrices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import TableBackend, plain_ensemble

import sgdphases
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.backends.registry import backend_class
from sgdphases.estimators.curvature.hessian import leading_curvature
from sgdphases.estimators.curvature.sharp_floor import GRADIENT_SCALARS, relaxed, sharp_and_floor
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.gram import gram_alignment, gram_matrix, virtual_minibatches
from sgdphases.estimators.ensemble.spectrum import noise_spectrum
from sgdphases.estimators.errors import UsageError
from sgdphases.theory.spectrum import effective_dimension


@st.composite
def tables(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, p, rank = draw(st.integers(3, 7)), draw(st.integers(1, 8)), draw(st.integers(0, 4))
    table = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, p)) + rng.normal(size=p)
    return table, draw(st.integers(1, n)), draw(st.integers(1, 4))


@given(tables(), st.booleans())
def test_the_spectrum_is_that_of_every_minibatch(case, replacement):
    table, batch_size, chunk = case
    batch_size = min(batch_size, 4)
    ensemble = plain_ensemble(table, batch_size, replacement)
    expected = np.linalg.eigvalsh(np.atleast_2d(np.cov(ensemble.T, bias=True)))[::-1]
    found = noise_spectrum(TableBackend(table, chunk), batch_size=batch_size, replacement=replacement, method="gram")
    scale = (table**2).sum()
    k = min(len(expected), len(found.noise_spectrum))
    np.testing.assert_allclose(found.noise_spectrum[:k], expected[:k], atol=1e-9 * scale)
    assert found.total_variance == pytest.approx(expected.sum(), abs=1e-9 * scale)
    assert found.rank_limit == len(table) - 1


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("method", ["gram", "dense", "lanczos"])
def test_eigenvectors_are_directions_in_weight_space(backend, method):
    rng = np.random.default_rng(1)
    model = sgdphases.initial_mlp((4, 5, 3), "tanh", rng)
    x, y = rng.normal(size=(50, 4)), rng.integers(0, 3, 50)
    made = backend_class(backend)(model, x, y, dtype="float64", parameters="layers.*")
    made.chunk_size = 13
    table = NumpyBackend(model, x, y).sample_gradients(np.arange(50))
    values, vectors = np.linalg.eigh(np.cov(table.T, bias=True) * 40 / (10 * 49))
    found = noise_spectrum(made, batch_size=10, method=method, n_values=6, n_directions=3)
    np.testing.assert_allclose(found.noise_spectrum, values[::-1][:6], rtol=1e-5)
    overlaps = np.abs(found.directions @ vectors[:, ::-1][:, :3])
    np.testing.assert_allclose(overlaps, np.eye(3), atol=1e-3)
    assert found.total_variance == pytest.approx(values.sum())
    assert found.effective_dimension(0.5) == effective_dimension(values[::-1], values.sum(), 0.5)
    np.testing.assert_allclose(found.cumulative(), np.cumsum(values[::-1][:6]) / values.sum(), rtol=1e-5)


def test_one_population_and_a_sampled_spectrum():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(400, 6)) * np.array([5, 3, 1, 0.5, 0.2, 0.1])
    wrong = np.arange(400) < 150
    backend = TableBackend(table)
    own = noise_spectrum(backend, batch_size=20, members=wrong)
    alone = noise_spectrum(TableBackend(table[wrong]), batch_size=20)
    np.testing.assert_allclose(own.noise_spectrum, alone.noise_spectrum)
    drawn = noise_spectrum(backend, batch_size=20, method="sampled", n_batches=2000, rng=rng, n_directions=1)
    whole = noise_spectrum(backend, batch_size=20)
    np.testing.assert_allclose(drawn.noise_spectrum[:3], whole.noise_spectrum[:3], rtol=0.2)  # 5 sigma of 1/sqrt(1000)
    assert abs(drawn.directions[0, 0]) > 0.99 and drawn.rank_limit == 1999
    few = noise_spectrum(backend, batch_size=20, method="sampled", n_batches=4, rng=rng)
    assert len(few.noise_spectrum) == few.rank_limit == 3


def test_effective_dimension_counts_to_the_fraction():
    values = np.array([5.0, 3.0, 1.0, 1.0])
    assert [effective_dimension(values, 10.0, f) for f in (0.5, 0.51, 0.9, 1.0)] == [1, 2, 3, 4]
    assert effective_dimension(values[:2], 10.0, 0.9) is None and effective_dimension(values * 0, 0.0) is None
    with pytest.raises(ValueError, match=r"fraction = 1\.5"):
        effective_dimension(values, 10.0, 1.5)


def test_virtual_minibatches_are_minibatches():
    rng = np.random.default_rng(0)
    table = rng.normal(size=(30, 4)) + 0.3
    gram = gram_matrix(TableBackend(table, 7))
    np.testing.assert_allclose(gram, table @ table.T)
    products = virtual_minibatches(gram, batch_size=6, n_batches=8, rng=np.random.default_rng(5))
    again = np.random.default_rng(5)
    batches = np.array([table[again.choice(30, 6, replace=False)].mean(axis=0) for _ in range(8)])
    np.testing.assert_allclose(products, batches @ batches.T)
    found = gram_alignment(gram, batch_size=6, n_batches=3000, rng=rng)
    pairs = plain_ensemble(table[:30], 1)  # the exact R of B = 1 as a cross-check
    unit = pairs / np.linalg.norm(pairs, axis=1, keepdims=True)
    one = gram_alignment(gram, batch_size=1, n_batches=3000, rng=rng)
    assert abs(one.value - (unit.mean(axis=0) ** 2).sum()) < 5 * one.standard_error
    assert found.value > one.value and found.standard_error < 0.02


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_sharp_and_floor_add_up_to_the_whole(backend):
    rng = np.random.default_rng(2)
    model = sgdphases.initial_mlp((4, 6, 3), "tanh", rng)
    x, y, wrong = rng.normal(size=(40, 4)), rng.integers(0, 3, 40), np.arange(40) % 3 == 0
    made = backend_class(backend)(model, x, y, dtype="float64")
    made.chunk_size = 11
    k = 3
    table = NumpyBackend(model, x, y).sample_gradients(np.arange(40))
    hessian = np.stack(
        [NumpyBackend(model, x, y).hessian_products(np.arange(40), v[None])[0] for v in np.eye(len(table.T))]
    )
    values, vectors = np.linalg.eigh(hessian / 40)
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-10)
    found = leading_curvature(made, k)
    np.testing.assert_allclose(found.eigenvalues, values[::-1][:k], rtol=1e-4)
    sharp_space = vectors[:, ::-1][:, :k]
    np.testing.assert_allclose(np.abs(np.linalg.svd(found.directions @ sharp_space)[1]), 1, atol=1e-3)
    parts = sharp_and_floor(made, found, batch_size=8, wrong=wrong)
    for name in (
        "activity",
        "directed_activity",
        "total_variance",
        "activity_c",
        "directed_activity_w",
        "total_variance_w",
    ):
        whole, sharp, floor = (getattr(part, name) for part in (parts.whole, parts.sharp, parts.floor))
        assert whole == pytest.approx(sharp + floor, rel=1e-9), name
    onto = found.directions.T @ found.directions
    for part, projected in ((parts.sharp, table @ onto), (parts.floor, table - table @ onto)):
        expected = exact(TableBackend(projected), batch_size=8, wrong=wrong)
        for name in GRADIENT_SCALARS:
            assert getattr(part, name) == pytest.approx(getattr(expected, name), rel=1e-7, abs=1e-12), name
    assert {"alignment_cw", "alignment_cw_floor", "directed_activity_sharp"} <= set(parts.scalars())


def test_hessian_products_are_derivatives_of_the_gradient():
    rng = np.random.default_rng(0)
    for activation, loss in (("tanh", "cross-entropy"), ("erf", "squared"), ("relu", "cross-entropy")):
        model = sgdphases.initial_mlp((3, 5, 4, 2), activation, rng)
        x, y, v = rng.normal(size=(7, 3)), rng.integers(0, 2, 7), rng.normal(size=(2, model.n_parameters))
        backend, step = NumpyBackend(model, x, y, loss=loss), 1e-6
        for row, found in zip(v, backend.hessian_products(np.arange(7), v), strict=True):
            ends = []
            for sign in (1, -1):
                backend.load_weights(model.weights + sign * step * row)
                ends.append(backend.sample_gradients(np.arange(7)).sum(axis=0))
            backend.load_weights(model.weights)
            np.testing.assert_allclose(found, (ends[0] - ends[1]) / (2 * step), atol=1e-6)


@settings(max_examples=5)
@given(st.integers(0, 100))
def test_relaxing_leaves_the_weights_alone(seed):
    rng = np.random.default_rng(seed)
    model = sgdphases.initial_mlp((4, 6, 3), "tanh", rng)
    x, y = rng.normal(size=(40, 4)), rng.integers(0, 3, 40)
    backend = backend_class("numba")(model, x, y)
    before = backend.weights
    found = relaxed(backend, batch_size=8, learning_rate=0.1)
    assert backend.weights.tobytes() == before.tobytes()
    assert found.loss < exact(backend, batch_size=8).loss


def test_what_cannot_be_is_refused():
    backend = TableBackend(np.eye(4))
    with pytest.raises(UsageError, match="hessian_products"):
        leading_curvature(backend, 1)
    with pytest.raises(UsageError, match="method = 'guess'"):
        noise_spectrum(backend, batch_size=2, method="guess")
    with pytest.raises(UsageError, match="batch_size = 9"):
        noise_spectrum(backend, batch_size=9)
    with pytest.raises(UsageError, match="at least two"):
        noise_spectrum(backend, batch_size=1, members=np.arange(4) < 1)
