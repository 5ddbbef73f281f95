"""`sgdphases.run`, `resume`, `sweep` and `compare` from Python: what the commands do, as data sets."""

import numpy as np
import pytest
import xarray as xr

import sgdphases

QUICK = dict(hidden=(8,), train_size=200, test_size=50, batch_size=20, checkpoints=6, alignment_batches=0)


def test_a_run_gives_its_trajectory_and_keeps_it(tmp_path):
    found = sgdphases.run("digits", out=tmp_path / "one", epochs=3, noise_fraction=0.5, **QUICK)
    assert found.sizes["step"] == 6 and found.attrs["folder"] == str(tmp_path / "one")
    stored = sgdphases.read_trajectory(tmp_path / "one" / "trajectory.nc")
    xr.testing.assert_equal(found, stored)
    with pytest.raises(sgdphases.UsageError, match="already holds a run"):
        sgdphases.run("digits", out=tmp_path / "one", epochs=3, **QUICK)
    with pytest.raises(sgdphases.UsageError, match="learning_rate"):
        sgdphases.run("digits", out=tmp_path / "two", learning_rate=-1)
    assert not (tmp_path / "two").exists()


def test_a_preset_is_a_start_for_settings(tmp_path):
    found = sgdphases.run(preset="mixture-turning", out=tmp_path / "p", epochs=1, checkpoints=2, alignment_batches=0)
    assert 'dataset = "gaussian-mixture"' in found.attrs["settings"] and found.sizes["step"] == 2


def test_an_interrupted_run_ends_as_it_would_have(tmp_path, monkeypatch):
    whole = sgdphases.run("digits", out=tmp_path / "whole", epochs=4, **QUICK)
    from sgdphases.sim.run import run as module

    ahead = module.advance

    def interrupted(*arguments):
        for count, state in enumerate(ahead(*arguments)):
            if count == 5:
                raise KeyboardInterrupt
            yield state

    monkeypatch.setattr(module, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sgdphases.run("digits", out=tmp_path / "cut", epochs=4, **QUICK)
    monkeypatch.undo()
    found = sgdphases.resume(tmp_path / "cut")
    for name in whole.variables:
        np.testing.assert_array_equal(found[name], whole[name], err_msg=name)


def test_a_sweep_gives_one_data_set_and_goes_on(tmp_path):
    axes = {"noise_fraction": [0.0, 0.5], "seed": [0, 1]}
    found = sgdphases.sweep("digits", axes, out=tmp_path / "s", workers=1, epochs=2, **QUICK)
    assert found["activity"].dims == ("noise_fraction", "seed", "checkpoint")
    again = sgdphases.sweep("digits", axes, out=tmp_path / "s", workers=1, epochs=2, **QUICK)
    assert found.equals(again)
    one = sgdphases.member_trajectory(found, noise_fraction=0.5, seed=1)
    alone = sgdphases.run("digits", out=tmp_path / "alone", epochs=2, noise_fraction=0.5, seed=1, **QUICK)
    np.testing.assert_array_equal(one["activity"], alone["activity"])


def test_runs_are_compared(tmp_path):
    runs = {
        name: sgdphases.run("gaussian-mixture", out=tmp_path / name, seed=seed, epochs=60, **QUICK)
        for name, seed in (("a", 0), ("b", 1))
    }
    found = sgdphases.compare(runs)
    assert set(found.phases) == {"a", "b"} and found.medians["a"]


@pytest.mark.parametrize(("name", "message"), [("options.json", "holds a cleansing"), ("cleansing.nc", "a study of")])
def test_what_is_no_run_is_not_gone_on_with(tmp_path, name, message):
    sgdphases.run("digits", out=tmp_path / "one", epochs=1, **QUICK)
    (tmp_path / "one" / name).write_text("{}")
    before = sorted(path.name for path in (tmp_path / "one").iterdir())
    with pytest.raises(sgdphases.UsageError, match=message):
        sgdphases.resume(tmp_path / "one")
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == before
