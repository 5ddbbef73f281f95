"""Label noise: how many labels change, into what, and what is remembered of it.

Statistical tests use fixed seeds; each states how often a right program would fail it on a random seed.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, chisquare, mannwhitneyu

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.label_noise.add import (
    CLASS_KINDS,
    NOISE_KINDS,
    REGRESSION_KINDS,
    add_label_noise,
    transition_matrix,
)
from sgdphases.sim.data.label_noise.input_dependent import confusion_probabilities, plausible_mistakes

DRAWN_CLASS_KINDS = ("uniform", "uniform-other", "pair-flip")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def classes(n: int, k: int, clean: bool = True, seed: int = 0) -> Dataset:
    y = generator(seed).integers(k, size=n)
    x = np.zeros((n, 1), np.float32)
    return Dataset("made up", x, y, x[:1], y[:1], n_classes=k, y_clean=y if clean else None)


def clouds(n: int, k: int, dimension: int = 3, seed: int = 0) -> Dataset:
    """Gaussian classes in a row, two deviations apart: each overlaps with its neighbours only."""
    rng = generator(seed)
    y = rng.integers(k, size=n)
    x = rng.normal(size=(n, dimension)).astype(np.float32)
    x[:, 0] += 2 * y
    return Dataset("clouds", x, y, x[:1], y[:1], n_classes=k, y_clean=y)


def regression(n: int, clean: bool = True) -> Dataset:
    y = 1 + generator(9).random((n, 2))
    x = np.zeros((n, 1), np.float32)
    return Dataset("made up", x, y, x[:1], y[:1], n_classes=None, y_clean=y if clean else None)


@given(
    kind=st.sampled_from([*DRAWN_CLASS_KINDS, "input-dependent"]),
    n=st.integers(1, 60),
    k=st.integers(1, 12),
    fraction=st.sampled_from([0.0, 1.0]) | st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_class_noise_for_all_inputs(kind, n, k, fraction, seed):
    data = classes(n, k)
    before = data.y_train.copy()
    if fraction == 0:
        assert add_label_noise(data, kind=kind, fraction=fraction, rng=generator(seed)) is data
        return
    if k == 1 and kind != "uniform":
        with pytest.raises(UsageError, match="needs a second class"):
            add_label_noise(data, kind=kind, fraction=fraction, rng=generator(seed))
        return
    noisy = add_label_noise(data, kind=kind, fraction=fraction, rng=generator(seed))
    again = add_label_noise(data, kind=kind, fraction=fraction, rng=generator(seed))
    assert np.array_equal(noisy.y_train, again.y_train) and np.array_equal(noisy.assigned, again.assigned)
    assert np.array_equal(data.y_train, before) and np.array_equal(noisy.y_clean, before)
    assert noisy.y_train.dtype == np.int64 and 0 <= noisy.y_train.min() <= noisy.y_train.max() < k
    assert noisy.assigned.dtype == bool and noisy.assigned.sum() == round(fraction * n)
    assert np.array_equal(noisy.wrong, noisy.y_train != before)
    assert not np.any(noisy.wrong & ~noisy.assigned)
    assert noisy.x_train is data.x_train and noisy.y_test is data.y_test
    if kind != "uniform":
        assert np.array_equal(noisy.wrong, noisy.assigned)
    if kind == "pair-flip":
        assert np.array_equal(noisy.y_train, (before + noisy.assigned) % k)


@pytest.mark.parametrize("kind", DRAWN_CLASS_KINDS)
@pytest.mark.parametrize("k", [2, 3, 10])
@pytest.mark.parametrize("fraction", [0.25, 1.0])
def test_new_labels_follow_the_transition_matrix(kind, k, fraction):
    """Chi-square of the chosen samples' new labels, row by row; false-positive rate 1e-6 a row."""
    data = classes(20_000, k)
    noisy = add_label_noise(data, kind=kind, fraction=fraction, rng=generator(4))
    # the number of chosen samples is exact, so it is the chosen ones that follow the matrix of fraction 1
    matrix = transition_matrix(kind, 1.0, k)
    changed = noisy.assigned
    for old in range(k):
        counts = np.bincount(noisy.y_train[changed & (data.y_clean == old)], minlength=k)
        possible = matrix[old] > 0
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            assert chisquare(counts[possible], counts.sum() * matrix[old][possible]).pvalue > 1e-6


