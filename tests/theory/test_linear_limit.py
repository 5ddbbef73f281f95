"""The limit of many samples and dimensions against the Marchenko-Pastur law and against finite data sets."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from threadpoolctl import threadpool_limits

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.theory.linear.flow import flow
from sgdphases.theory.linear.limit import NAMES, effective_ridge, flow_limit
from sgdphases.theory.linear.predictions import predictions

LIMITED = ("loss", "loss_c", "loss_w", "test_loss", "directed_activity")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Thousands of small decompositions: threads of BLAS would only wait for each other."""
    with threadpool_limits(1):
        yield


def marchenko_pastur(ratio, points=2000):
    """Eigenvalues of H for unit covariance and their weights (Gauss-Chebyshev), and the share of zeros."""
    low, high = (1 - np.sqrt(ratio)) ** 2, (1 + np.sqrt(ratio)) ** 2
    angle = (np.arange(points) + 0.5) * np.pi / points
    h = (low + high) / 2 + (high - low) / 2 * np.cos(angle)
    density = (high - low) / 2 * np.sin(angle) / (2 * np.pi * ratio * h)
    return h, density * (high - low) / 2 * np.sin(angle) * np.pi / points, max(0.0, 1 - 1 / ratio)


def isotropic(time, ratio, rho, zeta=1.0):
    """All predictions by integrals over the density."""
    h, weight, null = marchenko_pastur(ratio)
    c, noise = 1 - 2 * rho, 4 * rho * (1 - rho) * zeta

    def samples(values, at_zero):  # Tr f(K) / N
        return ratio * values @ weight + (1 - ratio * (1 - null)) * at_zero

    fading, twice = np.exp(-h * time), np.exp(-2 * h * time)
    kept, overlap = samples(fading, 1.0), c * (h * fading) @ weight
    loss = (c**2 * zeta * (h * twice) @ weight + noise * samples(twice, 1.0)) / 2
    rest = loss - (noise * kept**2 + zeta * overlap**2) / 2
    missed = zeta * ((1 - c * (1 - fading)) ** 2 @ weight + null)
    return {
        "loss": loss,
        "loss_c": zeta * ((1 - c) * kept + overlap) ** 2 / 2 + rest,
        "loss_w": zeta * (-(1 + c) * kept + overlap) ** 2 / 2 + rest,
        "test_loss": (missed + noise * ratio * ((1 - fading) ** 2 / h) @ weight) / 2,
        "directed_activity": c**2 * zeta * (h**2 * twice) @ weight + noise * samples(h * twice, 0.0),
    }


@pytest.mark.parametrize("ratio", [0.02, 0.25, 0.9, 1.0, 1.1, 4.0, 30.0])
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.7])
def test_isotropic_inputs_follow_the_marchenko_pastur_law(ratio, rho):
    times = [0, 1e-6, 0.01, 0.2, 1, 3, 10, 100, 1e4]
    found = flow_limit(times, np.ones(6), np.full(6, 0.5), 6 / ratio, rho)
    expected = [isotropic(time, ratio, rho, zeta=3.0) for time in times]
    for name in LIMITED:
        np.testing.assert_allclose(found[name], [one[name] for one in expected], rtol=1e-9, atol=1e-11, err_msg=name)


@given(st.floats(-6, 6), st.floats(-0.95, 0.95), st.floats(-2, 2))
def test_the_effective_ridge_of_isotropic_inputs_solves_its_quadratic(log_size, angle, log_ratio):
    ridge, ratio = 10**log_size * np.exp(1j * np.pi * angle), 10**log_ratio
    found = effective_ridge([ridge], [1.0], 1 / ratio)[0]
    # kappa^2 + kappa (1 - ratio - ridge) - ridge = 0; of its two solutions one is in the half-plane of the ridge
    scale = abs(found) ** 2 + abs(found * (1 - ratio - ridge)) + abs(ridge)
    assert abs(found**2 + found * (1 - ratio - ridge) - ridge) <= 1e-11 * scale
    assert found.real > 0 if abs(angle) < 1e-9 else found.imag * ridge.imag > 0


@given(st.integers(0, 2**32 - 1), st.floats(-6, 3), st.floats(-0.95, 0.95))
def test_the_effective_ridge_solves_its_equation(seed, log_size, angle):
    rng = np.random.default_rng(seed)
    spectrum, n = rng.exponential(size=20) ** 3, rng.uniform(2, 60)
    ridge = 10**log_size * np.exp(1j * np.pi * angle)
    kappa = effective_ridge([ridge, ridge.conjugate()], spectrum, n)
    right = ridge + kappa[0] * (spectrum / (spectrum + kappa[0])).sum() / n
    assert abs(kappa[0] - right) <= 1e-11 * (abs(kappa[0]) + abs(ridge))
    assert kappa[1] == pytest.approx(kappa[0].conjugate(), rel=1e-9)


