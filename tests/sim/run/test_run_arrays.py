"""Spectra and per-sample losses along a run: what is recorded, where, and that stopping loses none of it."""

import numpy as np
import pytest
from runs import SMALL, finish, start

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.registry import make_backend
from sgdphases.estimators.ensemble.spectrum import noise_spectrum
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from sgdphases.sim.run.settings import make_settings, read_settings
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.training import advance, prepare

MIDDLE = "layers.1.weight"
ALL = dict(spectra=4, spectrum_parameters=(MIDDLE,), sample_losses=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run for each backend, with all arrays recorded."""
    return {
        name: start(tmp_path_factory.mktemp("whole") / name, backend=name, **ALL)
        for name in ("numpy", "numba", "torch")
    }


@pytest.fixture(scope="module")
def trajectories(whole):
    return {name: finish(*made)[0] for name, made in whole.items()}


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_shapes_dtypes_and_labels(trajectories, backend):
    found = trajectories[backend]
    assert found["noise_spectrum"].dims == ("step", "eigenvalue") and found.sizes["eigenvalue"] == 48  # 8 x 6 weights
    assert found["sample_loss"].dims == ("step", "sample") and found.sizes["sample"] == 97
    assert found["sample_loss"].dtype == np.float32 and found["wrong"].dtype == bool
    for name in ("noise_spectrum", "sample_loss", "wrong", "effective_dimension", "spectrum_total_variance"):
        assert {"symbol", "long_name", "units"} <= set(found[name].attrs)
    assert found["sample_loss"].attrs["units"] == "nat"


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_sample_losses_average_to_the_losses_of_the_populations(trajectories, backend):
    found = trajectories[backend]
    losses, wrong = found["sample_loss"].to_numpy().astype(float), found["wrong"].to_numpy()
    assert wrong.sum() == round(0.4 * 97)
    for chosen, name in ((slice(None), "loss"), (~wrong, "loss_c"), (wrong, "loss_w")):
        np.testing.assert_allclose(losses[:, chosen].mean(axis=1), found[name], rtol=1e-5)


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_spectra_stand_at_the_first_the_last_and_log_spaced_checkpoints_between(whole, trajectories, backend):
    found = trajectories[backend]
    values, total = found["noise_spectrum"].to_numpy(), found["spectrum_total_variance"].to_numpy()
    known = np.flatnonzero(np.isfinite(total))
    n = found.sizes["step"]
    assert len(known) == 4 and known[0] == 0 and known[-1] == n - 1
    assert np.ptp(np.diff(known)) <= 1  # evenly among checkpoints, which are log-spaced
    assert found["step"][known].to_numpy().tolist() == whole[backend][0].spectrum_marks.tolist()
    assert np.isnan(values[np.isnan(total)]).all()
    assert (np.diff(values[known], axis=1) <= 1e-12).all()
    np.testing.assert_allclose(values[known].sum(axis=1), total[known], rtol=1e-5)
    share = np.cumsum(values[known], axis=1) / total[known, None]
    dimension = found["effective_dimension"].to_numpy()[known].astype(int)
    for row, d in zip(share, dimension, strict=True):
        assert row[d - 1] >= 0.9 - 1e-6 and (d == 1 or row[d - 2] < 0.9)


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
def test_the_spectrum_is_that_of_the_chosen_parameters_at_that_step(whole, trajectories, backend):
    """The start and the end, measured anew by the numpy reference."""
    experiment, folder = whole[backend]
    found, data = trajectories[backend], experiment.data
    sizes = (int(np.prod(data.input_shape)), 8, 6, data.n_outputs)
    model = initial_mlp(sizes, "relu", stream(3, "weights"))
    reference = make_backend(model, data.x_train, data.y_train, backend="numpy", parameters=MIDDLE)
    for row, weights in ((0, None), (-1, folder.read_checkpoint().weights)):
        if weights is not None:
            reference.load_weights(weights.astype(np.float64))
        expected = noise_spectrum(reference, batch_size=10)
        np.testing.assert_allclose(found["spectrum_total_variance"][row], expected.total_variance, rtol=1e-4)
        np.testing.assert_allclose(
            found["noise_spectrum"][row], expected.noise_spectrum, rtol=1e-3, atol=1e-5 * expected.noise_spectrum[0]
        )


def test_the_spectrum_of_all_parameters_has_the_total_variance_of_the_run(tmp_path):
    found = finish(*start(tmp_path / "run", spectra=3))[0]
    known = np.isfinite(found["spectrum_total_variance"])
    np.testing.assert_allclose(found["spectrum_total_variance"][known], found["total_variance"][known], rtol=1e-5)
    assert found.sizes["eigenvalue"] == 96  # N - 1, fewer than the parameters


def test_measuring_more_does_not_change_the_run(tmp_path, trajectories):
    plain = finish(*start(tmp_path / "run", backend="numba"))[0]
    both = trajectories["numba"][list(plain.data_vars)]
    assert both.drop_attrs().identical(plain.drop_attrs())
    assert "wrong" not in plain and "noise_spectrum" not in plain


@pytest.mark.parametrize("backend", ["numpy", "numba", "torch"])
@pytest.mark.parametrize("pieces", [1, 9, 19])
def test_a_run_stopped_and_resumed_keeps_its_arrays_bit_by_bit(tmp_path, trajectories, backend, pieces):
    experiment, folder = start(tmp_path / "run", backend=backend, **ALL)
    begun = advance(experiment, folder)
    for _ in range(pieces):
        next(begun)
    begun.close()
    again = finish(prepare(folder.read_settings()), folder, folder.read_checkpoint())[0]
    assert again.drop_attrs().identical(trajectories[backend].drop_attrs())


def test_more_spectra_than_checkpoints_are_one_at_each(tmp_path):
    found = finish(*start(tmp_path / "run", spectra=99, epochs=2, checkpoints=4))[0]
    assert np.isfinite(found["effective_dimension"]).all()


def test_arrays_go_through_a_checkpoint_unchanged(tmp_path):
    rows = {
        "step": np.array([0.0, 5.0]),
        "loss": np.array([2.0, np.nan]),
        "sample_loss": np.arange(6, dtype=np.float32).reshape(2, 3),
        "wrong": np.array([[True, False, True]] * 2),
    }
    save_checkpoint(tmp_path / "c.npz", Checkpoint(5, np.ones(4), rows, "mark"))
    found = load_checkpoint(tmp_path / "c.npz").rows
    assert set(found) == set(rows)
    for name, values in rows.items():
        assert found[name].dtype == values.dtype
        np.testing.assert_array_equal(found[name], values)


def test_checkpoints_from_before_there_were_arrays_still_load(tmp_path):
    with open(tmp_path / "c.npz", "wb") as file:
        np.savez(
            file, step=np.int64(5), weights=np.ones(4), names=np.array(["step", "loss"]),
            table=np.array([[0.0, 5.0], [2.0, 1.0]]), fingerprint=np.array("mark"),
        )  # fmt: skip
    found = load_checkpoint(tmp_path / "c.npz")
    assert found.step == 5 and found.rows["loss"].tolist() == [2.0, 1.0] and set(found.rows) == {"step", "loss"}


def test_the_settings_survive_the_folder(tmp_path):
    experiment, folder = start(tmp_path / "run", **ALL)
    assert make_settings(read_settings(folder.config)) == experiment.settings


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"spectra": 1}, "spectra = 1: give 0 for none"),
        ({"spectra": -2}, "spectra = -2"),
        ({"spectrum_parameters": [MIDDLE]}, "spectra = 0"),
        ({"spectra": 2, "spectrum_parameters": ["layers.7.*"]}, "parameters = 'layers.7"),
        ({"spectra": 2, "train_size": 1, "batch_size": 1, "noise_fraction": 0}, "at least two training samples"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_written(changes, named):
    with pytest.raises(UsageError, match=named):
        prepare(make_settings({**SMALL, **changes}))
