"""The main job: from settings to a trajectory on disk."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.backend import Backend, backend_class
from sgdphases.estimators.curvature import check_sharp_directions, leading_curvature
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.estimators.measure import mean_scores, measure_backend
from sgdphases.estimators.mlp import initial_mlp
from sgdphases.estimators.order_parameters import OrderParameters
from sgdphases.estimators.sharp_floor import sharp_and_floor
from sgdphases.sim.checkpoint import Checkpoint, fingerprint
from sgdphases.sim.dataset import Dataset
from sgdphases.sim.datasets import load_dataset
from sgdphases.sim.label_noise import add_label_noise, load_labels, load_transition
from sgdphases.sim.run_folder import RunFolder
from sgdphases.sim.schedule import checkpoint_steps, sample_order, steps_per_epoch
from sgdphases.sim.settings import RunSettings
from sgdphases.sim.streams import stream
from sgdphases.sim.theory_curves import Curves, theory_curves

SAVE_SECONDS = 20.0  # at most this much training is lost between two measurements
PUBLISH_SECONDS = 5.0  # how old trajectory.nc may grow while a run goes on


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a run needs in memory: made from its settings alone, before anything is written.

    In ``settings`` an "auto" loss is replaced by the one chosen.
    """

    settings: RunSettings
    data: Dataset
    train: Backend
    test: Backend
    wrong: np.ndarray | None
    theory: Curves | None = None

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.data.n_samples, self.settings.batch_size)

    @property
    def n_steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps done of all, and the newest measured scalars by name."""

    step: int
    n_steps: int
    epoch: float
    latest: dict[str, float]


def prepare(settings: RunSettings) -> Experiment:
    """Load the data, spoil the labels, build the network.

    Raises
    ------
    UsageError
        For settings that make no sense together.
    InputError
        For data that cannot be used.
    """
    data = noisy_data(settings)
    if settings.batch_size > data.n_samples:
        raise UsageError(
            f"batch_size = {settings.batch_size} exceeds the {data.n_samples} training samples: choose at most that."
        )
    loss = settings.loss if settings.loss != "auto" else ("squared" if data.n_classes is None else "cross-entropy")
    sizes = (int(np.prod(data.input_shape)), *settings.hidden, data.n_outputs)
    model = initial_mlp(sizes, settings.activation, stream(settings.seed, "weights"))
    build = backend_class(settings.backend)
    train = build(model, data.x_train, data.y_train, loss=loss, dtype=settings.dtype, device=settings.device)
    if settings.sharp_directions:
        check_sharp_directions(train, settings.sharp_directions)
    wrong = data.wrong if settings.wrong_labels == "actual" or data.assigned is None else data.assigned
    settings = settings.model_copy(update={"loss": loss})
    marks = checkpoint_steps(
        settings.epochs * steps_per_epoch(data.n_samples, settings.batch_size), settings.checkpoints
    )
    theory = theory_curves(settings, data, train, wrong, marks) if settings.with_theory else None
    return Experiment(settings, data, train, train.on(data.x_test, data.y_test), wrong, theory)


def noisy_data(settings: RunSettings) -> Dataset:
    """The data set of a run, wrong labels in place.

    Raises
    ------
    UsageError, InputError
        As `load_dataset` and `add_label_noise` do.
    """
    clean = load_dataset(
        settings.dataset,
        options=settings.dataset_options,
        train_size=settings.train_size,
        test_size=settings.test_size,
        data_dir=settings.data_dir,
        rng=stream(settings.seed, "data"),
    )
    return add_label_noise(
        clean,
        kind=settings.noise_kind,
        fraction=settings.noise_fraction,
        rng=stream(settings.seed, "labels"),
        transition=None if settings.transition_matrix is None else load_transition(settings.transition_matrix),
        labels=None if settings.noisy_labels is None else load_labels(settings.noisy_labels),
    )


def advance(experiment: Experiment, folder: RunFolder, start: Checkpoint | None = None) -> Iterator[Progress]:
    """Train to the end, measuring at the scheduled steps and keeping the folder up to date.

    Stopping anywhere, however roughly, loses only the work since the last checkpoint.

    Parameters
    ----------
    experiment : Experiment
    folder : RunFolder
        Already holding the run's settings.
    start : Checkpoint or None
        Where to go on; None begins at the start.

    Yields
    ------
    Progress
        After every piece of training, at most an epoch long.

    Raises
    ------
    InputError
        If the data are not those the checkpoint was made with.
    TrainingDiverged
        If loss or gradient are no longer finite; the folder keeps what was measured before.
    """
    settings, per_epoch, n_steps = experiment.settings, experiment.steps_per_epoch, experiment.n_steps
    marks = checkpoint_steps(n_steps, settings.checkpoints)
    data_mark = fingerprint(experiment.data)
    if start is None:
        step, rows, measured = 0, {}, 0
    else:
        if start.fingerprint != data_mark:
            raise InputError(
                f"the data differ from those {folder.path} was started on: restore them, or start a new run."
            )
        step, rows, measured = start.step, dict(start.rows), len(start.rows["step"])
        experiment.train.load_weights(start.weights)
    saved = published = time.monotonic()
    while True:
        if measured < len(marks) and step == marks[measured]:
            rows = _appended(rows, {"step": float(step), **_row(experiment, step)})
            measured += 1
            due = True
        else:
            due = time.monotonic() - saved > SAVE_SECONDS
        if due:
            folder.save(Checkpoint(step, experiment.train.weights, rows, data_mark))
            saved = time.monotonic()
        if step == n_steps or time.monotonic() - published > PUBLISH_SECONDS:
            folder.publish(rows, per_epoch)
            published = time.monotonic()
        yield Progress(step, n_steps, step / per_epoch, {name: float(values[-1]) for name, values in rows.items()})
        if step == n_steps:
            return
        stop = int(min(marks[measured], step - step % per_epoch + per_epoch))
        order = sample_order(settings.seed, step, stop, experiment.data.n_samples, settings.batch_size)
        experiment.train.train(order, settings.batch_size, settings.learning_rate)
        step = stop


def _row(experiment: Experiment, step: int) -> dict[str, float]:
    settings = experiment.settings
    found = measure_backend(
        experiment.train,
        batch_size=settings.batch_size,
        wrong=experiment.wrong,
        alignment_batches=settings.alignment_batches,
        rng=stream(settings.seed, "alignment", step),
    )
    if not np.isfinite([found.loss, found.activity]).all():
        raise TrainingDiverged(
            f"at step {step} the loss is {found.loss} and the activity {found.activity}: training diverged; "
            f"lower the learning rate (now {settings.learning_rate})."
        )
    loss, error = mean_scores(experiment.test)
    told = {} if experiment.theory is None else experiment.theory(step, found)
    return {**found.scalars(), "test_loss": loss, "test_error": error, **_parts(experiment, found), **told}


def _parts(experiment: Experiment, whole: OrderParameters) -> dict[str, float]:
    """Sharpness, and the scalars of the sharp and floor parts, where the settings ask for them."""
    settings, train = experiment.settings, experiment.train
    if not settings.sharp_directions:
        return {}
    curvature = leading_curvature(train, settings.sharp_directions, seed=settings.seed)
    split = sharp_and_floor(train, curvature, batch_size=settings.batch_size, wrong=experiment.wrong, whole=whole)
    return {"sharpness": float(curvature.eigenvalues[0]), **split.parts()}


def _appended(rows: dict[str, np.ndarray], row: dict[str, float]) -> dict[str, np.ndarray]:
    return {name: np.append(rows.get(name, np.empty(0)), value) for name, value in row.items()}
