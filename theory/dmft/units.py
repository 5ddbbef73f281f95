"""Units and losses of a student with one output, and the derivatives of its loss by the fields of its units."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import erf, expit


class Pull(NamedTuple):
    """What a sample of S does to K units, from their fields.

    Attributes
    ----------
    output : ndarray, shape (S,)
        f
    loss : ndarray, shape (S,)
    slope : ndarray, shape (S, K)
        Derivatives of the loss by the fields.
    curvature : ndarray, shape (S, K, K)
        Second derivatives.
    output_slope : ndarray, shape (S, K) or (S, K + 1)
        Derivatives by the output weights, and by the bias of f if it has one.
    """

    output: np.ndarray
    loss: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray
    output_slope: np.ndarray


def _linear(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return u, np.ones_like(u), np.zeros_like(u)


def _erf(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    slope = np.sqrt(2 / np.pi) * np.exp(-0.5 * u * u)
    return erf(u / np.sqrt(2)), slope, -u * slope


def _tanh(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    value = np.tanh(u)
    slope = 1 - value**2
    return value, slope, -2 * value * slope


def _relu(u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Without what its kink adds to the second derivative: see `sgdphases.theory.dmft.kinks`."""
    return np.maximum(u, 0), (u > 0).astype(np.float64), np.zeros_like(u)


def _logistic(f: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    wrong = expit(-y * f)
    return np.logaddexp(0, -y * f), -y * wrong, wrong * (1 - wrong)


def _squared(f: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return 0.5 * (f - y) ** 2, f - y, np.ones_like(f)


Three = tuple[np.ndarray, np.ndarray, np.ndarray]
UNITS: dict[str, Callable[[np.ndarray], Three]] = {"linear": _linear, "erf": _erf, "tanh": _tanh, "relu": _relu}
"""Name -> value and the first two derivatives."""
LOSSES: dict[str, Callable[[np.ndarray, np.ndarray], Three]] = {"logistic": _logistic, "squared": _squared}
"""Name -> loss and its first two derivatives by the output."""


def pull(fields: np.ndarray, labels: np.ndarray, outputs: np.ndarray, activation: str, loss: str) -> Pull:
    """Loss and derivatives at fields of shape (S, K), labels (S,), output weights (K,) or with a bias (K + 1,)."""
    value, first, second = UNITS[activation](fields)
    k = fields.shape[1]
    value = np.column_stack([value, np.ones((len(value), len(outputs) - k))])
    f = value @ outputs
    each, by_output, twice = LOSSES[loss](f, labels)
    through = outputs[:k] * first
    curvature = twice[:, None, None] * through[:, :, None] * through[:, None, :]
    units = np.arange(k)
    curvature[:, units, units] += by_output[:, None] * outputs[:k] * second
    return Pull(f, each, by_output[:, None] * through, curvature, by_output[:, None] * value)
