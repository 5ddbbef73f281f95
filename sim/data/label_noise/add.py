"""Label noise: wrong training labels, put in on purpose and remembered."""

import numpy as np

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.data.datasets.checks import check_choice, check_finite, check_labels
from sgdphases.sim.data.label_noise.files import load_labels, load_transition
from sgdphases.sim.data.label_noise.input_dependent import plausible_mistakes
from sgdphases.sim.data.label_noise.transitions import (
    check_enough_classes,
    check_fraction,
    check_transition,
    transition_matrix,
)

__all__ = ["NOISE_KINDS", "add_label_noise", "load_labels", "load_transition", "transition_matrix"]

CLASS_KINDS = ("uniform", "uniform-other", "pair-flip", "input-dependent", "transition")
REGRESSION_KINDS = ("redraw", "sign-flip")
NOISE_KINDS = (*CLASS_KINDS, *REGRESSION_KINDS, "given")
_DRAWN_KINDS = ("uniform", "redraw")
_WITHOUT_FRACTION = ("transition", "given")


def add_label_noise(
    data: Dataset,
    *,
    kind: str,
    fraction: float | None,
    rng: np.random.Generator,
    transition: np.ndarray | None = None,
    labels: np.ndarray | None = None,
) -> Dataset:
    """Replace some training labels; the test labels stay right.

    Parameters
    ----------
    data : Dataset
        Where it knows its right labels (``y_clean``), those keep judging what is wrong and the noise goes on
        top of ``y_train``. Where it does not, its own labels are taken as right.
    kind : str
        ``uniform``: a new label drawn from all K classes, right by chance in 1/K of the cases (Feng & Tu
        2021, sec. 4). ``uniform-other``: from the other K-1. ``pair-flip``: k becomes k+1 modulo K.
        ``input-dependent``: samples that look like another class, into that class, wrong against the right labels (see
        `sgdphases.sim.data.label_noise.input_dependent`).
        ``transition``: every label k is drawn from row k of `transition`. ``given``: `labels` replace
        all labels. For regression, ``redraw``: the target of another training sample drawn at random;
        ``sign-flip``: y becomes -y; or ``given``.
    fraction : float in [0, 1], or None
        Exactly ``round(fraction * N)`` samples, chosen at random, get a new label. None or 0 for
        ``transition`` and ``given``, which set their own. With any other kind, a fraction of 0 gives back
        `data` as it is: nothing is claimed about labels that nobody has checked, and the kind need not fit.
    rng : numpy.random.Generator
    transition : ndarray, shape (K, K), optional
        For ``transition``: row k holds the probabilities of the new labels of class k.
    labels : ndarray, shape (N,), or (N, outputs) for regression, optional
        For ``given``.

    Returns
    -------
    Dataset
        With ``y_clean``, and ``assigned``: the chosen samples for ``uniform`` and ``redraw``, the really
        wrong ones for the other kinds, both together with those already assigned.

    Raises
    ------
    UsageError
        The kind is unknown, does not fit the data, or its settings are missing, superfluous or impossible.
    InputError
        The matrix or the labels are bad.
    """
    fraction = _check_settings(data, kind, fraction, transition, labels)
    if fraction == 0 and kind not in _WITHOUT_FRACTION:
        return data
    y, n = data.y_train, data.n_samples
    clean = y if data.y_clean is None else data.y_clean
    chosen = np.zeros(n, dtype=bool)
    chosen[rng.permutation(n)[: round(fraction * n)]] = True
    if kind == "transition":
        y_new = _draw_transitions(y, check_transition(transition, data.n_classes or 0), rng)
    elif kind == "given":
        y_new = _check_given(labels, data)
    elif kind == "input-dependent":
        mistaken = plausible_mistakes(data.x_train, clean, data.n_classes or 0, round(fraction * n), rng)
        y_new = np.where(mistaken == clean, y, mistaken)
    else:
        y_new = y.copy()
        y_new[chosen] = _relabel(kind, y, np.flatnonzero(chosen), data.n_classes or 0, rng)
    noisy = data.with_labels(y_new, clean, None)
    assigned = chosen if kind in _DRAWN_KINDS else noisy.wrong
    return data.with_labels(y_new, clean, assigned if data.assigned is None else assigned | data.assigned)


