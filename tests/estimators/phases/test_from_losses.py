"""Phases from losses alone: against a network whose labels are known, on pure noise, and their exact test."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from sgdphases import InputError, find_phases_from_losses
from sgdphases.estimators.phases.evidence import unseen
from sgdphases.estimators.phases.from_losses import is_memorising

EPOCHS = np.concatenate([[0.0, 0.05, 0.1], np.geomspace(0.2, 200, 60)])


def learning(n: int, n_wrong: int, *, seed: int = 0, quick: float = 1.5, late: float = 40.0, classes: int = 10):
    """Losses and right answers of samples that are learnt at a time of their own, the wrong ones late."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, n)
    times = np.where(np.arange(n) < n_wrong, late, quick) * rng.lognormal(0, 0.3, n)
    logits = 6 * (EPOCHS[:, None] - times) / (EPOCHS[:, None] + times) + rng.normal(0, 0.2, (len(EPOCHS), n))
    loss = np.log1p((classes - 1) * np.exp(-logits - 2))
    return labels, loss, loss < np.log(2)


def test_four_phases_without_mask_or_test_set():
    labels, loss, right = learning(1000, 300)
    phases = find_phases_from_losses(EPOCHS, loss, labels, right=right)
    assert [phase.name for phase in phases.found] == ["I", "II", "III", "IV"]
    starts = [phase.start for phase in phases.found]
    assert 1 < starts[1] < 5 and 15 < starts[2] < 45 and 40 < starts[3] < 120
    assert "wrong labels, or right labels" in phases.reading
    assert np.isnan([phase.p_value for phase in phases.found[1:]]).all() and "chosen by their losses" in phases.doubt


def test_a_mask_gives_p_values():
    labels, loss, right = learning(1000, 300)
    phases = find_phases_from_losses(EPOCHS, loss, labels, right=right, wrong=np.arange(1000) < 300)
    assert [phase.name for phase in phases.found] == ["I", "II", "III", "IV"]
    assert all(phase.p_value < 1e-6 for phase in phases.found[1:])


def test_a_mask_drawn_at_random_shows_no_second_phase():
    labels, loss, right = learning(1000, 300)
    mask = np.random.default_rng(3).random(1000) < 0.3
    names = [phase.name for phase in find_phases_from_losses(EPOCHS, loss, labels, right=right, wrong=mask).found]
    assert names == ["fast learning", "exploration"]


def test_without_late_samples_there_are_two_phases_and_a_doubt():
    labels, loss, right = learning(1000, 0, quick=20.0)
    phases = find_phases_from_losses(EPOCHS, loss, labels, right=right)
    assert [phase.name for phase in phases.found] == ["fast learning", "exploration"]
    assert "not tested" in phases.doubt and phases.reading == ""


def test_answers_before_the_first_visit_prove_a_rule():
    labels, loss, right = learning(1000, 0, quick=0.05)
    phases = find_phases_from_losses(EPOCHS, loss, labels, right=right)
    assert phases.doubt == "" and "common rule" in phases.reading


def test_a_network_that_answers_nothing_shows_no_phase():
    labels, loss, _ = learning(500, 0)
    phases = find_phases_from_losses(EPOCHS, np.full_like(loss, np.log(10)), labels)
    assert phases.found == () and "does not fall below chance" in phases.not_reached["any phase"]


@pytest.mark.parametrize(("epoch", "expected"), [(2, False), (8, False), (60, True), (200, True)])
def test_memorising_is_seen_when_it_lasts_and_not_before(epoch, expected):
    labels, loss, right = learning(600, 200)
    t = int((EPOCHS <= epoch).sum())
    assert is_memorising(EPOCHS[:t], loss[:t], labels, right=right[:t]) is expected


def test_nothing_is_memorised_where_no_sample_is_late():
    labels, loss, right = learning(600, 0)
    assert not is_memorising(EPOCHS, loss, labels, right=right)


@given(st.floats(0, 0.95), st.integers(2, 10), st.integers(50, 500), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_only_visited_samples_learnt_gives_no_small_p_value_too_often(seen, classes, n, seed):
    """Exact where visited samples are all right: among these draws, one of 20 below 0.05 at most, by the sum below."""
    p = seen + (1 - seen) / classes
    right = np.arange(n + 1) / n
    values = np.array([unseen(share, n, seen, 1 / classes, 1) for share in right])
    assert binom.pmf(np.arange(n + 1), n, p)[values <= 0.05].sum() <= 0.05 + 1e-9
    drawn = np.random.default_rng(seed).binomial(n, p) / n
    assert unseen(drawn, n, seen, 1 / classes, 7) >= unseen(drawn, n, seen, 1 / classes, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(right=np.ones((3, 4), bool)), "do not fit"),
        (dict(labels=np.zeros(4)), "labels of shape"),
        (dict(wrong=np.zeros(4, bool)), "wrong of shape"),
        (dict(sample_loss=-np.ones((63, 20))), "below zero"),
        (dict(sample_loss=np.full((63, 20), np.nan)), "NaN"),
    ],
)
def test_bad_input_is_named(change, message):
    values = dict(epochs=EPOCHS, sample_loss=np.ones((63, 20)), labels=None) | change
    with pytest.raises(InputError, match=message):
        find_phases_from_losses(**values)
