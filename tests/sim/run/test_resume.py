"""`resume` goes on with the very run that was begun, or refuses, and leaves the folder as it was."""

import json

import numpy as np
import pytest
import xarray as xr
from command_line import call
from runs import SMALL, finish, start
from typer.testing import CliRunner

from sgdphases.cli import app
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.run.checkpoint import load_checkpoint
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import MOVABLE, RunSettings, fixed_settings, make_settings
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.storage.netcdf import write_netcdf
from sgdphases.sim.sweep.folder import SweepFolder, start_sweep
from sgdphases.sim.sweep.member import read_member
from sgdphases.sim.sweep.plan import plan_sweep


@pytest.fixture
def begun(tmp_path):
    """A run left after some pieces."""
    experiment, folder = start(tmp_path / "run")
    going = advance(experiment, folder)
    for _ in range(7):
        next(going)
    going.close()
    return folder


def contents(path):
    return {each: each.read_bytes() for each in path.rglob("*") if each.is_file()}


def refused(folder, kind=InputError, command="resume"):
    """The message with which a command refuses a folder, in which nothing may change."""
    before = contents(folder.path)
    done = CliRunner().invoke(app, [command, str(folder.path)])
    assert type(done.exception) is kind, done.exception
    assert contents(folder.path) == before
    return str(done.exception)


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("learning_rate", 0.1, 0.9),
        ("epochs", 12, 2),
        ("epochs", 12, 24),
        ("checkpoints", 15, 40),
        ("batch_size", 10, 20),
        ("seed", 3, 4),
        ("noise_fraction", 0.4, 0.2),
        ("activation", "relu", "tanh"),
        ("alignment_batches", 4, 8),
        ("wrong_labels", "assigned", "actual"),
    ],
)
def test_an_edited_config_is_refused_with_both_values(begun, name, before, after):
    text = begun.config.read_text()
    line = f"{name} = {json.dumps(before)}"
    assert line in text
    begun.config.write_text(text.replace(line, f"{name} = {json.dumps(after)}"))
    message = refused(begun, UsageError)
    assert f"{name} = {after!r} (begun with {before!r})" in message
    assert "Put back" in message and "sgdphases run --config" in message


def test_every_setting_but_places_and_devices_is_held_fast():
    settings = make_settings(SMALL)
    assert set(json.loads(fixed_settings(settings))) == set(RunSettings.model_fields) - set(MOVABLE)
    moved = settings.model_copy(update={"dataset": "/elsewhere/mine.npz"})
    assert "dataset" not in json.loads(fixed_settings(moved))


@pytest.mark.usefixtures("pictures")
def test_the_page_is_not_drawn_over_curves_of_other_settings(tmp_path):
    experiment, folder = start(tmp_path / "run")
    finish(experiment, folder)
    assert CliRunner().invoke(app, ["report", str(folder.path)]).exit_code == 0
    folder.config.write_text(folder.config.read_text().replace("learning_rate = 0.1", "learning_rate = 0.9"))
    assert "learning_rate = 0.9 (begun with 0.1)" in refused(folder, UsageError, "report")


def test_a_checkpoint_from_before_settings_were_kept_resumes_and_fewer_epochs_are_refused(begun):
    rewrite(begun.checkpoint, settings=None)
    assert load_checkpoint(begun.checkpoint).settings == ""
    text = begun.config.read_text()
    for edited in ("epochs = 1\n", "epochs = 24\n"):
        begun.config.write_text(text.replace("epochs = 12\n", edited))
        assert "no point of a run of " + edited.strip() in refused(begun)
    begun.config.write_text(text)
    finish(prepare(begun.read_settings()), begun, begun.read_checkpoint())
    assert begun.read_trajectory()["epoch"][-1] == 12


def rewrite(path, **changes):
    """Write a checkpoint again with other arrays; None leaves one out."""
    with np.load(path) as stored:
        arrays = {**stored, **changes}
    with open(path, "wb") as file:
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})


@pytest.mark.parametrize(
    "changes",
    [
        {"step": np.int64(-3)},
        {"step": np.float64(40.5)},
        {"step": np.int64(10**12)},
        {"step": np.int64(0)},
        {"step": np.array([1, 2])},
        {"step": np.array("forty")},
        {"step": None},
        {"weights": np.ones(3)},
        {"weights": np.ones((2, 2))},
        {"weights": np.array(["a"])},
        {"table": np.ones((2, 2))},
        {"names": np.array(["step"])},
        {"settings": np.array("{")},
        {"settings": np.array("[1]")},
        {"array sample_loss": np.ones((99, 2))},
    ],
    ids=lambda changes: ", ".join(f"{name}={value!r:.20}" for name, value in changes.items()),
)
def test_a_damaged_checkpoint_is_refused(begun, changes):
    rewrite(begun.checkpoint, **changes)
    assert "checkpoint.npz" in refused(begun)


