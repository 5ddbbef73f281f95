"""The Hessian of the training loss: products with vectors, and its leading eigenpairs."""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.backend import Backend, CurvedBackend, chunks
from sgdphases.estimators.errors import UsageError


@dataclass(frozen=True, eq=False)
class Curvature:
    """Leading eigenpairs of the Hessian of the mean loss.

    Attributes
    ----------
    eigenvalues : ndarray, shape (k,)
        Falling, in units of the loss over squared weights.
    directions : ndarray, shape (k, P)
        Orthonormal.
    """

    eigenvalues: np.ndarray
    directions: np.ndarray


def mean_hessian_products(backend: CurvedBackend, indices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """``H v`` for every row of a (k, P) array, H the Hessian of the mean loss of some samples, in chunks: (k, P)."""
    total = np.zeros(vectors.shape)
    for piece in chunks(indices, backend.chunk_size):
        total += backend.hessian_products(piece, vectors)
    return total / len(indices)


def leading_curvature(backend: Backend, k: int, *, tolerance: float = 1e-4, seed: int = 0) -> Curvature:
    """The k leading eigenpairs of the Hessian of the mean loss, by Lanczos on chunked Hessian-vector products.

    Parameters
    ----------
    backend : CurvedBackend
    k : int
        1 to P - 1.
    tolerance : float
        Relative accuracy of the eigenvalues.
    seed : int
        Of the starting vector.

    Raises
    ------
    UsageError
        If the backend knows no second derivatives, or k is out of range.
    """
    curved = check_sharp_directions(backend, k)
    everyone, p = np.arange(backend.n_samples), backend.n_parameters

    def times_hessian(vector: np.ndarray) -> np.ndarray:
        return mean_hessian_products(curved, everyone, vector.reshape(1, -1))[0]

    from scipy.sparse.linalg import LinearOperator, eigsh  # few runs need it, and all would wait for it

    start = np.random.default_rng(seed).normal(size=p)
    operator = LinearOperator((p, p), matvec=times_hessian, dtype=np.float64)
    values, vectors = eigsh(operator, k=k, which="LA", v0=start, tol=tolerance)
    order = np.argsort(values)[::-1]
    return Curvature(values[order], vectors.T[order])


def check_sharp_directions(backend: Backend, k: int) -> CurvedBackend:
    """The backend itself; UsageError unless k leading eigenvectors of its Hessian can be found."""
    if not isinstance(backend, CurvedBackend):
        raise UsageError(
            f"{type(backend).__name__} has no hessian_products: take another backend for sharp directions."
        )
    if not 1 <= k < backend.n_parameters:
        raise UsageError(
            f"{k} sharp directions: choose 1 to {backend.n_parameters - 1} for {backend.n_parameters} parameters."
        )
    return backend
