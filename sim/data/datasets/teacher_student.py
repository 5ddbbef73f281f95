"""Targets made by a teacher network: problems whose rule, and whose noise, are known exactly."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from sgdphases.estimators.errors import UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_choice, check_count, check_dataset, check_real
from sgdphases.sim.data.datasets.covariance import (
    DEFAULT_EXPONENT,
    Covariance,
    covariance_spectrum,
    random_directions,
)

TeacherKind = Literal["linear", "perceptron", "committee"]
Task = Literal["classification", "regression"]
DEFAULT_UNITS = 3


@dataclass(frozen=True, eq=False)
class Teacher:
    """One or several scalar teachers of the same kind.

    Attributes
    ----------
    kind : {'linear', 'perceptron', 'committee'}
    weights : ndarray, shape (outputs, units, dimension), float64
        ``units`` is 1 but for the committee.
    """

    kind: TeacherKind
    weights: np.ndarray

    def outputs(self, x: np.ndarray) -> np.ndarray:
        """The teachers' outputs for `x` of shape (N, dimension); shape (N, outputs), float64.

        linear: ``w·x``; perceptron: ``sign(w·x)``, +1 or -1; committee: ``sum_m erf(w_m·x / √2)``.
        """
        units = np.einsum("nd,oud->nou", np.asarray(x, dtype=np.float64), self.weights, optimize=True)
        if self.kind == "linear":
            return units[:, :, 0]
        if self.kind == "perceptron":
            return np.where(units[:, :, 0] > 0, 1.0, -1.0)
        from scipy.special import erf

        return erf(units / np.sqrt(2)).sum(axis=2)


def draw_teacher(
    rng: np.random.Generator,
    kind: TeacherKind,
    spectrum: np.ndarray,
    outputs: int = 1,
    units: int = DEFAULT_UNITS,
) -> Teacher:
    """Draw teachers with random weights.

    Linear and perceptron weights are scaled so that ``w·x`` has unit variance under the input covariance.
    A committee's units have norm 1 and are orthonormal when there are no more units than inputs. With
    isotropic inputs of unit variance this is the scaling of Saad & Solla 1995: pre-activations of order one
    and teacher overlaps ``T_nm = w_n·w_m = δ_nm``.

    Parameters
    ----------
    rng : numpy.random.Generator
    kind : {'linear', 'perceptron', 'committee'}
    spectrum : ndarray, shape (dimension,)
        Variances of the input coordinates.
    outputs : int
        Number of independent teachers.
    units : int
        Hidden units of each committee.
    """
    dimension = len(spectrum)
    if kind == "committee":
        return Teacher(kind, np.stack([random_directions(units, dimension, rng) for _ in range(outputs)]))
    weights = rng.standard_normal((outputs, 1, dimension))
    return Teacher(kind, weights / np.sqrt((weights**2 * spectrum).sum(axis=2, keepdims=True)))


def make_teacher_student(
    rng: np.random.Generator,
    *,
    train_size: int = 1000,
    test_size: int = 2000,
    teacher: TeacherKind = "linear",
    task: Task = "classification",
    classes: int = 2,
    dimension: int = 50,
    covariance: Covariance = "isotropic",
    exponent: float = DEFAULT_EXPONENT,
    teacher_units: int = DEFAULT_UNITS,
    output_noise: float = 0.0,
) -> Dataset:
    """Gaussian inputs labelled by a linear, perceptron or soft-committee teacher.

    Parameters
    ----------
    rng : numpy.random.Generator
        Draws the teacher first (as :func:`draw_teacher` would from the same state), then the training
        inputs, the test inputs and the output noise.
    train_size, test_size : int
        Number of samples generated.
    teacher : {'linear', 'perceptron', 'committee'}
        The committee is the soft committee machine of Saad & Solla 1995.
    task : {'classification', 'regression'}
        Regression targets are the teacher's output, float64 of shape (N, 1). Two classes: label 1 where
        the output is positive. More: the largest output among K independent teachers of the kind.
    classes : int, at least 2
        K; for classification only.
    dimension : int
    covariance : {'isotropic', 'power-law'}
    exponent : float
        See :func:`~sgdphases.sim.data.datasets.covariance.covariance_spectrum`.
    teacher_units : int
        Hidden units of the committee.
    output_noise : float, at least 0
        Standard deviation of Gaussian noise added to the teacher's output for the training targets; the
        test targets have none. In classification the noise comes before the sign or the argmax, and the
        noise-free labels are kept as ``y_clean``. In regression every target is shifted a little and none
        is *wrong*, so ``y_clean`` holds the noisy targets.

    Returns
    -------
    Dataset
        ``x`` float32 of shape (N, dimension). Targets are computed from the rounded inputs.

    Raises
    ------
    UsageError
        A setting is out of range, or has no effect beside the others.
    """
    check_count("train_size", train_size)
    check_count("test_size", test_size)
    check_choice("teacher", teacher, get_args(TeacherKind))
    check_choice("task", task, get_args(Task))
    check_count("classes", classes, least=2)
    check_count("teacher_units", teacher_units)
    check_real("output_noise", output_noise, least=0)
    _check_together(teacher, task, classes, teacher_units)
    spectrum = covariance_spectrum(dimension, covariance, exponent)
    scalar = task == "regression" or classes == 2
    drawn = draw_teacher(rng, teacher, spectrum, 1 if scalar else classes, teacher_units)
    x_train, x_test = (
        (rng.standard_normal((size, dimension)) * np.sqrt(spectrum)).astype(np.float32)
        for size in (train_size, test_size)
    )
    clean, test = drawn.outputs(x_train), drawn.outputs(x_test)
    noisy = clean + output_noise * rng.standard_normal(clean.shape)
    if task == "regression":
        data = Dataset("teacher-student", x_train, noisy, x_test, test, n_classes=None, y_clean=noisy)
    else:
        y_train, y_clean, y_test = (_classify(outputs) for outputs in (noisy, clean, test))
        data = Dataset("teacher-student", x_train, y_train, x_test, y_test, n_classes=classes, y_clean=y_clean)
    return check_dataset(data, "teacher-student")


def _classify(outputs: np.ndarray) -> np.ndarray:
    labels = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(axis=1)
    return labels.astype(np.int64)


def _check_together(teacher: str, task: str, classes: int, units: int) -> None:
    if task == "regression" and classes != 2:
        raise UsageError(f"classes={classes} has no effect with task='regression'; leave it out")
    if teacher != "committee" and units != DEFAULT_UNITS:
        raise UsageError(
            f"teacher_units={units} has no effect with teacher={teacher!r}; give teacher='committee' with "
            "it, or leave it out"
        )
    if teacher == "perceptron" and classes > 2:
        raise UsageError(
            f"classes={classes} with teacher='perceptron': outputs of +1 and -1 have no single largest; give "
            "teacher='linear', whose largest output is the perceptron of many classes"
        )