def test_the_effective_ridge_is_the_resolvent_of_a_large_data_set():
    rng = np.random.default_rng(0)
    spectrum, n = np.arange(1, 401) ** -0.7, 600
    x = rng.normal(size=(n, 400)) * np.sqrt(spectrum)
    values = np.linalg.eigvalsh(x @ x.T / n)
    for ridge in (0.01, 0.1, 0.2 + 0.3j, -0.2 + 0.3j):
        found = effective_ridge([ridge], spectrum, n)[0]
        assert abs(found * (1 / (values + ridge)).mean() - 1) < 0.01


def power_law(exponent, teacher_exponent):
    def spectrum(d):
        modes = np.arange(1, d + 1)
        return modes**-exponent, modes**-teacher_exponent

    return spectrum


# Finite data sets. Family-wise rate of false alarms over all settings, times and quantities, after Bonferroni and by
# the normal approximation to means over data sets: 0.27 %, that of three standard errors in a single comparison.
FALSE_ALARMS, TIMES, SIZES, REPEATS = 0.0027, (0.1, 0.4, 1.5, 6.0, 20.0), (20, 80), (1000, 400)
SETTINGS = [
    # rho, d/N, exponents of the eigenvalues and of the squared teacher
    (0.2, 0.5, 0.0, 0.0),
    (0.5, 2.0, 0.0, 0.0),
    (0.3, 2.0, 1.0, 0.0),
    (0.8, 0.5, 0.7, 1.0),
    (0.4, 1.0, 1.5, 0.5),
]
THRESHOLD = norm.isf(FALSE_ALARMS / 2 / (len(SETTINGS) * len(TIMES) * len(LIMITED)))


def deviations(setting, n, repeats):
    """From the limit, in units of zeta, of many data sets of N samples; shape (repeats, quantities, times)."""
    rho, ratio, exponent, teacher_exponent = setting
    spectrum, squared = power_law(exponent, teacher_exponent)(round(ratio * n))
    zeta, teacher, rng = spectrum @ squared, np.sqrt(squared), np.random.default_rng(n)
    limit = flow_limit(TIMES, spectrum, squared, n, rho)
    found = []
    while len(found) < repeats:
        wrong = rng.random(n) < rho
        if wrong.all() or not wrong.any():
            continue
        x = rng.normal(size=(n, len(spectrum))) * np.sqrt(spectrum)
        clean = x @ teacher
        w = flow(x, np.where(wrong, -clean, clean), TIMES)
        one = predictions(x, np.where(wrong, -clean, clean), w, 1, wrong=wrong)
        one["test_loss"] = (w - teacher) ** 2 @ spectrum / 2
        found.append([(one[name] - limit[name]) / zeta for name in LIMITED])
    return np.array(found)


@pytest.fixture(scope="module", params=range(len(SETTINGS)))
def finite(request, one_thread):
    """Exponent of the eigenvalues, and deviations of small and of large data sets."""
    setting = SETTINGS[request.param]
    return setting[2], *(deviations(setting, n, repeats) for n, repeats in zip(SIZES, REPEATS, strict=True))


def extrapolated(small, large):
    """Mean deviation with its part of order 1/N removed, and the standard error."""
    factor = SIZES[1] / SIZES[0]
    errors = [part.std(axis=0, ddof=1) / np.sqrt(len(part)) for part in (small, large)]
    mean = (factor * large.mean(axis=0) - small.mean(axis=0)) / (factor - 1)
    return mean, np.sqrt((factor * errors[1]) ** 2 + errors[0] ** 2) / (factor - 1)


def test_finite_data_sets_extrapolate_to_the_limit(finite):
    mean, error = extrapolated(*finite[1:])
    assert error.max() < 0.05  # of the clean targets' variance
    assert (np.abs(mean) < THRESHOLD * error).all(), np.abs(mean / error).max(axis=1)


def test_single_data_sets_approach_the_limit_as_the_root_of_their_size(finite):
    # By the median, as a few small data sets are far off; under a power law the limit itself changes with d.
    small, large = (np.median(np.abs(part), axis=0).mean(axis=1) for part in finite[1:])
    low, high = (0.85, 1.2) if finite[0] == 0 else (0.6, 1.7)
    ratio = small / large / np.sqrt(SIZES[1] / SIZES[0])
    assert ((low < ratio) & (ratio < high)).all(), ratio


