"""The Gram matrix of per-sample gradients: any minibatch's norm and inner products without a further backward pass."""

import numpy as np

from sgdphases.estimators.backend import Backend, frozen_weights
from sgdphases.estimators.ensemble.alignment import Alignment, mean_cosine

LARGEST = 20_000  # samples up to which the Gram matrix is formed: 3.2 GB in float64


def gram_matrix(backend: Backend, indices: np.ndarray | None = None) -> np.ndarray:
    """``K_ij = g_i . g_j``, block by block (layer by layer inside the backend).

    Parameters
    ----------
    backend : Backend
    indices : ndarray of int, shape (n,), or None
        Samples; None takes all.

    Returns
    -------
    ndarray, shape (n, n), float64
    """
    chosen = np.arange(backend.n_samples) if indices is None else np.asarray(indices)
    n = len(chosen)
    gram = np.empty((n, n))
    blocks = [slice(start, min(start + backend.chunk_size, n)) for start in range(0, n, backend.chunk_size)]
    with frozen_weights(backend):
        for row, first in enumerate(blocks):
            own = chosen[first]
            gram[first, first] = backend.gram(own, own)
            for second in blocks[row + 1 :]:
                gram[first, second] = backend.gram(own, chosen[second])
                gram[second, first] = gram[first, second].T
    return gram


def virtual_minibatches(
    gram: np.ndarray, *, batch_size: int, n_batches: int, rng: np.random.Generator, replacement: bool = False
) -> np.ndarray:
    """Inner products of the gradients of minibatches drawn from the samples of a Gram matrix.

    Parameters
    ----------
    gram : ndarray, shape (n, n)
    batch_size, n_batches : int
        B and M.
    rng : numpy.random.Generator
    replacement : bool

    Returns
    -------
    ndarray, shape (M, M), float64
    """
    n = len(gram)
    share = np.zeros((n_batches, n))
    for row in share:
        np.add.at(row, rng.choice(n, size=batch_size, replace=replacement), 1.0 / batch_size)
    return share @ gram @ share.T


def gram_alignment(
    gram: np.ndarray, *, batch_size: int, n_batches: int = 2000, rng: np.random.Generator, replacement: bool = False
) -> Alignment:
    """R over all pairs of M virtual minibatches, with a jackknife standard error (Feng & Tu 2021, eq 6)."""
    return mean_cosine(
        virtual_minibatches(gram, batch_size=batch_size, n_batches=n_batches, rng=rng, replacement=replacement)
    )
