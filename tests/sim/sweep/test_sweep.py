"""Sweeps: every member runs once, whoever dies on the way, and one labelled data set comes out."""

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
from command_line import PROGRAM, call, call_process
from hypothesis import given
from hypothesis import strategies as st
from joblib.externals.loky.backend.utils import kill_process_tree
from matplotlib.backends.backend_agg import FigureCanvasAgg
from two_lengths import slow

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.phase_time import combine_phases, phase_kind
from sgdphases.faces.sweep.figures import over_one_axis, over_seeds, over_two_axes
from sgdphases.faces.sweep.page import failed_members, legend, sweep_rows, write_sweep_report
from sgdphases.sim.sweep.dataset import gathered, member_trajectory, read_sweep
from sgdphases.sim.sweep.folder import SweepFolder, is_finished, start_sweep
from sgdphases.sim.sweep.member import measured, read_member
from sgdphases.sim.sweep.plan import plan_sweep, plan_toml, read_plan
from sgdphases.sim.sweep.results import places
from sgdphases.sim.sweep.run import run_sweep

BASE = dict(
    dataset="gaussian-mixture", train_size=60, test_size=40, hidden=[6], batch_size=10, epochs=6, checkpoints=6,
    alignment_batches=0,
)  # fmt: skip
FLAGS = [
    "gaussian-mixture", "--train-size", "60", "--test-size", "40", "--hidden", "6", "--batch-size", "10",
    "--checkpoints", "6", "--alignment-batches", "0",
]  # fmt: skip


def swept(path, axes, **changes):
    plan, folder = plan_sweep({**BASE, **changes}, axes), SweepFolder(path)
    start_sweep(folder, plan)
    return folder, plan


def same_bits(one, other):
    """Whether two members measured the same, wherever that is kept."""
    return read_member(one).drop_attrs().identical(read_member(other).drop_attrs())


axes_of_any_kind = st.fixed_dictionaries(
    {},
    optional={
        "noise_fraction": st.lists(st.floats(0, 1), min_size=1, max_size=4, unique=True),
        "seed": st.lists(st.integers(0, 99), min_size=1, max_size=3, unique=True),
        "hidden": st.lists(st.lists(st.integers(1, 9), max_size=3), min_size=1, max_size=3, unique_by=tuple),
        "dataset_options.dimension": st.lists(st.integers(2, 60), min_size=1, max_size=3, unique=True),
    },
).filter(bool)


@given(axes_of_any_kind)
def test_a_plan_spans_every_combination_once_and_survives_its_file(axes):
    plan = plan_sweep(BASE, axes)
    members = plan.members()
    assert len(members) == np.prod(plan.shape) == len({member.name for member in members})
    assert {member.place for member in members} == set(np.ndindex(plan.shape))
    for member in members:
        for (axis, values), k in zip(plan.axes.items(), member.place, strict=True):
            name = axis.removeprefix("dataset_options.")
            wanted = tuple(values[k]) if axis == "hidden" else values[k]
            held = member.settings.dataset_options if axis != name else vars(member.settings)
            assert held[name] == wanted
    assert [m.settings for m in read_plan(plan_toml(plan)).members()] == [m.settings for m in members]


