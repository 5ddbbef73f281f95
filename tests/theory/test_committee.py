"""Online learning of a soft committee machine: averages by quadrature, the flow, and simulated students."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from two_lengths import slow

from sgdphases.sim.solvable.online_committee import random_committee, simulate_committee
from sgdphases.theory.committee.averages import field_averages
from sgdphases.theory.committee.flow import committee_drift, committee_flow, fixed_point
from sgdphases.theory.committee.state import CommitteeState, generalisation_error

NODES = {1: 100, 2: 60, 3: 36, 4: 20}  # per dimension; for norms up to 1 the averages are exact to 1e-6
TIMES = np.linspace(0, 10, 21)
# K, M, learning rate, noise variance
SETTINGS = {"one": (1, 1, 1.0, 0.0), "noisy": (2, 2, 1.0, 0.1), "more": (3, 2, 0.8, 0.05)}


def g(u):
    return erf(u / math.sqrt(2))


def slope(u):
    return math.sqrt(2 / math.pi) * np.exp(-(u**2) / 2)


def state_of(students, teachers):
    return CommitteeState(students @ students.T, students @ teachers.T, teachers @ teachers.T)


def scalar_state(q, r, t=1.0):
    return CommitteeState(np.array([[q]]), np.array([[r]]), np.array([[t]]))


def committee(k, m, d, rng):
    """Students that lean to their teachers, so that no plateau magnifies what happens by chance."""
    students, teachers = random_committee(k, m, d, rng)
    students[:m] += 0.4 * teachers[:k]
    return students, teachers


def close(found, expected, atol):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=atol, rtol=0)


@st.composite
def machines(draw):
    """Weights (K, d) and (M, d) in 1 to 4 dimensions: with fewer dimensions than units, the covariance is singular."""
    k, m, d = draw(st.integers(1, 3)), draw(st.integers(1, 2)), draw(st.integers(1, 4))
    weights = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(k + m, d))
    norms = draw(st.lists(st.floats(0.1, 1), min_size=k + m, max_size=k + m))
    weights *= np.array(norms)[:, None] / np.linalg.norm(weights, axis=1, keepdims=True)
    return weights[:k], weights[k:]


@settings(max_examples=25)
@given(machines(), st.floats(0.1, 5), st.floats(0, 2))
def test_averages_and_drift_are_those_of_quadrature(machine, eta, s2):
    students, teachers = machine
    k, d = students.shape
    points, line = np.polynomial.hermite_e.hermegauss(NODES[d])
    x = np.stack([axis.ravel() for axis in np.meshgrid(*[points] * d)])
    weight = np.prod([axis.ravel() for axis in np.meshgrid(*[line / line.sum()] * d)], axis=0)
    units = np.concatenate([students, teachers])
    u = units @ x
    slopes, outputs = slope(u[:k]), g(u)
    pairs = (slopes[:, None] * slopes).reshape(k * k, -1)
    products = (outputs[:, None] * outputs).reshape(len(u) ** 2, -1)
    state = state_of(students, teachers)
    averages = field_averages(units @ units.T, k)
    np.testing.assert_allclose(averages.product, (weight * outputs) @ outputs.T, atol=1e-6)
    np.testing.assert_allclose(averages.slopes, (weight * slopes) @ slopes.T, atol=1e-6)
    of_one = (weight * slopes[:, None] * u).reshape(-1, len(weight)) @ outputs.T
    np.testing.assert_allclose(averages.slope_field_product, of_one.reshape(k, len(u), len(u)), atol=1e-6)
    of_two = ((weight * pairs) @ products.T).reshape(k, k, len(u), len(u))
    np.testing.assert_allclose(averages.slopes_product, of_two, atol=1e-6)

    gap = outputs[k:].sum(axis=0) - outputs[:k].sum(axis=0)
    pull = (weight * slopes * gap) @ u.T
    second = (weight * slopes * (gap**2 + s2)) @ slopes.T
    expected = eta * (pull[:, :k] + pull[:, :k].T) + eta**2 * second, eta * pull[:, k:]
    close(committee_drift(state, eta, s2), expected, atol=1e-5 * (1 + eta**2))
    assert generalisation_error(state) == pytest.approx(weight @ gap**2 / 2, abs=1e-6)


@settings(max_examples=10)
@given(machines(), st.floats(0.1, 5), st.floats(0, 1))
def test_wrong_labels_pull_without_a_direction(machine, eta, rho):
    """The drift is the average over both populations; that of the wrong one by quadrature over the students alone."""
    students, teachers = machine
    k, d = students.shape
    points, line = np.polynomial.hermite_e.hermegauss(NODES[d])
    x = np.stack([axis.ravel() for axis in np.meshgrid(*[points] * d)])
    weight = np.prod([axis.ravel() for axis in np.meshgrid(*[line / line.sum()] * d)], axis=0)
    u = np.concatenate([students, teachers]) @ x
    slopes, output, label = slope(u[:k]), g(u[:k]).sum(axis=0), g(u[k:]).sum(axis=0)
    pull = (weight * slopes * -output) @ u.T
    second = (weight * slopes * (output**2 + weight @ label**2)) @ slopes.T
    wrong = eta * (pull[:, :k] + pull[:, :k].T) + eta**2 * second, eta * pull[:, k:]
    clean = committee_drift(state_of(students, teachers), eta, 0.3)
    expected = [(1 - rho) * one + rho * other for one, other in zip(clean, wrong, strict=True)]
    found = committee_drift(state_of(students, teachers), eta, 0.3, noise_fraction=rho)
    close(found, expected, atol=1e-5 * (1 + eta**2))


def test_simulated_students_follow_the_flow_among_wrong_labels():
    """The bound of `test_simulated_students_follow_the_flow`; the flow without wrong labels lies far beyond it."""
    d, rng = 1000, np.random.default_rng(8)
    students, teachers = committee(2, 2, d, rng)
    path = simulate_committee(students, teachers, 1.0, 0.1, TIMES, rng, noise_fraction=0.4)
    for rho, follows in ((0.4, True), (0.0, False)):
        flow = committee_flow(state_of(students, teachers), 1.0, 0.1, path.times, noise_fraction=rho)
        apart = max(np.abs(path.student - flow.student).max(), np.abs(path.overlap - flow.overlap).max())
        assert (apart < 5 / math.sqrt(d)) == follows
    with pytest.raises(ValueError, match=r"noise_fraction = 1\.5"):
        committee_drift(state_of(students, teachers), 1.0, 0.0, noise_fraction=1.5)


@given(st.floats(0.01, 4), st.floats(-1, 1), st.floats(0.05, 6))
def test_one_unit_learning_one_unit(q, cosine, eta):
    """The same averages worked out for K = M = 1 and T = 1, where they are short."""
    r = cosine * math.sqrt(q)
    pull = 2 / math.pi / (1 + q)
    to_teacher, to_itself = 1 / math.sqrt(2 * (1 + q) - r**2), 1 / math.sqrt(1 + 2 * q)
    d_r = eta * pull * ((1 + q - r**2) * to_teacher - r * to_itself)
    inner = 1 + 2 * q - r**2
    angles = math.asin(q / (1 + 3 * q)) + math.asin((inner - r**2) / (2 * inner))
    angles -= 2 * math.asin(r / math.sqrt(2 * inner * (1 + 3 * q)))
    d_q = 2 * eta * pull * (r * to_teacher - q * to_itself) + eta**2 * 4 / math.pi**2 * to_itself * angles
    close(committee_drift(scalar_state(q, r), eta, 0.0), ([[d_q]], [[d_r]]), atol=1e-12 * (1 + eta**2))
    parts = math.asin(q / (1 + q)) + math.asin(1 / 2) - 2 * math.asin(r / math.sqrt(2 * (1 + q)))
    assert generalisation_error(scalar_state(q, r)) == pytest.approx(parts / math.pi, abs=1e-14)


def test_drift_is_the_mean_of_single_steps():
    """Weights moved one by one in 2000 dimensions; (K+M)/d = 0.2 per cent of bias drowns in the scatter."""
    rng = np.random.default_rng(3)
    k, m, d, n, eta, s2 = 2, 2, 2000, 6000, 2.0, 0.3
    students, teachers = committee(k, m, d, rng)
    state, changes = state_of(students, teachers), []
    for _ in range(n):
        x = rng.normal(size=d)
        label = g(teachers @ x).sum() + math.sqrt(s2) * rng.normal()
        fields = students @ x
        moved = students + eta / d * np.outer(slope(fields) * (label - g(fields).sum()), x)
        now = state_of(moved, teachers)
        changes.append(np.concatenate([(now.student - state.student).ravel(), (now.overlap - state.overlap).ravel()]))
    measured = d * np.array(changes)
    expected = np.concatenate([part.ravel() for part in committee_drift(state, eta, s2)])
    # Seven different entries within 5 standard errors: fails by chance once in 200,000 seeds.
    assert (np.abs(measured.mean(axis=0) - expected) < 5 * measured.std(axis=0) / math.sqrt(n)).all()


@given(machines(), st.floats(0.1, 5))
def test_a_student_like_its_teacher_rests(machine, eta):
    _, teachers = machine
    state = state_of(teachers[::-1], teachers)
    close(committee_drift(state, eta, 0.0), (0 * state.student, 0 * state.overlap), atol=1e-13 * (1 + eta**2))
    assert generalisation_error(state) == pytest.approx(0, abs=1e-14)
    d_student, d_overlap = committee_drift(state, eta, 0.5)
    assert np.linalg.eigvalsh(d_student)[-1] > 0.01 * eta**2 and np.abs(d_overlap).max() < 1e-13 * (1 + eta)


@given(machines(), st.permutations(range(3)), st.permutations(range(2)), st.floats(0.1, 5), st.floats(0, 2))
def test_units_have_no_order(machine, of_students, of_teachers, eta, s2):
    students, teachers = machine
    p, q = [i for i in of_students if i < len(students)], [n for n in of_teachers if n < len(teachers)]
    d_student, d_overlap = committee_drift(state_of(students, teachers), eta, s2)
    other = state_of(students[p], teachers[q])
    close(
        committee_drift(other, eta, s2), (d_student[np.ix_(p, p)], d_overlap[np.ix_(p, q)]), atol=1e-12 * (1 + eta**2)
    )
    assert generalisation_error(other) == pytest.approx(generalisation_error(state_of(students, teachers)), abs=1e-14)


@given(machines(), st.floats(0, 2))
def test_a_small_learning_rate_follows_the_gradient(machine, s2):
    students, teachers = machine
    state, eta = state_of(students, teachers), 1e-3
    (d_student, d_overlap), (twice, twice_overlap) = (committee_drift(state, a * eta, s2) for a in (1, 2))
    limit = 2 * d_student / eta - twice / (2 * eta)  # dQ / eta is a straight line in eta: its value at 0
    thrice = committee_drift(state, 3 * eta, s2)[0] / (3 * eta)
    np.testing.assert_allclose(limit + 3 * (twice / (2 * eta) - d_student / eta), thrice, atol=1e-11)
    np.testing.assert_allclose(twice_overlap, 2 * d_overlap, atol=1e-14)
    np.testing.assert_allclose(limit, committee_drift(state, 1e-9, s2)[0] / 1e-9, atol=1e-7)  # and blind to noise
    # dJ/dtau = -eta grad_J E: the weights' own gradient, by differences of the error
    gradient = np.empty_like(students)
    for place in np.ndindex(students.shape):
        step = np.zeros_like(students)
        step[place] = 1e-5
        ends = [generalisation_error(state_of(students + sign * step, teachers)) for sign in (1, -1)]
        gradient[place] = (ends[0] - ends[1]) / 2e-5
    close((d_overlap, limit), (-eta * gradient @ teachers.T, -gradient @ students.T - students @ gradient.T), atol=1e-8)


def test_the_flow_follows_the_drift():
    rng = np.random.default_rng(0)
    state = state_of(*committee(3, 2, 20, rng))
    h = 1e-3
    path = committee_flow(state, 1.5, 0.2, np.array([0, 2 - h, 2, 2 + h, 5]))
    assert path.times.shape == (5,) and path.student.shape == (5, 3, 3) and path.overlap.shape == (5, 3, 2)
    close((path.student[0], path.overlap[0], path.teacher), (state.student, state.overlap, state.teacher), atol=1e-14)
    ends = [(series[3] - series[1]) / (2 * h) for series in (path.student, path.overlap)]
    close(ends, committee_drift(path.state(2), 1.5, 0.2), atol=1e-5)
    onward = committee_flow(path.state(2), 1.5, 0.2, [3.0])
    close((onward.student[0], onward.overlap[0]), (path.student[4], path.overlap[4]), atol=1e-6)
    errors = [generalisation_error(path.state(i)) for i in range(5)]
    np.testing.assert_allclose(path.generalisation_errors, errors, rtol=1e-12)
    fixed = committee_flow(state, 1.5, 0.2, [0.0])
    np.testing.assert_allclose(fixed.overlap, state.overlap[None], rtol=1e-14)


def test_stability_of_the_noiseless_solution_is_exact():
    """Small deviations along the teacher and the variance across it decay each at their own rate (K = M = 1)."""
    along = 2 / math.pi / 3**1.5  # E[g'^2 u^2]
    squared, fourth = 2 / math.pi / math.sqrt(3), 4 / math.pi**2 / math.sqrt(5)  # E[g'^2], E[g'^4]
    for eta in (0.5, 2.0, 4.0, 5.0):
        found = fixed_point(scalar_state(0.9, 0.85), eta, 0.0)
        close((found.state.student, found.state.overlap), ([[1]], [[1]]), atol=1e-7)
        rate = max(-eta * along, -2 * eta * squared + eta**2 * fourth)
        assert found.growth_rate == pytest.approx(rate, abs=1e-6)
    threshold = math.pi * math.sqrt(5 / 3)
    assert fixed_point(scalar_state(1, 1), 0.999 * threshold, 0.0).stable
    assert not fixed_point(scalar_state(1, 1), 1.001 * threshold, 0.0).stable
    below, above = (committee_flow(scalar_state(1.02, 1), eta, 0.0, [3000.0]) for eta in (4.0, 4.2))
    assert below.generalisation_errors[-1] < 1e-7 and 1e-3 < above.generalisation_errors[-1] < 1e-2


def test_noise_leaves_an_error_that_grows_with_the_learning_rate():
    end = committee_flow(state_of(*committee(2, 2, 30, np.random.default_rng(1))), 0.5, 0.1, [1500.0]).state(0)
    found = fixed_point(end, 0.5, 0.1)
    assert found.stable
    close((found.state.student, found.state.overlap), (end.student, end.overlap), atol=1e-6)
    assert found.state.student[0, 0] > 1.001
    # to first order in eta: the variance across the teacher, eta s2 / 2, times E[g'^2] / 2
    small = fixed_point(scalar_state(1, 1), 0.01, 0.1)
    assert generalisation_error(small.state) == pytest.approx(0.01 * 0.1 / (2 * math.pi * math.sqrt(3)), rel=0.01)


def test_the_plateau_is_an_unstable_fixed_point():
    alike = np.full((2, 2), 0.3)
    found = fixed_point(CommitteeState(alike, alike, np.eye(2)), 0.5, 0.0)
    assert found.growth_rate > 0.01 and not found.stable
    assert generalisation_error(found.state) > 0.01
    start = CommitteeState(found.state.student + 1e-4 * np.eye(2), found.state.overlap + 1e-4 * np.eye(2), np.eye(2))
    errors = committee_flow(start, 0.5, 0.0, [10.0, 1500.0]).generalisation_errors
    assert errors[0] == pytest.approx(generalisation_error(found.state), rel=0.01) and errors[1] < 1e-6


def deviation(setting, d, rng):
    """Largest deviation of a simulated path from the flow: of the order parameters, and of the error."""
    k, m, eta, s2 = SETTINGS[setting]
    students, teachers = committee(k, m, d, rng)
    path = simulate_committee(students, teachers, eta, s2, TIMES, rng)
    flow = committee_flow(state_of(students, teachers), eta, s2, path.times)
    scale = max(np.abs(part).max() for part in (flow.student, flow.overlap, flow.teacher))
    apart = max(np.abs(path.student - flow.student).max(), np.abs(path.overlap - flow.overlap).max()) / scale
    errors, expected = path.generalisation_errors, flow.generalisation_errors
    return apart, np.abs(errors - expected).max() / expected.max()


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("d", [1000, slow(10_000)])
def test_simulated_students_follow_the_flow(setting, d):
    # Over 40 seeds a setting, sqrt(d) times either deviation had a mean of at most 0.97, a standard deviation of at
    # most 0.42 and a maximum of 2.1: at 5, a sound program fails by chance far less than once in a million.
    assert max(deviation(setting, d, np.random.default_rng(7))) < 5 / math.sqrt(d)


@pytest.mark.slow
def test_deviations_fall_as_one_over_the_root_of_d():
    dims = [100, 400, 1600]
    means = [np.mean([deviation("noisy", d, np.random.default_rng(s)) for s in range(24)], axis=0) for d in dims]
    # One deviation scatters by 20 (order parameters) and 40 per cent (error), a mean of 24 by 4 and 9 per cent, the
    # slope over a factor of 16 in d by 0.02 and 0.03 (so did six batches): the bounds are 5 standard errors or more.
    slopes = np.polyfit(np.log(dims), np.log(means), 1)[0]
    assert (np.abs(slopes + 0.5) < (0.1, 0.2)).all()


def test_a_simulation_records_what_is_asked():
    rng = np.random.default_rng(2)
    students, teachers = random_committee(3, 2, 50, rng, scale=2.0)
    close([teachers @ teachers.T], [np.eye(2)], atol=1e-12)
    assert np.linalg.norm(random_committee(2, 1, 20_000, rng, scale=2.0)[0], axis=1) == pytest.approx(2.0, rel=0.05)
    before = students.tobytes()
    path = simulate_committee(students, teachers, 1.0, 0.1, [0.0, 0.504, 2.0], np.random.default_rng(1))
    assert students.tobytes() == before
    np.testing.assert_allclose(path.times, [0, 0.5, 2])
    close((path.student[0], path.overlap[0], path.teacher), vars(state_of(students, teachers)).values(), atol=1e-14)
    alone = simulate_committee(students, teachers, 1.0, 0.1, [2.0], np.random.default_rng(1))
    close((alone.student[0], alone.overlap[0]), (path.student[2], path.overlap[2]), atol=1e-13)
    other = simulate_committee(students, teachers, 1.0, 0.1, [2.0], np.random.default_rng(2))
    assert np.abs(other.overlap - alone.overlap).max() > 0.01


def test_one_simulated_step_is_the_step():
    rng = np.random.default_rng(4)
    students, teachers = random_committee(2, 3, 6, rng, scale=1.0)
    path = simulate_committee(students, teachers, 0.7, 0.5, [1 / 6], np.random.default_rng(9))
    draws = np.random.default_rng(9).standard_normal(7)
    x, noise = draws[:6], math.sqrt(0.5) * draws[6]
    fields = students @ x
    gap = g(teachers @ x).sum() + noise - g(fields).sum()
    moved = students + 0.7 / 6 * np.outer(slope(fields) * gap, x)
    close((path.student[0], path.overlap[0]), (moved @ moved.T, moved @ teachers.T), atol=1e-12)


def test_what_cannot_be_is_refused():
    good, eye = scalar_state(0.5, 0.3), np.eye(2)
    for bad, message in (
        (CommitteeState(eye, eye[:1], eye), r"student \(2, 2\), overlap \(1, 2\)"),
        (CommitteeState(eye, eye, np.eye(3)), r"teacher \(3, 3\): give the shapes"),
        (CommitteeState(eye, eye[0], eye), "give the shapes"),
        (CommitteeState(eye[:0, :0], eye[:0], eye), "at least 1"),
        (CommitteeState(np.array([[1, 0.5], [0, 1]]), 0 * eye, eye), "not symmetric"),
        (scalar_state(np.nan, 0.0), "not finite"),
        (scalar_state(2e4, 0.0), r"squared norm 2e\+04, above 10000: give"),
        (scalar_state(0.25, 0.6), r"eigenvalue -0\.0[0-9]+: .*lower the overlap"),
    ):
        for call in (
            generalisation_error,
            lambda state: committee_drift(state, 1.0, 0.0),
            lambda state: committee_flow(state, 1.0, 0.0, [1.0]),
            lambda state: fixed_point(state, 1.0, 0.0),
        ):
            with pytest.raises(ValueError, match=message):
                call(bad)
    students, teachers, rng = np.ones((1, 4)), np.ones((1, 4)), np.random.default_rng(0)
    for eta, s2, times, message in (
        (0.0, 0.0, [1.0], r"learning_rate = 0\.0: choose"),
        (np.nan, 0.0, [1.0], "learning_rate = nan"),
        (np.inf, 0.0, [1.0], "learning_rate = inf"),
        (1.0, -0.1, [1.0], r"noise_variance = -0\.1: choose 0"),
        (1.0, np.inf, [1.0], "noise_variance = inf"),
        (1.0, 0.0, [-1.0, 1.0], r"times = \[-1\.  1\.\]"),
        (1.0, 0.0, [1.0, 1.0], "each later than"),
        (1.0, 0.0, [0.0, np.inf], "finite"),
        (1.0, 0.0, [], r"shape \(0,\): give a list"),
        (1.0, 0.0, 1.0, r"shape \(\)"),
    ):
        with pytest.raises(ValueError, match=message):
            committee_flow(good, eta, s2, times)
        with pytest.raises(ValueError, match=message):
            simulate_committee(students, teachers, eta, s2, times, rng)
        if "times" not in message and times == [1.0]:
            with pytest.raises(ValueError, match=message):
                committee_drift(good, eta, s2)
            with pytest.raises(ValueError, match=message):
                fixed_point(good, eta, s2)
    for wrong in (np.ones((1, 3)), np.ones(4), np.ones((0, 4))):
        with pytest.raises(ValueError, match="give the shapes"):
            simulate_committee(wrong, teachers, 1.0, 0.0, [1.0], rng)
    with pytest.raises(ValueError, match="NaN or infinity"):
        simulate_committee(students * np.inf, teachers, 1.0, 0.0, [1.0], rng)
    for k, m, d in ((0, 1, 5), (1, 0, 5), (2, 6, 5)):
        with pytest.raises(ValueError, match=f"{k} students and {m} teachers in {d} dimensions"):
            random_committee(k, m, d, rng)
    with pytest.raises(ValueError, match=r"scale = -1\.0"):
        random_committee(1, 1, 5, rng, scale=-1.0)


def test_a_runaway_is_told():
    with pytest.raises(RuntimeError, match=r"learning_rate = 20\.0: the flow stopped .* choose a smaller"):
        committee_flow(scalar_state(0.25, 0.1), 20.0, 0.0, [1e6])
    with pytest.raises(RuntimeError, match=r"no fixed point found, a drift of .* start nearer"):
        fixed_point(scalar_state(0.25, 0.1), 20.0, 0.1)
