"""Eigenmodes of the Hessian ``X^T X / N``, in which gradient flow and descent decouple."""

from typing import NamedTuple

import numpy as np


class Eigenmodes(NamedTuple):
    """Eigenmodes with non-zero curvature: ``x = scores @ basis``, shapes (N, r) and (r, d); curvatures h, (r,)."""

    scores: np.ndarray
    curvature: np.ndarray
    basis: np.ndarray


def eigenmodes(x: np.ndarray) -> Eigenmodes:
    """By singular values; those that are zero up to rounding are dropped."""
    left, singular, basis = np.linalg.svd(x, full_matrices=False)
    kept = (singular**2 > 0) & (singular > singular[0] * max(x.shape) * np.finfo(np.float64).eps)
    scores = left[:, kept] * singular[kept]
    return Eigenmodes(scores, singular[kept] ** 2 / len(x), basis[kept])


def quadratic_forms(rows: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """``z_i^T S z_i`` for every row z_i."""
    return ((rows @ matrix) * rows).sum(axis=-1)
