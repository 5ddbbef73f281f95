"""The variance-flatness relation: spread of the weights along the directions of their motion, and width of the valley.

In equilibrium the weights spread furthest along flat directions. SGD does the opposite (Feng & Tu, PNAS 118,
e2015617118, 2021): along the principal directions of the weights' motion in the slow phase of learning the variance
falls with the flatness, ``sigma_i^2 ~ F_i^(-psi)``.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.stats import linregress

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.estimators.errors import InputError

FURTHEST = 2.0**40  # where the search for the walls of the valley gives up, in units of its first step


@dataclass(frozen=True, eq=False)
class VarianceFlatness:
    """Spread and flatness along principal directions of motion.

    Attributes
    ----------
    numbers : ndarray of int, shape (k,)
        Which principal directions, 0 the one of largest variance.
    variances : ndarray, shape (k,)
        ``sigma_i^2`` of the weights along each direction; squared units of the weights.
    flatness : ndarray, shape (k,)
        ``F_i``: the width over which the loss stays below e times that at the mean weights; infinite where it never
        rises that far.
    exponent, exponent_error : float
        ``psi`` and its standard error, by least squares of ``log sigma_i^2`` on ``log F_i``; NaN for fewer than three
        finite directions.
    """

    numbers: np.ndarray
    variances: np.ndarray
    flatness: np.ndarray
    exponent: float
    exponent_error: float


def variance_flatness(backend: Backend, path: np.ndarray, numbers: Sequence[int] = range(20)) -> VarianceFlatness:
    """Measure the relation along a stretch of SGD.

    Parameters
    ----------
    backend : Backend
        Its weights are as before on return.
    path : ndarray, shape (T, W)
        Weights at T moments of the slow phase.
    numbers : sequence of int
        Which principal directions of the path to measure along, 0 to T - 2. The leading ones are often the slow drift
        of the whole path, which follows another relation than the fluctuations behind it.

    Returns
    -------
    VarianceFlatness

    Raises
    ------
    InputError
        If the path has the wrong shape, is too short, or does not move.
    """
    path = np.asarray(path)
    n_weights = len(backend.weights)
    if path.ndim != 2 or path.shape[1] != n_weights:
        raise InputError(f"a path of shape {path.shape} does not fit a model of {n_weights} weights: give (T, W).")
    chosen = np.array(numbers, dtype=np.int64)
    if not len(chosen) or chosen.min() < 0 or chosen.max() > len(path) - 2:
        raise InputError(f"numbers = {numbers}: a path of {len(path)} moments has directions 0 to {len(path) - 2}.")
    centre, variances, directions = principal_motion(path, int(chosen.max()) + 1)
    if not variances[0] > 0:
        raise InputError("the weights do not move along this path: take one during training.")
    variances, directions = variances[chosen], directions[chosen]
    before = backend.weights
    try:
        widths = np.array([_width(backend, centre, d, np.sqrt(v)) for d, v in zip(directions, variances, strict=True)])
    finally:
        backend.load_weights(before)
    finite = np.isfinite(widths) & (widths > 0) & (variances > 0)
    if finite.sum() < 3:
        return VarianceFlatness(chosen, variances, widths, float("nan"), float("nan"))
    line = linregress(np.log(widths[finite]), np.log(variances[finite]))
    return VarianceFlatness(chosen, variances, widths, float(-line.slope), float(line.stderr))


def principal_motion(path: np.ndarray, n_directions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, variances and principal directions of a path, from the inner products of its moments.

    Parameters
    ----------
    path : ndarray, shape (T, W)
    n_directions : int

    Returns
    -------
    centre : ndarray, shape (W,)
    variances : ndarray, shape (n_directions,)
        Falling.
    directions : ndarray, shape (n_directions, W)
        Orthonormal.
    """
    moments = path.astype(np.float64)
    centre = moments.mean(axis=0)
    moments -= centre
    values, vectors = np.linalg.eigh(moments @ moments.T)
    values, vectors = values[::-1][:n_directions], vectors[:, ::-1][:, :n_directions]
    directions = vectors.T @ moments
    lengths = np.linalg.norm(directions, axis=1, keepdims=True)
    return centre, np.maximum(values, 0.0) / len(path), directions / np.where(lengths > 0, lengths, 1.0)


def _width(backend: Backend, centre: np.ndarray, direction: np.ndarray, first_step: float) -> float:
    """Distance between the two points along a direction where the loss is e times that at the centre."""

    def log_rise(distance: float) -> float:
        backend.load_weights((centre + distance * direction).astype(backend.weights.dtype))
        loss = mean_scores(backend)[0]
        return float(np.log(max(loss, 1e-300)) - level) if np.isfinite(loss) else 700.0

    level = 0.0
    level = log_rise(0.0) + 1.0
    walls = []
    for side in (-1.0, 1.0):
        step = first_step or 1.0
        while log_rise(side * step) < 0:
            step *= 2.0
            if step > FURTHEST * (first_step or 1.0):
                return float("inf")
        walls.append(brentq(log_rise, 0.0, side * step, xtol=1e-3 * step, rtol=1e-6))
    return walls[1] - walls[0]
