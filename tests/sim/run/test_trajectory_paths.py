"""What a run and a sweep measured is read from a path, or its text."""

from sgdphases import find_phases, read_sweep, read_trajectory, run, sweep

QUICK = dict(train_size=60, test_size=30, hidden=(5,), epochs=3, checkpoints=5, alignment_batches=0)


def test_a_path_may_be_text(tmp_path):
    made = run("gaussian-mixture", out=tmp_path / "run", **QUICK)
    found = read_trajectory(str(tmp_path / "run" / "trajectory.nc"))
    assert found["loss"].equals(made["loss"]) and find_phases(found) is not None
    swept = sweep("gaussian-mixture", {"seed": [0, 1]}, out=tmp_path / "sweep", workers=1, **QUICK)
    swept.to_netcdf(tmp_path / "sweep.nc", engine="h5netcdf")
    assert read_sweep(str(tmp_path / "sweep.nc"))["loss"].shape == swept["loss"].shape
