"""What short members measure is kept in one file of their sweep: the same bits, crash-safe, and folders on demand."""

import json
import os
import signal
import subprocess
import time

import numpy as np
import pytest
from command_line import PROGRAM, call

import sgdphases
from sgdphases.estimators.errors import InputError
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.sweep import member as members
from sgdphases.sim.sweep.dataset import sweep_dataset
from sgdphases.sim.sweep.folder import SweepFolder, is_finished, start_sweep
from sgdphases.sim.sweep.member import made_folder, measured, read_member
from sgdphases.sim.sweep.plan import plan_sweep
from sgdphases.sim.sweep.results import ResultsWriter, places, read_ended
from sgdphases.sim.sweep.run import run_sweep

BASE = dict(
    dataset="gaussian-mixture", train_size=63, test_size=40, hidden=[6], batch_size=10, epochs=7, checkpoints=9,
    alignment_batches=4, noise_fraction=0.4, sample_losses=True,
)  # fmt: skip


def begun(path, **changes):
    plan, folder = plan_sweep({**BASE, **changes}, {"seed": [0, 1, 2]}), SweepFolder(path)
    start_sweep(folder, plan)
    return folder, plan


def ran(path, **changes):
    folder, plan = begun(path, **changes)
    assert [outcome.failure for outcome in run_sweep(folder, plan, workers=1)] == [None] * 3
    return folder, plan


@pytest.fixture(scope="module", autouse=True)
def patient():
    """However long kernels take to compile, members here are short."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "LONG", float("inf"))
        yield


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A sweep whose members end within seconds."""
    return ran(tmp_path_factory.mktemp("sweep") / "short")


def test_short_members_leave_one_file_and_nothing_else(short):
    folder, plan = short
    assert {path.name for path in folder.path.iterdir()} == {"sweep.toml", "results.bin"}
    assert list(places(folder.results)) == [member.name for member in plan.members()]
    assert not list(run_sweep(folder, plan, workers=1))


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_a_member_has_the_bits_of_a_run_with_its_settings(tmp_path, backend):
    folder, plan = ran(tmp_path / "sweep", backend=backend)
    for member in plan.members():
        alone = sgdphases.run(**member.settings.model_dump(), out=tmp_path / member.name)
        kept = RunFolder(tmp_path / member.name).read_checkpoint()
        assert read_member(folder.member(member)).drop_attrs().identical(alone.drop_attrs())
        found = measured(folder.member(member)).checkpoint
        assert np.array_equal(found.weights, kept.weights) and found.weights.dtype == kept.weights.dtype
        assert (found.step, found.fingerprint, found.settings) == (kept.step, kept.fingerprint, kept.settings)
        assert found.rows.keys() == kept.rows.keys()
        assert all(np.array_equal(found.rows[name], kept.rows[name], equal_nan=True) for name in kept.rows)


def test_a_long_member_has_a_folder_checkpoints_and_the_same_bits(short, tmp_path, monkeypatch):
    folder, plan = begun(tmp_path / "long")
    monkeypatch.setattr(members, "LONG", -1.0)
    first = plan.members()[0]
    with pytest.raises(KeyboardInterrupt):
        interrupted = iter([None] * 5)
        monkeypatch.setattr(members, "advance", lambda *all: stopped(advance(*all), interrupted))
        next(run_sweep(folder, plan, workers=1))
    assert folder.member(first).checkpoint.exists() and not is_finished(folder.member(first), first.settings)
    monkeypatch.setattr(members, "advance", advance)
    assert [outcome.failure for outcome in run_sweep(folder, plan, workers=1)] == [None] * 3
    assert not folder.results.exists()
    for member in plan.members():
        own, other = folder.member(member).read_trajectory(), read_member(short[0].member(member))
        assert own.drop_attrs().identical(other.drop_attrs())
    one, other = sweep_dataset(folder, plan), sweep_dataset(*short)
    assert one.identical(other)


def stopped(pieces, few):
    """Some of the pieces, and then Ctrl-C."""
    for piece in pieces:
        if next(few, 1) is not None:
            raise KeyboardInterrupt
        yield piece


def test_sweeps_of_before_are_read_and_not_run_again(short, tmp_path):
    folder, plan = begun(tmp_path / "old")
    for member in plan.members():
        experiment, own = prepare(member.settings), folder.member(member)
        start_folder(own, experiment.settings)
        for _ in advance(experiment, own):
            pass
    assert not list(run_sweep(folder, plan, workers=1)) and not folder.results.exists()
    assert sweep_dataset(folder, plan).identical(sweep_dataset(*short))


