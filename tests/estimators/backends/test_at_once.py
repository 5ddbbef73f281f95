"""What the compiled backend answers at once has the bits of what it answers piece by piece."""

import numpy as np
import pytest

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.numba_backend import NumbaBackend
from sgdphases.estimators.backends.numba_measuring import answer
from sgdphases.estimators.backends.samples import is_correct
from sgdphases.estimators.ensemble.alignment import sampled_alignment
from sgdphases.estimators.ensemble.moments import gradient_moments


class PieceByPiece:
    """The same backend without what it answers at once."""

    def __init__(self, backend):
        self._backend = backend

    def __getattr__(self, name):
        if name in ("both_passes", "batch_sums"):
            raise AttributeError(name)
        return getattr(self._backend, name)


NETWORKS = [
    ((20, 10, 2), "relu", "cross-entropy"),
    ((5, 3), "tanh", "squared"),
    ((50, 50, 50, 10), "erf", "cross-entropy"),
    ((7, 4, 1), "tanh", "squared"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("sizes", "activation", "loss"), NETWORKS)
@pytest.mark.parametrize("parameters", [None, ["layers.0.weight"], ["*bias"]])
def test_closed_forms_and_alignments_have_the_same_bits(dtype, sizes, activation, loss, parameters):
    rng = np.random.default_rng(0)
    for n in (1, 13, 900):
        x, y = rng.normal(size=(n, sizes[0])), rng.integers(0, max(2, sizes[-1]), n)
        model = initial_mlp(sizes, activation, rng)
        backend = NumbaBackend(model, x, y, loss=loss, dtype=dtype, parameters=parameters)
        for wrong in (None, rng.random(n) < 0.3, np.zeros(n, bool), np.ones(n, bool)):
            one, other = (gradient_moments(each, wrong) for each in (backend, PieceByPiece(backend)))
            assert repr(one) == repr(other)
            if n >= 13:
                drawn = dict(batch_size=5, n_batches=7, wrong=wrong, replacement=n == 13)
                one, other = (
                    sampled_alignment(each, rng=np.random.default_rng(1), **drawn)
                    for each in (backend, PieceByPiece(backend))
                )
                assert repr(one) == repr(other)


def test_samples_that_do_not_fit_into_memory_are_answered_in_chunks():
    rng = np.random.default_rng(0)
    backend = NumbaBackend(initial_mlp((4, 3, 2), "relu", rng), rng.normal(size=(50, 4)), rng.integers(0, 2, 50))
    whole = gradient_moments(backend, rng.random(50) < 0.5)
    backend.chunk_size = 49
    assert backend.both_passes([np.arange(50)]) is None
    np.testing.assert_allclose(gradient_moments(backend).everything.loss, whole.everything.loss)


@pytest.mark.parametrize(
    "outputs", [[1, 3, 3], [np.nan, 1, np.inf], [2, np.nan, np.nan], [-np.inf, -np.inf], [0.0], [0.1]]
)
@pytest.mark.parametrize("label", [-1, 0, 1, 2])
def test_answers_are_judged_alike(outputs, label):
    row = np.array(outputs, dtype=np.float32)
    np.testing.assert_equal(answer(row, label), is_correct(row[None], np.array([label]))[0])
