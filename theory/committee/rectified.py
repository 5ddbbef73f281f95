"""Gaussian averages of ReLU units and their slopes, in closed form.

Obtained from ``E[u_b h(u)] = sum_j C_bj E[dh/du_j]`` and the probability that two or three jointly Gaussian numbers are
positive, ``1/4 + arcsin(r)/(2 pi)`` and ``1/8 + (arcsin r_ab + arcsin r_ac + arcsin r_bc)/(4 pi)`` (Sheppard 1899).
"""

import numpy as np

from sgdphases.theory.committee.averages import FieldAverages


def rectified_averages(covariance: np.ndarray, n_students: int) -> FieldAverages:
    """Averages of ``g(u) = max(u, 0)`` and its slope over Gaussian fields of mean 0.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
        Of the fields, the K students' first; units may coincide.
    n_students : int
        K

    Returns
    -------
    FieldAverages
        ``slopes_product`` holds the pairs of a slope with itself only; the others are NaN.
    """
    c, k = np.asarray(covariance, dtype=np.float64), n_students
    n = len(c)
    fields = np.arange(n)
    a, b = np.meshgrid(fields, fields, indexing="ij")
    students, first, second = np.meshgrid(np.arange(k), fields, fields, indexing="ij")
    product = _field_positive(c, a, a, b)  # E[max(u_a, 0) max(u_b, 0)]: no third field
    own = np.full((k, k, n, n), np.nan)
    own[np.arange(k), np.arange(k)] = _both_positive(c, students, first, second)
    return FieldAverages(
        product=product,
        slopes=_two_positive(c, a, b)[:k, :k],
        slope_field_product=_field_positive(c, students, first, second),
        slopes_product=own,
    )


def _field_positive(c: np.ndarray, i: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``E[theta(u_i) u_a max(u_b, 0)]``; with a = i that is a product of two ReLU units."""
    at_edge = _edge(c, i) * np.sqrt(_left(c, i, b, b)) / np.sqrt(2 * np.pi)  # E[delta(u_i) max(u_b, 0)]
    return np.asarray(c[a, i] * at_edge + c[a, b] * _two_positive(c, i, b))


def _both_positive(c: np.ndarray, i: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``E[theta(u_i) max(u_a, 0) max(u_b, 0)]``."""
    at_i = _edge(c, i) * _positive_part(c, i, b, a)
    at_a = _edge(c, a) * _positive_part(c, a, b, i)
    return np.asarray(c[a, b] * _three_positive(c, i, a, b) + c[a, i] * at_i + c[a, a] * at_a)


def _positive_part(c: np.ndarray, at: np.ndarray, b: np.ndarray, other: np.ndarray) -> np.ndarray:
    """``E[max(u_b, 0) theta(u_other) | u_at = 0]``."""
    spread, between, others = _left(c, at, b, b), _left(c, at, b, other), np.sqrt(_left(c, at, other, other))
    slope = np.divide(between, others, out=np.zeros_like(between), where=others > 0)
    return np.asarray((np.sqrt(spread) + slope) / (2 * np.sqrt(2 * np.pi)))


def _edge(c: np.ndarray, i: np.ndarray) -> np.ndarray:
    """Density of a field at 0."""
    return np.asarray(1 / np.sqrt(2 * np.pi * c[i, i]))


def _left(c: np.ndarray, at: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Covariance of two fields given that a third is 0; what rounding leaves of none counts as none."""
    left = c[a, b] - c[a, at] * c[at, b] / c[at, at]
    scale = np.sqrt(c[a, a] * c[b, b])
    return np.where(np.abs(left) < 1e-12 * scale, 0.0, np.where(a == b, np.maximum(left, 0.0), left))


def _angle(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(np.arcsin(np.clip(c[a, b] / np.sqrt(c[a, a] * c[b, b]), -1, 1)))


def _two_positive(c: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(0.25 + _angle(c, a, b) / (2 * np.pi))


def _three_positive(c: np.ndarray, a: np.ndarray, b: np.ndarray, d: np.ndarray) -> np.ndarray:
    return np.asarray(0.125 + (_angle(c, a, b) + _angle(c, a, d) + _angle(c, b, d)) / (4 * np.pi))