@pytest.mark.usefixtures("pictures")
def test_the_folder_of_a_member_is_made_where_it_is_asked_for(tmp_path):
    folder, plan = ran(tmp_path / "sweep")
    first, second, third = (folder.member(member) for member in plan.members())
    done = call("report", first.path)
    assert done.returncode == 0, done.stderr
    assert first.report.exists() and first.read_checkpoint().step == 49 and not second.path.exists()
    assert first.read_settings().seed == 0
    assert call("resume", second.path).returncode == 0  # there is nothing to go on with, but the report
    assert call("report", folder.path / "members" / "seed=9").returncode == 2
    before = {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    made_folder(first)
    assert before == {path: path.read_bytes() for path in first.path.rglob("*") if path.is_file()}
    assert not list(run_sweep(folder, plan, workers=1, keep_members=True))
    assert third.read_trajectory().identical(read_ended(folder.results, "seed=2").trajectory())
    whole = sgdphases.sweep(axes={"seed": [0, 1]}, out=tmp_path / "kept", workers=1, keep_members=True, **BASE)
    assert whole["finished"].all() and len(list((tmp_path / "kept" / "members").glob("*/trajectory.nc"))) == 2


def test_a_folder_made_on_demand_is_that_of_a_run(short, tmp_path):
    folder, plan = short
    member = plan.members()[1]
    kept = read_member(folder.member(member))
    made = made_folder(folder.member(member))
    alone = sgdphases.run(**member.settings.model_dump(), out=tmp_path / "alone")
    del alone.attrs["folder"]
    assert made.read_trajectory().identical(alone) and kept.identical(alone)
    assert made.config.read_text() == RunFolder(tmp_path / "alone").config.read_text()
    made.check_trajectory(made.read_trajectory())


def test_a_killed_sweep_loses_only_the_members_under_way(tmp_path):
    flags = ["--train-size", "60", "--hidden", "6", "--batch-size", "10", "--epochs", "2000", "--checkpoints", "6"]
    command = ["sweep", "gaussian-mixture", *flags, "--alignment-batches", "0", "--seeds", "500", "--workers", "1"]
    with open(tmp_path / "said.txt", "wb") as said:
        process = subprocess.Popen(
            [*PROGRAM, *command, "--out", str(tmp_path / "sweep")], stdout=said, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip
        folder, deadline = SweepFolder(tmp_path / "sweep"), time.monotonic() + 60
        while len(places(folder.results)) < 4 and time.monotonic() < deadline:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    ended = [line.split()[0] for line in (tmp_path / "said.txt").read_text().splitlines() if line.endswith(" ended")]
    plan = folder.read_plan()
    finished = [each.name for each in plan.members() if is_finished(folder.member(each), each.settings)]
    assert 4 <= len(finished) < 500 and set(ended) <= set(finished) and len(finished) <= len(ended) + 1


@pytest.mark.parametrize("left", [1, 9, 40, -1])
def test_a_block_cut_short_is_ignored_and_overwritten(tmp_path, left):
    folder, plan = ran(tmp_path / "sweep")
    whole, names = folder.results.read_bytes(), [member.name for member in plan.members()]
    last = places(folder.results)[names[2]]
    folder.results.write_bytes(whole[: last.start + left] if left > 0 else whole[:left])
    assert list(places(folder.results)) == names[:2]
    assert [outcome.member.name for outcome in run_sweep(folder, plan, workers=1)] == names[2:]
    assert folder.results.read_bytes() == whole


def test_zeros_that_a_power_cut_leaves_are_no_member(tmp_path):
    folder, plan = ran(tmp_path / "sweep")
    with open(folder.results, "ab") as file:
        file.write(bytes(5000))
    assert len(places(folder.results)) == 3
    assert not list(run_sweep(folder, plan, workers=1))


@pytest.mark.parametrize("where", ["marker", "header", "arrays"])
def test_damage_is_named_and_left_as_it_is(tmp_path, where):
    folder, plan = ran(tmp_path / "sweep")
    content, place = bytearray(folder.results.read_bytes()), list(places(folder.results).values())[1]
    content[place.start + {"marker": 2, "header": 60, "arrays": 28 + place.header + 5}[where]] ^= 255
    folder.results.write_bytes(content)
    with pytest.raises(InputError, match=r"results\.bin is damaged .*: restore it, or remove it"):
        next(run_sweep(folder, plan, workers=1))
    assert folder.results.read_bytes() == content
    done = call("resume", folder.path)
    assert done.returncode == 1 and "is damaged" in done.stderr


def test_a_full_disk_leaves_what_was_there(short, tmp_path, monkeypatch):
    folder, plan = short
    ended = read_ended(folder.results, plan.members()[0].name)
    path = tmp_path / "results.bin"
    with ResultsWriter(path) as results:
        results.append("one", ended)
        size = path.stat().st_size
        monkeypatch.setattr(results, "_file", Full(results._file))
        with pytest.raises(InputError, match=r"results\.bin cannot be written \(No space left"):
            results.append("two", ended)
        results._file = results._file.file
    assert list(places(path)) == ["one"]
    with ResultsWriter(path) as results:
        results.append("three", ended)
    assert list(places(path)) == ["one", "three"] and path.stat().st_size == 2 * size + len("three") - len("one")


class Full:
    """A file on a disk that is full after a hundred bytes."""

    def __init__(self, file):
        self.file = file

    def __getattr__(self, name):
        return getattr(self.file, name)

    def write(self, content):
        if len(content) < 200:
            raise OSError(28, "No space left on device")
        return self.file.write(content[:100])


def test_what_a_member_keeps_survives_its_file(short, tmp_path):
    folder, plan = short
    ended = measured(folder.member(plan.members()[2]))
    with ResultsWriter(tmp_path / "results.bin") as results:
        results.append("it", ended)
    again = read_ended(tmp_path / "results.bin", "it")
    assert (again.config, again.steps_per_epoch, again.sizes) == (ended.config, ended.steps_per_epoch, ended.sizes)
    assert json.loads(again.checkpoint.settings) == json.loads(ended.checkpoint.settings)
    for name, values in ended.checkpoint.rows.items():
        assert again.checkpoint.rows[name].dtype == values.dtype
        assert np.array_equal(again.checkpoint.rows[name], values, equal_nan=True)
