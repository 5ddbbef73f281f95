"""Order parameters of the online committee: against points in the space of the fields, and gradients at finite d."""

from dataclasses import replace

import numpy as np
import pytest
from command_line import call
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf
from scipy.stats import qmc

from sgdphases.sim.solvable import committee_check
from sgdphases.theory.committee import order_parameters
from sgdphases.theory.committee.averages import field_averages
from sgdphases.theory.committee.order_parameters import committee_order_parameters
from sgdphases.theory.committee.rectified import rectified_averages
from sgdphases.theory.committee.state import CommitteeState

UNITS = {
    "erf": (lambda u: erf(u / np.sqrt(2)), lambda u: np.sqrt(2 / np.pi) * np.exp(-(u**2) / 2)),
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)),
}


def random_state(seed: int, k: int, m: int) -> tuple[CommitteeState, np.ndarray]:
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(k + m, 2 * (k + m)))
    vectors[:k] += rng.uniform(0, 1.5) * vectors[k + np.arange(k) % m]
    vectors *= rng.uniform(0.5, 1.5, (k + m, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
    c = vectors @ vectors.T
    return CommitteeState(c[:k, :k], c[:k, k:], c[k:, k:]), c


def by_fields(c, k, units, dimension, batch_size, rho, noise, own, others, log_points=17):
    """The same from points in the space of the fields: gradients' overlaps, norms and products."""
    unit, slope = UNITS[units]
    fields = qmc.MultivariateNormalQMC(np.zeros(len(c)), cov=c, rng=np.random.default_rng(0)).random(2**log_points)
    u, nu = fields[:, :k], fields[:, k:]
    output, label = unit(u) @ own, unit(nu) @ others
    spread, pull = (label**2).mean(), slope(u) * own
    errors = {"c": (output - label, noise), "w": (output, spread)}
    mean = {p: (pull * e[:, None]).T @ fields / len(fields) for p, (e, _) in errors.items()}
    norm = {p: (pull**2 * (e**2 + extra)[:, None]).mean(0).sum() for p, (e, extra) in errors.items()}
    inner = {p + q: np.trace(mean[p] @ np.linalg.pinv(c) @ mean[q].T) / dimension for p, q in ("cc", "cw", "ww")}
    directed = (1 - rho) ** 2 * inner["cc"] + 2 * rho * (1 - rho) * inner["cw"] + rho**2 * inner["ww"]
    variance = (1 - rho) * norm["c"] + rho * norm["w"] - directed
    return {
        "activity": directed + variance / batch_size,
        "directed_activity": directed,
        "directed_activity_c": (1 - rho) ** 2 * inner["cc"],
        "directed_activity_w": rho**2 * inner["ww"],
        "total_variance": variance / batch_size,
        "gradient_noise_scale": variance / directed,
        "alignment_cw": inner["cw"] / np.sqrt(inner["cc"] * inner["ww"]),
        "alignment_ac": ((1 - rho) * inner["cc"] + rho * inner["cw"]) / np.sqrt(directed * inner["cc"]),
        "alignment_aw": ((1 - rho) * inner["cw"] + rho * inner["ww"]) / np.sqrt(directed * inner["ww"]),
        "loss_c": ((output - label) ** 2).mean() / 2 + noise / 2,
        "loss_w": ((output**2).mean() + spread) / 2,
    }


@pytest.mark.parametrize("units", ["erf", "relu"])
def test_within_one_per_cent_of_monte_carlo_over_twenty_states(units):
    rng = np.random.default_rng(1)
    for seed in range(20):
        k, m = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        state, c = random_state(seed, k, m)
        own, others = rng.normal(size=k), rng.normal(size=m)
        options = dict(dimension=100, batch_size=10)
        rho, noise = float(rng.uniform(0.1, 0.8)), float(rng.uniform(0, 0.5))
        found = committee_order_parameters(
            state, **options, noise_fraction=rho, noise_variance=noise, units=units, student_weights=own,
            teacher_weights=others,
        )  # fmt: skip
        expected = by_fields(c, k, units, 100, 10, rho, noise, own, others)
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=0.01, abs=0.01 if name.startswith("align") else 1e-6), name


@pytest.mark.parametrize("units", ["erf", "relu"])
def test_products_of_mean_gradients_are_those_of_samples(units):
    """200,000 examples in 12 dimensions: the product of the means of two halves has no bias from their scatter."""
    k, m, d, n, rho = 2, 2, 12, 200_000, 0.3
    rng = np.random.default_rng(3)
    w, v = rng.normal(size=(k, d)), rng.normal(size=(m, d))
    state = CommitteeState(w @ w.T / d, w @ v.T / d, v @ v.T / d)
    found = committee_order_parameters(state, dimension=d, batch_size=1, noise_fraction=rho, units=units)
    unit, slope = UNITS[units]
    x = rng.normal(size=(n, d))
    u, label = x @ w.T / np.sqrt(d), unit(x @ v.T / np.sqrt(d)).sum(1)
    output = unit(u).sum(1)
    drawn = rng.normal(size=n) * np.sqrt((label**2).mean())
    means, single = {}, {}
    for p, error in (("c", output - label), ("w", output - drawn)):
        delta = slope(u) * error[:, None]
        means[p] = [(part.T @ x[rows]) / len(rows) / np.sqrt(d) for part, rows in
                    ((delta[: n // 2], np.arange(n // 2)), (delta[n // 2 :], np.arange(n // 2, n)))]  # fmt: skip
        single[p] = ((delta**2).sum(1) * (x**2).sum(1) / d).mean()

    def product(p, q):
        return (np.sum(means[p][0] * means[q][1]) + np.sum(means[p][1] * means[q][0])) / 2

    assert found["directed_activity_c"] == pytest.approx((1 - rho) ** 2 * product("c", "c"), rel=0.05)
    assert found["directed_activity_w"] == pytest.approx(rho**2 * product("w", "w"), rel=0.05)
    cosine = product("c", "w") / np.sqrt(product("c", "c") * product("w", "w"))
    assert found["alignment_cw"] == pytest.approx(cosine, abs=0.03)
    mean_square = (1 - rho) * single["c"] + rho * single["w"]
    leading = found["gradient_variance"] + found["directed_activity"]
    assert leading == pytest.approx(mean_square, rel=4 / d)  # norms are to leading order in 1/d


@given(st.integers(0, 10_000), st.integers(1, 3), st.integers(1, 3), st.sampled_from(["erf", "relu"]))
@settings(max_examples=40, deadline=None)
def test_units_may_be_exchanged_and_no_wrong_labels_are_one_population(seed, k, m, units):
    state, _ = random_state(seed, k, m)
    options = dict(dimension=50, batch_size=5, units=units)
    one = committee_order_parameters(state, noise_fraction=0.4, **options)
    order, others = np.random.default_rng(seed).permutation(k), np.random.default_rng(seed + 1).permutation(m)
    exchanged = CommitteeState(
        state.student[np.ix_(order, order)], state.overlap[np.ix_(order, others)],
        state.teacher[np.ix_(others, others)],
    )  # fmt: skip
    two = committee_order_parameters(exchanged, noise_fraction=0.4, **options)
    assert two == pytest.approx(one, rel=1e-9, abs=1e-12)
    clean = committee_order_parameters(state, **options)
    assert "alignment_cw" not in clean and "activity_w" not in clean
    assert clean["activity"] == pytest.approx(clean["activity_c"], rel=1e-12)


@pytest.mark.parametrize("units", ["erf", "relu"])
def test_a_student_that_has_become_the_teacher_has_no_clean_gradient(units):
    same = np.diag([1.0, 0.8])
    found = committee_order_parameters(
        CommitteeState(same, same, same), dimension=100, batch_size=10, noise_fraction=0.3, units=units
    )
    assert found["directed_activity_c"] < 1e-12 and found["loss_c"] < 1e-12 and found["activity_w"] > 0.01


def test_units_that_coincide_are_the_limit_of_units_that_nearly_do():
    c = np.array([[1.0, 0.5, 0.3], [0.5, 1.0, 0.6], [0.3, 0.6, 0.9]])
    near, same = (np.block([[c, c], [c, c]]) + e * np.eye(6) for e in (1e-9, 0.0))
    for averages in (rectified_averages, field_averages):
        a, b = averages(near, 2), averages(same, 2)
        assert np.allclose(a.product, b.product, atol=1e-4)
        assert np.allclose(a.slope_field_product, b.slope_field_product, atol=1e-4)
        assert np.allclose(a.slopes_product[0, 0], b.slopes_product[0, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(units="tanh"), "units = 'tanh'"),
        (dict(dimension=0), "dimension = 0"),
        (dict(batch_size=0), "batch_size = 0"),
        (dict(noise_fraction=1.5), "noise_fraction = 1.5"),
        (dict(noise_variance=-1.0), "noise_variance = -1"),
        (dict(student_weights=[1.0, 2.0, 3.0]), "student_weights of shape"),
    ],
)
def test_settings_that_make_no_sense_are_named(change, message):
    state, _ = random_state(0, 2, 2)
    with pytest.raises(ValueError, match=message):
        committee_order_parameters(state, **dict(dimension=10, batch_size=2) | change)


def test_verify_compares_the_committee_with_examples_and_says_how_often_it_is_wrong(monkeypatch):
    monkeypatch.setattr(committee_check, "STATES", 3)
    done = call("verify", "--theory", "committee")
    assert done.returncode == 0, done.stdout
    assert "probability of at most 0.1%" in done.stdout and "R_cw" in done.stdout and "VIOLATED" not in done.stdout
    assert call("verify", "--theory", "wind").returncode == 2
    alone = call("verify", "somewhere", "--theory", "committee")
    assert alone.returncode == 2 and "no run" in alone.stderr


@pytest.mark.parametrize("term", ["slope_field_product", "slopes_product", "product"])
@pytest.mark.parametrize("units", ["erf", "relu"])
def test_a_closed_form_that_is_one_part_in_twenty_off_is_noticed(monkeypatch, units, term):
    monkeypatch.setattr(committee_check, "STATES", 3)
    right = order_parameters.UNITS[units]

    def off(covariance, k):
        found = right(covariance, k)
        return replace(found, **{term: 1.05 * getattr(found, term)})

    monkeypatch.setitem(order_parameters.UNITS, units, off)
    assert call("verify", "--theory", "committee").returncode == 1


def test_deviations_of_right_formulas_are_those_of_standard_errors(monkeypatch):
    """Of 66 independent t-distributed numbers the largest is above 4.3 once in 250 times, below 1.5 once in 19,000."""
    monkeypatch.setattr(committee_check, "STATES", 3)
    monkeypatch.setattr(committee_check, "EXAMPLES", 512)
    largest = [max(c.residual for checks in committee_check.check_committee(seed).values() for c in checks)
               for seed in range(3)]  # fmt: skip
    assert 1.5 < min(largest) and max(largest) < 4.3
