"""The main job: from settings to a trajectory on disk."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.registry import backend_class, make_backend
from sgdphases.estimators.curvature.hessian import check_sharp_directions, leading_curvature
from sgdphases.estimators.curvature.sharp_floor import sharp_and_floor
from sgdphases.estimators.ensemble.order_parameters import OrderParameters, describe
from sgdphases.estimators.ensemble.scores import all_scores
from sgdphases.estimators.ensemble.spectrum import noise_spectrum
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.estimators.measure import measure_backend
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.forms import is_own
from sgdphases.sim.data.datasets.registry import load_dataset
from sgdphases.sim.data.label_noise.add import add_label_noise, load_labels, load_transition
from sgdphases.sim.data.scaling import scaling_problem, standardized
from sgdphases.sim.run.checkpoint import Checkpoint, Rows, fingerprint
from sgdphases.sim.run.schedule import Orders, checkpoint_steps, drawn_minibatches, steps_per_epoch
from sgdphases.sim.run.settings import RunSettings, check_batch_size, check_fixed, check_plain_sgd, fixed_settings
from sgdphases.sim.run.streams import stream
from sgdphases.sim.run.trajectory import TEST_RIGHT, error_sizes, lost_samples
from sgdphases.theory.order_parameters import GradientMoments

if TYPE_CHECKING:  # few runs are compared with a theory, and all would wait for its libraries
    from sgdphases.sim.run.theory_curves import Curves

SAVE_SECONDS = 20.0  # at most this much training is lost between two measurements, if a run is killed
KEEP_SECONDS = 1.0  # at most this much of training and measurements together, if measurements come quickly
PUBLISH_SECONDS = 5.0  # how old trajectory.nc may grow while a run goes on
PIECE = 2**23  # samples times weights that are trained on at once, if an epoch is less: some hundredths of a second
MOST_EIGENVALUES = 1_000  # of a noise spectrum that are kept
BEFORE = ("test_error", TEST_RIGHT)  # what a checkpoint must know of those before it
FULL_SPECTRUM = 10_000  # samples up to which so many are affordable whatever the number of parameters


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a run needs in memory: made from its settings alone, before anything is written.

    In ``settings`` an "auto" loss, or scaling, is replaced by the one chosen. ``spectrum`` is a second backend around
    the same network, for those parameters whose noise spectrum is to be measured: its weights are loaded before each
    use.
    """

    settings: RunSettings
    data: Dataset
    train: Backend
    test: Backend
    wrong: np.ndarray | None
    theory: "Curves | None" = None
    spectrum: Backend | None = None

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(self.data.n_samples, self.settings.batch_size)

    @property
    def sizes(self) -> dict[str, float]:
        """N and d, the training samples and the numbers in one input; for classes also what errors are judged by."""
        data = self.data
        sizes: dict[str, float] = {"n_samples": data.n_samples, "n_inputs": int(np.prod(data.input_shape))}
        return sizes if data.n_classes is None else {**sizes, **error_sizes(data.y_train, data.y_test, data.n_classes)}

    @property
    def n_steps(self) -> int:
        return self.settings.epochs * self.steps_per_epoch

    @property
    def marks(self) -> np.ndarray:
        """Steps at which to measure."""
        return checkpoint_steps(self.n_steps, self.settings.checkpoints)

    @property
    def spectrum_marks(self) -> np.ndarray:
        """Those of them at which to measure the noise spectrum, too: evenly among them, the first and the last in."""
        places = np.linspace(0, len(self.marks) - 1, self.settings.spectra)
        return self.marks[np.unique(np.rint(places).astype(int))]


class Keeper(Protocol):
    """What keeps a run as it goes on: a `RunFolder`, or what becomes one only if the run takes long."""

    @property
    def path(self) -> Path: ...

    @property
    def config(self) -> Path: ...

    @property
    def checkpoint(self) -> Path: ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint."""

    def publish(self, rows: dict[str, np.ndarray], steps_per_epoch: int, sizes: dict[str, float]) -> None:
        """Bring the trajectory up to date."""


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps done of all, and what was measured so far."""

    step: int
    n_steps: int
    epoch: float
    rows: Rows

    @property
    def latest(self) -> dict[str, float]:
        """The newest measured scalars by name."""
        return {name: float(values[-1]) for name, values in self.rows.arrays().items() if values.ndim == 1}


