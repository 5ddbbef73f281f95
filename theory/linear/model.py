"""Linear regression with spoiled targets: exact predictions for a given data set.

The model is ``f(x) = w.x`` with loss ``(x_i.w - y_i)^2 / 2`` per sample and the mean over the N samples as training
loss, so per-sample gradients are ``g_i = r_i x_i`` with residuals ``r_i = x_i.w - y_i``. Gradient flow and full-batch
descent then separate into the eigenmodes of ``H = X^T X / N``, and the mean and covariance of the weights under SGD
obey a closed linear recursion. Nothing is assumed about the data; no number is fitted.

It stops being valid where the model stops being linear in its weights or the loss quadratic, and the recursion where
minibatches are drawn otherwise than sample by sample with replacement: epochs that visit every sample once have less
noise. For SGD the predictions are averages over runs; a single run fluctuates about them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.linalg import LinearOperator, eigsh

from sgdphases.theory.ensemble import ActivitySplit, cosine, ratio, split_activity, variance_factor


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


def flow(x: ArrayLike, y: ArrayLike, times: ArrayLike, start: ArrayLike | None = None) -> np.ndarray:
    """Weights along gradient flow, ``dw/dt = -grad L``: every mode relaxes as ``exp(-h t)``.

    Parameters
    ----------
    x : array_like, shape (N, d)
    y : array_like, shape (N,)
    times : array_like, shape (T,)
        Not negative, in any order; infinity gives the least-squares solution nearest to the start. Descent of
        learning rate a follows the flow at time ``a * steps`` as a goes to 0.
    start : array_like, shape (d,), or None
        Weights at time 0; None for zeros.

    Returns
    -------
    ndarray, shape (T, d)

    Raises
    ------
    ValueError
        If shapes disagree, or a number is negative or not finite where it may not be.
    """
    x = _inputs(x)
    y, start = _targets(y, x), _start(start, x)
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not (times >= 0).all():
        raise ValueError(f"times = {times}: give a list of times, none negative or NaN.")
    modes = _modes(x)
    return _relaxed(x, y, start, modes, -np.expm1(-modes.curvature * times[:, None]) / modes.curvature)


def descent(
    x: ArrayLike, y: ArrayLike, steps: ArrayLike, learning_rate: float, start: ArrayLike | None = None
) -> np.ndarray:
    """Weights along full-batch gradient descent: every mode is multiplied by ``1 - a h`` a step.

    Parameters
    ----------
    x : array_like, shape (N, d)
    y : array_like, shape (N,)
    steps : array_like of int, shape (T,)
        Not negative, in any order.
    learning_rate : float
        a, positive. Modes of curvature above ``2/a`` grow; that is followed as far as float64 reaches.
    start : array_like, shape (d,), or None
        Weights before the first step; None for zeros.

    Returns
    -------
    ndarray, shape (T, d)

    Raises
    ------
    ValueError
        If shapes disagree, a number is out of range, or the weights diverge beyond float64.
    """
    x = _inputs(x)
    y, start = _targets(y, x), _start(start, x)
    count, rate, modes = _steps(steps)[:, None], _learning_rate(learning_rate), _modes(x)
    move = rate * modes.curvature
    slow = move < 0.5  # there 1 - (1 - ah)^k would lose digits
    with np.errstate(over="ignore", invalid="ignore"):
        share = np.where(slow, -np.expm1(count * np.log1p(-np.where(slow, move, 0.0))), 1 - (1 - move) ** count)
        return _finite(_relaxed(x, y, start, modes, share / modes.curvature), rate)


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
    x = _inputs(x)
    y, start = _targets(y, x), _start(start, x)
    count, rate, size, modes = _steps(steps), _learning_rate(learning_rate), _batch_size(batch_size), _modes(x)
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
    return WeightMoments(_finite(weights, rate), _finite(covariances, rate), modes.basis)


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
    modes, rate, size = _modes(_inputs(x)), _learning_rate(learning_rate), _batch_size(batch_size)
    r = len(modes.curvature)

    def step(flat: np.ndarray) -> np.ndarray:
        return _second_moment(flat.reshape(r, r), modes, rate, size).ravel()

    if r < 2:
        return float(step(np.ones(r)).sum())
    operator = LinearOperator((r * r, r * r), matvec=step, dtype=np.float64)
    return float(eigsh(operator, k=1, which="LA", v0=np.eye(r).ravel(), tol=1e-10, return_eigenvectors=False)[0])


def predictions(
    x: ArrayLike,
    y: ArrayLike,
    weights: ArrayLike,
    batch_size: int,
    *,
    wrong: ArrayLike | None = None,
    covariance: ArrayLike | None = None,
    basis: ArrayLike | None = None,
    replacement: bool = True,
    test: tuple[ArrayLike, ArrayLike] | None = None,
) -> dict[str, np.ndarray]:
    """Losses and order parameters at given weights, or their expectations over SGD (Feng & Tu 2021, eqs 5-15).

    At given weights (``covariance`` None) everything is exact. With a covariance, what is quadratic in the weights is
    the exact expectation over runs, whatever the weights' distribution: the losses, all directed activities,
    ``gradient_variance``, ``total_variance`` and ``activity``. What is a quotient is the quotient of expectations,
    not the expectation of the quotient: ``alignment_*``, ``gradient_noise_scale``, ``aligned_fraction``; and
    ``projection_variance`` and the splits along the mean gradient, quartic in the weights, use ``Tr(E[C] E[g g^T])``
    for ``E[g^T C g]``.

    Parameters
    ----------
    x : array_like, shape (N, d)
    y : array_like, shape (N,)
        Training targets, spoiled ones included.
    weights : array_like, shape (T, d)
        From `flow` or `descent`; the mean where a covariance is given.
    batch_size : int
        B of the ensemble the activities belong to.
    wrong : array_like of bool, shape (N,), or None
        Samples with a spoiled target; None where unknown.
    covariance : array_like, shape (T, r, r), or None
        Of the weights, in the coordinates of ``basis``.
    basis : array_like, shape (r, d), or None
        One row a coordinate of ``covariance``; None for the unit matrix.
    replacement : bool
        Whether a minibatch may hold a sample twice.
    test : (array_like of shape (M, d), array_like of shape (M,)) or None
        Inputs and clean targets for ``test_loss``. For the mean over inputs of covariance ``Q Q^T`` and a teacher u,
        give ``sqrt(d) * Q.T`` and its product with u.

    Returns
    -------
    dict of ndarray, each of shape (T,)
        By the names of the project's order parameters. NaN is what is undefined: directions of a zero mean gradient,
        populations that are unknown or empty, ``test_loss`` without test data.

    Raises
    ------
    ValueError
        If shapes disagree, a number is out of range, or no such ensemble of minibatches exists.
    """
    x = _inputs(x)
    y, factor = _targets(y, x), variance_factor(len(x), _batch_size(batch_size), replacement=replacement)
    weights, covariance, basis = _moments(weights, covariance, basis, x.shape[1])
    members, rho = _populations(wrong, len(x))
    z, residual = x @ basis.T, weights @ x.T - y
    spread = _quadratic_each(z, covariance)
    square = residual**2 + spread
    mean = {name: (residual * weight) @ x for name, weight in members.items()}
    slope = {name: (x.T * weight) @ z for name, weight in members.items()}

    def inner(one: str, other: str) -> np.ndarray:
        """Expected inner product of the mean gradients of two populations, shape (T,)."""
        along_spread = np.einsum("tjk,jk->t", covariance, slope[one].T @ slope[other])
        return (mean[one] * mean[other]).sum(axis=1) + along_spread

    def angle(one: str, other: str) -> np.ndarray:
        if not 0 < rho < 1:
            return np.full(len(weights), np.nan)
        return _each(cosine, inner(one, other), inner(one, one), inner(other, other))

    directed = inner("", "")
    variance = np.maximum(0.0, (square * (x**2).sum(axis=1)).mean(axis=1) - directed)
    along = _variance_along_mean(x, residual, spread, mean[""], slope[""], covariance)
    split = [split_activity(*row) for row in zip(directed, factor * variance, factor * along, strict=True)]
    found = {name: np.array([getattr(row, name) for row in split], dtype=np.float64) for name in ActivitySplit._fields}
    return found | {
        "noise_fraction": np.full(len(weights), rho),
        "loss": square @ members[""] / 2,
        "loss_c": square @ members["c"] / 2,
        "loss_w": square @ members["w"] / 2,
        "test_loss": _test_loss(weights, covariance, basis, test),
        "directed_activity": directed,
        "directed_activity_c": (1 - rho) ** 2 * inner("c", "c"),
        "directed_activity_w": rho**2 * inner("w", "w"),
        "gradient_variance": variance,
        "gradient_noise_scale": _each(ratio, variance, directed),
        "aligned_fraction": _each(ratio, directed, found["activity"]),
        "alignment_cw": angle("c", "w"),
        "alignment_ac": angle("", "c"),
        "alignment_aw": angle("", "w"),
    }


class _Modes(NamedTuple):
    """Eigenmodes with non-zero curvature: ``x = scores @ basis``, shapes (N, r) and (r, d); curvatures h, (r,)."""

    scores: np.ndarray
    curvature: np.ndarray
    basis: np.ndarray


def _modes(x: np.ndarray) -> _Modes:
    left, singular, basis = np.linalg.svd(x, full_matrices=False)
    kept = (singular**2 > 0) & (singular > singular[0] * max(x.shape) * np.finfo(np.float64).eps)
    scores = left[:, kept] * singular[kept]
    return _Modes(scores, singular[kept] ** 2 / len(x), basis[kept])


def _relaxed(x: np.ndarray, y: np.ndarray, start: np.ndarray, modes: _Modes, factor: np.ndarray) -> np.ndarray:
    """``w0 - sum_k v_k f_k(t) (v_k . grad L(w0))`` with ``factor`` f of shape (T, r)."""
    gradient = modes.scores.T @ (x @ start - y) / len(x)
    return start - (factor * gradient) @ modes.basis


def _second_moment(covariance: np.ndarray, modes: _Modes, rate: float, size: int) -> np.ndarray:
    """Next covariance, but for what the mean residuals and the mean gradient add to the noise."""
    shrink, h = 1 - rate * modes.curvature, modes.curvature
    noise = _outer(modes.scores, _quadratic(modes.scores, covariance)) - h[:, None] * covariance * h
    return shrink[:, None] * covariance * shrink + rate**2 / size * noise


def _outer(rows: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """``mean_i c_i z_i z_i^T`` over the rows z_i."""
    return (rows.T * coefficients) @ rows / len(rows)


def _quadratic(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``z_i^T S z_i`` for every row z_i."""
    return ((rows @ matrix) * rows).sum(axis=-1)