@pytest.mark.parametrize("kind", DRAWN_CLASS_KINDS)
def test_samples_are_chosen_whatever_their_class(kind):
    """Transitions of all samples against the matrix of the fraction, rate 1e-6 a row (the exact number chosen
    only narrows the spread)."""
    data = classes(30_000, 4)
    noisy = add_label_noise(data, kind=kind, fraction=0.3, rng=generator(5))
    matrix = transition_matrix(kind, 0.3, 4)
    for old in range(4):
        counts = np.bincount(noisy.y_train[data.y_clean == old], minlength=4)
        possible = matrix[old] > 0
        assert chisquare(counts[possible], counts.sum() * matrix[old][possible]).pvalue > 1e-6


def test_a_given_matrix_is_followed():
    """Chi-square row by row, false-positive rate 1e-6 a row."""
    matrix = np.array([[0.7, 0.3, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    data = classes(20_000, 3)
    noisy = add_label_noise(data, kind="transition", fraction=None, rng=generator(1), transition=matrix)
    for old in range(3):
        counts = np.bincount(noisy.y_train[data.y_clean == old], minlength=3)
        possible = matrix[old] > 0
        assert counts[~possible].sum() == 0
        if possible.sum() > 1:
            assert chisquare(counts[possible], counts.sum() * matrix[old][possible]).pvalue > 1e-6
    assert np.array_equal(noisy.assigned, noisy.wrong)


@given(st.sampled_from(DRAWN_CLASS_KINDS), st.floats(0, 1), st.integers(2, 20))
def test_transition_matrices_are_stochastic(kind, fraction, k):
    matrix = transition_matrix(kind, fraction, k)
    assert matrix.shape == (k, k) and np.all(matrix >= 0) and np.allclose(matrix.sum(axis=1), 1)
    right = 1 - fraction * (1 - 1 / k if kind == "uniform" else 1)
    assert np.allclose(np.diag(matrix), right)
    if kind == "pair-flip":
        assert np.allclose(matrix[np.arange(k), (np.arange(k) + 1) % k], fraction)


def test_transition_matrix_refuses():
    assert transition_matrix("uniform", 0.5, 1).tolist() == [[1.0]]
    with pytest.raises(UsageError, match="second class"):
        transition_matrix("pair-flip", 0.5, 1)
    with pytest.raises(UsageError, match="'redraw' is not known"):
        transition_matrix("redraw", 0.5, 3)
    with pytest.raises(UsageError, match="fraction"):
        transition_matrix("uniform", 2, 3)


@given(n=st.integers(2, 40), fraction=st.floats(0, 1), seed=st.integers(0, 2**32))
@settings(deadline=None)
def test_regression_noise_for_all_inputs(n, fraction, seed):
    data = regression(n).with_labels(regression(n).y_train, None, None)
    if fraction == 0:
        assert add_label_noise(data, kind="redraw", fraction=fraction, rng=generator(seed)) is data
        return
    flipped = add_label_noise(data, kind="sign-flip", fraction=fraction, rng=generator(seed))
    sign = np.where(flipped.assigned, -1, 1)[:, None]
    assert np.array_equal(flipped.y_train, sign * data.y_train)
    assert flipped.wrong.sum() == flipped.assigned.sum() == round(fraction * n)
    drawn = add_label_noise(data, kind="redraw", fraction=fraction, rng=generator(seed))
    assert drawn.assigned.sum() == round(fraction * n)
    assert np.array_equal(drawn.wrong, drawn.assigned)  # all targets differ here, and none gets its own
    own = {row.tobytes() for row in data.y_train}
    assert all(row.tobytes() in own for row in drawn.y_train)


def test_redraw_is_uniform_over_the_others():
    """Chi-square over the five possible targets of one sample, false-positive rate 1e-6."""
    data = regression(6)
    rng = generator(0)
    draws = [add_label_noise(data, kind="redraw", fraction=1, rng=rng).y_train[2] for _ in range(1000)]
    counts = np.array([[np.array_equal(draw, row) for row in data.y_train] for draw in draws]).sum(axis=0)
    assert counts[2] == 0 and chisquare(np.delete(counts, 2)).pvalue > 1e-6


def test_redraw_and_sign_flip_may_leave_a_target_right():
    data = regression(4).with_labels(np.zeros((4, 1)), np.zeros((4, 1)), None)
    for kind, assigned in (("redraw", 4), ("sign-flip", 0)):
        noisy = add_label_noise(data, kind=kind, fraction=1, rng=generator())
        assert noisy.wrong.sum() == 0 and noisy.assigned.sum() == assigned


@given(
    n=st.integers(1, 40),
    k=st.integers(2, 6),
    dimension=st.sampled_from([1, 3, 150]),
    constant=st.booleans(),
    fraction=st.floats(0.01, 1),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_input_dependent_noise_for_all_inputs(n, k, dimension, constant, fraction, seed):
    """Few samples in many dimensions, tiny and missing classes, features that do not vary."""
    data = clouds(n, k, dimension, seed)
    data.x_train[:, -1] = 7.0
    if constant:
        data.x_train[:] = -1e6
    noisy = add_label_noise(data, kind="input-dependent", fraction=fraction, rng=generator(seed))
    again = add_label_noise(data, kind="input-dependent", fraction=fraction, rng=generator(seed))
    assert np.array_equal(noisy.y_train, again.y_train)
    assert noisy.wrong.sum() == noisy.assigned.sum() == round(fraction * n)
    assert noisy.y_train.dtype == np.int64 and 0 <= noisy.y_train.min() <= noisy.y_train.max() < k
    found = confusion_probabilities(data.x_train, data.y_clean, k, generator(seed))
    assert found.shape == (n, k) and np.all(found > 0) and np.allclose(found.sum(axis=1), 1)


def test_input_dependent_noise_lies_where_classes_overlap():
    """Clouds in a row: the chosen samples are nearer to the next class than the others (one-sided rank test, rate
    1e-6), and a sample beyond its class mean gets the label on that side more often than not (binomial test, 1e-6)."""
    data = clouds(4000, 5)
    noisy = add_label_noise(data, kind="input-dependent", fraction=0.1, rng=generator(1))
    beyond = data.x_train[:, 0] - 2 * data.y_clean
    inner = (data.y_clean > 0) & (data.y_clean < 4)
    distance = np.abs(beyond)
    assert (
        mannwhitneyu(distance[inner & noisy.wrong], distance[inner & ~noisy.wrong], alternative="greater").pvalue < 1e-6
    )
    moved = noisy.y_train[inner & noisy.wrong] - data.y_clean[inner & noisy.wrong]
    right_side = int(np.sum(np.sign(moved) == np.sign(beyond[inner & noisy.wrong])))
    assert binomtest(right_side, len(moved), alternative="greater").pvalue < 1e-6
    assert np.mean(np.abs(moved) == 1) > 0.9


def test_input_dependent_noise_is_even_where_nothing_distinguishes_samples():
    """Constant inputs: which sample is chosen, and which other class it gets; chi-square, rate 1e-6 each."""
    y, rng = np.arange(15) % 3, generator(2)
    draws = np.array([plausible_mistakes(np.zeros((15, 2)), y, 3, 1, rng) for _ in range(1500)])
    changed = draws != y
    assert np.all(changed.sum(axis=1) == 1) and chisquare(changed.sum(axis=0)).pvalue > 1e-6
    steps = (draws - y)[changed] % 3
    assert chisquare(np.bincount(steps, minlength=3)[1:]).pvalue > 1e-6


def test_input_dependent_noise_is_wrong_against_the_right_labels():
    data = clouds(200, 3)
    spoilt = add_label_noise(data, kind="uniform-other", fraction=0.3, rng=generator(3))
    noisy = add_label_noise(spoilt, kind="input-dependent", fraction=0.2, rng=generator(4))
    alone = add_label_noise(data, kind="input-dependent", fraction=0.2, rng=generator(4))
    assert np.array_equal(noisy.y_train[alone.wrong], alone.y_train[alone.wrong])
    assert np.array_equal(noisy.y_train[~alone.wrong], spoilt.y_train[~alone.wrong])
    assert np.array_equal(noisy.wrong, spoilt.wrong | alone.wrong)


def test_classes_of_one_sample():
    data = clouds(60, 3)
    y = np.array([3, *data.y_train[1:]])
    data = Dataset("clouds", data.x_train, y, data.x_test, data.y_test, n_classes=4, y_clean=y)
    noisy = add_label_noise(data, kind="input-dependent", fraction=0.1, rng=generator(5))
    assert noisy.wrong.sum() == 6
    with pytest.raises(UsageError, match="'input-dependent' needs a second class"):
        add_label_noise(classes(9, 1), kind="input-dependent", fraction=0.5, rng=generator())


def test_one_sample():
    """Uniform noise on one sample of two classes is wrong half the time: binomial test, rate 1e-6."""
    rng = generator(0)
    wrong = sum(add_label_noise(classes(1, 2), kind="uniform", fraction=1, rng=rng).wrong[0] for _ in range(400))
    assert binomtest(int(wrong), 400).pvalue > 1e-6
    with pytest.raises(UsageError, match="there is only one"):
        add_label_noise(regression(1), kind="redraw", fraction=1, rng=rng)
    assert not add_label_noise(regression(1), kind="redraw", fraction=0, rng=rng).wrong.any()


@pytest.mark.parametrize("kind", [*DRAWN_CLASS_KINDS, "input-dependent", *REGRESSION_KINDS])
def test_no_noise_claims_nothing_of_unknown_labels(kind):
    known = regression(5) if kind in REGRESSION_KINDS else classes(5, 3)
    unknown = known.with_labels(known.y_train, None, None)
    quiet = add_label_noise(unknown, kind=kind, fraction=0, rng=generator())
    assert quiet.y_clean is None and quiet.wrong is None and quiet.assigned is None
    right = add_label_noise(known, kind=kind, fraction=0, rng=generator())
    assert not right.wrong.any() and right.assigned is None
    noisy = add_label_noise(unknown, kind=kind, fraction=0.6, rng=generator())
    assert np.array_equal(noisy.y_clean, unknown.y_train) and noisy.assigned.sum() == 3


def test_wrongness_is_judged_by_the_known_right_labels():
    clean = np.zeros(6, np.int64)
    data = classes(6, 2).with_labels(np.array([0, 0, 0, 1, 1, 1]), clean, None)
    noisy = add_label_noise(data, kind="pair-flip", fraction=1, rng=generator())
    assert noisy.y_train.tolist() == [1, 1, 1, 0, 0, 0] and noisy.wrong.tolist() == [True] * 3 + [False] * 3
    assert np.array_equal(noisy.assigned, noisy.wrong)
    given_labels = add_label_noise(data, kind="given", fraction=None, rng=generator(), labels=[0, 1] * 3)
    assert given_labels.wrong.tolist() == [False, True] * 3


def test_noise_twice_remembers_both():
    once = add_label_noise(classes(40, 5), kind="uniform", fraction=0.5, rng=generator(1))
    twice = add_label_noise(once, kind="uniform", fraction=0.5, rng=generator(2))
    assert np.all(twice.assigned >= once.assigned) and twice.assigned.sum() > 20
    assert np.array_equal(twice.y_clean, once.y_clean)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.int32, np.float64, bool])
def test_given_labels(dtype):
    data = classes(6, 2, clean=False)
    labels = (1 - data.y_train).astype(dtype)
    labels[0] = data.y_train[0]
    noisy = add_label_noise(data, kind="given", fraction=0, rng=generator(), labels=labels)
    assert noisy.y_train.dtype == np.int64 and np.array_equal(noisy.y_clean, data.y_train)
    assert noisy.wrong.tolist() == noisy.assigned.tolist() == [False] + [True] * 5


def test_given_targets():
    data = regression(3)
    noisy = add_label_noise(data, kind="given", fraction=None, rng=generator(), labels=np.zeros((3, 2)))
    assert noisy.wrong.all() and noisy.y_train.dtype == np.float64
    single = regression(3).with_labels(np.ones((3, 1)), None, None)
    noisy = add_label_noise(single, kind="given", fraction=None, rng=generator(), labels=np.array([1, 2, 1]))
    assert noisy.y_train.shape == (3, 1) and noisy.wrong.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(kind="unifrom"), "'unifrom' is not known.*did you mean 'uniform'"),
        (dict(kind="uniform", fraction=None), "needs a fraction"),
        (dict(kind="uniform", fraction=1.01), "fraction of label noise.*at most 1, not 1.01"),
        (dict(kind="uniform", fraction=-0.1), "not -0.1"),
        (dict(kind="uniform", fraction=float("nan")), "not nan"),
        (dict(kind="uniform", fraction="half"), "not 'half'"),
        (dict(kind="uniform", fraction=True), "not True"),
        (dict(kind="transition", fraction=None), "needs transition"),
        (dict(kind="transition", fraction=0.3, transition=np.eye(3)), "leave the fraction out"),
        (dict(kind="given", fraction=0.3, labels=np.zeros(5, int)), "leave the fraction out"),
        (dict(kind="given", fraction=None), "needs labels"),
        (dict(kind="uniform", transition=np.eye(3)), "transition.*no effect with label noise kind 'uniform'"),
        (dict(kind="uniform", labels=np.zeros(5, int)), "labels have no effect.*use kind 'given'"),
        (
            dict(kind="given", fraction=None, labels=np.zeros(4, int)),
            r"\(4,\).*5 training samples.*train_size",
        ),
        (dict(kind="given", fraction=None, labels=np.array(1)), "5 training samples"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(UsageError, match=words):
        add_label_noise(classes(5, 3), rng=generator(), **{"fraction": 0.5, **settings})


def test_kinds_are_for_classes_or_for_regression():
    assert set(CLASS_KINDS) | set(REGRESSION_KINDS) | {"given"} == set(NOISE_KINDS)
    for kind in CLASS_KINDS:
        transition = np.eye(3) if kind == "transition" else None
        with pytest.raises(UsageError, match=f"{kind}.*is for classes.*use one of redraw, sign-flip, given"):
            add_label_noise(regression(5), kind=kind, fraction=0.5, rng=generator(), transition=transition)
    for kind in ("uniform", "pair-flip"):  # no noise fits everything
        assert not add_label_noise(regression(5), kind=kind, fraction=0, rng=generator()).wrong.any()
    for kind in REGRESSION_KINDS:
        with pytest.raises(UsageError, match=f"{kind}.*is for regression.*use one of uniform"):
            add_label_noise(classes(5, 3), kind=kind, fraction=0.5, rng=generator())


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(2), "3x3"),
        (np.ones((3, 3)), "row 0.*sum 3"),
        (np.array([[1, 0, 0], [1.5, -0.5, 0], [0, 0, 1]]), "row 1.*least entry -0.5"),
        (np.full((3, 3), np.nan), "9 value"),
        (np.full((3, 3), "a"), "real numbers"),
    ],
)
def test_bad_matrices_are_refused(matrix, words):
    with pytest.raises(InputError, match=words):
        add_label_noise(classes(5, 3), kind="transition", fraction=None, rng=generator(), transition=matrix)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1, 2, 3, 0], r"label 3 at index \[3\].*outside 0..2"),
        ([0, 1, -1, 0, 0], r"label -1 at index \[2\]"),
        ([0, 1, 0.5, 0, 0], "one whole number per sample"),
        ([0, 1, np.nan, 0, 0], "one whole number per sample"),
        ([[0]] * 5, "one whole number per sample"),
        (list("abcde"), "give numbers"),
    ],
)
def test_bad_given_labels_are_refused(labels, words):
    with pytest.raises(InputError, match=words):
        add_label_noise(classes(5, 3), kind="given", fraction=None, rng=generator(), labels=labels)


def test_bad_given_targets_are_refused():
    with pytest.raises(InputError, match="as many values"):
        add_label_noise(regression(3), kind="given", fraction=None, rng=generator(), labels=np.zeros(3))
    with pytest.raises(InputError, match="NaN"):
        labels = np.full((3, 2), np.nan)
        add_label_noise(regression(3), kind="given", fraction=None, rng=generator(), labels=labels)
