"""Samples and what the network should answer, checked and laid out once for every backend."""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError

LOSSES = ("cross-entropy", "squared")


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs as rows, targets as rows, and class labels where there are classes.

    Attributes
    ----------
    inputs : ndarray, shape (N, ...), in the dtype of the network
    targets : ndarray, shape (N, outputs), in the dtype of the network
        The distribution (one-hot) for cross-entropy; the value to reach for squared loss.
    labels : ndarray of int64, shape (N,)
        -1 throughout for regression: no sample can then be right or wrong.
    loss : {"cross-entropy", "squared"}
    """

    inputs: np.ndarray
    targets: np.ndarray
    labels: np.ndarray
    loss: str

    @property
    def n_samples(self) -> int:
        return len(self.inputs)


def prepare_samples(
    x: np.ndarray, y: np.ndarray, *, n_outputs: int, loss: str, dtype: np.dtype | type | str
) -> Samples:
    """Check a labelled data set against a network's outputs and encode its targets.

    Parameters
    ----------
    x : ndarray, shape (N, ...)
    y : ndarray
        Class labels, shape (N,), of an integer dtype; or real targets, shape (N,) or (N, outputs).
    n_outputs : int
    loss : {"cross-entropy", "squared"}
        Cross-entropy of the softmax in nats; or half the squared distance, ``|f - target|^2 / 2``. With squared
        loss, classes are one-hot targets, or -1 and +1 for two classes and a single output.
    dtype : numpy dtype of the network

    Raises
    ------
    UsageError
        For an unknown loss, or cross-entropy with real targets.
    InputError
        If shapes do not match, labels fall outside the outputs, or values are not finite.
    """
    if loss not in LOSSES:
        raise UsageError(f"loss = {loss!r}: choose one of {', '.join(LOSSES)}.")
    x, y = checked_array(x, "x"), checked_array(y, "y")
    if y.ndim == 0:
        raise InputError("y is a single number: give one target a sample.")
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"x has shape {x.shape}: give one row a sample, at least one sample and two dimensions.")
    if len(y) != len(x):
        raise InputError(f"x has {len(x)} samples and y has {len(y)}: give one target a sample.")
    inputs = np.ascontiguousarray(x, dtype=dtype)
    if not np.isfinite(inputs).all():
        raise InputError("x holds values that are not finite: remove or replace them before measuring.")
    if np.issubdtype(y.dtype, np.integer):
        labels = y.astype(np.int64)
        targets = _class_targets(labels, n_outputs, loss)
    else:
        if loss == "cross-entropy":
            raise UsageError(f"y has dtype {y.dtype}: cross-entropy needs integer class labels; use loss='squared'.")
        labels = np.full(len(y), -1, dtype=np.int64)
        targets = y[:, None] if y.ndim == 1 else y
        if targets.shape != (len(x), n_outputs):
            raise InputError(f"targets of shape {y.shape} do not fit {len(x)} samples and {n_outputs} outputs.")
        if not np.isfinite(targets).all():
            raise InputError("y holds values that are not finite: remove those samples before measuring.")
    return Samples(inputs, np.ascontiguousarray(targets, dtype=dtype), labels, loss)


def checked_array(values, name: str) -> np.ndarray:
    """Numbers as an array; an InputError for text, objects, ragged lists and complex numbers."""
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name} is no array ({error}): give samples that all have the same shape.") from None
    if array.dtype.kind not in "biuf":
        raise InputError(f"{name} has dtype {array.dtype}: give real numbers.")
    return array


def _class_targets(labels: np.ndarray, n_outputs: int, loss: str) -> np.ndarray:
    if labels.ndim != 1:
        raise InputError(f"class labels of shape {labels.shape}: give one integer a sample, shape (N,).")
    signs = n_outputs == 1 and loss == "squared"
    n_classes = 2 if signs else n_outputs
    bad = np.flatnonzero((labels < 0) | (labels >= n_classes))
    if len(bad):
        raise InputError(
            f"y[{bad[0]}] = {labels[bad[0]]} is no class of a network with {n_outputs} outputs: "
            f"labels run from 0 to {n_classes - 1} ({len(bad)} samples lie outside)."
        )
    return 2.0 * labels[:, None] - 1.0 if signs else np.eye(n_outputs)[labels]


def is_correct(outputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """1.0 where the network's class is the label, 0.0 where not, NaN for regression; shape (N,), float64.

    The class is the largest output, or the sign of a single one (zero counts as class 0).
    """
    return np.where(labels < 0, np.nan, chosen_class(outputs) == labels)


def chosen_class(outputs: np.ndarray) -> np.ndarray:
    """The class of the largest output of each sample, or the sign of a single one, shape (N,), int64."""
    return (outputs[:, 0] > 0).astype(int) if outputs.shape[1] == 1 else outputs.argmax(axis=1)