def _quadratic_each(rows: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    return np.array([_quadratic(rows, matrix) for matrix in matrices]).reshape(len(matrices), len(rows))


def _each(function: Callable[..., float], *columns: np.ndarray) -> np.ndarray:
    return np.array([function(*row) for row in zip(*columns, strict=True)], dtype=np.float64)


def _variance_along_mean(
    x: np.ndarray,
    residual: np.ndarray,
    spread: np.ndarray,
    gradient: np.ndarray,
    slope: np.ndarray,
    covariance: np.ndarray,
) -> np.ndarray:
    """``Tr(E[Sigma] E[g g^T])``, which at given weights is the variance over the samples of ``g_i . g``."""
    onto, lever, image, gram = gradient @ x.T, x @ slope, gradient @ slope, slope.T @ slope
    own = ((residual * onto - (gradient**2).sum(axis=1, keepdims=True)) ** 2).mean(axis=1)
    samples = spread * onto**2 + (residual**2 + spread) * _quadratic_each(lever, covariance)
    turned = covariance @ gram
    mean = 2 * ((image[:, None] @ covariance)[:, 0] * image).sum(axis=1) + np.einsum("tjk,tkj->t", turned, turned)
    return np.maximum(0.0, own + samples.mean(axis=1) - mean)


def _test_loss(
    weights: np.ndarray, covariance: np.ndarray, basis: np.ndarray, test: tuple[ArrayLike, ArrayLike] | None
) -> np.ndarray:
    if test is None:
        return np.full(len(weights), np.nan)
    x = _inputs(test[0], "x_test", basis.shape[1])
    square = (weights @ x.T - _targets(test[1], x, "y_test")) ** 2 + _quadratic_each(x @ basis.T, covariance)
    return square.mean(axis=1) / 2


def _populations(wrong: ArrayLike | None, n: int) -> tuple[dict[str, np.ndarray], float]:
    """Weight of every sample in the mean over all, clean and wrong ones (NaN where there are none), and rho."""
    undefined = np.full(n, np.nan)
    members = {"": np.full(n, 1 / n), "c": undefined, "w": undefined}
    if wrong is None:
        return members, float("nan")
    mask = np.asarray(wrong)
    if mask.shape != (n,) or mask.dtype != np.bool_:
        raise ValueError(f"wrong has shape {mask.shape} and type {mask.dtype}: give a mask of bool of shape ({n},).")
    for name, part in (("c", ~mask), ("w", mask)):
        if part.any():
            members[name] = part / part.sum()
    return members, float(mask.mean())


def _inputs(x: ArrayLike, name: str = "x", width: int | None = None) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape or width not in (None, x.shape[1]) or not np.isfinite(x).all():
        raise ValueError(
            f"{name} has shape {x.shape}: give a finite matrix, one sample a row, of {width or 'any'} columns."
        )
    return x


def _targets(y: ArrayLike, x: np.ndarray, name: str = "y") -> np.ndarray:
    y = np.asarray(y, dtype=np.float64)
    if y.shape != x.shape[:1] or not np.isfinite(y).all():
        raise ValueError(f"{name} has shape {y.shape}: give one finite target a sample, shape ({len(x)},).")
    return y


def _start(start: ArrayLike | None, x: np.ndarray) -> np.ndarray:
    weights = np.zeros(x.shape[1]) if start is None else np.asarray(start, dtype=np.float64)
    if weights.shape != x.shape[1:] or not np.isfinite(weights).all():
        raise ValueError(f"start has shape {weights.shape}: give finite weights of shape ({x.shape[1]},).")
    return weights


def _moments(
    weights: ArrayLike, covariance: ArrayLike | None, basis: ArrayLike | None, d: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Checked; without a covariance, one of no coordinates."""
    weights = np.asarray(weights, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != d or not np.isfinite(weights).all():
        raise ValueError(f"weights have shape {weights.shape}: give finite ones of shape (times, {d}).")
    if covariance is None:
        return weights, np.zeros((len(weights), 0, 0)), np.zeros((0, d))
    basis = np.eye(d) if basis is None else np.asarray(basis, dtype=np.float64)
    covariance = np.asarray(covariance, dtype=np.float64)
    fits = basis.ndim == 2 and basis.shape[1] == d and covariance.shape == (len(weights), len(basis), len(basis))
    if not fits or not np.isfinite(covariance).all() or not np.isfinite(basis).all():
        raise ValueError(
            f"covariance has shape {covariance.shape}, basis {basis.shape}: give finite ones of shape "
            f"({len(weights)}, r, r), one a row of weights, and (r, {d})."
        )
    return weights, covariance, basis


def _steps(steps: ArrayLike) -> np.ndarray:
    count = np.asarray(steps, dtype=np.float64)
    if count.ndim != 1 or not ((count >= 0) & (count < 2**53) & (count % 1 == 0)).all():
        raise ValueError(f"steps = {count}: give a list of whole numbers, none negative.")
    return count.astype(np.int64)


def _learning_rate(learning_rate: float) -> float:
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate = {learning_rate}: choose a positive, finite one.")
    return float(learning_rate)


def _batch_size(batch_size: int) -> int:
    if not batch_size >= 1 or batch_size == np.inf or int(batch_size) != batch_size:
        raise ValueError(f"batch_size = {batch_size}: give a whole number of samples, at least 1.")
    return int(batch_size)


def _finite(values: np.ndarray, rate: float) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(
            f"learning_rate = {rate}: the weights diverge beyond float64 within the asked steps; choose a smaller "
            f"rate (descent needs it below 2 / h_max, SGD a `mean_square_radius` below 1) or fewer steps."
        )
    return values
