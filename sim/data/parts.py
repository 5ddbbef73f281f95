"""Samples in parts of equal size, each with its share of every class."""

import numpy as np


def class_balanced_parts(y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw a part for each sample; the samples of a class take turns.

    Parameters
    ----------
    y : ndarray of int, shape (N,)
    count : int
        Of parts.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int, shape (N,)
        From 0 to ``count`` - 1.
    """
    part = np.empty(len(y), dtype=int)
    part[np.lexsort((rng.random(len(y)), y))] = np.arange(len(y)) % count
    return part
