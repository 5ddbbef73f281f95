"""What is learnt, by which network, and how: records shared by the theory and by the simulation beside it."""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from sgdphases.theory.dmft.units import LOSSES, UNITS

INPUTS = ("clusters", "teacher")
TARGETS = ("sign", "value")
TEACHERS = ("erf", "linear")
NOISES = ("uniform-other", "uniform-all")
SAMPLERS = ("independent", "reshuffled")


@dataclass(frozen=True)
class Task:
    """A finite data set in d dimensions with N = n d samples, d to infinity: two classes, labels -1 and 1, or values.

    Attributes
    ----------
    samples_per_dimension : float
        n = N/d, above 0.
    noise_fraction : float
        rho, 0 to 1 (excluded): share of samples in the wrong population.
    noise_kind : {"uniform-other", "uniform-all"}
        Wrong labels have the other sign, or are those of another sample.
    inputs : {"clusters", "teacher"}
        Two Gaussian clusters, one a class; or one cloud around the origin with labels from a committee's answers,
        ``sum_j g(x_j)`` over ``directions`` axes. Inputs have unit variance around their centre.
    separation : float
        Distance of the two centres in standard deviations; without effect for a teacher.
    directions : int
        Units of the teacher; without effect for clusters.
    teacher : {"erf", "linear"}
        g, ``erf(u / sqrt(2))`` or u; without effect for clusters.
    target : {"sign", "value"}
        Labels are the signs of the teacher's answers, or the answers themselves: a regression, which has no errors.
    output_noise : float
        Standard deviation of what is added to the answers of the training set; values only.
    """

    samples_per_dimension: float = 1.0
    noise_fraction: float = 0.0
    noise_kind: str = "uniform-other"
    inputs: str = "clusters"
    separation: float = 3.0
    directions: int = 2
    teacher: str = "erf"
    target: str = "sign"
    output_noise: float = 0.0

    @property
    def informative(self) -> int:
        """J, directions of the inputs on which labels depend."""
        return 1 if self.inputs == "clusters" else self.directions


@dataclass(frozen=True, eq=False)
class Start:
    """Weights of a student before training, where they are known.

    Attributes
    ----------
    overlap : ndarray, shape (K, J)
        Components of the hidden weights along the informative directions.
    covariance : ndarray, shape (K, K)
        Products of what is left of them.
    biases : ndarray, shape (K,)
        Of the hidden units.
    output_bias : float
    """

    overlap: np.ndarray
    covariance: np.ndarray
    biases: np.ndarray
    output_bias: float = 0.0


@dataclass(frozen=True)
class Student:
    """``f(x) = sum_k v_k g(w_k . x)``; where labels are signs, it answers with the sign of f.

    Attributes
    ----------
    units : int
        K. One linear unit is the linear classifier.
    activation : {"linear", "erf", "tanh", "relu"}
        g; ``erf(u / sqrt(2))``. For "relu" a population of 3,000 is a good number (see `sgdphases.theory.dmft.kinks`).
    loss : {"logistic", "squared"}
        ``log(1 + exp(-y f))`` or ``(f - y)^2 / 2``.
    output_weights : tuple of float
        v at the start; empty for ``1 / sqrt(K)`` each.
    initial_scale : float
        Root mean square of ``|w_k|`` at the start, in random directions.
    train_output : bool
        Whether v is trained with the rest, or stays.
    biases : bool
        Whether the units have a bias each, which is trained, and f one, which is trained with v.
    logits : {1, 2}
        2: f is the difference of two outputs, each with weights of its own that are trained; 1: one output.
    start : Start or None
        None takes random directions, and biases of 0.
    """

    units: int = 1
    activation: str = "linear"
    loss: str = "logistic"
    output_weights: tuple[float, ...] = ()
    initial_scale: float = 0.5
    train_output: bool = False
    biases: bool = False
    logits: int = 1
    start: Start | None = None

    @property
    def outputs(self) -> np.ndarray:
        """v at the start, and the bias of f if there are biases; shape (K,) or (K + 1,)."""
        given = self.output_weights or (self.units**-0.5,) * self.units
        bias = 0.0 if self.start is None else self.start.output_bias
        return np.array([*given, bias] if self.biases else given, dtype=np.float64)

    def start_in(self, task: Task) -> tuple[np.ndarray, np.ndarray]:
        """Overlaps with what is known of a sample, the constant of biases last, and a root of the covariance."""
        overlap = np.zeros((self.units, task.informative))
        root, biases = self.initial_scale * np.eye(self.units), np.zeros(self.units)
        if self.start is not None:
            values, vectors = np.linalg.eigh(self.start.covariance)
            overlap, root, biases = self.start.overlap, vectors * np.sqrt(np.maximum(values, 0)), self.start.biases
        return (np.column_stack([overlap, biases]) if self.biases else overlap), root