@pytest.mark.parametrize(
    ("axes", "named"),
    [
        ({}, "nothing is swept"),
        ({"noise": [0.1]}, "'noise' is no setting"),
        ({"seed": []}, "no values"),
        ({"seed": [1, 1]}, "twice"),
        ({"learning_rate": [0.1, -1]}, "learning_rate = -1"),
        ({"seed": range(1000), "noise_fraction": np.linspace(0, 1, 101).tolist()}, "at most 100000"),
        ({"hidden": [[3]], "dataset_options.hidden": [1]}, "cannot both vary"),
    ],
)
def test_what_cannot_be_swept_is_refused(axes, named):
    with pytest.raises(UsageError, match=named):
        plan_sweep(BASE, axes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A sweep over noise, learning rate (one of which diverges) and seeds, in one process."""
    axes = {"noise_fraction": [0.0, 0.5], "learning_rate": [0.2, 1e6], "seed": [0, 1]}
    folder, plan = swept(tmp_path_factory.mktemp("sweep") / "whole", axes)
    outcomes = list(run_sweep(folder, plan, workers=1))
    return folder, plan, outcomes, write_sweep_report(folder, plan)


def test_failed_members_are_reported_and_sink_nobody(whole):
    folder, plan, outcomes, sweep = whole
    assert sorted(o.member.name for o in outcomes) == sorted(m.name for m in plan.members())
    for outcome in outcomes:
        diverges = outcome.member.settings.learning_rate == 1e6
        assert ("diverged" in (outcome.failure or "")) == diverges
        assert is_finished(folder.member(outcome.member), outcome.member.settings) != diverges
    assert set(json.loads(folder.failures.read_text())) == {o.member.name for o in outcomes if o.failure}
    assert sum(failed_members(sweep).values()) == 4
    np.testing.assert_array_equal(sweep["finished"], np.array([[[True] * 2, [False] * 2]] * 2))


def test_the_data_set_holds_what_each_member_measured(whole):
    folder, plan, _, _ = whole
    sweep = read_sweep(folder.dataset)
    assert sweep["finished"].dims == ("noise_fraction", "learning_rate", "seed")
    for member in plan.members():
        noise, rate, seed = (values[k] for values, k in zip(plan.axes.values(), member.place, strict=True))
        if rate == 1e6:
            assert np.isnan(sweep["loss"].sel(noise_fraction=noise, learning_rate=rate, seed=seed)).all()
            with pytest.raises(UsageError, match="diverged"):
                member_trajectory(sweep, noise_fraction=noise, learning_rate=rate, seed=seed)
            continue
        own = read_member(folder.member(member))
        found = member_trajectory(sweep, noise_fraction=noise, learning_rate=rate, seed=seed)
        assert found.drop_attrs().identical(own.drop_attrs())
        assert find_phases(found).to_dict() == find_phases(own).to_dict()  # evidence and all: sizes survive
        phases, row = find_phases(own), sweep.sel(noise_fraction=noise, learning_rate=rate, seed=seed)
        np.testing.assert_equal(float(row["t_min"]), phases.t_min)
        assert (int(row["n_phases"]), int(row["n_samples"]), int(row["n_inputs"])) == (len(phases.found), 60, 50)


def test_a_member_that_is_not_there_is_refused(whole):
    sweep = whole[3]
    with pytest.raises(UsageError, match=r"noise_fraction = 0\.3: choose one of 0\.0, 0\.5"):
        member_trajectory(sweep, noise_fraction=0.3, learning_rate=0.2, seed=0)
    with pytest.raises(UsageError, match="seed = None"):
        member_trajectory(sweep, noise_fraction=0.5, learning_rate=0.2)
    with pytest.raises(UsageError, match="rate: no axis"):
        member_trajectory(sweep, noise_fraction=0.5, learning_rate=0.2, seed=0, rate=1)


@pytest.mark.slow
def test_processes_give_the_bits_of_one_process_and_a_second_call_runs_failures_only(whole, tmp_path):
    folder, plan, _, _ = whole
    other, _ = swept(tmp_path / "other", plan.axes)
    assert len(list(run_sweep(other, plan, workers=2))) == 8
    for member in plan.members():
        if member.settings.learning_rate < 1:
            assert same_bits(folder.member(member), other.member(member))
    again = list(run_sweep(other, plan, workers=1))
    assert {o.member.settings.learning_rate for o in again} == {1e6} and len(again) == 4


def test_another_sweep_or_anything_else_is_never_overwritten(whole, tmp_path):
    folder, plan, _, _ = whole
    before = folder.plan.read_bytes()
    start_sweep(folder, plan)
    with pytest.raises(UsageError, match="holds another sweep"):
        start_sweep(folder, plan_sweep(BASE, {"seed": [5, 6]}))
    assert folder.plan.read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="not an empty folder"):
        start_sweep(SweepFolder(tmp_path), plan)
    with pytest.raises(UsageError, match="workers = 0"):
        next(run_sweep(folder, plan, workers=0))


def test_tables_and_pictures_show_what_was_found(whole, tmp_path):
    folder, _, _, sweep = whole
    heading, rows = sweep_rows(sweep, ranges=True)
    assert heading[:3] == ["ρ", "α", "runs"] and len(rows) == 4
    assert [row[2] for row in rows] == ["2/2", "0/2", "2/2", "0/2"]
    said = legend(sweep)
    assert "ρ: noise fraction; α: learning rate; " in said and "t_m: epoch of the lowest test error" in said
    assert all(f"{symbol}: " in said for symbol in heading if symbol != "runs") and said in folder.report.read_text()
    assert folder.report.exists() and (folder.figures / "map.png").stat().st_size > 10_000
    figure = over_two_axes(sweep, {})
    FigureCanvasAgg(figure).draw()
    labels = {axes.get_xlabel() for axes in figure.axes} | {axes.get_ylabel() for axes in figure.axes}
    assert {"noise fraction ρ", "learning rate α", "t_m (epochs)"} <= labels
    sizes, plan = swept(tmp_path / "sizes", {"train_size": [40, 80, 160], "seed": [0, 1]}, noise_fraction=0.4)
    assert all(outcome.failure is None for outcome in run_sweep(sizes, plan, workers=1))
    by_size, phases = write_sweep_report(sizes, plan), gathered(sizes, plan)[1]
    axes = over_one_axis(by_size).axes[-1]
    assert axes.get_xlabel() == "training samples N (N/d)"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["40 (0.8)", "80 (1.6)", "160 (3.2)"]
    assert len(over_seeds(by_size.isel(train_size=2), phases.isel(train_size=2)).axes) >= 2


def test_workers_are_ended_without_a_helper_that_ctrl_c_reaches_as_well():
    """Without psutil joblib asks `pgrep` for their children: a process of the same terminal, which Ctrl-C kills."""
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert any(each.startswith("psutil") for each in project["dependencies"])
    with mock.patch("subprocess.check_output", side_effect=AssertionError("a helper was started")):
        ended = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        kill_process_tree(SimpleNamespace(pid=ended.pid, kill=ended.kill, join=ended.wait))
    assert ended.returncode == -signal.SIGKILL


def test_phases_that_seeds_have_in_common_are_written(whole):
    folder, _, _, sweep = whole
    found = json.loads(folder.phases.read_text())
    for noise in (0.0, 0.5):
        trajectories = [member_trajectory(sweep, noise_fraction=noise, learning_rate=0.2, seed=seed) for seed in (0, 1)]
        runs = [find_phases(one) for one in trajectories]
        here = [each for each in found if (each["noise_fraction"], each["learning_rate"]) == (noise, 0.2)]
        assert sum(each["runs"] for each in here) == 2 and len(here) == len({phase_kind(run) for run in runs})
        for each in here:
            first = [phase["name"] for phase in each["found"]][:1]
            alike = [run for run in runs if [phase.name for phase in run.found][:1] == first]
            assert each["found"] == [vars(phase) for phase in combine_phases(alike).found]
    assert not [each for each in found if each["learning_rate"] == 1e6]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_where_it_stopped(tmp_path):
    command = ["sweep", *FLAGS, "--epochs", "20000", "--seeds", "6", "--workers", "2", "--out", str(tmp_path / "sweep")]
    process = subprocess.Popen(
        [*PROGRAM, *command], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    folder, deadline = SweepFolder(tmp_path / "sweep"), time.monotonic() + 120
    while len(places(folder.results)) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    plan = folder.read_plan()
    ended = {m.name for m in plan.members() if is_finished(folder.member(m), m.settings)}
    assert len(ended) >= 2 and ended < {m.name for m in plan.members()}
    kept, before = places(folder.results), folder.results.read_bytes()
    done = call_process("resume", folder.path, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert all(is_finished(folder.member(member), member.settings) for member in plan.members())
    end = max(place.start + place.header + place.arrays for place in kept.values())
    assert folder.results.read_bytes()[:end] == before[:end]  # what had ended was not run again
    reference, _ = swept(tmp_path / "reference", {"seed": list(range(6))}, epochs=20000)
    assert not [o.failure for o in run_sweep(reference, plan, workers=1) if o.failure]
    assert all(same_bits(reference.member(member), folder.member(member)) for member in plan.members())


@pytest.mark.slow
def test_a_member_that_kills_its_process_is_found_out_and_the_others_end(tmp_path):
    site = tmp_path / "site"
    info = site / "deadly-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: deadly\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sgdphases.backends]\ndeadly = deadly:Deadly\n")
    (site / "deadly.py").write_text(
        "import os, signal\nfrom sgdphases.estimators.backends.numpy_backend import NumpyBackend\n"
        "class Deadly(NumpyBackend):\n"
        "    def train(self, order, batch_size, learning_rate):\n"
        "        if learning_rate == 0.25:\n            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        super().train(order, batch_size, learning_rate)\n"
    )
    flags = ["--backend", "deadly", "--epochs", "4", "--learning-rate", "0.1,0.25,0.2", "--seeds", "2"]
    arguments = ["sweep", *FLAGS, *flags, "--workers", "2", "--out", tmp_path / "sweep"]
    done = call_process(*arguments, env={**os.environ, "PYTHONPATH": str(site)})
    assert done.returncode == 1, done.stderr
    assert "2 of 6 runs failed. Try again with: sgdphases resume" in done.stdout
    folder = SweepFolder(tmp_path / "sweep")
    failures = folder.read_failures()
    assert all(f"failed: {name}\n" in done.stdout for name in failures)
    assert set(failures) == {"learning_rate=0.25,seed=0", "learning_rate=0.25,seed=1"}
    assert all("was killed" in reason for reason in failures.values())
    for member in folder.read_plan().members():
        assert is_finished(folder.member(member), member.settings) == (member.name not in failures)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--noise-fraction", "0:0.9"], "write FIRST:LAST:COUNT"),
        (["--learning-rate", "0:1:3:log"], "two positive ends"),
        (["--learning-rate", "0.1,fast"], "fast"),
        (["--seeds", "2", "--seed", "1,2"], "one or the other"),
        ([], "nothing is swept"),
        (["--seeds", "2", "--preset", "x", "--config", "y.toml"], "give one of them"),
        slow(["--seeds", "2", "--dask", "tcp://127.0.0.1:9"], "no Dask scheduler answers"),  # it waits for ten seconds
    ],
)
def test_mistakes_on_the_command_line_get_one_message(arguments, named, tmp_path):
    done = call("sweep", *FLAGS, *arguments, "--out", tmp_path / "sweep")
    assert done.returncode == 2, done.stderr
    assert named in done.stderr and "Traceback" not in done.stderr


@pytest.mark.usefixtures("pictures")
def test_flags_span_the_axes_they_say(tmp_path):
    flags = ["--noise-fraction", "0:0.4:2", "--hidden", "4,4", "--seeds", "2", "--seed", "7", "-o", "dimension=3"]
    arguments = ["sweep", *FLAGS, *flags, "-o", "dimension=5", "--epochs", "2", "--workers", "1"]
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = SweepFolder(tmp_path / "sweeps" / "gaussian-mixture-001")
    plan = folder.read_plan()
    assert plan.dimensions == {
        "dimension": (3, 5), "noise_fraction": (0.0, 0.4), "hidden": ("6", "4-4"), "seed": (7, 8),
    }  # fmt: skip
    assert read_sweep(folder.dataset)["finished"].all()
    assert done.stdout.strip().splitlines()[-1] == f"report: {folder.report.relative_to(tmp_path)}"
    assert not {path.name for path in folder.figures.iterdir()} ^ {"map.png", "map_1.png"}


@pytest.mark.slow
def test_a_cluster_gives_the_same_bits_and_a_worker_killed_midway_costs_nothing(tmp_path):
    distributed = pytest.importorskip("dask.distributed")
    axes = {"noise_fraction": [0.0, 0.5], "learning_rate": [0.2, 1e6], "seed": [0, 1, 2]}
    folder, plan = swept(tmp_path / "cluster", axes, epochs=3000)
    scheduler = distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None, worker_class=None)
    worker = [sys.executable, "-m", "distributed.cli.dask_worker", scheduler.scheduler_address, "--no-nanny"]
    options = ["--nthreads", "1", "--no-dashboard", "--host", "127.0.0.1", "--local-directory", str(tmp_path)]
    workers = [subprocess.Popen([*worker, *options], stderr=subprocess.DEVNULL) for _ in range(2)]
    try:
        with distributed.Client(scheduler, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=60)
        outcomes, running = [], run_sweep(folder, plan, dask=scheduler.scheduler_address)
        outcomes.append(next(running))
        workers[0].kill()  # each of the two has a member in hand
        outcomes += running
    finally:
        for process in workers:
            process.kill()
            process.wait()
        scheduler.close()
    assert sorted(o.member.name for o in outcomes) == sorted(m.name for m in plan.members())
    assert {o.member.settings.learning_rate for o in outcomes if o.failure} == {1e6}
    one = next(m for m in plan.members() if m.settings.noise_fraction == 0.5 and m.settings.learning_rate == 0.2)
    alone, _ = swept(tmp_path / "alone", {"noise_fraction": [0.5], "learning_rate": [0.2], "seed": [0]}, epochs=3000)
    assert [o.failure for o in run_sweep(alone, alone.read_plan(), workers=1)] == [None]
    assert same_bits(alone.member(one), folder.member(one))
    assert measured(folder.member(one)).checkpoint.step == 3000 * 6
    left = plan_sweep({**BASE, "epochs": 3000}, {**axes, "learning_rate": [0.2]})
    assert not list(run_sweep(folder, left, workers=1))
