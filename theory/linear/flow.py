"""Linear regression with corrupted targets: gradient flow and full-batch descent, exactly, for a given data set.

The model is ``f(x) = w.x`` with loss ``(x_i.w - y_i)^2 / 2`` per sample and the mean over the N samples as training
loss, so per-sample gradients are ``g_i = r_i x_i`` with residuals ``r_i = x_i.w - y_i``. Flow and descent then separate
into the eigenmodes of ``H = X^T X / N``. Nothing is assumed about the data; no number is fitted. It stops being valid
where the model is not linear in its weights or the loss not quadratic.
"""

import numpy as np
from numpy.typing import ArrayLike

from sgdphases.theory.linear.checks import (
    checked_finite,
    checked_inputs,
    checked_rate,
    checked_start,
    checked_steps,
    checked_targets,
)
from sgdphases.theory.linear.modes import Eigenmodes, eigenmodes


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
    x = checked_inputs(x)
    y, start = checked_targets(y, x), checked_start(start, x)
    times = np.asarray(times, dtype=np.float64)
    if times.ndim != 1 or not (times >= 0).all():
        raise ValueError(f"times = {times}: give a list of times, none negative or NaN.")
    modes = eigenmodes(x)
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
    x = checked_inputs(x)
    y, start = checked_targets(y, x), checked_start(start, x)
    count, rate, modes = checked_steps(steps)[:, None], checked_rate(learning_rate), eigenmodes(x)
    move = rate * modes.curvature
    slow = move < 0.5  # there 1 - (1 - ah)^k would lose digits
    with np.errstate(over="ignore", invalid="ignore"):
        share = np.where(slow, -np.expm1(count * np.log1p(-np.where(slow, move, 0.0))), 1 - (1 - move) ** count)
        return checked_finite(_relaxed(x, y, start, modes, share / modes.curvature), rate)


def _relaxed(x: np.ndarray, y: np.ndarray, start: np.ndarray, modes: Eigenmodes, factor: np.ndarray) -> np.ndarray:
    """``w0 - sum_k v_k f_k(t) (v_k . grad L(w0))`` with ``factor`` f of shape (T, r)."""
    gradient = modes.scores.T @ (x @ start - y) / len(x)
    return start - (factor * gradient) @ modes.basis
