"""Labels held against networks that have not seen them: answers drawn by known laws, and real overlap."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sgdphases import InputError, find_wrong_labels
from sgdphases.estimators.cleansing.outside import (
    LEAST_AGREEMENT,
    LEAST_ASKED,
    SEEN,
    Contradiction,
    Surest,
    contradiction,
)
from sgdphases.estimators.cleansing.planted import PlantedShare
from sgdphases.estimators.cleansing.share import share_of_wrong
from sgdphases.estimators.cleansing.wrong_labels import disputed, wrong_labels
from sgdphases.sim.cleansing.cleanse import judged


def answers_of(truth, error, rng, classes=5):
    """Two networks that miss a sample with the probability ``error`` each, independently, and are less sure then."""
    n, found = len(truth), []
    for _ in range(2):
        missed = rng.random(n) < error
        answer = np.where(missed, (truth + rng.integers(1, classes, n)) % classes, truth)
        sureness = np.where(missed, rng.uniform(0.3, 0.6, n), rng.uniform(0.5, 0.99, n))
        probability = np.repeat(((1 - sureness) / (classes - 1))[:, None], classes, axis=1)
        probability[np.arange(n), answer] = sureness
        found.append(probability)
    return np.array(found)


def wrongly(truth, share, rng, classes=5):
    wrong = rng.random(len(truth)) < share
    return np.where(wrong, (truth + rng.integers(1, classes, len(truth))) % classes, truth), wrong


@pytest.mark.parametrize("error", [0.02, 0.2, 0.5])
def test_a_label_that_is_one_more_answer_is_not_contradicted(error):
    """z exceeds 3 in 0.13 % of such sets: two of 200 have a probability of 3 %, four of 1e-4."""
    seen = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        truth = rng.integers(0, 5, 400)
        labels, _ = wrongly(truth, error, rng)  # as often beside what is right as the networks' answers
        seen += contradiction(answers_of(truth, error, rng), labels).is_seen
    assert seen < 4


@given(st.floats(0.3, 0.6), st.floats(0.01, 0.15), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_wrong_labels_are_seen_counted_and_bounded(share, error, seed):
    """Networks that err independently of one another show labels that err more than they do.

    Bounds miss in 5 % of sets at most, here in none of 40 by more than 0.03.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 2000)
    labels, wrong = wrongly(truth, share, rng)
    found = contradiction(answers_of(truth, error, rng), labels)
    assert found.agreement - found.given == pytest.approx(found.excess) and found.excess > SEEN * found.error > 0
    assert found.is_seen and not found.follows_input
    assert found.fraction == found.surest == pytest.approx(wrong.mean(), abs=0.12)
    assert found.low <= wrong.mean() + 0.03


def test_contradictions_that_vanish_where_networks_are_sure_prove_nothing():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 2000)
    probability = answers_of(truth, 0.05, rng)
    near = probability.mean(axis=0).max(axis=1) < np.quantile(probability.mean(axis=0).max(axis=1), 0.4)
    labels = np.where(near & (rng.random(2000) < 0.7), (truth + 1) % 5, truth)
    found = contradiction(probability, labels)
    assert found.is_seen and found.follows_input and found.low == 0 and found.surest == 0
    assert found.fraction == found.disagreed > 0.2
    scores = rng.random(2000) + (labels != truth)
    flagged = disputed(scores, labels, found.fraction)
    assert flagged.has_noise and flagged.found_by == "contradictions" and not flagged.is_fitted
    assert flagged.flagged.sum() == round(found.fraction * 2000)
    answers = probability.mean(axis=0).argmax(axis=1)
    share = share_of_wrong(flagged, labels, truth, answers, found)
    assert not share.is_known and share.low == 0 and share.high > (labels != truth).mean()
    even = contradiction(probability, wrongly(truth, 0.3, rng)[0])
    share = share_of_wrong(flagged, labels, truth, answers, even)
    assert share.is_known and share.low == even.low > 0.1 and share.fraction == even.surest


