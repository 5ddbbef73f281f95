"""The command line as a person meets it."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import PROGRAM, QUICK, call, call_process

from sgdphases.sim.run.folder import RunFolder


def test_a_run_ends_with_its_report(tmp_path):
    done = call_process("run", *QUICK, "--noise-fraction", "0.5", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == f"report: {tmp_path / 'run' / 'report.html'}"
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {"config.toml", "checkpoint.npz", "trajectory.nc", "phases.json", "figures", "report.html"}


@pytest.mark.usefixtures("pictures")
def test_flags_win_over_the_settings_file(tmp_path):
    (tmp_path / "my.toml").write_text(
        'dataset = "digits"\nepochs = 2\nhidden = [4]\ncheckpoints = 3\nalignment_batches = 0\nlearning_rate = 0.5\n'
    )
    done = call("run", "--config", tmp_path / "my.toml", "--epochs", "3", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    settings = RunFolder(tmp_path / "run").read_settings()
    assert (settings.dataset, settings.epochs, settings.hidden, settings.learning_rate) == ("digits", 3, (4,), 0.5)
    again = call("run", "--config", tmp_path / "run" / "config.toml", "--out", tmp_path / "again")
    assert again.returncode == 0, again.stderr
    one, other = (RunFolder(tmp_path / name).read_trajectory().drop_attrs() for name in ("run", "again"))
    assert one.identical(other)


def test_ctrl_c_says_how_to_go_on_and_resume_does(tmp_path):
    long = [*QUICK[:8], "2000000", *QUICK[9:]]
    process = subprocess.Popen(
        [*PROGRAM, "run", *long, "--out", str(tmp_path / "run")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    folder, deadline = RunFolder(tmp_path / "run"), time.monotonic() + 120
    while not folder.checkpoint.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert f"sgdphases resume {tmp_path / 'run'}" in out and "Traceback" not in err
    reached = folder.read_checkpoint().step
    assert 0 <= reached < 2000000 * 8


@pytest.mark.usefixtures("pictures")
def test_data_can_be_a_file_and_the_run_moves_with_its_absolute_path(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.integers(0, 3, 60)
    np.savez(tmp_path / "mine.npz", x_train=x[:40], y_train=y[:40], x_test=x[40:], y_test=y[40:])
    done = call("run", "mine.npz", *QUICK[5:], "--out", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert RunFolder(tmp_path / "run").read_settings().dataset == str(tmp_path / "mine.npz")
    assert call("resume", tmp_path / "run").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["run"], 2, "no data set is named"),
        (["run", "mnits"], 2, "mnist"),
        (["run", "mnist"], 2, "--data-dir"),
        (["run", "mnist", "--data-dir", "/nowhere/at/all"], 2, "/nowhere/at/all"),
        (["run", "digits", "--noise-fraction", "1.5"], 2, "noise_fraction = 1.5"),
        (["run", "digits", "--noise-fraction", "abc"], 2, "noise_fraction = 'abc'"),
        (["run", "digits", "--noise-fraction", "0.5", "--noise-kind", "salt"], 2, "salt"),
        (["run", "digits", "--hidden", "10;20"], 2, "10;20"),
        (["run", "digits", "-o", "depth"], 2, "NAME=VALUE"),
        (["run", "digits", "-o", "depth=3"], 2, "depth"),
        (["run", "gaussian-mixture", "-o", "separation=far"], 2, "separation"),
        (["run", "digits", "--backend", "fortran"], 2, "numba, numpy, torch"),
        (["run", "digits", "--backend", "numba", "--device", "cuda"], 2, "device = 'cuda'"),
        (["run", "digits", "--backend", "torch", "--device", "abacus"], 2, "device = 'abacus'"),
        (["run", "digits", "--dtype", "float8"], 2, "dtype = 'float8'"),
        (["run", "digits", "--config", "/nowhere.toml"], 1, "/nowhere.toml"),
        (["run", "digits", "--no-such-flag"], 2, "no-such-flag"),
        (["run", "missing.npz"], 1, "missing.npz"),
        (["run", "digits", "--learning-rate", "1e9", "--epochs", "2", "--checkpoints", "5"], 1, "diverged"),
        (["resume", "/nowhere/at/all"], 2, "holds no run"),
        (["report", "/nowhere/at/all"], 2, "holds no run"),
        (["dance"], 2, "dance"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_mistakes_get_one_clear_message(tmp_path, arguments, code, named):
    done = call(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stdout + done.stderr
    assert named in done.stderr and "Traceback" not in done.stderr
    if "diverged" not in named:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["run", "digits", "--noise-fraction", "1.5"], 2, "Error: noise_fraction = 1.5"),
        (["run", "missing.npz"], 1, "missing.npz"),
    ],
    ids=["usage", "failure"],
)
def test_the_program_ends_with_message_and_code(tmp_path, arguments, code, named):
    done = call_process(*arguments, cwd=tmp_path)
    assert done.returncode == code and named in done.stderr and "Traceback" not in done.stderr, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("pictures")
def test_a_run_that_is_there_is_not_touched(tmp_path):
    assert call("run", *QUICK, "--out", tmp_path / "run").returncode == 0
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again = call("run", *QUICK, "--seed", "1", "--out", tmp_path / "run")
    assert again.returncode == 2 and "resume" in again.stderr
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}


def test_help_does_not_load_the_heavy_libraries():
    code = (
        "import sys\nfrom sgdphases.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numba', 'scipy', 'sklearn', 'matplotlib', 'xarray', 'pandas', 'numpy'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_run_and_its_report_load_only_what_they_need():
    code = (
        "import sys, sgdphases.cli, sgdphases.faces.run.page, sgdphases.sim.run.run\n"
        "heavy = {'torch', 'sklearn', 'scipy.stats', 'scipy.optimize', 'scipy.sparse', 'joblib'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.usefixtures("pictures")
def test_a_run_draws_a_few_pictures_and_its_report_all(tmp_path):
    assert call("run", *QUICK, "--noise-fraction", "0.5", "--out", tmp_path / "run").returncode == 0
    folder = RunFolder(tmp_path / "run")
    assert {path.stem for path in folder.figures.iterdir()} == {"phases", "losses"}
    assert f"sgdphases report {folder.path}" in folder.report.read_text(encoding="utf-8")
    assert call("report", folder.path).returncode == 0
    drawn = {path.stem for path in folder.figures.iterdir()}
    assert {"activities", "directed_activities", "alignments", "projection_variance"} <= drawn
    assert "sgdphases report" not in folder.report.read_text(encoding="utf-8")


def test_lists_and_version():
    listed = call("datasets")
    assert listed.returncode == 0
    assert all(
        name in listed.stdout for name in ("gaussian-mixture", "teacher-student", "digits", "mnist", "cifar10", "npz")
    )
    assert "separation" in listed.stdout
    assert set(call("backends").stdout.split()) >= {"numpy", "numba", "torch"}
    assert call("--version").stdout.startswith("sgdphases 0.")
