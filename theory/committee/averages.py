"""Gaussian averages of erf units and their slopes (Saad & Solla 1995, appendix)."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class FieldAverages:
    """Averages over N Gaussian fields ``u``; slopes ``g'(u_i)`` only of the first K (Saad & Solla 1995, appendix).

    Attributes
    ----------
    product : ndarray, shape (N, N)
        ``E[g(u_a) g(u_b)]``
    slopes : ndarray, shape (K, K)
        ``E[g'(u_i) g'(u_k)]``
    slope_field_product : ndarray, shape (K, N, N)
        ``E[g'(u_i) u_a g(u_b)]``
    slopes_product : ndarray, shape (K, K, N, N)
        ``E[g'(u_i) g'(u_k) g(u_a) g(u_b)]``
    """

    product: np.ndarray
    slopes: np.ndarray
    slope_field_product: np.ndarray
    slopes_product: np.ndarray


def field_averages(covariance: np.ndarray, n_students: int) -> FieldAverages:
    """Averages of ``g(u) = erf(u / sqrt(2))`` and its slope over Gaussian fields of mean 0.

    Parameters
    ----------
    covariance : ndarray, shape (N, N)
        Of the fields, the K students' first.
    n_students : int
        K
    """
    c, k = covariance, n_students
    one_plus = 1 + c.diagonal()
    own, to_all = one_plus[:k], c[:k]

    # Axes (i, a, b): i the unit with the slope.
    l3 = own[:, None] * one_plus - to_all**2
    slope_field_product = c * own[:, None, None] - to_all[:, :, None] * to_all[:, None, :]
    slope_field_product = 2 / np.pi * slope_field_product / (own[:, None] * np.sqrt(l3))[:, None, :]

    # Axes (i, k, a, b): i and k the units with slopes.
    both = np.outer(own, own) - c[:k, :k] ** 2
    cross = c[:k, :k, None, None]
    l4, own1, own2 = both[:, :, None, None], own[:, None, None, None], own[None, :, None, None]
    c13, c14 = to_all[:, None, :, None], to_all[:, None, None, :]
    c23, c24 = to_all[None, :, :, None], to_all[None, :, None, :]
    l0 = l4 * c - c23 * c24 * own1 - c13 * c14 * own2 + cross * (c13 * c24 + c14 * c23)
    l1 = l4 * one_plus[:, None] - c23**2 * own1 - c13**2 * own2 + 2 * cross * c13 * c23
    l2 = np.swapaxes(l1, 2, 3)
    slopes_product = 4 / np.pi**2 * np.arcsin(l0 / np.sqrt(l1 * l2)) / np.sqrt(l4)
    return FieldAverages(mean_products(c), 2 / np.pi / np.sqrt(both), slope_field_product, slopes_product)


def mean_products(c: np.ndarray) -> np.ndarray:
    """``E[g(u_a) g(u_b)]`` for covariances of shape (..., N, N)."""
    spread = np.sqrt(1 + np.diagonal(c, axis1=-2, axis2=-1))
    return 2 / np.pi * np.arcsin(c / (spread[..., :, None] * spread[..., None, :]))
