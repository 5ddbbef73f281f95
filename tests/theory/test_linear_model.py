"""Linear regression with corrupted targets: closed forms against iteration, enumeration and simulated SGD."""

import dataclasses
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import definitions, plain_ensemble
from scipy.linalg import expm
from scipy.stats import norm

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.theory.linear.flow import descent, flow
from sgdphases.theory.linear.predictions import predictions
from sgdphases.theory.linear.sgd import WeightMoments, mean_square_radius, sgd_moments

NUMBERS = st.floats(-2, 2, width=32)  # zero inputs, repeated samples and tiny numbers are all among them
QUADRATIC = (
    "loss loss_c loss_w test_loss directed_activity directed_activity_c directed_activity_w "
    "gradient_variance total_variance activity"
).split()


@st.composite
def problems(draw, max_samples=5, max_width=6):
    """Inputs (more of them than samples, too), targets and a start."""
    n, d = draw(st.integers(1, max_samples)), draw(st.integers(1, max_width))
    parts = [draw(hnp.arrays(np.float64, shape, elements=NUMBERS)) for shape in ((n, d), n, d)]
    parts[0][np.abs(parts[0]) < 1e-3] = 0  # a mode that is neither there nor absent has no answer
    return parts


@st.composite
def corrupted(draw, **sizes):
    x, y, w = draw(problems(**sizes))
    return x, y, w, draw(hnp.arrays(np.bool_, len(y)))


def gradient(x, y, w):
    return x.T @ (x @ w - y) / len(x)


