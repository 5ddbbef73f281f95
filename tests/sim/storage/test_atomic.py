"""A file is there whole or not at all, and what cannot be written is named."""

import errno
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from command_line import PROGRAM, QUICK
from two_lengths import slow

from sgdphases.estimators.errors import InputError
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.netcdf import write_netcdf

LIMITED = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)\n"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("5000 requested and 0 written"),  # as numpy says it
        RuntimeError("Can't decrement id ref count (file write failed: errno = 28, error message = 'No space left')"),
    ],
)
def test_what_cannot_be_written_is_named_and_the_old_file_stays(tmp_path, error):
    def fail(part):
        part.write_text("half")
        raise error

    (tmp_path / "a.txt").write_text("old")
    with pytest.raises(InputError, match=r"a\.txt cannot be written \((No space left|5000 requested)"):
        write_whole(tmp_path / "a.txt", fail)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"] and (tmp_path / "a.txt").read_text() == "old"


def test_faults_of_other_kinds_go_through(tmp_path):
    def fail(part):
        raise RuntimeError("a figure that cannot be laid out")

    with pytest.raises(RuntimeError, match="laid out"):
        write_whole(tmp_path / "a.png", fail)


def test_a_full_disk_is_called_full(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("usage", (), {"free": 0}))

    def fail(part):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match="the disk is full; free some space"):
        write_whole(tmp_path / "a.txt", fail)


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
@pytest.mark.parametrize(
    ("limit", "named"), [(500, "config.toml"), (5_000, "checkpoint.npz"), slow(30_000, "trajectory.nc")]
)
def test_a_run_that_may_not_write_so_much_names_the_file(tmp_path, limit, named):
    program = [PROGRAM[0], "-c", LIMITED + PROGRAM[2], str(limit)]
    done = subprocess.run([*program, "run", *QUICK, "--out", "run"], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1 and f"{named} cannot be written (" in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and not list(tmp_path.rglob(".*"))


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_netcdf_that_may_not_be_written_is_named(tmp_path):
    write_netcdf(tmp_path / "a.nc", xr.Dataset({"x": ("n", np.zeros(10))}))
    before = (tmp_path / "a.nc").read_bytes()
    code = LIMITED + (
        "import numpy as np, xarray as xr\nfrom pathlib import Path\n"
        "from sgdphases.sim.storage.netcdf import write_netcdf\n"
        "write_netcdf(Path('a.nc'), xr.Dataset({'x': ('n', np.zeros(100_000))}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "50000"], capture_output=True, text=True, cwd=tmp_path)
    assert "InputError: a.nc cannot be written (" in done.stderr, done.stderr
    assert (tmp_path / "a.nc").read_bytes() == before and len(list(tmp_path.iterdir())) == 1
