"""Generated data sets: the statistics they promise, and the settings they refuse.

Statistical tests use fixed seeds; each states how often a right program would fail it on a random seed.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from scipy.stats import binomtest, chisquare

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.datasets.covariance import covariance_spectrum, random_directions
from sgdphases.sim.data.datasets.gaussian_mixture import bayes_error, make_gaussian_mixture
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.data.datasets.teacher_student import draw_teacher, make_teacher_student


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@given(st.integers(1, 60), st.floats(0, 4))
def test_power_law_has_mean_one_and_the_exponent(dimension, exponent):
    spectrum = covariance_spectrum(dimension, "power-law", exponent) if exponent != 0 else np.ones(dimension)
    assert spectrum.mean() == pytest.approx(1)
    k = np.arange(1, dimension + 1)
    assert np.allclose(spectrum / spectrum[0], k**-exponent)


@given(st.integers(1, 20), st.integers(1, 20), st.integers(0, 2**32))
def test_directions_are_unit_and_orthonormal_when_there_is_room(count, dimension, seed):
    directions = random_directions(count, dimension, generator(seed))
    overlaps = directions @ directions.T
    assert np.allclose(np.diag(overlaps), 1)
    if count <= dimension:
        assert np.allclose(overlaps, np.eye(count), atol=1e-10)


def test_directions_are_uniform():
    """Signs of a coordinate are even. False-positive rate 1e-6 for each of three counts."""
    first = np.array([random_directions(3, 4, generator(seed))[:, 0] > 0 for seed in range(400)])
    for row in first.T:
        assert binomtest(int(row.sum()), len(row)).pvalue > 1e-6


@given(
    train_size=st.integers(1, 30),
    test_size=st.integers(1, 30),
    classes=st.integers(1, 12),
    dimension=st.integers(2, 15),
    seed=st.integers(0, 2**32),
)
@settings(deadline=None)
def test_mixture_for_all_sizes(train_size, test_size, classes, dimension, seed):
    sizes = dict(train_size=train_size, test_size=test_size)
    options = dict(classes=classes, dimension=dimension)
    data = load_dataset("gaussian-mixture", options=options, rng=generator(seed), **sizes)
    again = load_dataset("gaussian-mixture", options=options, rng=generator(seed), **sizes)
    assert data.x_train.shape == (train_size, dimension) and data.x_train.dtype == np.float32
    assert data.x_test.shape == (test_size, dimension)
    assert data.n_classes == classes and data.y_train.dtype == np.int64
    assert 0 <= data.y_train.min() <= data.y_train.max() < classes
    assert data.wrong is not None and not data.wrong.any()
    assert np.array_equal(data.x_train, again.x_train) and np.array_equal(data.y_test, again.y_test)


@pytest.mark.parametrize("covariance", ["isotropic", "power-law"])
def test_mixture_means_and_variances(covariance):
    """Every entry within 6 standard errors: false-positive rate below 20 * 2e-9."""
    data = make_gaussian_mixture(
        generator(), train_size=40_000, classes=4, dimension=10, separation=5, covariance=covariance
    )
    counts = np.bincount(data.y_train)
    means = np.stack([data.x_train[data.y_train == k].mean(axis=0, dtype=float) for k in range(4)])
    spectrum = covariance_spectrum(10, covariance)
    for i in range(4):
        for j in range(i):
            gap = means[i] - means[j]
            error = np.sqrt(spectrum.max() * (1 / counts[i] + 1 / counts[j]))
            assert abs(np.linalg.norm(gap) - 5) < 6 * error
    residuals = data.x_train - means[data.y_train]
    variances = (residuals.astype(float) ** 2).sum(axis=0) / (40_000 - 4)
    assert np.all(np.abs(variances / spectrum - 1) < 6 * np.sqrt(2 / 40_000))


def test_mixture_imbalance():
    """Chi-square of the class counts against the geometric frequencies, false-positive rate 1e-6."""
    data = make_gaussian_mixture(generator(), train_size=20_000, classes=5, dimension=5, imbalance=16)
    frequency = np.array([16, 8, 4, 2, 1]) / 31
    assert chisquare(np.bincount(data.y_train, minlength=5), 20_000 * frequency).pvalue > 1e-6


def test_mixture_bayes_error():
    """The nearest mean errs as often as the closed form says; binomial test, false-positive rate 1e-6."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    data = make_gaussian_mixture(generator(), train_size=60_000, test_size=30_000, dimension=12, separation=4)
    best = LinearDiscriminantAnalysis(solver="lsqr").fit(data.x_train, data.y_train)
    errors = int((best.predict(data.x_test) != data.y_test).sum())
    # what 60,000 samples leave unknown of the means costs far less than the test's standard error of 2e-3
    assert binomtest(errors, 30_000, bayes_error(10, 4)).pvalue > 1e-6
    assert bayes_error(2, 2) == pytest.approx(0.15865525393145707)  # two classes: the normal tail at s/2
    assert bayes_error(10, 0) == pytest.approx(0.9)
    assert bayes_error(1, 3) == pytest.approx(0)


@pytest.mark.parametrize("kind", ["linear", "perceptron", "committee"])
@pytest.mark.parametrize("covariance", ["isotropic", "power-law"])
def test_teacher_regression_equals_the_teacher_drawn_first(kind, covariance):
    options = dict(teacher=kind, task="regression", dimension=20, covariance=covariance)
    data = load_dataset("teacher-student", options=options, train_size=300, rng=generator(3))
    teacher = draw_teacher(generator(3), kind, covariance_spectrum(20, covariance))
    assert data.y_train.shape == (300, 1) and data.y_train.dtype == np.float64 and data.n_classes is None
    assert np.allclose(data.y_train, teacher.outputs(data.x_train))
    assert np.allclose(data.y_test, teacher.outputs(data.x_test))
    assert data.wrong is not None and not data.wrong.any() and data.n_outputs == 1


