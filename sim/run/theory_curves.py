"""Predictions without a fitted number beside what a run measures, checkpoint by checkpoint.

Three theories know curves of a whole run. The linear model predicts every order parameter of a network without hidden
layers under squared loss, averaged over runs whose minibatches are drawn independently; a run that reshuffles its
samples each epoch, as ours do, has less noise at the end of an epoch. The theory of memorising predicts the same, and
errors, for few hidden units that learn from a teacher: from the network's own weights at the start, but for no
particular samples, so that single runs deviate by the order of d^(-1/2). Clean priority predicts, for classes, how the
mean gradient of the wrong samples would compare with that of the clean ones if nothing were memorised: where the
measured curve leaves the predicted one, memorising has begun.
"""

import inspect
from collections.abc import Callable

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.backends.mlp import layer_views
from sgdphases.estimators.ensemble.clean_priority import predicted_balance
from sgdphases.estimators.ensemble.order_parameters import OrderParameters
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.covariance import covariance_spectrum
from sgdphases.sim.data.datasets.teacher_student import draw_teacher, make_teacher_student
from sgdphases.sim.data.label_noise.transitions import transition_matrix
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.streams import stream
from sgdphases.theory.dmft.predict import predict
from sgdphases.theory.dmft.settings import Descent, Start, Student, Task
from sgdphases.theory.linear.flow import descent
from sgdphases.theory.linear.predictions import predictions
from sgdphases.theory.linear.sgd import WeightMoments, sgd_moments

Curves = Callable[[int, OrderParameters], dict[str, float]]
LINEAR_NAMES = (
    "loss", "loss_c", "loss_w", "test_loss", "activity", "directed_activity", "directed_activity_c",
    "directed_activity_w", "total_variance", "projection_variance", "alignment_cw", "alignment_ac", "alignment_aw",
)  # fmt: skip
MEMORISING_NAMES = (
    "loss", "loss_c", "loss_w", "test_loss", "train_error", "error_c", "error_w", "test_error", "activity",
    "directed_activity", "directed_activity_c", "directed_activity_w", "total_variance", "alignment_cw", "alignment_ac",
    "alignment_aw",
)  # fmt: skip
MOST_OPERATIONS = 2e11  # of the exact recursion for SGD's covariance; beyond that the mean alone is followed
POPULATION, RELU_POPULATION, REPEATS = 1000, 3000, 4  # of the theory of memorising
MOST_UNITS, LEAST_DIMENSION = 16, 50
MOST_WORK, MOST_RELU_WORK = 4e8, 8e7  # b K^3 T^3 for T steps: three minutes of one core
CLEAR = 0.15  # standard error up to which predictions are kept: relative, or that of a cosine or an error itself


def theory_curves(
    settings: RunSettings, data: Dataset, train: Backend, wrong: np.ndarray | None, marks: np.ndarray
) -> Curves:
    """A function from a checkpoint's step and measurement to predicted scalars, named ``NAME_theory``.

    Call it with the network at that step's weights.

    Parameters
    ----------
    settings : RunSettings
    data : Dataset
    train : Backend
        At the starting weights.
    wrong : ndarray of bool, shape (N,), or None
    marks : ndarray of int
        The steps at which it will be asked.

    Raises
    ------
    UsageError
        If no theory applies to these settings, saying which would.
    """
    if not settings.hidden and settings.loss == "squared" and data.n_outputs == 1:
        return _linear(settings, data, train.weights, wrong, marks)
    misfits = _misfits(settings, data)
    if not misfits:
        return _memorising(settings, data, train.weights, wrong)
    nominal = _nominal_transition(settings, data)
    if nominal is not None and wrong is not None and 0 < wrong.sum() < len(wrong):
        return _clean_priority(data, train, wrong, nominal)
    if settings.dataset == "teacher-student":
        raise UsageError("no theory predicts curves for these settings: " + "; ".join(misfits) + ".")
    raise UsageError(
        "no theory predicts curves for these settings: it takes a network without hidden layers under squared loss "
        "with one output (--hidden none --loss squared), one small hidden layer on the data set teacher-student, or "
        "classes with label noise of the kind uniform, uniform-other or pair-flip and a noise fraction between 0 and 1."
    )


