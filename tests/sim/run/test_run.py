"""A run on disk: what it leaves, and that stopping it anywhere loses nothing."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from runs import SMALL, assert_same_bits, finish, start, stopped_and_resumed

from sgdphases.estimators.ensemble.order_parameters import describe
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.run import streams as streams_module
from sgdphases.sim.run.checkpoint import load_checkpoint
from sgdphases.sim.run.folder import RunFolder, claim_run, start_folder
from sgdphases.sim.run.schedule import Orders, checkpoint_steps, sample_order, steps_per_epoch
from sgdphases.sim.run.settings import make_settings, read_settings, settings_toml
from sgdphases.sim.run.streams import stream, stream_words, streams
from sgdphases.sim.run.training import advance, prepare


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run for each backend."""
    return {
        name: finish(*start(tmp_path_factory.mktemp("whole") / name, backend=name))
        for name in ("numpy", "numba", "torch")
    }


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("pieces", [1, 7, 20])
def test_a_run_stopped_and_resumed_ends_in_the_same_bits(tmp_path, whole, backend, pieces):
    experiment, folder = start(tmp_path / "run", backend=backend)
    for number, _ in enumerate(advance(experiment, folder)):
        if number == pieces:
            break
    fresh = prepare(folder.read_settings())
    assert_same_bits(finish(fresh, folder, folder.read_checkpoint()), whole[backend])


def test_a_finished_run_can_be_resumed_to_no_effect(tmp_path, whole):
    experiment, folder = start(tmp_path / "run")
    finish(experiment, folder)
    assert_same_bits(finish(prepare(folder.read_settings()), folder, folder.read_checkpoint()), whole["numba"])


@pytest.mark.slow
def test_kill_minus_nine_loses_only_work_since_the_last_checkpoint(tmp_path):
    """Kill a real process several times, wherever it happens to be; the end is that of an undisturbed run."""
    long = {"epochs": 400, "checkpoints": 60, "train_size": 97}
    expected = finish(*start(tmp_path / "whole", **long))
    _, folder = start(tmp_path / "killed", **long)
    command = [sys.executable, "-c", "from sgdphases.cli import main; main()", "resume", str(folder.path)]
    for _ in range(3):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        before = folder.checkpoint.stat().st_mtime_ns if folder.checkpoint.exists() else 0
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            if folder.checkpoint.exists() and folder.checkpoint.stat().st_mtime_ns != before:
                break
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert load_checkpoint(folder.checkpoint).step >= 0
    assert_same_bits(finish(prepare(folder.read_settings()), folder, folder.read_checkpoint()), expected)


def test_the_trajectory_is_what_a_newcomer_expects(tmp_path):
    experiment, folder = start(tmp_path / "run")
    finish(experiment, folder)
    with xr.open_dataset(folder.trajectory) as trajectory:
        errors = {f"{name}_standard_error" for name in ("alignment", "alignment_c", "alignment_w")}
        assert set(describe()) | {"test_loss", "test_error", "test_lost"} | errors == set(trajectory.data_vars)
        assert trajectory["activity"].dims == ("step",)
        assert trajectory["step"][0] == 0 and trajectory["step"][-1] == 12 * 10
        assert trajectory["epoch"][-1] == 12
        assert trajectory["alignment_cw"].attrs["symbol"] == "R_cw" and trajectory["alignment_cw"].attrs["long_name"]
        assert "gaussian-mixture" in trajectory.attrs["settings"]
        np.testing.assert_allclose(trajectory["noise_fraction"], round(0.4 * 97) / 97)


def test_nothing_half_written_is_left_behind(tmp_path):
    experiment, folder = start(tmp_path / "run")
    finish(experiment, folder)
    assert sorted(path.name for path in folder.path.iterdir()) == ["checkpoint.npz", "config.toml", "trajectory.nc"]


def test_the_settings_on_disk_repeat_the_run(tmp_path, whole):
    experiment, folder = start(tmp_path / "first")
    assert make_settings(read_settings(folder.config)) == experiment.settings
    assert "numpy" in folder.config.read_text() and "[versions]" in folder.config.read_text()


