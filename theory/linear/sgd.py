"""Linear regression under SGD: mean and covariance of the weights over all runs, by a closed linear recursion.

Model and loss are those of `sgdphases.theory.linear.flow`. The recursion holds for minibatches drawn sample by sample
with replacement; epochs that visit every sample once have less noise. A single run fluctuates about the mean.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, eigsh

from sgdphases.theory.linear.checks import (
    checked_batch_size,
    checked_finite,
    checked_inputs,
    checked_rate,
    checked_start,
    checked_steps,
    checked_targets,
)
from sgdphases.theory.linear.modes import Eigenmodes, eigenmodes, quadratic_forms


@dataclass(frozen=True, eq=False)
class WeightMoments:
    """Mean and covariance of the weights over all runs of SGD, at T steps.

    Attributes
    ----------
    mean : ndarray, shape (T, d)
    covariance : ndarray, shape (T, r, r)
        In the coordinates of ``basis``; the weights' own covariance is ``basis.T @ covariance @ basis``.
    basis : ndarray, shape (r, d)
        Orthonormal rows: the eigenvectors of ``X^T X / N`` with non-zero eigenvalue. Weights never leave their span.
    """

    mean: np.ndarray
    covariance: np.ndarray
    basis: np.ndarray


def sgd_moments(
    x: ArrayLike,
    y: ArrayLike,
    steps: ArrayLike,
    learning_rate: float,
    batch_size: int,
    start: ArrayLike | None = None,
) -> WeightMoments:
    """Mean and covariance of the weights under SGD, minibatches drawn with replacement: exact for every B.

    Given w, a step has mean ``-a (H w - b)`` with ``b = X^T y / N`` and covariance ``(a^2/B) Sigma(w)``, where
    ``Sigma`` is the covariance of per-sample gradients. Both are at most quadratic in w, so with mean m and
    covariance S of w

        m' = m - a (H m - b)
        S' = (1-aH) S (1-aH) + (a^2/B) [X^T diag(E r_i^2) X / N - (Hm-b)(Hm-b)^T - H S H],

    ``E r_i^2 = (x_i.m - y_i)^2 + x_i^T S x_i`` (the recursion of least mean squares; see Defossez & Bach 2015).
    A step costs of the order of ``N r^2`` operations, r the rank of X.

    Parameters
    ----------
    x : array_like, shape (N, d)
    y : array_like, shape (N,)
    steps : array_like of int, shape (T,)
        Where to record; not negative, in any order.
    learning_rate : float
        a, positive.
    batch_size : int
        B, at least 1.
    start : array_like, shape (d,), or None
        Weights before the first step, the same in every run; None for zeros.

    Returns
    -------
    WeightMoments

    Raises
    ------
    ValueError
        If shapes disagree, a number is out of range, or the moments diverge beyond float64.
    """
    x = checked_inputs(x)
    y, start = checked_targets(y, x), checked_start(start, x)
    count, rate = checked_steps(steps), checked_rate(learning_rate)
    size, modes = checked_batch_size(batch_size), eigenmodes(x)
    r, scores = len(modes.curvature), modes.scores
    origin = modes.basis @ start
    mean, covariance = origin, np.zeros((r, r))
    means, covariances = np.zeros((len(count), r)), np.zeros((len(count), r, r))
    with np.errstate(over="ignore", invalid="ignore"):
        for step in range(max(count, default=-1) + 1):
            means[count == step], covariances[count == step] = mean, covariance
            residual = scores @ mean - y
            gradient = residual @ scores / len(x)
            noise = _outer(scores, residual**2) - np.outer(gradient, gradient)
            covariance = _second_moment(covariance, modes, rate, size) + rate**2 / size * noise
            mean = mean - rate * gradient
        weights = start + (means - origin) @ modes.basis
    return WeightMoments(checked_finite(weights, rate), checked_finite(covariances, rate), modes.basis)


def mean_square_radius(x: ArrayLike, learning_rate: float, batch_size: int) -> float:
    """Spectral radius of the map that takes the covariance of the weights over one step of SGD.

    Below 1 the covariance stays bounded (SGD is stable in the mean square), and then so does the mean; above 1 it
    grows without bound. The map keeps covariances positive and is symmetric, so that its radius is its largest
    eigenvalue, and the iteration of Lanczos from the unit matrix finds it. Directions without data do not count.

    Parameters
    ----------
    x : array_like, shape (N, d)
    learning_rate : float
        a, positive.
    batch_size : int
        B, at least 1; drawn with replacement.

    Returns
    -------
    float
        0 where all inputs are zero: then there is nothing that could grow.

    Raises
    ------
    ValueError
        If x is not a finite matrix, or a number is out of range.
    """
    modes, rate, size = eigenmodes(checked_inputs(x)), checked_rate(learning_rate), checked_batch_size(batch_size)
    r = len(modes.curvature)

    def step(flat: np.ndarray) -> np.ndarray:
        return _second_moment(flat.reshape(r, r), modes, rate, size).ravel()

    if r < 2:
        return float(step(np.ones(r)).sum())
    operator = LinearOperator((r * r, r * r), matvec=step, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=np.eye(r).ravel(), tol=1e-10, return_eigenvectors=False)[0])


def _second_moment(covariance: np.ndarray, modes: Eigenmodes, rate: float, size: int) -> np.ndarray:
    """Next covariance, but for what the mean residuals and the mean gradient add to the noise."""
    shrink, h = 1 - rate * modes.curvature, modes.curvature
    noise = _outer(modes.scores, quadratic_forms(modes.scores, covariance)) - h[:, None] * covariance * h
    return shrink[:, None] * covariance * shrink + rate**2 / size * noise


def _outer(rows: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """``mean_i c_i z_i z_i^T`` over the rows z_i."""
    return (rows.T * coefficients) @ rows / len(rows)