def prepare(settings: RunSettings) -> Experiment:
    """Load the data, make labels wrong, build the network.

    Raises
    ------
    UsageError
        For settings that make no sense together.
    InputError
        For data that cannot be used.
    """
    check_plain_sgd(settings)
    data, settings = _prepared_data(settings)
    check_batch_size(settings, data.n_samples)
    loss = settings.loss if settings.loss != "auto" else ("squared" if data.n_classes is None else "cross-entropy")
    build = backend_class(settings.backend)
    model, dtype = initial_network(settings, data)
    common = dict(loss=loss, dtype=dtype, device=settings.device)
    train = build(model, data.x_train, data.y_train, **common)
    spectrum = train if settings.spectra else None
    if settings.spectrum_parameters:
        spectrum = make_backend(
            model, data.x_train, data.y_train, backend=settings.backend,
            parameters=list(settings.spectrum_parameters), **common,
        )  # fmt: skip
    if settings.spectra and data.n_samples < 2:
        raise UsageError(f"spectra = {settings.spectra}: a spectrum needs at least two training samples.")
    if settings.sharp_directions:
        check_sharp_directions(train, settings.sharp_directions)
    wrong = data.wrong if settings.wrong_labels == "actual" or data.assigned is None else data.assigned
    settings = settings.model_copy(update={"loss": loss})
    made = Experiment(settings, data, train, train.on(data.x_test, data.y_test), wrong, spectrum=spectrum)
    if not settings.with_theory:
        return made
    from sgdphases.sim.run.theory_curves import theory_curves

    return replace(made, theory=theory_curves(settings, data, train, wrong, made.marks))


def initial_network(settings: RunSettings, data: Dataset) -> tuple[Any, str | None]:
    """The network at its start, and the dtype in which it is to be trained; None leaves that to the backend.

    Raises
    ------
    UsageError
        For a network that is not trained by plain SGD, or samples that are no images where it takes them.
    """
    check_plain_sgd(settings)
    rng = stream(settings.seed, "weights")
    if settings.network == "mlp":
        sizes = (int(np.prod(data.input_shape)), *settings.hidden, data.n_outputs)
        return initial_mlp(sizes, settings.activation, rng), settings.dtype
    from sgdphases.sim.networks.images import image_network  # PyTorch is not always there

    made = image_network(settings.network, data.input_shape, data.n_outputs, settings.activation, rng)
    return made, settings.dtype or "float32"


def noisy_data(settings: RunSettings) -> Dataset:
    """The data set of a run, standardised where the settings ask for it, wrong labels in place.

    Raises
    ------
    UsageError, InputError
        As `load_dataset` and `add_label_noise` do.
    """
    return _prepared_data(settings)[0]


def clean_data(settings: RunSettings) -> Dataset:
    """The data set of a run as it is, before features are scaled and labels made wrong.

    Raises
    ------
    UsageError, InputError
        As `load_dataset` does.
    """
    return load_dataset(
        settings.dataset,
        options=settings.dataset_options,
        train_size=settings.train_size,
        test_size=settings.test_size,
        data_dir=settings.data_dir,
        rng=stream(settings.seed, "data"),
    )


def _prepared_data(settings: RunSettings) -> tuple[Dataset, RunSettings]:
    """The data set of a run, and the settings with "auto" replaced by whether its features are standardised."""
    data = clean_data(settings)
    if settings.standardize == "auto":
        how = "always" if is_own(settings.dataset) and scaling_problem(data.x_train) else "never"
        settings = settings.model_copy(update={"standardize": how})
    return with_label_noise(settings, standardized(data) if settings.standardize == "always" else data), settings


def with_label_noise(settings: RunSettings, data: Dataset) -> Dataset:
    """A data set with the wrong labels that these settings ask for.

    A file of labels may be of these samples, or, where they were drawn from a larger training set, of all of that.

    Raises
    ------
    UsageError, InputError
        As `add_label_noise` does.
    """
    labels = None if settings.noisy_labels is None else load_labels(settings.noisy_labels)
    if labels is not None and data.drawn is not None and len(labels) == len(data.drawn):
        labels = labels[data.drawn[: data.n_samples]]
    return add_label_noise(
        data,
        kind=settings.noise_kind,
        fraction=settings.noise_fraction,
        rng=stream(settings.seed, "labels"),
        transition=None if settings.transition_matrix is None else load_transition(settings.transition_matrix),
        labels=labels,
    )