def test_other_files_in_the_place_of_a_checkpoint_are_refused(begun):
    whole = begun.checkpoint.read_bytes()
    np.save(begun.path / "x.npy", np.arange(5.0))
    array = (begun.path / "x.npy").read_bytes()
    (begun.path / "x.npy").unlink()
    for content in (array, b"", whole[:-30], whole[: len(whole) // 3], b"PK\x05\x06" + bytes(18), whole[:200] * 3):
        begun.checkpoint.write_bytes(content)
        assert "checkpoint.npz is no usable checkpoint" in refused(begun)
    begun.checkpoint.unlink()
    begun.checkpoint.mkdir()
    assert "checkpoint.npz cannot be read" in refused(begun)


@pytest.mark.parametrize("text", ["epochs = ", "[[", "\xff", 'dataset = "digits"\nepochs = "many"\n', "epochs = 3\n"])
def test_a_damaged_config_is_refused(begun, text):
    begun.config.write_text(text, encoding="latin-1")
    done = CliRunner().invoke(app, ["resume", str(begun.path)])
    assert isinstance(done.exception, InputError)


def other_netcdf(path):
    write_netcdf(path, xr.Dataset({"loss": ("step", np.zeros(3))}))
    return path.read_bytes()


@pytest.mark.usefixtures("pictures")
def test_a_truncated_trajectory_is_named_and_written_anew_by_resume(tmp_path):
    experiment, folder = start(tmp_path / "run")
    finish(experiment, folder)
    whole = folder.trajectory.read_bytes()
    for keep in (0, 100, len(whole) // 2, len(whole) - 1):
        folder.trajectory.write_bytes(whole[:keep])
        assert "trajectory.nc is no usable trajectory" in refused(folder, command="report")
    for content in (
        whole.replace(b"train_error", b"train_orror"),
        whole.replace(b"learning_rate = ", b"learning_rate ! "),
        other_netcdf(tmp_path / "other.nc"),
    ):
        folder.trajectory.write_bytes(content)
        assert "trajectory.nc is no usable trajectory" in refused(folder, command="report")
    folder.phases.write_text("{")  # nobody reads it
    assert CliRunner().invoke(app, ["resume", str(folder.path)]).exit_code == 0
    assert folder.read_trajectory()["epoch"][-1] == 12 and json.loads(folder.phases.read_text())


def test_a_cleansing_is_not_resumed_as_a_run(tmp_path):
    folder = RunFolder(tmp_path / "cleansed")
    start_folder(folder, make_settings(SMALL))
    (folder.path / "options.json").write_text("{}")
    assert f"sgdphases cleanse … --out {folder.path}" in refused(folder, UsageError)


@pytest.mark.parametrize("job", ["cleansing", "training"])
def test_a_study_of_cleansing_is_not_resumed_as_a_sweep(tmp_path, job):
    folder, plan = SweepFolder(tmp_path / "study"), plan_sweep(SMALL, {"seed": [0, 1]}, job)
    start_sweep(folder, plan)
    assert folder.read_plan().job == job
    member = folder.member(plan.members()[0])
    start_folder(member, make_settings(SMALL))
    if job == "training":  # begun before plans said what is done with members
        (member.path / "cleansing.nc").touch()
        assert "reproduce fig6" in refused(member, UsageError)
    assert "reproduce fig6" in refused(folder, UsageError)


def test_a_changed_checkpoint_file_in_a_sweep_fails_its_member_only(tmp_path):
    plan = plan_sweep({**SMALL, "epochs": 2, "checkpoints": 3}, {"seed": [0, 1]})
    folder = SweepFolder(tmp_path / "sweep")
    start_sweep(folder, plan)
    first, second = (folder.member(member) for member in plan.members())
    start_folder(first, plan.members()[0].settings)
    first.checkpoint.write_bytes(b"junk")
    done = call("resume", folder.path, "--workers", "1")
    assert "no usable checkpoint" in done.stdout and read_member(second)["epoch"][-1] == 2
    assert first.checkpoint.read_bytes() == b"junk"


def test_settings_in_the_file_are_those_the_checkpoint_keeps(begun):
    checkpoint = begun.read_checkpoint()
    assert json.loads(checkpoint.settings) == json.loads(fixed_settings(begun.read_settings()))
