"""Losses and order parameters of the linear model at given weights, or their expectations over runs of SGD."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from sgdphases.theory.ensemble import ActivitySplit, cosine, ratio, split_activity, variance_factor
from sgdphases.theory.linear.checks import checked_batch_size, checked_inputs, checked_targets
from sgdphases.theory.linear.modes import quadratic_forms
from sgdphases.theory.linear.sgd import WeightMoments


def predictions(
    x: ArrayLike,
    y: ArrayLike,
    weights: ArrayLike | WeightMoments,
    batch_size: int,
    *,
    wrong: ArrayLike | None = None,
    replacement: bool = True,
    test: tuple[ArrayLike, ArrayLike] | None = None,
) -> dict[str, np.ndarray]:
    """Losses and order parameters at given weights, or their expectations over SGD (Feng & Tu 2021, eqs 5-15).

    At given weights everything is exact. At moments of the weights, what is quadratic in the weights is the exact
    expectation over runs, whatever the weights' distribution: the losses, all directed activities,
    ``gradient_variance``, ``total_variance`` and ``activity``. What is a quotient is the quotient of expectations,
    not the expectation of the quotient: ``alignment_*``, ``gradient_noise_scale``, ``aligned_fraction``; and
    ``projection_variance`` and the splits along the mean gradient, quartic in the weights, use ``Tr(E[C] E[g g^T])``
    for ``E[g^T C g]``.

    Parameters
    ----------
    x : array_like, shape (N, d)
    y : array_like, shape (N,)
        Training targets, corrupted ones included.
    weights : array_like, shape (T, d), or WeightMoments
        From `flow` or `descent`; or from `sgd_moments`.
    batch_size : int
        B of the ensemble the activities belong to.
    wrong : array_like of bool, shape (N,), or None
        Samples with a corrupted target; None where unknown.
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
    x = checked_inputs(x)
    y, factor = checked_targets(y, x), variance_factor(len(x), checked_batch_size(batch_size), replacement=replacement)
    weights, covariance, basis = _moments(weights, x.shape[1])
    members, rho = _populations(wrong, len(x))
    z, residual = x @ basis.T, weights @ x.T - y
    spread = _quadratic_forms_each(z, covariance)
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
    samples = spread * onto**2 + (residual**2 + spread) * _quadratic_forms_each(lever, covariance)
    turned = covariance @ gram
    mean = 2 * ((image[:, None] @ covariance)[:, 0] * image).sum(axis=1) + np.einsum("tjk,tkj->t", turned, turned)
    return np.maximum(0.0, own + samples.mean(axis=1) - mean)


def _test_loss(
    weights: np.ndarray, covariance: np.ndarray, basis: np.ndarray, test: tuple[ArrayLike, ArrayLike] | None
) -> np.ndarray:
    if test is None:
        return np.full(len(weights), np.nan)
    x = checked_inputs(test[0], "x_test", basis.shape[1])
    residual = weights @ x.T - checked_targets(test[1], x, "y_test")
    square = residual**2 + _quadratic_forms_each(x @ basis.T, covariance)
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


def _moments(given: ArrayLike | WeightMoments, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, covariance and basis, checked; weights without a covariance get one of no coordinates."""
    weights = np.asarray(given.mean if isinstance(given, WeightMoments) else given, dtype=np.float64)
    if weights.ndim != 2 or weights.shape[1] != d or not np.isfinite(weights).all():
        raise ValueError(f"weights have shape {weights.shape}: give finite ones of shape (times, {d}).")
    if not isinstance(given, WeightMoments):
        return weights, np.zeros((len(weights), 0, 0)), np.zeros((0, d))
    basis, covariance = np.asarray(given.basis, dtype=np.float64), np.asarray(given.covariance, dtype=np.float64)
    fits = basis.ndim == 2 and basis.shape[1] == d and covariance.shape == (len(weights), len(basis), len(basis))
    if not fits or not np.isfinite(covariance).all() or not np.isfinite(basis).all():
        raise ValueError(
            f"covariance has shape {covariance.shape}, basis {basis.shape}: give finite ones of shape "
            f"({len(weights)}, r, r), one a row of weights, and (r, {d})."
        )
    return weights, covariance, basis


def _quadratic_forms_each(rows: np.ndarray, matrices: np.ndarray) -> np.ndarray:
    return np.array([quadratic_forms(rows, matrix) for matrix in matrices]).reshape(len(matrices), len(rows))


def _each(function: Callable[..., float], *columns: np.ndarray) -> np.ndarray:
    return np.array([function(*row) for row in zip(*columns, strict=True)], dtype=np.float64)
