"""What the compiled backend answers at once is what it answers piece by piece, and closed forms have their bits."""

import numpy as np
import pytest

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.numba_backend import NumbaBackend
from sgdphases.estimators.backends.numba_passes import answer
from sgdphases.estimators.backends.numba_rows import CLOSED, lost, mean_cosine
from sgdphases.estimators.backends.samples import is_correct
from sgdphases.estimators.ensemble import alignment
from sgdphases.estimators.ensemble.alignment import sampled_alignment
from sgdphases.estimators.ensemble.moments import gradient_moments
from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.estimators.ensemble.scores import all_scores
from sgdphases.estimators.measure import measure_backend
from sgdphases.sim.cleansing.sample_losses import class_probabilities
from sgdphases.sim.run.trajectory import TEST_RIGHT, lost_samples


class PieceByPiece:
    """The same backend without what it answers at once."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        if name in ("moments", "alignments"):
            raise AttributeError(name)
        return getattr(self._backend, name)


NETWORKS = [
    ((20, 10, 2), "relu", "cross-entropy"),
    ((5, 3), "tanh", "squared"),
    ((50, 50, 50, 10), "erf", "cross-entropy"),
    ((7, 4, 1), "tanh", "squared"),
]


def built(sizes, activation, loss, n, rng, **options):
    x, y = rng.normal(size=(n, sizes[0])), rng.integers(0, max(2, sizes[-1]), n)
    return NumbaBackend(initial_mlp(sizes, activation, rng), x, y, loss=loss, **options)


def masks(n, rng):
    return None, rng.random(n) < 0.3, np.zeros(n, bool), np.ones(n, bool)


def check_moments(one, other):
    """Equal to rounding; that of a variance is the rounding of the squares that it is the difference of."""
    np.testing.assert_allclose([one.inner_product_cw, one.fraction], [other.inner_product_cw, other.fraction], 1e-10)
    for name in ("everything", "clean", "wrong"):
        part, same = getattr(one, name), getattr(other, name)
        assert (part is None) == (same is None)
        if part is not None:
            values, expected = (np.array([*vars(each).values()]) for each in (part, same))
            np.testing.assert_allclose(values[:-2], expected[:-2], 1e-10)
            np.testing.assert_allclose(values[-2:], expected[-2:], 1e-10, 1e-13 * part.mean_squared_norm**2)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "activation", "loss"), NETWORKS)
@pytest.mark.parametrize("parameters", [None, ["layers.0.weight"], ["*bias"]])
def test_moments_and_alignments_are_those_of_the_pieces(dtype, sizes, activation, loss, parameters):
    rng = np.random.default_rng(0)
    for n in (1, 13, 900):
        backend = built(sizes, activation, loss, n, rng, dtype=dtype, parameters=parameters)
        for wrong in masks(n, rng):
            check_moments(*(gradient_moments(each, wrong) for each in (backend, PieceByPiece(backend))))
            if n >= 13:
                drawn = dict(batch_size=5, n_batches=7, wrong=wrong, replacement=n == 13)
                one, other = (
                    sampled_alignment(each, rng=np.random.default_rng(1), **drawn)
                    for each in (backend, PieceByPiece(backend))
                )
                np.testing.assert_allclose(one, other, 1e-5 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n_batches", [0, 6])
def test_a_checkpoint_has_the_bits_of_a_measurement(dtype, n_batches):
    rng = np.random.default_rng(2)
    assert tuple(describe()) == CLOSED
    for sizes, activation, loss in NETWORKS:
        backend = built(sizes, activation, loss, 60, rng, dtype=dtype)
        test = backend.on(rng.normal(size=(41, sizes[0])), rng.integers(0, max(2, sizes[-1]), 41))
        test.chunk_size = 20  # scored in pieces
        for wrong in masks(60, rng):
            checkpoints = backend.checkpoints(test, batch_size=7, wrong=wrong, n_batches=n_batches)
            draw = np.random.default_rng(3)
            batches = np.array([draw.choice(60, size=7, replace=False) for _ in range(n_batches)])
            for _ in range(2):
                backend.train(rng.permutation(60), 10, 0.05)
                found = checkpoints.measure(batches if n_batches else None)
                whole = measure_backend(
                    backend, batch_size=7, wrong=wrong, alignment_batches=n_batches, rng=np.random.default_rng(3)
                )
                scores = all_scores(test)
                expected = whole.scalars()
                assert list(found) == [*expected, "test_loss", "test_error"]
                np.testing.assert_array_equal([found[name] for name in expected], [*expected.values()])
                assert repr(checkpoints.moments()) == repr(whole.moments)
                assert found["test_loss"] == pytest.approx(scores.loss.mean(), rel=1e-5)
                assert found["test_error"] == 1 - scores.correct.mean()
                np.testing.assert_array_equal(checkpoints.correct, scores.correct)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_losses_under_every_label_are_those_of_each(dtype):
    rng = np.random.default_rng(7)
    backend = built((5, 4, 3), "tanh", "cross-entropy", 20, rng, dtype=dtype)
    backend.load_weights(4 * rng.normal(size=backend.n_parameters))
    backend.chunk_size = 9
    inputs = backend.samples.inputs
    found = backend.label_losses(np.array([3, 0, 3, 19]))
    expected = [all_scores(backend.on(inputs, np.full(20, label))).loss for label in range(3)]
    np.testing.assert_allclose(found, np.transpose(expected)[[3, 0, 3, 19]], 1e-6 if dtype == "float32" else 1e-13)
    probabilities = class_probabilities(backend, inputs, 3)
    np.testing.assert_allclose(probabilities, np.exp(-np.transpose(expected)), 1e-5 if dtype == "float32" else 1e-12)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, 1e-6)


def test_values_to_reach_are_neither_right_nor_wrong():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(30, 5)), rng.normal(size=30)
    backend = NumbaBackend(initial_mlp((5, 4, 1), "tanh", rng), x, y, loss="squared")
    checkpoints = backend.checkpoints(backend.on(x[:9], y[:9]), batch_size=5, wrong=None, n_batches=0)
    found = checkpoints.measure()
    assert np.isnan([found["train_error"], found["test_error"], *checkpoints.correct]).all()
    assert found["test_loss"] == pytest.approx(all_scores(backend).loss[:9].mean())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_weights_that_diverged_are_seen(value):
    rng = np.random.default_rng(5)
    backend = built((5, 4, 2), "relu", "cross-entropy", 30, rng)
    checkpoints = backend.checkpoints(backend, batch_size=5, wrong=rng.random(30) < 0.5, n_batches=4)
    backend.load_weights(np.full(backend.n_parameters, value))
    found = checkpoints.measure(rng.integers(0, 30, (4, 5)))
    assert not np.isfinite([found["loss"], found["activity"]]).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cosines_need_no_products_of_pairs(dtype):
    rng = np.random.default_rng(6)
    one, other = (rng.normal(size=(2, 9, 300)) + 0.1).astype(dtype)
    counts = np.array([3, 0, 1, 2, 5, 1, 1, 0, 4])
    for both in (True, False):
        gradients = (one.astype(float) + other if both else one.astype(float))[counts > 0]
        expected = alignment.mean_cosine(gradients @ gradients.T)
        np.testing.assert_allclose(mean_cosine(one, other, both, counts), expected, 1e-11)
    one[2] = 0
    assert np.isnan(mean_cosine(one, other, False, counts)).all()
    counts[2] = 0
    assert np.isfinite(mean_cosine(one, other, False, counts)).all()
    assert np.isnan(mean_cosine(one, other, False, np.minimum(counts, [1, 0, 0, 1, 0, 0, 0, 0, 0]))).all()


@pytest.mark.parametrize("n", [1, 8, 43])
def test_lost_test_samples_are_counted_alike(n):
    rng = np.random.default_rng(n)
    errors, table = np.empty(0), np.empty((0, -(-n // 8)), np.uint8)
    for _ in range(12):
        correct = (rng.random(n) < rng.random()).astype(float)
        rows = {"test_error": errors, TEST_RIGHT: table} if len(errors) else {}
        expected, bits = lost_samples(rows, correct), np.empty(table.shape[1], np.uint8)
        assert lost(correct, 1 - correct.mean(), errors, table, bits) == expected["test_lost"]
        assert np.array_equal(bits, expected[TEST_RIGHT])
        errors, table = np.append(errors, 1 - correct.mean()), np.vstack([table, bits])


def test_samples_that_do_not_fit_into_memory_are_answered_in_chunks():
    rng = np.random.default_rng(0)
    backend = built((4, 3, 2), "relu", "cross-entropy", 50, rng)
    whole = gradient_moments(backend, rng.random(50) < 0.5)
    backend.chunk_size = 49
    assert backend.moments([np.arange(50)]) is None
    assert backend.checkpoints(backend, batch_size=5, wrong=None, n_batches=0) is None
    np.testing.assert_allclose(gradient_moments(backend).everything.loss, whole.everything.loss)


@pytest.mark.parametrize(
    "outputs", [[1, 3, 3], [np.nan, 1, np.inf], [2, np.nan, np.nan], [-np.inf, -np.inf], [0.0], [0.1]]
)
@pytest.mark.parametrize("label", [-1, 0, 1, 2])
def test_answers_are_judged_alike(outputs, label):
    row = np.array(outputs, dtype=np.float32)
    np.testing.assert_equal(answer(row, label), is_correct(row[None], np.array([label]))[0])