def random_problem(n=5, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.normal(size=n), rng.normal(size=d)


@given(problems(), st.floats(0, 20))
def test_flow_solves_its_differential_equation(problem, time):
    x, y, start = problem
    d = len(start)
    generator = np.zeros((d + 1, d + 1))  # of (w, 1)
    generator[:d, :d], generator[:d, d] = -x.T @ x / len(x), x.T @ y / len(x)
    expected = expm(generator * time) @ np.append(start, 1.0)
    np.testing.assert_allclose(flow(x, y, [time], start)[0], expected[:d], atol=1e-9)


@given(problems(), st.floats(0.01, 1.0))
def test_descent_is_what_iteration_gives(problem, learning_rate):
    x, y, start = problem
    w, path = start, [start]
    for _ in range(12):
        w = w - learning_rate * gradient(x, y, w)
        path.append(w)
    found = descent(x, y, [12, 0, 1, 5], learning_rate, start)
    scale = max(1.0, np.abs(path).max())
    np.testing.assert_allclose(found, np.array(path)[[12, 0, 1, 5]], atol=1e-10 * scale)


def test_descent_of_a_million_small_steps_keeps_its_digits():
    x, y = np.array([[1e-3]]), np.array([1.0])
    expected = 1e3 * -np.expm1(10**6 * np.log1p(-1e-8))
    assert descent(x, y, [10**6], 0.01)[0, 0] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("shape", [(8, 3), (3, 8)])
def test_descent_becomes_the_flow_in_proportion_to_the_learning_rate(shape):
    x, y, start = random_problem(*shape)
    target = flow(x, y, [3.0], start)
    gaps = [np.abs(descent(x, y, [round(3 / rate)], rate, start) - target).max() for rate in (0.01, 0.005, 0.0025)]
    assert gaps[0] < 0.05
    np.testing.assert_allclose([gaps[0] / gaps[1], gaps[1] / gaps[2]], 2, rtol=0.05)


@given(problems())
def test_flow_ends_in_the_nearest_least_squares_solution_and_leaves_the_null_space_alone(problem):
    x, y, start = problem
    assume(np.linalg.cond(x[:, np.abs(x).sum(axis=0) > 0]) < 1e3 if x.any() else True)
    expected = start + np.linalg.pinv(x, rcond=1e-9) @ (y - x @ start)
    found = flow(x, y, [np.inf], start)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    null = np.eye(len(start)) - np.linalg.pinv(x, rcond=1e-9) @ x
    for moved in (found, descent(x, y, [7], 0.1, start)[0], sgd_moments(x, y, [7], 0.1, 1, start).mean[0]):
        np.testing.assert_allclose(null @ (moved - start), 0, atol=1e-7)


def every_run(x, y, start, learning_rate, batch_size, steps):
    """Weights of all runs of SGD, one for each sequence of minibatches: all equally likely."""
    runs = [start]
    for _ in range(steps):
        batches = [list(batch) for batch in product(range(len(x)), repeat=batch_size)]
        runs = [w - learning_rate * gradient(x[b], y[b], w) for w in runs for b in batches]
    return np.array(runs)


@settings(max_examples=40)
@given(problems(max_samples=3, max_width=4), st.sampled_from([(1, 4), (2, 2), (3, 1)]), st.floats(0.05, 0.5))
def test_moments_are_averages_over_every_run(problem, sizes, learning_rate):
    x, y, start = problem
    batch_size, steps = sizes
    runs = every_run(x, y, start, learning_rate, batch_size, steps)
    found = sgd_moments(x, y, [steps, 0], learning_rate, batch_size, start)
    scale = max(1.0, (runs**2).max())
    np.testing.assert_allclose(found.mean, [runs.mean(axis=0), start], atol=1e-11 * scale)
    covariance = found.basis.T @ found.covariance[0] @ found.basis
    expected = np.cov(runs.T, bias=True).reshape(covariance.shape)
    np.testing.assert_allclose(covariance, expected, atol=1e-11 * scale)
    assert not found.covariance[1].any()
    np.testing.assert_allclose(found.basis @ found.basis.T, np.eye(len(found.basis)), atol=1e-12)


@pytest.mark.parametrize("batch_size, steps", [(1, 4), (2, 2)])
def test_expectations_over_every_run(batch_size, steps):
    x, y, start = random_problem(4, 3)
    wrong, test = np.array([True, False, False, True]), random_problem(6, 3, seed=1)[:2]
    runs = every_run(x, y, start, 0.4, batch_size, steps)
    options = dict(batch_size=3, wrong=wrong, test=test)
    each = predictions(x, y, runs, **options)
    moments = sgd_moments(x, y, [steps], 0.4, batch_size, start)
    found = predictions(x, y, moments, **options)
    for name in QUADRATIC:
        assert found[name][0] == pytest.approx(each[name].mean(), rel=1e-10), name
    residual = runs @ x.T - y
    tables = residual[:, :, None] * x  # (run, sample, d)
    g, g_c, g_w = tables.mean(axis=1), tables[:, ~wrong].mean(axis=1), tables[:, wrong].mean(axis=1)
    for name, one, other in (("alignment_cw", g_c, g_w), ("alignment_ac", g, g_c), ("alignment_aw", g, g_w)):
        inner = [(a * b).sum(axis=1).mean() for a, b in ((one, other), (one, one), (other, other))]
        assert found[name][0] == pytest.approx(inner[0] / np.sqrt(inner[1] * inner[2]), rel=1e-9), name
    directed, outer = found["directed_activity"][0], g.T @ g / len(runs)
    second = np.einsum("rij,rik->jk", tables, tables) / tables.shape[0] / tables.shape[1]
    along = np.trace((second - outer) @ outer) / 3
    assert found["projection_variance"][0] == pytest.approx(along / directed**2, rel=1e-9)
    assert found["gradient_noise_scale"][0] == pytest.approx(each["gradient_variance"].mean() / directed, rel=1e-9)
    full = moments.basis.T @ moments.covariance @ moments.basis
    again = predictions(x, y, WeightMoments(moments.mean, full, np.eye(full.shape[-1])), **options)
    np.testing.assert_allclose([again[name][0] for name in found], [found[name][0] for name in found], rtol=1e-9)


@given(corrupted(max_samples=4), st.integers(1, 4), st.booleans())
def test_predictions_at_weights_are_the_definitions(case, batch_size, replacement):
    x, y, w, wrong = case
    batch_size = min(batch_size, len(x))
    found = predictions(x, y, [w], batch_size, wrong=wrong, replacement=replacement, test=(x[::-1], y))
    found = {name: values[0] for name, values in found.items()}
    assert set(found) <= set(describe()) | {"test_loss"}
    residual = x @ w - y
    table = residual[:, None] * x
    scale = (table**2).sum(axis=1).max()
    expected = definitions(plain_ensemble(table, batch_size, replacement))
    expected |= {"loss": (residual**2).mean() / 2, "noise_fraction": wrong.mean()}
    expected |= {"gradient_variance": np.trace(np.atleast_2d(np.cov(table.T, bias=True)))}
    expected |= {"test_loss": ((x[::-1] @ w - y) ** 2).mean() / 2}
    for name in ("activity", "directed_activity", "total_variance", "loss", "test_loss", "gradient_variance"):
        limit = 1e-12 * (1 + scale + expected["loss"] + expected["test_loss"])
        assert abs(found[name] - expected[name]) <= limit, name
    if found["directed_activity"] > 1e-6 * scale:
        split = ("orthogonal_activity", "parallel_activity", "parallel_variance")
        assert all(abs(found[name] - expected[name]) <= 1e-9 * scale for name in split)
        condition = (1 + scale / found["directed_activity"]) ** 2
        assert abs(found["projection_variance"] - expected["projection_variance"]) <= 1e-11 * condition
        noise_scale = expected["gradient_variance"] / expected["directed_activity"]
        assert abs(found["gradient_noise_scale"] - noise_scale) <= 1e-11 * condition
        aligned = expected["directed_activity"] / expected["activity"]
        assert found["aligned_fraction"] == pytest.approx(aligned, rel=1e-6)
    means = {"a": table.mean(axis=0)}
    for name, part in (("c", ~wrong), ("w", wrong)):
        if not part.any():
            assert np.isnan([found[f"loss_{name}"], found[f"directed_activity_{name}"], found["alignment_cw"]]).all()
            continue
        means[name] = table[part].mean(axis=0)
        assert found[f"loss_{name}"] == pytest.approx((residual[part] ** 2).mean() / 2, abs=1e-12)
        directed = part.mean() ** 2 * means[name] @ means[name]
        assert abs(found[f"directed_activity_{name}"] - directed) <= 1e-12 * scale
    norms = {name: np.linalg.norm(mean) for name, mean in means.items()}
    if len(means) == 3 and min(norms.values()) > 1e-3 * np.sqrt(scale):
        for one, other in ("cw", "ac", "aw"):
            cosine = means[one] @ means[other] / norms[one] / norms[other]
            assert found[f"alignment_{one}{other}"] == pytest.approx(cosine, abs=1e-9)


def test_several_weights_are_predicted_one_by_one():
    x, y, _ = random_problem()
    weights = flow(x, y, [0.0, 1.0, 5.0])
    every = predictions(x, y, weights, 2, wrong=np.arange(5) < 2)
    for k in range(3):
        one = predictions(x, y, weights[k : k + 1], 2, wrong=np.arange(5) < 2)
        np.testing.assert_allclose([every[name][k] for name in every], [one[name][0] for name in every], rtol=1e-12)
    assert every["loss"][0] > every["loss"][1] > every["loss"][2]


def test_a_test_set_can_stand_for_a_whole_population():
    rng = np.random.default_rng(0)
    root, teacher, w = rng.normal(size=(3, 3)), rng.normal(size=3), rng.normal(size=3)
    x, y, _ = random_problem()
    inputs = np.sqrt(3) * root.T
    found = predictions(x, y, [w], 1, test=(inputs, inputs @ teacher))["test_loss"][0]
    assert found == pytest.approx((w - teacher) @ root @ root.T @ (w - teacher) / 2)


# Simulated SGD. Family-wise rate of false alarms over all settings, steps and quantities, after Bonferroni and by the
# normal approximation to means of 4,000 runs: 0.27 %, that of three standard errors in a single comparison.
FALSE_ALARMS, RUNS, STEPS = 0.0027, 4000, (1, 3, 10, 30, 100)
SIMULATED = [
    # rho, N, d, exponent of the covariance's power law, B, learning rate
    (0.0, 12, 4, 0.0, 2, 0.1),
    (0.1, 20, 5, 0.0, 1, 0.05),
    (0.2, 15, 15, 1.0, 3, 0.2),
    (0.25, 8, 16, 0.0, 2, 0.05),
    (0.3, 20, 4, 2.0, 5, 0.3),
    (0.4, 10, 20, 1.0, 1, 0.1),
    (0.5, 16, 4, 0.0, 4, 0.2),
    (0.5, 6, 24, 0.5, 2, 0.05),
    (0.6, 20, 10, 1.5, 10, 0.3),
    (0.8, 20, 6, 0.5, 3, 0.1),
    (1.0, 12, 4, 1.0, 1, 0.1),
]
THRESHOLD = norm.isf(FALSE_ALARMS / 2 / (len(SIMULATED) * len(STEPS) * len(QUADRATIC)))


def simulated(setting, seed):
    """One data set and, at each of STEPS, the weights of all runs, shape (RUNS, d)."""
    rho, n, d, exponent, batch_size, rate = setting
    rng = np.random.default_rng(seed)
    deviation = np.arange(1, d + 1) ** (-exponent / 2)
    teacher, wrong = rng.normal(size=d), np.arange(n) < round(rho * n)
    x, x_test = rng.normal(size=(n, d)) * deviation, rng.normal(size=(30, d)) * deviation
    y = (x @ teacher) * np.where(wrong, -1, 1)
    w, recorded = np.zeros((RUNS, d)), []
    for step in range(1, STEPS[-1] + 1):
        batch = rng.integers(n, size=(RUNS, batch_size))
        residual = (x[batch] @ w[:, :, None])[:, :, 0] - y[batch]
        w = w - rate * (residual[:, None] @ x[batch])[:, 0] / batch_size
        if step in STEPS:
            recorded.append(w)
    return x, y, wrong, (x_test, x_test @ teacher), recorded


def worst_deviation(data, batch_size, moments):
    """Largest distance between predicted and simulated means, in standard errors."""
    x, y, wrong, test, recorded = data
    options = dict(batch_size=batch_size, wrong=wrong, test=test)
    expected = predictions(x, y, moments, **options)
    worst = 0.0
    for k, runs in enumerate(recorded):
        found = predictions(x, y, runs, **options)
        for name in QUADRATIC:
            if np.isnan(expected[name][k]):
                assert name[-2:] in ("_c", "_w") and wrong.all() == (name[-2:] == "_c")
                continue
            error = found[name].std(ddof=1) / np.sqrt(RUNS)
            worst = max(worst, (abs(found[name].mean() - expected[name][k]) - 1e-12) / error)
    return worst


@pytest.mark.parametrize("number", range(len(SIMULATED)))
def test_simulated_sgd_has_the_predicted_losses_and_activities(number):
    *_, batch_size, rate = SIMULATED[number]
    data = simulated(SIMULATED[number], seed=number)
    x, y = data[:2]
    assert mean_square_radius(x, rate, batch_size) < 1
    assert worst_deviation(data, batch_size, sgd_moments(x, y, STEPS, rate, batch_size)) < THRESHOLD


@pytest.mark.slow
def test_that_comparison_finds_faults():
    number = 5  # few samples in a minibatch, more dimensions than samples
    *_, batch_size, rate = SIMULATED[number]
    data = simulated(SIMULATED[number], seed=number)
    x, y = data[:2]
    right = sgd_moments(x, y, STEPS, rate, batch_size)
    for fault in (
        sgd_moments(x, y, STEPS, rate, batch_size + 1),
        sgd_moments(x, y, STEPS, 1.05 * rate, batch_size),
        sgd_moments(x, y, np.add(STEPS, 1), rate, batch_size),
        dataclasses.replace(right, covariance=np.zeros_like(right.covariance)),
        dataclasses.replace(right, covariance=1.1 * right.covariance),
    ):
        assert worst_deviation(data, batch_size, fault) > THRESHOLD


@given(problems(max_samples=5, max_width=4), st.integers(1, 3), st.floats(0.05, 3.0))
def test_the_radius_is_that_of_the_whole_map(problem, batch_size, learning_rate):
    x = problem[0]
    n, d = x.shape
    h = x.T @ x / n
    one = np.eye(d) - learning_rate * h
    squares = [np.kron(np.outer(row, row), np.outer(row, row)) for row in x]
    whole = np.kron(one, one) + learning_rate**2 / batch_size * (np.mean(squares, axis=0) - np.kron(h, h))
    values, vectors = np.linalg.eigh(h)
    span = vectors[:, values > 1e-9]
    seen = np.kron(span, span)
    radius = np.abs(np.linalg.eigvalsh(seen.T @ whole @ seen)).max(initial=0.0)
    found = mean_square_radius(x, learning_rate, batch_size)
    assert found == pytest.approx(radius, rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("shape", [(6, 3), (3, 6)])
def test_the_covariance_stays_bounded_just_below_radius_one_and_grows_above(shape):
    x, y, _ = random_problem(*shape)
    low, high = 0.0, 2 / np.linalg.eigvalsh(x.T @ x / len(x)).max()
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_square_radius(x, middle, 1) < 1 else (low, middle)
    assert low < 1.9 / np.linalg.eigvalsh(x.T @ x / len(x)).max()  # noise destabilises before the mean does
    sizes = [
        np.trace(sgd_moments(x, y, [1000, 2000], rate, 1).covariance, axis1=1, axis2=2)
        for rate in (0.9 * low, 1.1 * low)
    ]
    assert sizes[0][1] < 1.01 * sizes[0][0] and sizes[1][1] > 10 * sizes[1][0]


def test_a_stationary_covariance_balances_drift_and_noise():
    x, y, _ = random_problem(6, 2)
    found = sgd_moments(x, y, [3000], 0.1, 2)
    weights, s = found.mean[0], found.basis.T @ found.covariance[0] @ found.basis
    h, residual = x.T @ x / 6, x @ weights - y
    noise = (x.T * (residual**2 + np.einsum("nj,jk,nk->n", x, s, x))) @ x / 6 - h @ s @ h
    np.testing.assert_allclose(h @ s + s @ h - 0.1 * h @ s @ h, 0.1 / 2 * noise, rtol=1e-9)


@pytest.mark.parametrize("n, d", [(1, 1), (1, 4), (4, 1)])
def test_the_smallest_problems(n, d):
    x, y, start = random_problem(n, d, seed=3)
    moments = sgd_moments(x, y, [0, 3], 0.1, 1, start)
    if n == 1:
        np.testing.assert_allclose(moments.covariance, 0, atol=1e-15)  # every minibatch is the same
        np.testing.assert_allclose(moments.mean, descent(x, y, [0, 3], 0.1, start))
        assert mean_square_radius(x, 0.1, 1) == pytest.approx((1 - 0.1 * (x @ x.T).item()) ** 2)
    found = predictions(x, y, moments, 1)
    assert np.isfinite([found["loss"], found["activity"]]).all()
    assert np.isnan([found["noise_fraction"], found["loss_c"], found["alignment_cw"], found["test_loss"]]).all()


def test_zero_inputs_never_move_and_leave_directions_undefined():
    x, y = np.zeros((3, 2)), np.array([1.0, 2.0, 3.0])
    moments = sgd_moments(x, y, [0, 5], 0.1, 1, [1.0, 2.0])
    for weights in (flow(x, y, [0, np.inf], [1.0, 2.0]), descent(x, y, [0, 5], 0.1, [1.0, 2.0]), moments.mean):
        np.testing.assert_array_equal(weights, [[1.0, 2.0]] * 2)
    assert mean_square_radius(x, 0.1, 1) == 0
    found = predictions(x, y, moments, 2, wrong=np.arange(3) < 1)
    np.testing.assert_allclose(found["loss"], 14 / 6)
    assert not found["activity"].any()
    undefined = ("projection_variance", "gradient_noise_scale", "alignment_cw", "alignment_ac", "alignment_aw")
    assert np.isnan([found[name] for name in undefined]).all()


@pytest.mark.parametrize("all_wrong", [False, True])
def test_one_empty_population_is_undefined_and_the_other_is_everything(all_wrong):
    x, y, w = random_problem()
    found = predictions(x, y, [w], 2, wrong=np.full(5, all_wrong))
    there, absent = ("w", "c") if all_wrong else ("c", "w")
    assert found[f"loss_{there}"] == pytest.approx(found["loss"])
    assert found[f"directed_activity_{there}"] == pytest.approx(found["directed_activity"])
    absentees = [f"loss_{absent}", f"directed_activity_{absent}", "alignment_cw", "alignment_ac", "alignment_aw"]
    assert np.isnan([found[name] for name in absentees]).all()


def test_the_full_batch_without_replacement_has_no_noise():
    x, y, w = random_problem()
    found = predictions(x, y, [w], 5, replacement=False)
    assert found["total_variance"] == 0 and found["activity"] == found["directed_activity"]
    assert found["projection_variance"] == 0 and found["gradient_variance"] > 0


def test_records_cannot_be_changed_and_no_times_give_no_rows():
    x, y, _ = random_problem()
    moments = sgd_moments(x, y, [], 0.1, 1)
    assert moments.mean.shape == (0, 3) and flow(x, y, []).shape == (0, 3)
    found = predictions(x, y, moments, 1, wrong=y > 0)
    assert all(values.shape == (0,) for values in found.values())
    with pytest.raises(dataclasses.FrozenInstanceError):
        moments.mean = 0


X, Y, W = random_problem()
NANS = np.full((3, 3), np.nan)


@pytest.mark.parametrize(
    "call, named",
    [
        (lambda: flow(X[0], Y, [1]), r"x has shape \(3,\)"),
        (lambda: flow(X * np.nan, Y, [1]), "x has shape"),
        (lambda: flow(np.zeros((0, 3)), [], [1]), r"x has shape \(0, 3\)"),
        (lambda: flow(X, Y[:4], [1]), r"y has shape \(4,\): .* shape \(5,\)"),
        (lambda: flow(X, Y, [-1]), r"times = \[-1.\]: give"),
        (lambda: flow(X, Y, 3.0), "times = 3.0: give"),
        (lambda: flow(X, Y, [np.nan]), "times = "),
        (lambda: flow(X, Y, [1], [1.0]), r"start has shape \(1,\): .* shape \(3,\)"),
        (lambda: descent(X, Y, [1.5], 0.1), r"steps = \[1.5\]: give"),
        (lambda: descent(X, Y, [np.nan], 0.1), "steps = "),
        (lambda: descent(X, Y, [-1], 0.1), "steps = "),
        (lambda: descent(X, Y, [1], 0.0), "learning_rate = 0.0: choose"),
        (lambda: descent(X, Y, [1], np.nan), "learning_rate = nan: choose"),
        (lambda: descent(X, Y, [10**6], 10.0), "learning_rate = 10.0: the weights diverge"),
        (lambda: sgd_moments(X, Y, [2000], 10.0, 1), "learning_rate = 10.0: the weights diverge"),
        (lambda: sgd_moments(X, Y, [1], 0.1, 0), "batch_size = 0: give"),
        (lambda: sgd_moments(X, Y, [1], 0.1, 1.5), "batch_size = 1.5: give"),
        (lambda: mean_square_radius(X, -1.0, 1), "learning_rate = -1.0"),
        (lambda: mean_square_radius(X, 0.1, np.inf), "batch_size = inf"),
        (lambda: predictions(X, Y, W, 1), r"weights have shape \(3,\)"),
        (lambda: predictions(X, Y, [W], 6, replacement=False), "batch_size = 6 exceeds"),
        (lambda: predictions(X, Y, [W], 1, wrong=[1, 0, 0, 0, 0]), "wrong has shape .* type int64: give"),
        (lambda: predictions(X, Y, [W], 1, wrong=[True]), r"wrong has shape \(1,\)"),
        (lambda: predictions(X, Y, WeightMoments([W], np.eye(3), np.eye(3)), 1), r"covariance has shape \(3, 3\)"),
        (lambda: predictions(X, Y, WeightMoments([W], [np.eye(2)], np.eye(2)), 1), r"basis \(2, 2\)"),
        (lambda: predictions(X, Y, WeightMoments([W], [NANS], np.eye(3)), 1), "covariance has shape .* give finite"),
        (lambda: predictions(X, Y, [W], 1, test=(X[:, :2], Y)), r"x_test has shape \(5, 2\): .* 3 columns"),
        (lambda: predictions(X, Y, [W], 1, test=(X, Y[:1])), r"y_test has shape \(1,\)"),
    ],
)
def test_bad_input_is_named_with_its_remedy(call, named):
    with pytest.raises(ValueError, match=named):
        call()
