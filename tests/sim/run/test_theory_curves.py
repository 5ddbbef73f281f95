"""Predictions beside measurements along a run, and pictures of predictions alone."""

from dataclasses import replace

import numpy as np
import pytest
from command_line import call
from runs import SMALL, assert_same_bits, finish, start, stopped_and_resumed
from two_lengths import slow

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run import theory_curves
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.theory_curves import LINEAR_NAMES
from sgdphases.sim.run.training import prepare
from sgdphases.theory.dmft import population

LINEAR = dict(
    dataset="teacher-student", dataset_options={"task": "regression", "dimension": 12}, noise_kind="sign-flip",
    hidden=(), learning_rate=0.05, with_theory=True,
)  # fmt: skip


@pytest.mark.parametrize("noise_fraction", [0.0, 0.3])
def test_full_batches_of_a_linear_model_follow_the_theory_to_rounding(tmp_path, noise_fraction):
    changes = {**LINEAR, "noise_fraction": noise_fraction, "batch_size": 97, "epochs": 200, "dtype": "float64"}
    trajectory, _ = finish(*start(tmp_path / "run", **changes))
    for name in LINEAR_NAMES:
        predicted, found = trajectory[f"{name}_theory"].values, trajectory[name].values
        np.testing.assert_allclose(predicted, found, rtol=1e-6, atol=1e-9, err_msg=name)
    assert np.isfinite(trajectory["loss_theory"]).all()
    assert "predicted" in trajectory["loss_theory"].attrs["long_name"]


@pytest.mark.slow
def test_the_minibatches_of_a_linear_model_stay_near_the_expected_loss(tmp_path):
    """Eight runs, the first half of an epoch: their mean loss within 5 of its standard errors of the theory.

    Later the minibatches of a reshuffled epoch make up for one another; those the theory is for are independent.
    """
    gaps = []
    for seed in range(8):
        changes = {**LINEAR, "noise_fraction": 0.3, "seed": seed, "epochs": 1, "checkpoints": 10}
        trajectory, _ = finish(*start(tmp_path / f"run{seed}", **changes))
        gaps.append(np.log(trajectory["loss"] / trajectory["loss_theory"]).sel(step=slice(0, 5)).values)
    gaps = np.array(gaps)
    assert gaps.shape[1] >= 5
    error = gaps.std(axis=0, ddof=1) / np.sqrt(8)
    assert (np.abs(gaps.mean(axis=0)) <= 5 * error + 1e-5).all()


def test_clean_priority_holds_until_labels_are_memorised(tmp_path):
    """The predicted R_cw follows the measured one while the loss of wrong samples rises, and then parts from it."""
    changes = dict(
        dataset_options={"classes": 10}, train_size=1000, noise_kind="uniform-other", noise_fraction=0.5,
        hidden=(40, 40), learning_rate=0.2, epochs=40, checkpoints=30, with_theory=True, alignment_batches=0,
    )  # fmt: skip
    trajectory, _ = finish(*start(tmp_path / "run", **changes))
    gap = (trajectory["alignment_cw"] - trajectory["alignment_cw_theory"]).values
    ratio = trajectory["directed_activity_w_theory"] / trajectory["directed_activity_w"]
    early = np.arange(len(gap)) < int(np.argmax(trajectory["loss_w"].values))
    assert early.sum() >= 5 and np.abs(gap[early]).max() < 0.15
    assert 0.5 < float(ratio[early].median()) < 2  # one draw of the labels
    assert np.abs(gap[~early]).max() > 0.2


def test_a_run_with_theory_resumes_to_the_same_bits(tmp_path):
    changes = {**LINEAR, "noise_fraction": 0.3, "epochs": 5}
    whole = finish(*start(tmp_path / "whole", **changes))
    assert_same_bits(stopped_and_resumed(tmp_path / "cut", 4, **changes), whole)


MEMORISING = dict(
    dataset="teacher-student", train_size=600, test_size=500, batch_size=200, epochs=4, checkpoints=8,
    learning_rate=0.5, noise_fraction=0.3, activation="erf", with_theory=True, alignment_batches=0,
)  # fmt: skip
COMMITTEE = {"teacher": "committee", "teacher_units": 2, "dimension": 600}
LEARNERS = {
    "values": dict(dataset_options={**COMMITTEE, "task": "regression"}, hidden=(2,), noise_kind="sign-flip"),
    "signs": dict(dataset_options=COMMITTEE, hidden=(3,), noise_kind="uniform", activation="tanh"),
    "linear": dict(dataset_options={"dimension": 600}, hidden=(), noise_kind="uniform-other", learning_rate=0.1),
}


def gaps(folder, learner, seeds, theory_rate=None):
    """Mean over runs of what is measured less what is predicted: losses relative, the rest as it is."""
    found = []
    for seed in seeds:
        experiment, kept = start(folder / f"{seed}-{theory_rate}", MEMORISING, **LEARNERS[learner], seed=seed)
        if theory_rate is not None:
            settings = experiment.settings.model_copy(update={"learning_rate": theory_rate})
            experiment = replace(experiment, theory=prepare(settings).theory)
        trajectory, _ = finish(experiment, kept)
        ratio = [np.log(trajectory[name] / trajectory[f"{name}_theory"]) for name in ("loss", "loss_c", "loss_w")]
        names = ["alignment_cw"] + ([] if learner == "values" else ["train_error", "test_error"])
        found.append([*ratio, *(trajectory[name] - trajectory[f"{name}_theory"] for name in names)])
    return np.abs(np.mean(found, axis=0)).max(axis=1)