def _linear(settings: RunSettings, data: Dataset, start: np.ndarray, wrong: np.ndarray | None, marks) -> Curves:
    """The network's bias is one more input, always 1."""
    x, x_test = (_with_bias(values) for values in (data.x_train, data.x_test))
    y, y_test = (_targets(values) for values in (data.y_train, data.y_test))
    steps = np.unique(marks)
    rank = min(x.shape)
    start = start.astype(np.float64)
    weights: np.ndarray | WeightMoments
    noisy = settings.batch_size < len(x)  # a full batch without repeats is plain descent
    if noisy and float(steps[-1]) * len(x) * rank**2 <= MOST_OPERATIONS:
        weights = sgd_moments(x, y, steps, settings.learning_rate, settings.batch_size, start)
    else:
        weights = descent(x, y, steps, settings.learning_rate, start)
    found = predictions(
        x, y, weights, settings.batch_size, wrong=wrong, replacement=False, test=(x_test, y_test),
    )  # fmt: skip
    rows = {int(step): k for k, step in enumerate(steps)}
    return lambda step, _: {f"{name}_theory": float(found[name][rows[step]]) for name in LINEAR_NAMES}


def _misfits(settings: RunSettings, data: Dataset) -> list[str]:
    """Why the theory of memorising does not describe a run, each with what to choose instead; empty where it does."""
    if settings.dataset != "teacher-student":
        return [f"the theory of memorising is for the data set teacher-student, not {settings.dataset}"]
    options, units = _options(settings), settings.hidden[0] if settings.hidden else 1
    values, n_samples = data.n_classes is None, data.n_samples
    kinds = ("sign-flip", "redraw") if values else ("uniform", "uniform-other", "pair-flip")
    loss = "squared" if values else "cross-entropy"
    per_epoch = steps_per_epoch(n_samples, settings.batch_size)
    steps = settings.epochs * per_epoch
    work = settings.batch_size / n_samples * float(units * steps) ** 3
    most = MOST_RELU_WORK if settings.hidden and settings.activation == "relu" else MOST_WORK
    small = len(settings.hidden) < 2 and units <= MOST_UNITS
    longest = int(settings.epochs * (most / work) ** (1 / 3))
    checks = [
        (settings.network == "mlp", f"network = {settings.network!r}: choose mlp"),
        (small,
         f"hidden = {settings.hidden}: choose one hidden layer of at most {MOST_UNITS} units, such as --hidden 2"),
        (settings.loss in ("auto", loss), f"loss = {settings.loss!r}: choose {loss}"),
        (values or data.n_classes == 2, f"classes = {data.n_classes}: choose 2, or task=regression"),
        (options["covariance"] == "isotropic", "covariance = 'power-law': choose isotropic"),
        (options["dimension"] >= LEAST_DIMENSION,
         f"dimension = {options['dimension']}: runs deviate by about d^(-1/2); choose {LEAST_DIMENSION} or more"),
        (options["teacher_units"] <= MOST_UNITS,
         f"teacher_units = {options['teacher_units']}: choose at most {MOST_UNITS}"),
        (values or not options["output_noise"],
         "output_noise with classes: leave it out, and make labels wrong with --noise-fraction"),
        (settings.standardize != "always", "standardize = 'always': inputs have unit variance; choose never"),
        (settings.noise_fraction == 0 or settings.noise_kind in kinds,
         f"noise_kind = {settings.noise_kind!r}: choose one of {', '.join(kinds)}"),
        (settings.noise_fraction < 1, "noise_fraction = 1: choose less"),
        (n_samples % settings.batch_size == 0,
         f"batch_size = {settings.batch_size}: choose one that divides the {n_samples} training samples"),
        (work <= most or not small,
         f"epochs = {settings.epochs}: {steps} steps would take more than three minutes; choose --epochs {longest}"
         if longest else f"batch_size = {settings.batch_size}: choose a larger one, for fewer steps"),
    ]  # fmt: skip
    return [problem for fits, problem in checks if not fits]


def _options(settings: RunSettings) -> dict:
    """Of the data set teacher-student, with those that are not given."""
    known = inspect.signature(make_teacher_student).parameters
    return {name: settings.dataset_options.get(name, each.default) for name, each in known.items()}


def _memorising(settings: RunSettings, data: Dataset, start: np.ndarray, wrong: np.ndarray | None) -> Curves:
    """From the network's own weights, along and across the teacher's."""
    task, directions = _task(settings, data, wrong)
    student = _student(settings, data, start.astype(np.float64), directions)
    share = settings.batch_size / data.n_samples
    steps = settings.epochs * steps_per_epoch(data.n_samples, settings.batch_size)
    descent = Descent(settings.learning_rate, steps, share, "reshuffled")
    size = max(RELU_POPULATION if student.activation == "relu" else POPULATION, int(np.ceil(10 / share)))
    try:
        path = predict(task, student, descent, population=size, repeats=REPEATS, seed=settings.seed)
    except (ValueError, RuntimeError) as error:
        raise UsageError(f"the theory of memorising predicts nothing for this run: {error}") from None
    curves = {}
    for name in MEMORISING_NAMES:
        values, errors = (found.get(name, np.full(steps + 1, np.nan)) for found in (path.values, path.errors))
        scale = 1.0 if "alignment" in name or "error" in name else np.abs(values)
        unclear = np.maximum.accumulate(errors > CLEAR * scale)
        curves[f"{name}_theory"] = np.where(unclear, np.nan, values)
        curves[f"{name}_theory_standard_error"] = np.where(unclear, np.nan, errors)
    return lambda step, _: {name: float(values[step]) for name, values in curves.items()}