def _check_settings(data: Dataset, kind: str, fraction: float | None, transition: object, labels: object) -> float:
    """The fraction, once everything is known to fit together."""
    check_choice("label noise kind", kind, NOISE_KINDS)
    for name, value in (("transition", transition), ("labels", labels)):
        owner = "given" if name == "labels" else name
        if kind == owner and value is None:
            raise UsageError(f"label noise kind {kind!r} needs {name}; give them, or choose another kind")
        if kind != owner and value is not None:
            raise UsageError(
                f"{name} have no effect with label noise kind {kind!r}; leave them out, or use kind {owner!r}"
            )
    if kind in _WITHOUT_FRACTION:
        _check_fits(data, kind)
        if fraction is not None and check_fraction(fraction) != 0:
            raise UsageError(
                f"a fraction of {fraction} has no effect with label noise kind {kind!r}, which sets its own; "
                "leave the fraction out"
            )
        return 0.0
    if fraction is None:
        raise UsageError(f"label noise kind {kind!r} needs a fraction between 0 and 1; none is given")
    fraction = check_fraction(fraction)
    if fraction > 0:
        _check_fits(data, kind)
    if kind == "redraw" and data.n_samples == 1 and round(fraction) == 1:
        raise UsageError(
            "label noise kind 'redraw' takes the target of another training sample, and there is only one; "
            "use more samples, or kind 'sign-flip'"
        )
    return fraction


def _check_fits(data: Dataset, kind: str) -> None:
    if data.n_classes is None and kind in CLASS_KINDS:
        raise UsageError(
            f"label noise kind {kind!r} is for classes, but {data.name} is a regression; use one of "
            f"{', '.join(REGRESSION_KINDS)}, given"
        )
    if data.n_classes is not None and kind in REGRESSION_KINDS:
        raise UsageError(
            f"label noise kind {kind!r} is for regression, but {data.name} has classes; use one of "
            f"{', '.join(CLASS_KINDS)}, given"
        )
    if data.n_classes is not None:
        check_enough_classes(kind, data.n_classes)


def _relabel(kind: str, y: np.ndarray, chosen: np.ndarray, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """New labels for the samples `chosen` (indices)."""
    if kind == "uniform":
        return rng.integers(n_classes, size=len(chosen))
    if kind == "uniform-other":
        return (y[chosen] + 1 + rng.integers(n_classes - 1, size=len(chosen))) % n_classes
    if kind == "pair-flip":
        return (y[chosen] + 1) % n_classes
    if kind == "sign-flip":
        return -y[chosen]
    others = (chosen + 1 + rng.integers(max(len(y) - 1, 1), size=len(chosen))) % len(y)
    return y[others]


def _draw_transitions(y: np.ndarray, matrix: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y_new = np.empty_like(y)
    for old in range(len(matrix)):
        samples = np.flatnonzero(y == old)
        y_new[samples] = rng.choice(len(matrix), size=len(samples), p=matrix[old])
    return y_new


def _check_given(labels: np.ndarray | None, data: Dataset) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.ndim == 0 or len(labels) != data.n_samples:
        raise UsageError(
            f"the given labels have the shape {labels.shape}, but there are {data.n_samples} training "
            "samples; give one label for each, in the data's own order, or for each of the whole training set "
            "that train_size draws them from"
        )
    if labels.dtype.kind not in "biuf":
        raise InputError(f"the given labels have the type {labels.dtype}; give numbers")
    if data.n_classes is None:
        targets = labels.astype(np.float64)
        targets = targets[:, None] if targets.ndim == 1 else targets
        if targets.shape != data.y_train.shape:
            raise InputError(
                f"the given targets have the shape {labels.shape}, the data's own {data.y_train.shape}; give "
                "as many values for each sample"
            )
        check_finite(targets, "the given targets")
        return targets
    if labels.dtype.kind == "f" and np.isfinite(labels).all() and np.array_equal(labels, np.round(labels)):
        labels = labels.astype(np.int64)
    elif labels.dtype.kind == "b":
        labels = labels.astype(np.int64)
    check_labels(labels, data.n_classes, "the given labels")
    return labels.astype(np.int64)
