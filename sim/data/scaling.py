"""Features of very different or extreme size: found, named, and given mean 0 and variance 1."""

from dataclasses import replace

import numpy as np

from sgdphases.sim.data.dataset import Dataset

LARGE, SMALL = 10.0, 0.05
"""Root mean squares of the largest feature between which the default network learns at the default learning rate.

Measured on digits and a Gaussian mixture scaled as a whole, 30 epochs: at 0.3 to 10 both are learnt, at 30 digits are
not, at 0.1 they are learnt by halves, at 0.01 neither is.
"""
_EXTREME = 1e100  # beyond which squares overflow, or vanish below its inverse


def scaling_problem(x: np.ndarray) -> str:
    """What is wrong with the size of features, naming the worst of them; an empty text if nothing is.

    Parameters
    ----------
    x : ndarray, shape (N, ...)
    """
    largest = np.abs(x.reshape(len(x), -1)).max(axis=0).astype(np.float64)
    scale = np.where(largest > 0, largest, 1)
    sizes = scale * np.sqrt(np.mean((x.reshape(len(x), -1) / scale) ** 2, axis=0))
    worst = int(np.argmax(sizes))
    place = ", ".join(str(int(i)) for i in np.unravel_index(worst, x.shape[1:]))
    if sizes[worst] > LARGE:
        return f"feature [{place}] has the root mean square {sizes[worst]:.3g}, more than {LARGE:g}"
    if 0 < sizes[worst] < SMALL:
        return f"no feature has a root mean square above {sizes[worst]:.3g}, and one of {SMALL:g} is needed"
    return ""


def centre_and_spread(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of every feature, shape (...) for samples of shape (N, ...), in float64.

    The standard deviation of a constant feature is given as 1, so that it becomes 0 when it is standardised.
    """
    largest = np.abs(x).max(axis=0).astype(np.float64)
    unit = np.where((largest > _EXTREME) | ((largest < 1 / _EXTREME) & (largest > 0)), largest, 1.0)
    values = x / unit
    spread = values.std(axis=0, dtype=np.float64)
    rounding = 4 * np.finfo(x.dtype).eps * largest / unit  # a constant feature's deviation is not quite 0
    return values.mean(axis=0, dtype=np.float64) * unit, np.where(spread > rounding, spread, 1.0) * unit


def standardized(data: Dataset) -> Dataset:
    """The data set with training features of mean 0 and variance 1, its test samples moved and scaled alike."""
    centre, spread = centre_and_spread(data.x_train)
    return replace(
        data,
        x_train=rescaled(data.x_train, centre, spread),
        x_test=rescaled(data.x_test, centre, spread),
    )


def rescaled(x: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(x - centre) / spread, in the type of ``x``."""
    return np.asarray((x - centre) / spread, dtype=x.dtype)