@pytest.mark.parametrize(
    ("agreement", "given", "disagreed", "surest", "half", "tenth", "expected"),
    [
        (0.692, 0.473, 0.471, 0.360, 0.380, 0.382, 0.360),  # contradicted as often where networks are sure: 36 % wrong
        (0.406, 0.346, 0.615, 0.386, 0.490, 0.340, np.nan),  # ever less often: 40 % wrong, following the image
        (0.580, 0.416, 0.562, 0.313, 0.429, 0.253, np.nan),  # the same, but right labels of overlapping classes
        (0.800, 0.776, 0.230, 0.030, 0.030, 0.030, np.nan),  # as few as the excess amounts to: few, or many learnt
        (0.582, 0.553, 0.410, 0.116, 0.230, 0.060, np.nan),  # neither: a network's own confusions, 40 % wrong
        (0.700, 0.600, 0.350, 0.010, 0.100, 0.000, np.nan),  # vanish where networks are sure
    ],
)
def test_there_is_a_number_only_where_contradictions_give_one(
    agreement, given, disagreed, surest, half, tenth, expected
):
    n = 5000
    against = Contradiction(
        agreement=agreement, given=given, error=0.005, disagreed=disagreed,
        overall=Surest(half, surest, tenth, 0.8 * surest, 0.8 * tenth, tenth + 0.04),
        by_class=Surest(1.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        shifted=0.02, largest=0.11, n_samples=n,
    )  # fmt: skip
    assert against.is_seen
    labels, rng = np.arange(n) % 10, np.random.default_rng(0)
    outside = np.where(rng.random(n) < disagreed, (labels + 1) % 10, labels)
    found = disputed(rng.random(n), labels, against.fraction)
    said = share_of_wrong(found, labels, labels, outside, against)
    np.testing.assert_equal(said.fraction, expected)
    assert (said.low > 0) == against.gives_number and said.low <= disagreed <= said.high
    assert 0 < against.low_if_determined < against.beyond and said.low <= against.low_if_determined


@given(st.sampled_from([3, 4, 5]), st.floats(0.15, 0.5), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_right_labels_that_the_inputs_do_not_determine_need_not_be_wrong(classes, concentration, seed):
    """Labels drawn from the very probabilities that both networks give: up to half are contradicted, none is wrong.

    (Beyond that the networks are sure of nothing, and such labels cannot be told from wrong ones.)
    """
    rng = np.random.default_rng(seed)
    known = rng.dirichlet(np.full(classes, concentration), 3000)
    labels = (known.cumsum(axis=1) > rng.random((3000, 1))).argmax(axis=1)
    found = contradiction(np.stack([known, known]), labels)
    assert found.excess > SEEN * found.error and not found.gives_number and found.low == 0 and not found.is_even


def by_class(share, agreement=0.95, seed=0):
    """Ten classes; a share of the 3s and 4s is labelled 8 and 9, which makes networks unsure of all of these.

    About a tenth of the others two networks are unsure, too, and as often wrong.
    """
    rng = np.random.default_rng(seed)
    truth, outside = rng.integers(0, 10, 4000), np.full((2, 4000, 10), 0.001)
    part = np.isin(truth, (3, 4))
    labels = np.where(part & (rng.random(4000) < share), truth + 5, truth)
    hard = rng.random(4000) < 0.1
    for network in outside:
        known = rng.random(4000) < np.where(hard, 0.5, agreement)
        answer = np.where(known, truth, (truth + rng.integers(1, 10, 4000)) % 10)
        network[np.arange(4000), answer] = rng.uniform(0.5, 0.99, 4000) * np.where(known, 1, 0.6)
        network[part & known] = 0.001
        network[part & known, truth[part & known]] = rng.uniform(0.55, 0.8, (part & known).sum())
    return outside / outside.sum(axis=2, keepdims=True), labels, truth


@pytest.mark.parametrize("share", [0.3, 0.4])
def test_mistakes_of_some_classes_are_even_among_those_answered_these(share):
    outside, labels, truth = by_class(share)
    found = contradiction(outside, labels)
    assert found.surest < 0.02 and found.by_class.fifth == pytest.approx((labels != truth).mean(), abs=0.02)
    assert found.is_even and found.follows_class and not found.gives_number
    assert found.fraction == found.disagreed and found.low == 0
    losses = np.log1p(np.exp(np.where(np.isin(labels, (8, 9)), 3.0, -3.0)))  # their labels are the ones hardly learnt
    assert not wrong_labels(losses, labels).is_learnt
    said = judge(labels, outside, None, losses)
    assert said["found"].found_by == "contradictions" and not said["share"].is_known and said["share"].low == 0
    assert said["share"].high > (labels != truth).mean()


def test_hard_samples_are_not_even_and_networks_that_know_little_say_nothing():
    outside, labels, truth = by_class(0.0)
    found = contradiction(outside, labels)
    assert np.array_equal(labels, truth) and not found.is_even and not found.follows_class
    little, labels, _ = by_class(0.4, agreement=0.6)
    found = contradiction(little, labels)
    assert found.agreement < LEAST_AGREEMENT and not found.is_even


def test_a_fitted_share_loses_its_lower_bound_where_contradictions_vanish():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 2000)
    wrong = rng.random(2000) < 0.3
    labels = np.where(wrong, (truth + 1) % 5, truth)
    found = wrong_labels(np.log1p(np.exp(np.where(wrong, 4.0, -4.0) + rng.normal(size=2000))), labels)
    sure = answers_of(truth, 0.02, rng)
    even = contradiction(sure, labels)
    assert share_of_wrong(found, labels, truth, truth, even).low > 0.25
    sure[:, wrong] = 0.2 + 0.1 * np.eye(5)[truth[wrong]]
    assert share_of_wrong(found, labels, truth, truth, contradiction(sure, labels)).low == 0


@pytest.mark.parametrize("n", [1, 2, LEAST_ASKED - 1])
def test_of_few_samples_nothing_is_concluded(n):
    found = contradiction(np.repeat(np.eye(2)[None, np.zeros(n, int)], 2, axis=0), np.ones(n, int))
    assert not found.is_seen and found.disagreed == 1 and found.low == 0


def test_what_does_not_fit_is_refused():
    good = np.full((2, 6, 3), 1 / 3)
    for probability, n in ((good[:1], 6), (good, 5), (good[0], 6), (np.full((2, 6, 3), np.nan), 6), (good[:, :0], 0)):
        with pytest.raises(InputError):
            contradiction(probability, np.zeros(n, int))


@pytest.mark.parametrize(("dimension", "apart"), [(2, 1.5), (5, 1.5), (2, 3.0)])
def test_right_labels_of_overlapping_classes_are_within_what_is_said(dimension, apart):
    """Two Gaussians, every label that of its own: up to 23 % lie beyond the boundary, and none is wrong."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 1000)
    x = rng.normal(size=(1000, dimension))
    x[:, 0] += apart * labels
    found = find_wrong_labels(x, labels, hidden=(20,), epochs=100)
    assert found.noise_interval[0] == 0


@pytest.mark.parametrize("seed", [0, 1])
def test_right_labels_of_separate_classes_are_not_flagged(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 4, 600)
    x = 4.5 * np.eye(4, 10)[truth] + rng.normal(size=(600, 10))
    right = find_wrong_labels(x, truth, hidden=(20,), epochs=100)
    assert not right.flagged.any() and right.noise_interval[0] == 0
    beyond = np.where(rng.random(600) < 0.25, np.argsort(-x[:, :4], axis=1)[:, 1], truth)  # the class next in line
    found = find_wrong_labels(x, beyond, hidden=(20,), epochs=100)
    wrong = beyond != truth
    assert found.noise_interval[0] <= wrong.mean() <= found.noise_interval[1]
    assert found.flagged[wrong].mean() > 0.7 and wrong[found.flagged].mean() > 0.7


def judge(labels, outside, plant, losses=None):
    scores = np.random.default_rng(0).random(len(labels)) if losses is None else losses
    return judged(wrong_labels(scores, labels), scores, labels, labels, outside, scores, plant)


def test_mistakes_are_planted_where_nothing_is_seen_and_only_there():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 1000)
    outside, asked = answers_of(truth, 0.1, rng), []

    def plant(given):
        asked.append(given)
        return PlantedShare(0.003, 0.004, 0.5, 0.0, False)

    found = judge(truth, outside, plant)
    assert asked[0] is outside and len(asked) == 1 and found["share"].high == 0.004 and found["keep"].all()
    seen = judge(truth, outside, lambda _: PlantedShare(0.005, 0.3, 1.0, 0.9, True))
    assert seen["found"].found_by == "planted mistakes" and (~seen["keep"]).sum() == 5
    against = judge(wrongly(truth, 0.4, rng)[0], outside, plant)
    assert len(asked) == 1 and against["found"].found_by == "contradictions" and against["share"].is_known
    assert (~against["keep"]).sum() == round(against["against"].surest * 1000)


def test_two_populations_that_account_for_the_disagreement_stay_as_they_are():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 5, 1000)
    labels, wrong = wrongly(truth, 0.3, rng)
    losses = np.log1p(np.exp(np.where(wrong, 4.0, -4.0) + rng.normal(size=1000)))
    found = judge(labels, answers_of(truth, 0.1, rng), None, losses)
    assert found["found"].is_fitted and np.mean(~found["keep"] == wrong) > 0.99
    assert found["share"].fraction == pytest.approx(wrong.mean(), abs=0.02)
    for count, is_little in ((60, True), (125, True), (180, False)):  # of 300 that sure networks contradict
        few = wrong & (np.cumsum(wrong) < count)
        losses = np.log1p(np.exp(np.where(few, 4.0, -4.0) + rng.normal(size=1000)))
        found_by = judge(labels, answers_of(truth, 0.1, rng), None, losses)["found"].found_by
        assert found_by == ("contradictions" if is_little else "losses"), count


def test_a_few_wrong_labels_among_many_hard_samples_are_no_reason_to_flag_these():
    """3 % of the labels are wrong; of a sixth of the samples classes are drawn alike by networks and for labels."""
    rng = np.random.default_rng(0)
    base, hard = rng.integers(0, 5, 8000), rng.random(8000) < 0.16
    outside = answers_of(base, 0.01, rng)
    outside[:, hard] = 0.1 * answers_of(base[hard], 0.4, rng) + 0.18
    truth = np.where(hard, wrongly(base, 0.4, rng)[0], base)
    labels, wrong = wrongly(truth, 0.03, rng)
    found = contradiction(outside, labels)
    assert found.is_seen and found.surest < 0.4 * found.disagreed and not found.follows_input
    assert found.fraction == found.by_class.fifth == pytest.approx(0.03, abs=0.015)
    losses = np.log1p(np.exp(np.where(wrong, 4.0, -4.0) + rng.normal(size=8000)))
    kept = judge(labels, outside, None, losses)
    assert kept["found"].is_fitted and np.mean(~kept["keep"] == wrong) > 0.99


def test_what_is_contradicted_less_among_the_very_surest_bounds_the_share_from_below():
    """Of the surest tenth 5 % are contradicted, as many as are wrong; of the next 15 %, some beyond a boundary."""
    n = 2000
    sureness = np.linspace(1, 0.6, n)
    both = np.stack([sureness, 1 - sureness], axis=1)
    labels = np.zeros(n, int)
    labels[:200:20], labels[200:400:20], labels[200:400:10] = 1, 1, 1
    labels[np.arange(200, 400)[:10]] = 1
    found = contradiction(np.stack([both, both]), labels)
    tenths = labels[:200].mean(), labels[:400].mean()
    assert found.surest == pytest.approx(tenths[1]) and tenths[1] > 1.5 * tenths[0]
    assert 0.02 < found.overall.low < tenths[0]
    even = labels.copy()
    even[200:400] = even[:200]
    found = contradiction(np.stack([both, both]), even)
    assert found.surest == pytest.approx(tenths[0]) and 0.02 < found.overall.low < tenths[0]