@pytest.mark.parametrize("learner", ["signs", slow("values"), slow("linear")])
def test_few_units_learn_a_teacher_and_memorise_as_predicted(tmp_path, monkeypatch, learner):
    """Single runs at d = 600 scatter by up to 13 %, so 0.15 is two standard errors of the mean of three."""
    monkeypatch.setattr(theory_curves, "POPULATION", 400)
    monkeypatch.setattr(population, "TEST_SAMPLES", 4000)
    assert (gaps(tmp_path, learner, range(3)) < 0.15).all()
    rate = 4 * {**MEMORISING, **LEARNERS[learner]}["learning_rate"]
    assert (gaps(tmp_path, learner, range(1), rate) > 0.3).any()


def test_predictions_that_are_too_uncertain_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(theory_curves, "POPULATION", 60)
    monkeypatch.setattr(theory_curves, "CLEAR", 0.02)
    trajectory, _ = finish(*start(tmp_path / "run", MEMORISING, **LEARNERS["signs"]))
    lost = np.isnan(trajectory["alignment_cw_theory"].values)
    assert lost.any() and (np.diff(lost.astype(int)) >= 0).all()
    kept = trajectory["alignment_cw_theory_standard_error"].values[~lost]
    assert (kept <= 0.02).all()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (dict(hidden=(90, 60), epochs=99), r"settings: hidden = \(90, 60\): choose one hidden layer[^;]*\.$"),
        (dict(activation="relu", epochs=4000), "choose --epochs 103"),
        (dict(dataset_options={**COMMITTEE, "task": "regression", "dimension": 9}), "dimension = 9: .* choose 50"),
        (dict(batch_size=70), "batch_size = 70: choose one that divides the 600"),
        (dict(dataset_options={**COMMITTEE, "task": "regression", "covariance": "power-law"}), "choose isotropic"),
        (dict(epochs=4000), "choose --epochs 177"),
    ],
)
def test_what_the_theory_of_memorising_cannot_describe_is_named(changes, named):
    with pytest.raises(UsageError, match=named):
        prepare(make_settings({**MEMORISING, **LEARNERS["values"], **changes}))


def test_where_no_theory_applies_it_says_so_before_anything_is_written():
    with pytest.raises(UsageError, match="no theory predicts"):
        prepare(make_settings({**SMALL, "noise_fraction": 0.0, "with_theory": True}))


FEW = ["--steps", 12, "--learning-rate", 0.5, "--population", 60, "--repeats", 2]


@pytest.mark.parametrize(
    ("arguments", "printed"),
    [
        (["linear", "--samples", 60, "--dimension", 30, "--time", 20, "--simulate"], "lowest test loss"),
        (["linear", "--exponent", 1, "--noise-fraction", 0], "test loss at the end"),
        (["committee", "--time", 20, "--simulate", 100], "generalisation error"),
        (["committee", "--time", 20, "--noise-fraction", 0.4], "R_cw"),
        (["clean-priority", "--classes", 3], "reaches one at confidence 0.5"),
        (["clean-priority", "--samples", 1000], "1,000 samples start at"),
        (["finite-rate", "losses", "--checkpoints", 4], "verdict: the statement holds"),
        (
            ["dmft", *FEW, "--noise-fraction", 0, "--units", 2, "--activation", "tanh", "--train-output"],
            "theory: phases",
        ),
        (["dmft", *FEW, "--activation", "relu", "--units", 2, "--learning-rate", 2], "left out from epoch"),
        (["dmft", *FEW, "--batch-fraction", 0.5, "--simulate", 60, "--seeds", 2], "largest deviation of the loss"),
        (
            ["phase-diagram", *FEW, "--noise-fractions", "0.1,0.3", "--ratios", "1,2", "--simulate", 60],
            "d = 60: rho 0.3",
        ),
    ],
)
def test_predictions_are_drawn(tmp_path, arguments, printed):
    picture = tmp_path / "picture.png"
    done = call("theory", *arguments, "--out", picture)
    assert done.returncode == 0, done.stderr
    assert printed in done.stdout and "assumes: " in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    again = call("theory", *arguments, "--out", picture)
    assert again.returncode == 2 and "exists already" in again.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["linear", "--noise-fraction", 2], "noise_fraction = 2"),
        (["linear", "--time", -1], "--time -1"),
        (["committee", "--learning-rate", 0], "learning_rate = 0"),
        (["clean-priority", "--noise-fraction", "much"], "'much'"),
        (["clean-priority", "--out", "picture.doc"], "end it in .png"),
        (["finite-rate", "weather"], "choose among alignment, losses, reshuffling, flatness"),
        (["dmft", "--activation", "sine"], "choose among linear, erf, tanh, relu"),
        (["dmft", "--batch-fraction", "0.3"], "1 / an integer"),
        (["phase-diagram", "--ratios", "1"], "two or more rising values"),
        (["phase-diagram", "--noise-fractions", "0,0.5"], "--noise-fractions 0"),
        (["weather"], "No such command"),
    ],
)
def test_mistakes_are_named_and_draw_nothing(tmp_path, arguments, named):
    done = call("theory", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and named in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())
