"""Runs by the numba backend draw and measure by compiled code: what numpy draws, and what the pieces measure."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs import SMALL

from sgdphases.sim.run import draws
from sgdphases.sim.run.schedule import Orders, drawn_minibatches
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.streams import stream, stream_words
from sgdphases.sim.run.training import Measuring, prepare


@given(st.integers(1, 400), st.integers(0, 2**70), st.data())
def test_compiled_draws_are_those_of_numpy(n, seed, data):
    words, size = stream_words(seed, "alignment", [3]), data.draw(st.integers(1, n))
    rng = stream(seed, "alignment", 3)
    expected = [rng.choice(n, size=size, replace=False) for _ in range(5)]
    assert np.array_equal(draws.minibatches(words[0], n, size, 5), expected)
    assert np.array_equal(draws.permutations(words, n)[0], stream(seed, "alignment", 3).permutation(n))


def test_where_numpy_draws_otherwise_it_is_asked_itself(monkeypatch):
    assert draws.are_as_known()
    monkeypatch.setattr(draws, "are_as_known", lambda: False)
    monkeypatch.setattr(draws, "permutations", None)
    assert np.array_equal(Orders(5, 40, 7, compiled=True).of(3, 20), Orders(5, 40, 7).of(3, 20))
    drawn = drawn_minibatches(5, 12, 40, 7, 3)
    rng = stream(5, "alignment", 12)
    assert np.array_equal(drawn, [rng.choice(40, size=7, replace=False) for _ in range(3)])


@pytest.mark.parametrize("step", [0, 2**32 + 5])
def test_minibatches_of_many_samples_and_late_steps_are_those_of_numpy(step):
    for n in (300, draws.MOST + 1):
        rng = stream(8, "alignment", step)
        expected = [rng.choice(n, size=250, replace=False) for _ in range(2)]
        assert np.array_equal(drawn_minibatches(8, step, n, 250, 2), expected)


@pytest.mark.parametrize("extra", [{}, {"sharp_directions": 2, "sample_losses": True}, {"noise_fraction": 0.0}])
def test_a_row_from_one_call_is_that_of_the_pieces(extra):
    experiment = prepare(make_settings({**SMALL, **extra, "backend": "numba"}))
    settings, train = experiment.settings, experiment.train
    common = dict(batch_size=settings.batch_size, wrong=experiment.wrong, n_batches=settings.alignment_batches)
    at_once = Measuring(experiment, train.checkpoints(experiment.test, **common))
    pieces, before = Measuring(experiment), {}
    for step in range(4):
        one, other = at_once.row(step, before), pieces.row(step, before)
        assert one.keys() == other.keys()
        assert one.pop("test_loss") == pytest.approx(other.pop("test_loss"), rel=1e-12)
        for name, value in one.items():
            np.testing.assert_array_equal(value, other[name], name)
        before = {name: np.array([*before.get(name, []), value]) for name, value in other.items()}
        train.train(np.random.default_rng(step).permutation(len(experiment.data.x_train)), 10, 0.5)
