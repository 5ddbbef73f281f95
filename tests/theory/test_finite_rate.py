"""Statements to the next order in the learning rate and in 1/B: against quadrature, and as experiments."""

import numpy as np
import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.solvable import finite_rate, network_flatness, sampler_flatness
from sgdphases.sim.solvable.finite_rate import alignment_experiment, losses_experiment, reshuffling_experiment
from sgdphases.sim.solvable.sampler_flatness import flatness_experiment
from sgdphases.theory.finite_rate import alignment_to_second_order, falling_losses


@pytest.mark.parametrize("spread", [(0.1, 0.1), (0.15, 0.02), (0.02, 0.15)])
def test_the_expansion_of_the_alignment_leaves_the_next_order(spread):
    """Normal noise in two dimensions, by quadrature: halving it divides what is left by 16, that of A_0/A by 4."""
    points, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = np.outer(weights, weights) / weights.sum() ** 2
    off = []
    for scale in (1.0, 0.5):
        along, across = (scale * s * points for s in spread)
        length = np.hypot(1 + along[:, None], across[None])
        alignment = np.sum(weights * (1 + along[:, None]) / length) ** 2
        d_along, d_across = ((scale * s) ** 2 for s in spread)
        activity = 1 + d_along + d_across
        found = alignment_to_second_order(1.0, activity, d_along, d_along**2 + d_across**2)
        off.append((abs(alignment - found), abs(alignment - 1 / activity)))
    assert off[0][0] / off[1][0] > 10
    assert spread[0] < spread[1] or off[0][0] < 0.2 * off[0][1]


@given(st.integers(0, 999))
def test_margins_say_which_loss_falls(seed):
    rng = np.random.default_rng(seed)
    rho, clean, wrong = rng.uniform(0.05, 0.95), rng.normal(size=3), rng.normal(size=3)
    mean = (1 - rho) * clean + rho * wrong
    cosine = clean @ wrong / np.linalg.norm(clean) / np.linalg.norm(wrong)
    margin_c, margin_w = falling_losses(cosine, (1 - rho) ** 2 * clean @ clean, rho**2 * wrong @ wrong)
    for margin, gradient in ((margin_c, clean), (margin_w, wrong)):
        assert abs(mean @ gradient) < 1e-9 or (margin > 0) == (mean @ gradient > 0)
    assert np.isnan(falling_losses(0.5, 0.0, 1.0)).all()


def test_one_small_step_lowers_what_it_should_and_the_check_can_fail(monkeypatch):
    found = losses_experiment(6, 0)
    assert found.holds and (found.rows["change_w"] > 0).any() and (found.rows["change_w"] < 0).any()
    monkeypatch.setattr(finite_rate, "falling_losses", lambda cosine, c, w: falling_losses(-cosine, c, w))
    assert not losses_experiment(6, 0).holds


@pytest.mark.slow
def test_reshuffled_epochs_follow_the_corrected_flow_and_no_other(monkeypatch):
    assert reshuffling_experiment(0, n_batches=3).holds
    monkeypatch.setattr(finite_rate, "_activity_slope", lambda backend, weights, batches: 0 * weights)
    assert not reshuffling_experiment(0, n_batches=3).holds


def test_alignment_along_a_run_follows_the_expansion_while_noise_is_normal():
    found = alignment_experiment(4, 0)
    assert found.holds
    assert (np.abs(found.rows["moments"] - found.rows["measured"]) < 0.01).all()


def test_the_sampler_decides_how_the_spread_goes_with_flatness(monkeypatch):
    found = flatness_experiment(0)
    assert found.holds
    path = sampler_flatness._path
    monkeypatch.setattr(sampler_flatness, "EPOCHS", 300)
    monkeypatch.setattr(sampler_flatness, "_path", lambda x, y, h, _, own, rng: path(x, y, h, False, own, rng))
    assert not flatness_experiment(0).holds  # with independent minibatches throughout


@pytest.mark.slow
def test_reshuffled_epochs_hold_a_network_together_and_independent_minibatches_do_not(monkeypatch):
    """As on MNIST, in small: variances once an epoch fall fastest with flatness, and are by far the smallest."""
    for name, value in (("BEFORE", 400), ("EPOCHS", 160), ("WATCHED", 30), ("HIDDEN", (20, 20))):
        monkeypatch.setattr(network_flatness, name, value)
    found = network_flatness.network_flatness_experiment("digits", None, 300, 0)
    rows = found.rows
    psi = {name: -np.polyfit(np.log(rows[f"{name}_flatness"]), np.log(rows[name]), 1)[0] for name in ("epoch", "step")}
    assert abs(psi["epoch"] - 4) < 1 and psi["epoch"] > psi["step"] + 1
    assert np.median(rows["independent_epoch"] / rows["epoch"]) > 30
    paths = network_flatness._paths
    monkeypatch.setattr(network_flatness, "_paths", lambda backend, n, _, rng: paths(backend, n, True, rng))
    switched = network_flatness.network_flatness_experiment("digits", None, 300, 0)
    assert not switched.holds and np.median(switched.rows["independent_epoch"] / switched.rows["epoch"]) < 3


def test_a_network_that_is_not_at_a_minimum_is_refused(monkeypatch):
    monkeypatch.setattr(network_flatness, "BEFORE", 1)
    with pytest.raises(UsageError, match="training error"):
        network_flatness.network_flatness_experiment("digits", None, 300, 0)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["losses", "--dataset", "digits"], "leave it out"),
        (["flatness", "--train-size", 500], "name it with --dataset"),
        (["flatness", "--dataset", "digits", "--train-size", 330], "a multiple of 50"),
        (["flatness", "--dataset", "mnist"], "--data-dir"),
    ],
)
def test_data_that_do_not_fit_a_statement_are_named(tmp_path, arguments, named):
    done = call("theory", "finite-rate", *arguments, cwd=tmp_path)
    assert done.returncode in (1, 2) and named in done.stderr and not list(tmp_path.iterdir())
