"""Checks of what the linear model is given; each returns float64 or whole numbers, or raises a ValueError."""

import numpy as np
from numpy.typing import ArrayLike


def checked_inputs(x: ArrayLike, name: str = "x", width: int | None = None) -> np.ndarray:
    x = np.asarray(x, dtype=np.float64)
    if x.ndim != 2 or 0 in x.shape or width not in (None, x.shape[1]) or not np.isfinite(x).all():
        raise ValueError(
            f"{name} has shape {x.shape}: give a finite matrix, one sample a row, of {width or 'any'} columns."
        )
    return x


def checked_targets(y: ArrayLike, x: np.ndarray, name: str = "y") -> np.ndarray:
    y = np.asarray(y, dtype=np.float64)
    if y.shape != x.shape[:1] or not np.isfinite(y).all():
        raise ValueError(f"{name} has shape {y.shape}: give one finite target a sample, shape ({len(x)},).")
    return y


def checked_start(start: ArrayLike | None, x: np.ndarray) -> np.ndarray:
    weights = np.zeros(x.shape[1]) if start is None else np.asarray(start, dtype=np.float64)
    if weights.shape != x.shape[1:] or not np.isfinite(weights).all():
        raise ValueError(f"start has shape {weights.shape}: give finite weights of shape ({x.shape[1]},).")
    return weights


def checked_steps(steps: ArrayLike) -> np.ndarray:
    count = np.asarray(steps, dtype=np.float64)
    if count.ndim != 1 or not ((count >= 0) & (count < 2**53) & (count % 1 == 0)).all():
        raise ValueError(f"steps = {count}: give a list of whole numbers, none negative.")
    return count.astype(np.int64)


def checked_rate(learning_rate: float) -> float:
    if not 0 < learning_rate < np.inf:
        raise ValueError(f"learning_rate = {learning_rate}: choose a positive, finite one.")
    return float(learning_rate)


def checked_batch_size(batch_size: int) -> int:
    if not batch_size >= 1 or batch_size == np.inf or int(batch_size) != batch_size:
        raise ValueError(f"batch_size = {batch_size}: give a whole number of samples, at least 1.")
    return int(batch_size)


def checked_finite(values: np.ndarray, rate: float) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError(
            f"learning_rate = {rate}: the weights diverge beyond float64 within the asked steps; choose a smaller "
            f"rate (descent needs it below 2 / h_max, SGD a `mean_square_radius` below 1) or fewer steps."
        )
    return values