def advance(experiment: Experiment, folder: Keeper, start: Checkpoint | None = None) -> Iterator[Progress]:
    """Train to the end, measuring at the scheduled steps and keeping the folder up to date.

    Stopping anywhere, however roughly, loses only the work since the last checkpoint.

    Parameters
    ----------
    experiment : Experiment
    folder : Keeper
        Such as a `RunFolder` that already holds the run's settings.
    start : Checkpoint or None
        Where to go on; None begins at the start.

    Yields
    ------
    Progress
        After every piece of training: at most an epoch long, or a few where an epoch takes no time.

    Raises
    ------
    UsageError
        If the settings are not those that the checkpoint was made with.
    InputError
        If the data are not, or the checkpoint does not go with the network or the schedule.
    TrainingDiverged
        If loss or gradient are no longer finite; the folder keeps what was measured before.
    """
    settings, per_epoch, n_steps = experiment.settings, experiment.steps_per_epoch, experiment.n_steps
    marks = experiment.marks
    data_mark, fixed = fingerprint(experiment.data), fixed_settings(settings)
    if start is None:
        step, rows = 0, Rows({}, len(marks))
    else:
        _check_start(experiment, folder, start, data_mark)
        step, rows = start.step, Rows(start.rows, len(marks))
        experiment.train.load_weights(start.weights)
    compiled = settings.backend == "numba"
    orders = Orders(settings.seed, experiment.data.n_samples, settings.batch_size, compiled=compiled)
    measuring = Measuring(experiment, _at_once(experiment) if compiled else None)
    room = max(1, PIECE // (experiment.data.n_samples * len(experiment.train.weights)))
    saved, published = float("-inf"), time.monotonic()
    while True:
        patience = SAVE_SECONDS
        if rows.n < len(marks) and step == marks[rows.n]:
            rows.append({"step": float(step), **measuring.row(step, rows.some(*BEFORE))})
            patience = KEEP_SECONDS
        if step == n_steps or time.monotonic() - saved > patience:
            folder.save(Checkpoint(step, experiment.train.weights, rows.arrays(), data_mark, fixed))
            saved = time.monotonic()
        if step == n_steps or time.monotonic() - published > PUBLISH_SECONDS:
            folder.publish(rows.arrays(), per_epoch, experiment.sizes)
            published = time.monotonic()
        try:
            yield Progress(step, n_steps, step / per_epoch, rows)
        except GeneratorExit:  # left between two steps: all of it can be kept
            folder.save(Checkpoint(step, experiment.train.weights, rows.arrays(), data_mark, fixed))
            raise
        if step == n_steps:
            return
        stop = int(min(marks[rows.n], step - step % per_epoch + orders.epochs_at_once(room) * per_epoch))
        experiment.train.train(orders.of(step, stop), settings.batch_size, settings.learning_rate)
        step = stop


def _check_start(experiment: Experiment, folder: Keeper, start: Checkpoint, data_mark: str) -> None:
    """Refuse a checkpoint that was not made by this very run."""
    settings, marks = experiment.settings, experiment.marks
    again = f"start a new run with `sgdphases run --config {folder.config}`"
    check_fixed(start.settings, settings, folder.config, again)
    if start.fingerprint != data_mark:
        raise InputError(f"the data differ from those {folder.path} was started on: restore them, or start a new run.")
    measured = start.rows.get("step", np.empty(0))
    n = len(measured)
    last = experiment.n_steps if n >= len(marks) else marks[n]
    if n > len(marks) or not np.array_equal(measured, marks[:n]) or start.step > last:
        raise InputError(
            f"{folder.checkpoint} stands at step {start.step} with {n} measurements, which is no point of a run of "
            f"epochs = {settings.epochs} and checkpoints = {settings.checkpoints} over {experiment.n_steps} steps: put "
            f"back the settings it was begun with, or {again}."
        )
    if start.weights.shape != experiment.train.weights.shape:
        raise InputError(
            f"{folder.checkpoint} holds {start.weights.size} weights, but the network of {folder.config.name} has "
            f"{experiment.train.weights.size}: put back the settings it was begun with, or {again}."
        )


def _at_once(experiment: Experiment) -> Any:
    """What measures a checkpoint of the numba backend in one call, or None where the samples are too many for that."""
    settings = experiment.settings
    train: Any = experiment.train
    common = dict(batch_size=settings.batch_size, wrong=experiment.wrong, n_batches=settings.alignment_batches)
    return train.checkpoints(experiment.test, **common)


class Measuring:
    """Measures an experiment at its present weights.

    Parameters
    ----------
    experiment : Experiment
    at_once : Checkpoints or None
        Of `sgdphases.estimators.backends.numba_backend`, where order parameters and test come from one call.
    """

    def __init__(self, experiment: Experiment, at_once: Any = None):
        self._experiment, self._at_once = experiment, at_once

    def row(self, step: int, rows: dict[str, np.ndarray]) -> dict[str, Any]:
        """All that the settings ask for at this step, by name; ``rows`` holds `BEFORE` of the checkpoints before.

        Raises
        ------
        TrainingDiverged
            If loss or gradient are no longer finite.
        """
        experiment = self._experiment
        scalars, right, found = self._in_pieces(step) if self._at_once is None else self._in_one_call(step)
        _check_finite(experiment, step, scalars["loss"], scalars["activity"])
        predicted = {} if experiment.theory is None else experiment.theory(step, found())
        return {
            **scalars,
            **self._lost(rows, right),
            **(_parts(experiment, found()) if experiment.settings.sharp_directions else {}),
            **predicted,
            **_spectrum(experiment, step),
            **_sample_losses(experiment),
        }

    def _in_pieces(self, step: int) -> tuple[dict[str, float], np.ndarray, Callable[[], OrderParameters]]:
        """Scalars by name, which test samples are right, and the order parameters."""
        experiment, settings = self._experiment, self._experiment.settings
        found = measure_backend(
            experiment.train,
            batch_size=settings.batch_size,
            wrong=experiment.wrong,
            alignment_batches=settings.alignment_batches,
            rng=stream(settings.seed, "alignment", step) if settings.alignment_batches else None,
        )
        tested = all_scores(experiment.test)
        test = {"test_loss": float(tested.loss.mean()), "test_error": float(1.0 - tested.correct.mean())}
        return {**found.scalars(), **test}, tested.correct, lambda: found

    def _in_one_call(self, step: int) -> tuple[dict[str, float], np.ndarray, Callable[[], OrderParameters]]:
        """The same, to the same bits but for the mean over the test, which may be added up in another order."""
        experiment, settings = self._experiment, self._experiment.settings
        size, count, batches = settings.batch_size, settings.alignment_batches, None
        if count:
            batches = drawn_minibatches(settings.seed, step, experiment.data.n_samples, size, count)
        scalars = self._at_once.measure(batches)
        return scalars, self._at_once.correct, lambda: _record(scalars, size, self._at_once.moments())

    def _lost(self, rows: dict[str, np.ndarray], right: np.ndarray) -> dict[str, Any]:
        """As `lost_samples`."""
        if self._at_once is None or not len(right) or np.isnan(right[0]) or not rows or TEST_RIGHT not in rows:
            return lost_samples(rows, right)
        lost, bits = self._at_once.lost(rows["test_error"], rows[TEST_RIGHT])
        return {"test_lost": lost, TEST_RIGHT: bits}


def _record(scalars: dict[str, float], batch_size: int, moments: GradientMoments) -> OrderParameters:
    errors = {name: scalars.get(f"{name}_standard_error") for name in describe()}
    sampled = {name: error for name, error in errors.items() if error is not None}
    values = {name: scalars[name] for name in describe()}
    return OrderParameters(batch_size, False, "plain", moments, **values, standard_errors=sampled)


def _check_finite(experiment: Experiment, step: int, loss: float, activity: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(activity)):
        raise TrainingDiverged(
            f"at step {step} the loss is {loss} and the activity {activity}: training diverged; "
            f"lower the learning rate (now {experiment.settings.learning_rate}){_or_scale(experiment)}."
        )


def _or_scale(experiment: Experiment) -> str:
    problem = scaling_problem(experiment.data.x_train)
    if not problem or experiment.settings.standardize == "always":
        return ""
    return f", or scale the inputs, whose {problem}: --standardize always does so"


def _parts(experiment: Experiment, whole: OrderParameters) -> dict[str, float]:
    """Sharpness, and the scalars of the sharp and floor parts."""
    settings, train = experiment.settings, experiment.train
    curvature = leading_curvature(train, settings.sharp_directions, seed=settings.seed)
    split = sharp_and_floor(train, curvature, batch_size=settings.batch_size, wrong=experiment.wrong, whole=whole)
    return {"sharpness": float(curvature.eigenvalues[0]), **split.parts()}


def _spectrum(experiment: Experiment, step: int) -> dict[str, Any]:
    """Leading eigenvalues of the noise matrix, NaN between the steps at which they are measured."""
    settings, backend = experiment.settings, experiment.spectrum
    if backend is None:
        return {}
    values = np.full(min(MOST_EIGENVALUES, backend.n_parameters, backend.n_samples - 1), np.nan)
    total = dimension = float("nan")
    if step in experiment.spectrum_marks:
        if backend is not experiment.train:
            backend.load_weights(experiment.train.weights)
        wanted = len(values) if backend.n_samples <= FULL_SPECTRUM else None
        found = noise_spectrum(backend, batch_size=settings.batch_size, n_values=wanted)
        known = found.noise_spectrum[: len(values)]
        values[: len(known)] = known
        total, dimension = found.total_variance, float(found.effective_dimension() or np.nan)
    return {"noise_spectrum": values, "spectrum_total_variance": total, "effective_dimension": dimension}


def _sample_losses(experiment: Experiment) -> dict[str, Any]:
    """The loss of every training sample, and which of them are wrong, if that is known."""
    if not experiment.settings.sample_losses:
        return {}
    known = {} if experiment.wrong is None else {"wrong": experiment.wrong}
    return {"sample_loss": all_scores(experiment.train).loss.astype(np.float32), **known}