def test_the_extrapolation_finds_predictions_that_are_off_by_a_fifth(finite):
    mean, error = extrapolated(*(part[:, :, :2] for part in finite[1:]))
    fault = np.array([[0.1]] * 4 + [[0.2]])  # losses start at 1/2, the directed activity not below 1
    for wrong in (mean + fault, mean - fault):
        assert (np.abs(wrong) > THRESHOLD * error).any(axis=1).all()


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 50))
def test_identities(seed, rho, time):
    rng = np.random.default_rng(seed)
    spectrum, squared, n = rng.exponential(size=9), rng.exponential(size=9), rng.uniform(2, 40)
    step = 1e-3 * (1 + time)
    times = [0.0, time, time + step, time + 2 * step]
    found = flow_limit(times, spectrum, squared, n, rho)
    zeta = spectrum @ squared
    assert found["loss"][0] == pytest.approx(zeta / 2)
    assert found["test_loss"][0] == pytest.approx(zeta / 2)
    # The flow loses loss at the rate of the squared gradient.
    lost = (found["loss"][1] - found["loss"][3]) / (2 * step)
    assert lost == pytest.approx(found["directed_activity"][2], rel=1e-2, abs=1e-8 * zeta)
    if 0 < rho < 1:
        mixed = (1 - rho) * found["loss_c"] + rho * found["loss_w"]
        np.testing.assert_allclose(mixed, found["loss"], atol=1e-11 * zeta)
    # One scale for all inputs is one for the teacher and for time.
    scaled = flow_limit(np.divide(times, 4), 4 * spectrum, squared / 4, n, rho)
    np.testing.assert_allclose(scaled["test_loss"], found["test_loss"], atol=1e-9 * zeta)
    # Only shares of 1/N count.
    doubled = flow_limit(times, np.tile(spectrum, 2), np.tile(squared, 2) / 2, 2 * n, rho)
    np.testing.assert_allclose(doubled["loss_c"], found["loss_c"], atol=1e-9 * zeta)
    # Turning every label turns the task.
    turned = flow_limit(times, spectrum, squared, n, 1 - rho)
    np.testing.assert_allclose(turned["loss_w"], found["loss_c"], atol=1e-9 * zeta)


def test_label_noise_turns_the_test_loss_near_as_many_samples_as_dimensions():
    times = np.logspace(-1, 4, 40)
    clean = flow_limit(times, np.ones(3), np.ones(3), 3.0, 0.0)["test_loss"]
    noisy = flow_limit(times, np.ones(3), np.ones(3), 3.0, 0.2)["test_loss"]
    assert (np.diff(clean) < 0).all() and clean[-1] < 0.05
    lowest = noisy.argmin()
    assert 0 < lowest < 39 and noisy[-1] > 2 * noisy[lowest]


def test_more_samples_than_anything_give_the_population():
    times, spectrum, squared = np.array([0.0, 0.5, 3.0]), np.array([1.0, 0.2, 0.0]), np.array([0.5, 2.0, 1.0])
    found = flow_limit(times, spectrum, squared, 1e12, 0.25)
    kept = np.exp(-np.outer(times, spectrum))
    power = spectrum * squared
    np.testing.assert_allclose(found["test_loss"], (1 - 0.5 * (1 - kept)) ** 2 @ power / 2, rtol=1e-9)
    np.testing.assert_allclose(found["directed_activity"], (0.5 * spectrum * kept) ** 2 @ squared, rtol=1e-9)
    np.testing.assert_allclose(found["loss_w"], (1 + 0.5 * (1 - kept)) ** 2 @ power / 2, rtol=1e-9)


@pytest.mark.parametrize("rho, absent", [(0.0, "w"), (1.0, "c")])
def test_a_population_without_samples_has_no_loss(rho, absent):
    found = flow_limit([0.0, 2.0], [1.0, 0.5], [1.0, 1.0], 3, rho)
    assert np.isnan(found[f"loss_{absent}"]).all()
    there = "c" if absent == "w" else "w"
    np.testing.assert_allclose(found[f"loss_{there}"], found["loss"], rtol=1e-12)
    if rho == 0:
        assert found["test_loss"][1] < found["test_loss"][0]


def test_names_are_those_of_the_project_and_no_times_give_no_rows():
    assert NAMES == LIMITED
    assert set(NAMES) <= set(describe()) | {"test_loss"}
    assert all(values.shape == (0,) for values in flow_limit([], [1.0], [1.0], 2, 0.1).values())


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: flow_limit([-1.0], [1.0], [1.0], 2, 0.1), r"times = \[-1.\]: give"),
        (lambda: flow_limit([np.inf], [1.0], [1.0], 2, 0.1), "times = "),
        (lambda: flow_limit(1.0, [1.0], [1.0], 2, 0.1), "times = 1.0: give a list"),
        (lambda: flow_limit([1.0], [-1.0], [1.0], 2, 0.1), r"eigenvalues = \[-1.\]"),
        (lambda: flow_limit([1.0], [1.0], [np.nan], 2, 0.1), "squared_teacher = "),
        (lambda: flow_limit([1.0], [1.0], [1.0, 2.0], 2, 0.1), r"squared_teacher has shape \(2,\): .*\(1,\)"),
        (lambda: flow_limit([1.0], [1.0, 0.0], [0.0, 1.0], 2, 0.1), "squared_teacher leaves all clean targets zero"),
        (lambda: flow_limit([1.0], [1.0], [1.0], 0, 0.1), "n_samples = 0: give"),
        (lambda: flow_limit([1.0], [1.0], [1.0], 2, 1.1), "noise_fraction = 1.1: choose"),
        (lambda: flow_limit([1.0], [1.0], [1.0], 2, np.nan), "noise_fraction = nan: choose"),
        (lambda: effective_ridge([-1.0], [1.0], 2), "ridge = "),
        (lambda: effective_ridge([0.0], [1.0], 2), "ridge = "),
        (lambda: effective_ridge([np.nan], [1.0], 2), "ridge = "),
    ],
)
def test_bad_input_is_named_with_its_remedy(call, named):
    with pytest.raises(ValueError, match=named):
        call()