def _task(settings: RunSettings, data: Dataset, wrong: np.ndarray | None) -> tuple[Task, np.ndarray]:
    """What is learnt, and the teacher's directions, shape (J, d), orthonormal."""
    options = _options(settings)
    kind, dimension = options["teacher"], options["dimension"]
    spectrum = covariance_spectrum(dimension)
    drawn = draw_teacher(stream(settings.seed, "data"), kind, spectrum, 1, options["teacher_units"])
    directions = drawn.weights[0]
    by_chance = settings.noise_kind == "redraw" or (
        settings.noise_kind == "uniform" and settings.wrong_labels == "assigned"
    )
    sign = data.n_classes is not None or kind == "perceptron"
    if sign and settings.wrong_labels == "actual":
        by_chance = False  # redrawn labels that are right are among the clean ones
    task = Task(
        samples_per_dimension=data.n_samples / dimension,
        noise_fraction=0.0 if wrong is None else float(wrong.mean()),
        noise_kind="uniform-all" if by_chance else "uniform-other",
        inputs="teacher",
        directions=len(directions),
        teacher="erf" if kind == "committee" else "linear",
        target="sign" if sign else "value",
        output_noise=0.0 if sign else options["output_noise"],
    )
    return task, directions


def _student(settings: RunSettings, data: Dataset, weights: np.ndarray, directions: np.ndarray) -> Student:
    """The network as one unit a hidden unit; a difference of two outputs without hidden units is one linear unit."""
    logits = data.n_outputs
    layers = layer_views((int(np.prod(data.input_shape)), *settings.hidden, logits), weights)
    (hidden, biases), (outer, outer_bias) = layers[0], layers[-1]
    activation: str = settings.activation
    outputs, bias = outer[-1], float(outer_bias[-1])
    if logits == 2:
        outputs, bias = outer[1] - outer[0], float(outer_bias[1] - outer_bias[0])
    if not settings.hidden:
        hidden, biases = (hidden[1:] - hidden[:1]) / np.sqrt(2), (biases[1:] - biases[:1]) / np.sqrt(2)
        activation, outputs, bias, logits = "linear", np.array([np.sqrt(2.0)]), 0.0, 1
    overlap = hidden @ directions.T
    across = hidden - overlap @ directions
    return Student(
        units=len(hidden),
        activation=activation,
        loss="squared" if data.n_classes is None else "logistic",
        output_weights=tuple(float(each) for each in outputs),
        train_output=bool(settings.hidden),
        biases=True,
        logits=logits,
        start=Start(overlap, across @ across.T, biases, bias),
    )


def _clean_priority(data: Dataset, train: Backend, wrong: np.ndarray, transition: np.ndarray) -> Curves:
    x, y, n_wrong = data.x_train[~wrong], data.y_train[~wrong], int(wrong.sum())

    def now(step: int, measured: OrderParameters) -> dict[str, float]:
        predicted = predicted_balance(train, x, y, n_wrong, transition)
        return {
            "alignment_cw_theory": predicted.alignment_cw,
            "directed_activity_w_theory": predicted.ratio**2 * measured.directed_activity_c,
        }

    return now


def _nominal_transition(settings: RunSettings, data: Dataset) -> np.ndarray | None:
    """Where the labels of the wrong population go, if it is the same everywhere."""
    kind = settings.noise_kind
    if data.n_classes is None or kind not in ("uniform", "uniform-other", "pair-flip"):
        return None
    if kind == "uniform" and settings.wrong_labels == "actual":
        kind = "uniform-other"
    return transition_matrix(kind, 1.0, data.n_classes)


def _with_bias(x: np.ndarray) -> np.ndarray:
    flat = x.reshape(len(x), -1).astype(np.float64)
    return np.hstack([flat, np.ones((len(flat), 1))])


def _targets(y: np.ndarray) -> np.ndarray:
    return np.asarray(y, dtype=np.float64).reshape(len(y))
