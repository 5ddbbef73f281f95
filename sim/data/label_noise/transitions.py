"""Transition matrices of label noise: the probability of each new label given the old one."""

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.datasets.checks import check_choice, check_finite, check_real


def transition_matrix(kind: str, fraction: float, n_classes: int) -> np.ndarray:
    """Probabilities of the new label given the old one, for noise of a `kind` for classes.

    With f the fraction and I the identity: ``uniform`` is ``(1-f) I + f/K``; ``uniform-other`` has 1-f on the
    diagonal and ``f/(K-1)`` elsewhere; ``pair-flip`` has 1-f on the diagonal and f just right of it, around
    the corner. (:func:`add_label_noise` changes an exact number of samples; these are the expected shares.)

    Parameters
    ----------
    kind : {'uniform', 'uniform-other', 'pair-flip'}
    fraction : float in [0, 1]
    n_classes : int
        K.

    Returns
    -------
    ndarray, shape (K, K), float64
        Rows sum to 1.

    Raises
    ------
    UsageError
        Another kind, a fraction outside [0, 1], or a single class where a second one is needed.
    """
    check_choice("label noise kind", kind, ("uniform", "uniform-other", "pair-flip"))
    fraction = check_fraction(fraction)
    check_enough_classes(kind, n_classes)
    identity = np.eye(n_classes)
    if kind == "uniform":
        return (1 - fraction) * identity + fraction / n_classes
    if kind == "pair-flip":
        return (1 - fraction) * identity + fraction * np.roll(identity, 1, axis=1)
    return (1 - fraction) * identity + fraction * (1 - identity) / (n_classes - 1)


def check_transition(matrix: np.ndarray | None, n_classes: int) -> np.ndarray:
    """`matrix` as float64 of shape (K, K) whose rows are probabilities; InputError otherwise."""
    matrix = np.asarray(matrix)
    if matrix.shape != (n_classes, n_classes) or matrix.dtype.kind not in "biuf":
        raise InputError(
            f"the transition matrix has the shape {matrix.shape} and the type {matrix.dtype}; for "
            f"{n_classes} classes it must be {n_classes}x{n_classes} real numbers"
        )
    matrix = matrix.astype(np.float64)
    check_finite(matrix, "the transition matrix")
    sums = matrix.sum(axis=1)
    for row in range(n_classes):
        if matrix[row].min() < 0 or abs(sums[row] - 1) > 1e-6:
            raise InputError(
                f"row {row} of the transition matrix has the least entry {matrix[row].min():g} and the sum "
                f"{sums[row]:g}; it must hold probabilities, none below 0, with the sum 1"
            )
    return matrix / sums[:, None]


def check_fraction(fraction: float | None) -> float:
    """A share of the samples, a float in [0, 1]; UsageError otherwise."""
    return check_real("the fraction of label noise", fraction, least=0, greatest=1)


def check_enough_classes(kind: str, n_classes: int) -> None:
    """UsageError where a kind of label noise needs a second class and there is none."""
    if kind in ("uniform-other", "pair-flip", "input-dependent") and n_classes < 2:
        raise UsageError(
            f"label noise kind {kind!r} needs a second class to put labels into, and there is only "
            f"{n_classes}; use data with more classes, or kind 'uniform'"
        )
