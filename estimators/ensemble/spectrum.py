"""The spectrum of the noise matrix C: how many directions the noise of SGD moves in, and which."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from sgdphases.estimators.backend import Backend, chunks, frozen_weights
from sgdphases.estimators.ensemble.gram import LARGEST, gram_matrix
from sgdphases.estimators.ensemble.moments import sum_gradients
from sgdphases.estimators.errors import UsageError
from sgdphases.theory.ensemble import variance_factor
from sgdphases.theory.spectrum import centred, effective_dimension

METHODS = ("gram", "dense", "lanczos", "sampled")
FEW_PARAMETERS = 2_000  # whose P x P covariance is formed
AXES = 256  # coordinate axes projected on at once, to bound memory
LANCZOS_VALUES = 100  # eigenvalues that Lanczos finds where no number is asked for


@dataclass(frozen=True, eq=False)
class NoiseSpectrum:
    """Eigenvalues of the covariance C of minibatch gradients (Feng & Tu 2021, eq 5, figs 2 and 5).

    Attributes
    ----------
    noise_spectrum : ndarray, shape (k,)
        Leading eigenvalues e_l of C, falling, in squared units of the gradient.
    total_variance : float
        D, the sum of all eigenvalues.
    directions : ndarray, shape (k', P), or None
        Their eigenvectors as unit vectors in the space of the measured weights, the leading k' asked for.
    rank_limit : int
        No more eigenvalues than this can differ from zero: N - 1, or M - 1 for M sampled minibatches. If it is not
        well above D_s, the sampled D_s is too low.
    method : {"gram", "dense", "lanczos", "sampled"}
    """

    noise_spectrum: np.ndarray
    total_variance: float
    directions: np.ndarray | None
    rank_limit: int
    method: str

    def effective_dimension(self, fraction: float = 0.9) -> int | None:
        """D_s: the fewest leading eigenvalues that hold this fraction of D; None if more than are known."""
        return effective_dimension(self.noise_spectrum, self.total_variance, fraction)

    def cumulative(self) -> np.ndarray:
        """Share of D in the leading eigenvalues, one after the other; shape (k,) (Feng & Tu 2021, fig 2)."""
        return np.cumsum(self.noise_spectrum) / self.total_variance


def noise_spectrum(
    backend: Backend,
    *,
    batch_size: int,
    members: np.ndarray | None = None,
    method: str | None = None,
    n_values: int | None = None,
    n_directions: int = 0,
    n_batches: int = 200,
    replacement: bool = False,
    rng: np.random.Generator | None = None,
) -> NoiseSpectrum:
    """Leading eigenvalues of the noise matrix.

    Parameters
    ----------
    backend : Backend
    batch_size : int
        B.
    members : ndarray of bool, shape (N,), or None
        Only samples of one population, minibatches of B drawn among them; None takes all.
    method : {"gram", "dense", "lanczos", "sampled"} or None
        "gram": all eigenvalues from the N x N Gram matrix; "dense": all from the P x P covariance, for few parameters;
        "lanczos": ``n_values`` of them without a matrix, for any N and P; "sampled": from the covariance of M drawn
        minibatches, whose rank is below M. None takes the first of "dense" (P up to 2,000 and below N), "gram" (N up to
        10,000) and "lanczos" that can.
    n_values : int or None
        Eigenvalues wanted; None takes all, but 100 for "lanczos".
    n_directions : int
        Eigenvectors wanted.
    n_batches : int
        M, for "sampled".
    replacement : bool
    rng : numpy.random.Generator or None
        For "sampled", and the start of Lanczos; None is a fixed one.

    Returns
    -------
    NoiseSpectrum

    Raises
    ------
    UsageError
        For an unknown method, too many samples for it, or a batch size that does not fit.
    """
    indices = np.arange(backend.n_samples) if members is None else np.flatnonzero(members)
    chosen = method or _suited(len(indices), backend.n_parameters)
    _check(chosen, len(indices), batch_size, replacement)
    factor = variance_factor(len(indices), batch_size, replacement=replacement)
    wanted = _Wanted(backend, indices, factor, n_values, n_directions)
    rng = np.random.default_rng(0) if rng is None else rng
    with frozen_weights(backend):
        if chosen == "lanczos":
            return _by_lanczos(wanted, rng)
        if chosen == "dense":
            return _by_covariance(wanted)
        if chosen == "gram":
            return _by_gram(wanted)
        batches = [rng.choice(indices, size=batch_size, replace=replacement) for _ in range(n_batches)]
        return _by_minibatches(wanted, batches)


class _Wanted(NamedTuple):
    """What is asked for, whatever the method: samples, the factor kappa, and how many eigenvalues and -vectors."""

    backend: Backend
    indices: np.ndarray
    factor: float
    n_values: int | None
    n_directions: int


def _check(method: str, n: int, batch_size: int, replacement: bool) -> None:
    if method not in METHODS:
        raise UsageError(f"method = {method!r}: choose one of {', '.join(METHODS)}.")
    if n < 2:
        raise UsageError(f"a spectrum needs at least two samples, not {n}.")
    if not replacement and batch_size > n:
        raise UsageError(f"batch_size = {batch_size} exceeds the {n} samples: choose at most that.")
    if method == "gram" and n > LARGEST:
        raise UsageError(f"method = 'gram' with {n} samples: its matrix would not fit; use 'lanczos'.")


def _by_gram(wanted: _Wanted) -> NoiseSpectrum:
    n = len(wanted.indices)
    matrix = wanted.factor / n * centred(gram_matrix(wanted.backend, wanted.indices))
    limit = n - 1
    values, vectors = _leading(matrix, min(limit, wanted.n_values or limit), wanted.n_directions)
    directions = None
    if wanted.n_directions:
        directions = _normalised(_combination(wanted.backend, wanted.indices, _without_mean(vectors.T)))
    return NoiseSpectrum(values, float(np.trace(matrix)), directions, limit, "gram")


def _by_minibatches(wanted: _Wanted, batches: list[np.ndarray]) -> NoiseSpectrum:
    """From the covariance of drawn minibatch gradients, by their inner products."""
    means = [_combination(wanted.backend, batch, np.ones((len(batch), 1)) / len(batch))[0] for batch in batches]
    drawn = np.stack(means)
    deviations, limit = drawn - drawn.mean(axis=0), len(batches) - 1
    matrix = deviations @ deviations.T / limit
    values, vectors = _leading(matrix, min(limit, wanted.n_values or limit), wanted.n_directions)
    directions = _normalised(_without_mean(vectors.T).T @ deviations) if wanted.n_directions else None
    return NoiseSpectrum(values, float(np.trace(matrix)), directions, limit, "sampled")


def _without_mean(columns: np.ndarray) -> np.ndarray:
    return columns - columns.mean(axis=0)


def _normalised(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _leading(matrix: np.ndarray, n_values: int, n_vectors: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading eigenvalues of a positive matrix, falling, and the eigenvectors of some of them in rows.

    LAPACK finds all eigenvalues in less time than a large subset of them.
    """
    from scipy.linalg import eigh, eigvalsh  # few runs need it, and all would wait for it

    if n_vectors:
        values, vectors = eigh(matrix)
    else:
        values, vectors = eigvalsh(matrix), np.empty((len(matrix), 0))
    return np.maximum(values[::-1][:n_values], 0.0), vectors.T[::-1][:n_vectors]


def _suited(n_samples: int, n_parameters: int) -> str:
    if n_parameters <= FEW_PARAMETERS and n_parameters < n_samples:
        return "dense"
    return "gram" if n_samples <= 10_000 else "lanczos"


def _by_covariance(wanted: _Wanted) -> NoiseSpectrum:
    backend, indices, factor, n_values, n_directions = wanted
    n, p = len(indices), backend.n_parameters
    axes = [np.eye(p)[start : start + AXES] for start in range(0, p, AXES)]
    second, total = np.zeros((p, p)), np.zeros(p)
    for piece in chunks(indices, min(backend.chunk_size, 1000)):
        gradients = np.concatenate([backend.projections(piece, rows) for rows in axes], axis=1)
        second += gradients.T @ gradients
        total += gradients.sum(axis=0)
    covariance = factor * (second / n - np.outer(total / n, total / n))
    values, vectors = _leading(covariance, p, n_directions)
    directions = vectors if n_directions else None
    limit = min(p, n - 1)
    return NoiseSpectrum(values[: n_values or p], float(np.trace(covariance)), directions, limit, "dense")


def _by_lanczos(wanted: _Wanted, rng: np.random.Generator) -> NoiseSpectrum:
    from scipy.sparse.linalg import LinearOperator, eigsh

    backend, indices, factor, n_values, n_directions = wanted
    n, p = len(indices), backend.n_parameters
    sums = sum_gradients(backend, [indices])
    mean = sums.mean
    total = factor * max(float(sums.squared_norm[0]) / n - float(mean @ mean), 0.0)

    def times_noise_matrix(vector: np.ndarray) -> np.ndarray:
        vector = vector.ravel()
        out = np.zeros(p)
        for piece in chunks(indices, backend.chunk_size):
            along = backend.projections(piece, vector[None]) - mean @ vector
            out += backend.weighted_sums(piece, along)[0]
        return factor * out / n  # the deviations along sum to zero, so the mean drops out

    k = min(n_values or LANCZOS_VALUES, p - 1, n - 1)
    operator = LinearOperator((p, p), matvec=times_noise_matrix, dtype=np.float64)
    values, vectors = eigsh(operator, k=k, which="LA", v0=rng.normal(size=p), tol=1e-6)
    order = np.argsort(values)[::-1]
    directions = vectors.T[order][:n_directions] if n_directions else None
    return NoiseSpectrum(np.maximum(values[order], 0.0), total, directions, n - 1, "lanczos")


def _combination(backend: Backend, indices: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """``sum_i c_ik g_i`` over any number of samples, shape (k, P)."""
    places = chunks(np.arange(len(indices)), backend.chunk_size)
    total = np.zeros((coefficients.shape[1], backend.n_parameters))
    for piece in places:
        total += backend.weighted_sums(indices[piece], coefficients[piece])
    return total