def test_teacher_formulas_and_norms():
    spectrum = covariance_spectrum(8, "power-law")
    x = generator(1).standard_normal((5, 8))
    for kind in ("linear", "perceptron"):
        teacher = draw_teacher(generator(), kind, spectrum, outputs=3)
        w = teacher.weights[:, 0]
        assert np.allclose((w**2 * spectrum).sum(axis=1), 1)
        expected = x @ w.T
        assert np.allclose(teacher.outputs(x), expected if kind == "linear" else np.sign(expected))
    committee = draw_teacher(generator(), "committee", spectrum, outputs=2, units=4)
    for output in range(2):
        w = committee.weights[output]
        assert np.allclose(w @ w.T, np.eye(4))  # T_nm of Saad & Solla 1995
        expected = sum(erf(x @ w[m] / np.sqrt(2)) for m in range(4))
        assert np.allclose(committee.outputs(x)[:, output], expected)


@pytest.mark.parametrize(("kind", "classes"), [("linear", 2), ("perceptron", 2), ("committee", 3), ("linear", 5)])
def test_teacher_classes(kind, classes):
    """All classes occur evenly on average; two classes are the sign. Exact without noise."""
    options = dict(teacher=kind, classes=classes, dimension=30)
    data = load_dataset("teacher-student", options=options, rng=generator(5))
    teacher = draw_teacher(generator(5), kind, np.ones(30), outputs=1 if classes == 2 else classes)
    outputs = teacher.outputs(data.x_train)
    expected = outputs[:, 0] > 0 if classes == 2 else outputs.argmax(axis=1)
    assert np.array_equal(data.y_train, expected) and data.n_classes == classes
    assert set(data.y_train) == set(range(classes))


def test_output_noise_of_regression_is_in_training_targets_only():
    """Variance of 10,000 normals within 6 standard errors: false-positive rate 2e-9."""
    options = dict(task="regression", output_noise=0.5, dimension=10)
    data = load_dataset("teacher-student", options=options, train_size=10_000, rng=generator(7))
    teacher = draw_teacher(generator(7), "linear", np.ones(10))
    noise = data.y_train - teacher.outputs(data.x_train)
    assert abs(noise.var() / 0.25 - 1) < 6 * np.sqrt(2 / 10_000)
    assert np.allclose(data.y_test, teacher.outputs(data.x_test))
    assert not data.wrong.any()


def test_output_noise_of_classes_keeps_the_clean_labels():
    """A linear teacher with noise s errs in arctan(s)/pi of the cases, binomial test, rate 1e-6."""
    options = dict(output_noise=1.0, dimension=10)
    data = load_dataset("teacher-student", options=options, train_size=10_000, rng=generator(7))
    clean = load_dataset(
        "teacher-student", options={**options, "output_noise": 0.0}, train_size=10_000, rng=generator(7)
    )
    assert np.array_equal(data.y_clean, clean.y_train) and np.array_equal(data.y_test, clean.y_test)
    assert binomtest(int(data.wrong.sum()), 10_000, np.arctan(1.0) / np.pi).pvalue > 1e-6


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("gaussian-mixture", {"classes": 0}, "classes must be"),
        ("gaussian-mixture", {"separation": -1.0}, "separation"),
        ("gaussian-mixture", {"separation": float("nan")}, "separation"),
        ("gaussian-mixture", {"imbalance": 0.5}, "imbalance"),
        ("gaussian-mixture", {"dimension": 1}, "dimension=1 has no room"),
        ("gaussian-mixture", {"exponent": 2.0}, "no effect with covariance='isotropic'"),
        ("gaussian-mixture", {"covariance": "power-law", "exponent": -1}, "exponent"),
        ("teacher-student", {"classes": 1}, "classes"),
        ("teacher-student", {"task": "regression", "classes": 3}, "no effect with task='regression'"),
        ("teacher-student", {"teacher_units": 5}, "no effect with teacher='linear'"),
        ("teacher-student", {"teacher": "perceptron", "classes": 3}, "give teacher='linear'"),
        ("teacher-student", {"output_noise": -0.1}, "output_noise"),
        ("teacher-student", {"dimension": 0}, "dimension"),
    ],
)
def test_impossible_options_are_refused(name, options, words):
    with pytest.raises(UsageError, match=words):
        load_dataset(name, options=options, rng=generator())


@pytest.mark.parametrize("make", [make_gaussian_mixture, make_teacher_student])
@pytest.mark.parametrize("setting", ["train_size", "test_size"])
@pytest.mark.parametrize("value", [0, -3, 1.5, True, "many"])
def test_impossible_sizes_are_refused(make, setting, value):
    with pytest.raises(UsageError, match=f"{setting} must be a whole number"):
        make(generator(), **{setting: value})


def test_called_directly_an_unknown_choice_is_refused():
    with pytest.raises(UsageError, match=r"teacher='lineal'.*did you mean 'linear'"):
        make_teacher_student(generator(), teacher="lineal")
    with pytest.raises(UsageError, match="covariance='white'"):
        make_gaussian_mixture(generator(), covariance="white")