def test_other_data_than_the_run_was_started_on_are_refused(tmp_path):
    experiment, folder = start(tmp_path / "run")
    next(advance(experiment, folder))
    changed = replace(experiment, data=prepare(make_settings({**SMALL, "seed": 4})).data)
    with pytest.raises(InputError, match="differ from those"):
        next(advance(changed, folder, folder.read_checkpoint()))


@pytest.mark.parametrize("damage", [b"", b"nonsense", None])
def test_damaged_checkpoints_are_named(tmp_path, damage):
    experiment, folder = start(tmp_path / "run")
    next(advance(experiment, folder))
    whole_file = folder.checkpoint.read_bytes()
    folder.checkpoint.write_bytes(whole_file[: len(whole_file) // 2] if damage is None else damage)
    with pytest.raises(InputError, match=r"checkpoint\.npz is no usable checkpoint"):
        folder.read_checkpoint()


def test_a_diverging_run_says_so_and_keeps_what_it_has(tmp_path):
    experiment, folder = start(tmp_path / "run", learning_rate=1e6)
    with pytest.raises(TrainingDiverged, match="lower the learning rate"):
        finish(experiment, folder)
    assert len(folder.read_checkpoint().rows["step"]) >= 1


def test_folders_in_use_are_left_alone(tmp_path):
    _, folder = start(tmp_path / "run")
    with pytest.raises(UsageError, match="sgdphases resume"):
        claim_run(folder.path, "x")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(UsageError, match="not an empty folder"):
        claim_run(tmp_path / "other", "x")
    with pytest.raises(UsageError, match="holds no run"):
        RunFolder(tmp_path / "other").read_settings()
    assert claim_run(tmp_path / "new", "x").path == tmp_path / "new"


def test_unnamed_runs_get_numbers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("gaussian-mixture-001", "gaussian-mixture-002"):
        with claim_run(None, "gaussian-mixture") as claimed:
            assert claimed.path.name == name
            start_folder(RunFolder(claimed.path), make_settings(SMALL))


def test_every_backend_starts_at_the_same_weights_and_follows_the_same_minibatches(whole):
    for name in ("numba", "torch"):
        trajectory, reference = whole[name][0], whole["numpy"][0]
        np.testing.assert_allclose(trajectory["loss"], reference["loss"], rtol=1e-3)
        np.testing.assert_allclose(trajectory["activity"][:5], reference["activity"][:5], rtol=1e-3)


def test_the_wrong_population_is_the_assigned_or_the_actual_one():
    assigned = prepare(make_settings({**SMALL, "wrong_labels": "assigned"}))
    actual = prepare(make_settings({**SMALL, "wrong_labels": "actual"}))
    assert assigned.wrong.sum() == round(0.4 * 97) > actual.wrong.sum()
    assert not (actual.wrong & ~assigned.wrong).any()


def test_regression_runs_with_squared_loss(tmp_path):
    experiment, folder = start(
        tmp_path / "run",
        dataset="teacher-student",
        dataset_options={"task": "regression"},
        noise_fraction=0.0,
        learning_rate=0.01,
    )
    trajectory, _ = finish(experiment, folder)
    assert trajectory["loss"][-1] < trajectory["loss"][0]
    assert np.isnan(trajectory["train_error"]).all()


def test_sharp_and_floor_curves_are_recorded_and_survive_an_interruption(tmp_path):
    changes = dict(sharp_directions=2, epochs=4, checkpoints=6, backend="numpy")
    whole = finish(*start(tmp_path / "whole", **changes))
    trajectory = whole[0]
    assert (trajectory["sharpness"] > 0).all()
    both = trajectory["directed_activity_sharp"] + trajectory["directed_activity_floor"]
    np.testing.assert_allclose(both, trajectory["directed_activity"], rtol=1e-9)
    assert (np.abs(trajectory["alignment_cw_floor"]) <= 1).all()
    assert "off the leading" in trajectory["alignment_cw_floor"].attrs["long_name"]
    assert_same_bits(stopped_and_resumed(tmp_path / "cut", 4, **changes), whole)


def test_more_sharp_directions_than_parameters_are_refused_before_anything_is_written():
    with pytest.raises(UsageError, match="sharp directions: choose 1 to"):
        prepare(make_settings({**SMALL, "sharp_directions": 10_000}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"noise_fraction": 1.5}, "noise_fraction = 1.5"),
        ({"learning_rate": 0}, "learning_rate = 0"),
        ({"epochs": "many"}, "epochs = 'many'"),
        ({"colour": "red"}, "colour is no setting"),
        ({"hidden": [3, 0]}, "hidden"),
        ({"alignment_batches": 2}, "alignment_batches = 2"),
        ({"checkpoints": 1}, "checkpoints = 1"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_impossible_settings_are_named(changes, named):
    with pytest.raises(UsageError, match=named):
        make_settings({**SMALL, **changes})


def test_several_mistakes_are_reported_at_once():
    with pytest.raises(UsageError, match=r"(?s)epochs = 0.*batch_size = 0|batch_size = 0.*epochs = 0"):
        make_settings({**SMALL, "epochs": 0, "batch_size": 0})


def test_batches_larger_than_the_data_are_refused():
    with pytest.raises(UsageError, match="batch_size = 98 exceeds the 97"):
        prepare(make_settings({**SMALL, "batch_size": 98}))


@given(st.integers(1, 10**6), st.integers(2, 200))
def test_checkpoints_go_from_the_start_to_the_end_in_order(n_steps, n_checkpoints):
    steps = checkpoint_steps(n_steps, n_checkpoints)
    assert steps[0] == 0 and steps[-1] == n_steps and (np.diff(steps) > 0).all()
    assert len(steps) <= n_checkpoints
    gaps = np.diff(np.log(steps[steps > 20]))
    if n_checkpoints > 3 and len(gaps):
        spacing = np.log(n_steps) / (n_checkpoints - 2)
        assert gaps.max() <= spacing + 0.06  # steps are whole: each end is off by half a step in twenty


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 5), st.integers(0, 2**31))
def test_every_epoch_shows_every_sample_once_however_it_is_cut(n_samples, batch_size, epoch, seed):
    per_epoch = steps_per_epoch(n_samples, batch_size)
    first, last = epoch * per_epoch, (epoch + 1) * per_epoch
    order = sample_order(seed, first, last, n_samples, batch_size)
    assert sorted(order) == list(range(n_samples))
    cut = first + per_epoch // 2
    pieces = [sample_order(seed, a, b, n_samples, batch_size) for a, b in ((first, cut), (cut, last)) if a < b]
    assert np.concatenate(pieces).tolist() == order.tolist()


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    st.lists(st.integers(1, 500), max_size=6),
    st.integers(0, 2**70),
    st.booleans(),
)
def test_orders_over_many_epochs_are_those_of_each(n_samples, batch_size, lengths, seed, compiled):
    per_epoch = steps_per_epoch(n_samples, batch_size)
    orders = Orders(seed, n_samples, batch_size, compiled=compiled)
    ends = np.cumsum([0, *lengths]).tolist()
    for first, stop in pairwise(ends):
        cuts = [first, *(cut for cut in range(0, stop, per_epoch) if first < cut), stop]
        each = [sample_order(seed, a, b, n_samples, batch_size) for a, b in pairwise(cuts)]
        assert orders.of(first, stop).tolist() == np.concatenate(each).tolist()


@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**32 - 1, 2**32, 2**64, 2**128 - 1, 2**128, 2**200 + 3])
def test_many_streams_are_those_of_each_position(seed, monkeypatch):
    positions = [0, 1, 63, 64, 1000, 2**32 - 1]
    for purpose in ("order", "data"):
        expected = [stream(seed, purpose, position).permutation(40).tolist() for position in positions]
        assert [each.permutation(40).tolist() for each in streams(seed, purpose, positions)] == expected
    assert streams_module._is_as_known()
    with monkeypatch.context() as patch:  # a numpy that mixes seeds in another way
        patch.setattr(streams_module, "_is_as_known", lambda: False)
        patch.setattr(streams_module, "_states", None)
        assert next(streams(seed, "order", [7])).random() == stream(seed, "order", 7).random()
        words = stream_words(seed, "order", [7])
    assert np.array_equal(words, stream_words(seed, "order", [7]))


def test_the_settings_survive_toml():
    settings = make_settings(
        {**SMALL, "dataset_options": {"separation": 3.5, "covariance": "power-law"}, "data_dir": "a b"}
    )
    import tomllib

    values = tomllib.loads(settings_toml(settings))
    values.pop("versions")
    assert make_settings(values) == settings
