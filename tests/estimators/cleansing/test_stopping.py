"""The weights to go back to, from answers alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdphases import InputError
from sgdphases.estimators.cleansing.stopping import MEMORISED, best_probe

EPOCHS = np.geomspace(1, 100, 30)


def training(n: int, wrong: float, seed: int, memorised: float = 30.0):
    """A network that learns the right classes by epoch 3 and the wrong labels at `memorised`."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, n)
    is_wrong = rng.random(n) < wrong
    labels = np.where(is_wrong, (truth + 1) % 5, truth)
    hard = rng.lognormal(0, 0.5, n)
    answers, losses = [], []
    for epoch in EPOCHS:
        learnt, memory = epoch > 2 * hard, epoch > memorised * hard
        given_answer = np.where(learnt, truth, rng.integers(0, 5, n))
        given_answer = np.where(is_wrong & memory, labels, given_answer)
        answers.append(given_answer)
        scale = np.where(is_wrong, memorised, 2) * hard
        losses.append(np.log1p(np.exp(3 * np.log(scale / epoch) + rng.normal(0, 4 / epoch, n))) + 1e-3)
    return np.array(losses), np.array(answers), truth


@given(st.floats(0.1, 0.5), st.integers(0, 1000))
@settings(max_examples=20, deadline=None)
def test_the_probe_chosen_is_nearly_the_best_at_the_right_classes(wrong, seed):
    losses, answers, truth = training(800, wrong, seed)
    right = (answers == truth).mean(axis=1)
    found = best_probe(EPOCHS, losses, answers)
    assert right[found.place] >= right.max() - 0.05
    assert found.epoch == EPOCHS[found.place] and not found.is_last


def test_where_nothing_is_memorised_the_last_probe_is_kept():
    losses, answers, _ = training(800, 0.3, 1, memorised=1e6)
    assert best_probe(EPOCHS, losses, answers).is_last


def test_the_share_memorised_tells_memorising_from_answers_that_merely_change():
    losses, answers, truth = training(800, 0.4, 1)
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(800) < 0.4, (truth + 1) % 5, truth)
    assert np.isnan(best_probe(EPOCHS, losses, answers).memorised)
    learnt = np.where(EPOCHS[:, None] > 40, labels, answers)
    assert best_probe(EPOCHS, losses, learnt, labels).memorised > 0.95

    sure = np.linspace(0.3, 0.7, len(EPOCHS))[:, None]  # some right answers more at every probe, and steps that scatter
    changing = np.where(rng.random((len(EPOCHS), 800)) < sure, truth, rng.integers(0, 5, (len(EPOCHS), 800)))
    found = best_probe(EPOCHS, losses, changing, labels)
    assert found.memorised < MEMORISED
    assert best_probe(EPOCHS, losses, changing, changing[0] * 0 + 9).memorised == 0
    same = best_probe(EPOCHS, losses, np.tile(labels, (len(EPOCHS), 1)), labels)
    assert same.memorised == 0  # the vote is against none


def test_answers_that_never_settle_choose_some_probe_and_the_voters_do_not_move_for_ever():
    rng = np.random.default_rng(0)
    found = best_probe(EPOCHS, rng.random((30, 200)), rng.integers(0, 3, (30, 200)))
    assert 0 <= found.place < 30 and found.agreement.shape == (30,)


def test_probes_before_the_first_epoch_are_no_candidates():
    losses, answers, _ = training(300, 0.3, 2)
    early = np.concatenate([[0.1, 0.5], EPOCHS])
    found = best_probe(early, np.r_[losses[:2] * 0 + 1, losses], np.r_[answers[:2], answers])
    assert found.place == best_probe(EPOCHS, losses, answers).place + 2


def test_answers_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="answers of shape"):
        best_probe(EPOCHS, np.ones((30, 20)), np.zeros((30, 19), int))