@dataclass(frozen=True)
class Descent:
    """SGD on the mean loss of the minibatch plus ``ridge |w|^2 / 2`` for the hidden weights.

    Attributes
    ----------
    learning_rate : float
        alpha, of plain SGD on inputs of unit variance.
    steps : int
    batch_fraction : float
        b = B/N, above 0, at most 1 (the full batch).
    sampler : {"independent", "reshuffled"}
        Whether minibatches are drawn anew at each step, or 1/b of them part the data set in each epoch. A full batch
        is the same either way, and has "independent" whatever is given.
    ridge : float
    """

    learning_rate: float = 1.0
    steps: int = 100
    batch_fraction: float = 1.0
    sampler: str = "independent"
    ridge: float = 0.0

    def __post_init__(self) -> None:
        if self.batch_fraction == 1 and self.sampler in SAMPLERS:
            object.__setattr__(self, "sampler", "independent")

    @property
    def batches(self) -> int:
        """Steps an epoch."""
        return round(1 / self.batch_fraction)


def check_settings(task: Task, student: Student, descent: Descent) -> None:
    """Raise ValueError where a setting is out of range, naming it and what to choose."""
    for record in (task, student, descent):
        for field in fields(record):
            value = getattr(record, field.name)
            if isinstance(value, float) and not np.isfinite(value):
                raise ValueError(f"{field.name} = {value}: give a finite number.")
    for name, value, choices in (
        ("noise_kind", task.noise_kind, NOISES),
        ("inputs", task.inputs, INPUTS),
        ("teacher", task.teacher, TEACHERS),
        ("target", task.target, TARGETS),
        ("activation", student.activation, tuple(UNITS)),
        ("loss", student.loss, tuple(LOSSES)),
        ("sampler", descent.sampler, SAMPLERS),
    ):
        if value not in choices:
            raise ValueError(f"{name} = {value!r}: choose among {', '.join(choices)}.")
    for name, number, fine, range_ in _ranges(task, student, descent):
        if not fine:
            raise ValueError(f"{name} = {number}: choose {range_}.")
    if student.output_weights and len(student.output_weights) != student.units:
        raise ValueError(f"output_weights = {student.output_weights}: give {student.units}, one a unit.")
    if task.target == "value" and (task.inputs != "teacher" or student.loss != "squared"):
        raise ValueError("target = 'value': that is for inputs = 'teacher' and loss = 'squared'; or choose 'sign'.")
    if task.output_noise and task.target == "sign":
        raise ValueError(f"output_noise = {task.output_noise}: that is for target = 'value'; leave it out.")
    if student.activation == "relu" and student.start is None and student.initial_scale == 0:
        raise ValueError("initial_scale = 0: ReLU units of no weight at all stand at their kink; choose above 0.")
    _check_start(task, student)
    if descent.sampler == "reshuffled" and abs(descent.batches * descent.batch_fraction - 1) > 1e-9:
        raise ValueError(f"batch_fraction = {descent.batch_fraction}: reshuffled minibatches take 1 / an integer.")


def _check_start(task: Task, student: Student) -> None:
    start, k = student.start, student.units
    if start is None:
        return
    shapes = {"overlap": (k, task.informative), "covariance": (k, k), "biases": (k,)}
    for name, shape in shapes.items():
        value = getattr(start, name)
        if np.shape(value) != shape or not np.isfinite(value).all():
            raise ValueError(f"start.{name} of shape {np.shape(value)}: give finite numbers of shape {shape}.")
    if not student.biases and (np.any(start.biases) or start.output_bias):
        raise ValueError("start has biases, but the student none: leave them 0, or give it biases = True.")


def check_populations(task: Task, size: int) -> None:
    """Raise ValueError where so many samples hold no clean one, or no wrong one although a share of them is wrong."""
    n_wrong = round(task.noise_fraction * size)
    if n_wrong == size or (n_wrong == 0 and task.noise_fraction > 0):
        raise ValueError(
            f"noise_fraction = {task.noise_fraction}: of {size} samples {n_wrong} are wrong; take more samples, or "
            f"another share."
        )


def _ranges(task: Task, student: Student, descent: Descent) -> list[tuple[str, Any, bool, str]]:
    n, rho, b = task.samples_per_dimension, task.noise_fraction, descent.batch_fraction
    return [
        ("samples_per_dimension", n, 0 < n <= 1e4, "a number above 0, at most 1e4"),
        ("noise_fraction", rho, 0 <= rho < 1, "a share of at least 0, below 1"),
        ("separation", task.separation, 0 <= task.separation <= 1e3, "a distance from 0 to 1000"),
        ("directions", task.directions, 1 <= task.directions <= 16, "1 to 16"),
        ("output_noise", task.output_noise, 0 <= task.output_noise <= 1e3, "0 to 1000"),
        ("logits", student.logits, student.logits in (1, 2), "1 or 2"),
        ("units", student.units, 1 <= student.units <= 16, "1 to 16"),
        ("initial_scale", student.initial_scale, 0 <= student.initial_scale <= 100, "a scale from 0 to 100"),
        ("learning_rate", descent.learning_rate, 0 < descent.learning_rate <= 1e3, "a number above 0, at most 1000"),
        ("steps", descent.steps, 1 <= descent.steps <= 10**6, "1 or more"),
        ("batch_fraction", b, 0 < b <= 1, "a share above 0, at most 1"),
        ("ridge", descent.ridge, 0 <= descent.ridge * descent.learning_rate < 1, "0 or more, below 1 / learning_rate"),
    ]
