"""Spectra: how many directions hold a given share of the variance."""

import numpy as np


def effective_dimension(eigenvalues: np.ndarray, total: float, fraction: float = 0.9) -> int | None:
    """D_s, the fewest leading eigenvalues whose sum reaches a fraction of the total (Feng & Tu 2021, section 2).

    Parameters
    ----------
    eigenvalues : ndarray, shape (k,)
        Leading ones, in falling order.
    total : float
        Sum of all eigenvalues.
    fraction : float
        Above 0, at most 1.

    Returns
    -------
    int or None
        None where the given eigenvalues do not reach that far, or there is no variance at all.

    Raises
    ------
    ValueError
        If the fraction is out of range.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f"fraction = {fraction}: choose a share above 0, at most 1.")
    if not total > 0:
        return None
    reached = np.flatnonzero(np.cumsum(eigenvalues) >= fraction * total * (1 - 1e-9))
    return int(reached[0]) + 1 if len(reached) else None


def centred(gram: np.ndarray) -> np.ndarray:
    """``H K H`` with ``H = I - 11^T/N``: inner products of the deviations from the mean; shape (N, N)."""
    rows = gram.mean(axis=0, keepdims=True)
    return gram - rows - rows.T + gram.mean()
