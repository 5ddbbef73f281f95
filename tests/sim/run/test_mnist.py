"""Real MNIST shows its four phases (Feng & Tu 2021, figures 3 and 4)."""

import subprocess
import sys

import numpy as np
import pytest
from two_lengths import slow

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.registry import make_backend
from sgdphases.estimators.ensemble.spectrum import noise_spectrum
from sgdphases.estimators.phases.find import find_phases
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.schedule import sample_order
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.training import advance, prepare


@pytest.fixture(scope="module")
def run(tmp_path_factory, mnist_folder):
    """The run README shows, through the command line."""
    out = tmp_path_factory.mktemp("mnist") / "run"
    command = (
        f"run mnist --data-dir {mnist_folder} --train-size 2000 --hidden 100,100 --noise-fraction 0.5 "
        f"--learning-rate 0.1 --batch-size 50 --epochs 300 --seed 0 --out {out}"
    )
    program = [sys.executable, "-c", "from sgdphases.cli import main; main()", *command.split()]
    done = subprocess.run(program, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr
    return RunFolder(out)


@pytest.mark.slow
def test_the_alignment_of_both_gradients_turns_twice(run):
    trajectory = run.read_trajectory()
    epoch, alignment = trajectory["epoch"].to_numpy(), trajectory["alignment_cw"].to_numpy()
    test_error, error_w = trajectory["test_error"].to_numpy(), trajectory["error_w"].to_numpy()
    trough = test_error < test_error.min() + 0.1
    assert alignment[trough].min() < -0.6
    learning = (error_w < 0.8) & (error_w > 0.1) & (epoch > epoch[test_error.argmin()])
    assert alignment[learning].max() > 0.3
    assert alignment[-1] < -0.8


@pytest.mark.slow
def test_activity_rises_through_phase_three_and_falls_after(run):
    activity = run.read_trajectory()["activity"].to_numpy()
    top = activity.argmax()
    assert activity[top] > 10 * activity[0] and activity[-1] < activity[top] / 100


@pytest.mark.slow
def test_the_test_error_falls_and_rises_again(run):
    trajectory = run.read_trajectory()
    error = trajectory["test_error"].to_numpy()
    assert error[0] > 0.8 and error.min() < 0.25 and error[-1] > error.min() + 0.15
    assert trajectory["train_error"][-1] == 0


@pytest.mark.slow
def test_four_phases_are_found_in_order(run):
    found = find_phases(run.read_trajectory())
    assert [phase.name for phase in found.found] == ["I", "II", "III", "IV"]
    starts = [phase.start for phase in found.found]
    assert (np.diff(starts) > 0).all()


@pytest.mark.slow
def test_the_identity_of_the_projection_holds_throughout(run):
    """<lambda> = 1, summed in float32 sample by sample against the mean gradient."""
    trajectory = run.read_trajectory()
    assert np.abs(trajectory["mean_projection"] - 1).max() < 1e-3


@pytest.mark.slow
def test_the_noise_of_the_middle_weights_moves_in_a_hundred_directions(mnist_folder):
    """Figure 2: full MNIST, 784-30-30-10, the 900 weights between the hidden layers, exact and sampled side by side.

    Before training and in the slow phase; docs/measuring.md has the epochs between.
    """
    experiment = prepare(
        make_settings(dict(dataset="mnist", data_dir=str(mnist_folder), hidden=(30, 30), batch_size=50))
    )
    model, data = initial_mlp((784, 30, 30, 10), "relu", stream(0, "weights")), experiment.data
    middle = make_backend(model, data.x_train, data.y_train, backend="torch", parameters="layers.1.weight")
    for epochs in (0, 5):
        for epoch in range(epochs):
            first = epoch * experiment.steps_per_epoch
            order = sample_order(0, first, first + experiment.steps_per_epoch, data.n_samples, 50)
            experiment.train.train(order, 50, 0.1)
        middle.load_weights(experiment.train.weights)
        exact = noise_spectrum(middle, batch_size=50)
        rng = np.random.default_rng(epochs)
        sampled = noise_spectrum(middle, batch_size=50, method="sampled", n_batches=1200, rng=rng)
        assert exact.method == "dense" and 60 <= exact.effective_dimension() <= 140
        assert 0.75 * exact.effective_dimension() < sampled.effective_dimension() <= exact.effective_dimension()
        assert sampled.total_variance == pytest.approx(exact.total_variance, rel=0.1)


@pytest.mark.parametrize("seed", [0, slow(1)])
@pytest.mark.parametrize("noise_fraction", [slow(0.0), slow(0.2), 0.4, slow(0.6)])
def test_phases_are_found_with_and_without_knowing_the_wrong_labels(tmp_path, mnist_folder, noise_fraction, seed):
    """Boundaries of the two ways within 0.15 decades, about five of the checkpoints' distances; two seeds each."""
    values = dict(
        dataset="mnist", data_dir=str(mnist_folder), train_size=1000, test_size=2000, seed=seed, epochs=120,
        noise_fraction=noise_fraction, alignment_batches=0,
    )  # fmt: skip
    experiment, folder = prepare(make_settings(values)), RunFolder(tmp_path / "run")
    start_folder(folder, experiment.settings)
    for _ in advance(experiment, folder):
        pass
    trajectory = folder.read_trajectory()
    known, unknown = find_phases(trajectory), find_phases(trajectory, use_wrong=False)
    expected = ["I", "II", "III", "IV"] if noise_fraction else ["fast learning", "exploration"]
    assert [phase.name for phase in known.found] == [phase.name for phase in unknown.found] == expected
    for one, other in zip(known.found[1:], unknown.found[1:], strict=True):
        assert abs(np.log10(one.start / other.start)) < 0.15
