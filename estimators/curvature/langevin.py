"""What the Langevin picture needs of a network, measured: one step's loss change, and noise drawn from C itself."""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.backend import Backend, CurvedBackend, chunks, frozen_weights
from sgdphases.estimators.curvature.hessian import mean_hessian_products
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.moments import sum_gradients
from sgdphases.theory.ensemble import variance_factor
from sgdphases.theory.langevin import loss_change

BLOCK = 32  # vectors at once


@dataclass(frozen=True)
class StepPrediction:
    """One step of SGD to second order in the learning rate, from the present weights (Feng & Tu 2021, eqs 2-4).

    Attributes
    ----------
    directed_activity, total_variance : float
        ``A0 = |g|^2``, ``D = Tr C``.
    curvature_along_mean : float
        ``g^T H g``.
    curvature_of_noise, curvature_of_noise_error : float
        ``Tr(H C)``, and its standard error: 0 where it is exact.
    """

    directed_activity: float
    total_variance: float
    curvature_along_mean: float
    curvature_of_noise: float
    curvature_of_noise_error: float

    def loss_change(self, learning_rate: float) -> float:
        """Expected change of the training loss in one step of this learning rate."""
        return loss_change(learning_rate, self.directed_activity, self.curvature_along_mean, self.curvature_of_noise)


def step_prediction(
    backend: CurvedBackend,
    *,
    batch_size: int,
    replacement: bool = False,
    probes: int | None = None,
    rng: np.random.Generator | None = None,
) -> StepPrediction:
    """Measure what predicts a step of SGD: A0, D, ``g^T H g`` and ``Tr(H C)``.

    Parameters
    ----------
    backend : CurvedBackend
    batch_size : int
        B.
    replacement : bool
    probes : int or None
        None: ``Tr(H C)`` exactly, as ``kappa / N`` times the sum of ``(g_i - g)^T H (g_i - g)``: N Hessian-vector
        products. Otherwise by Hutchinson's method from this many draws of the noise, at least 2, with a standard error.
    rng : numpy.random.Generator or None
        For the probes.

    Raises
    ------
    ValueError
        If fewer than 2 probes are asked for.
    """
    if probes is not None and probes < 2:
        raise ValueError(f"probes = {probes}: give at least 2 for a standard error, or None for the exact trace.")
    n, everyone = backend.n_samples, np.arange(backend.n_samples)
    with frozen_weights(backend):
        parameters = exact(backend, batch_size=batch_size, replacement=replacement)
        mean = mean_gradient(backend)
        factor = variance_factor(n, batch_size, replacement=replacement)
        along_mean = float(mean @ mean_hessian_products(backend, everyone, mean[None])[0])
        if probes is None:
            total = 0.0
            for piece in chunks(everyone, min(BLOCK, backend.chunk_size)):
                deviations = backend.weighted_sums(piece, np.eye(len(piece))) - mean
                total += float((deviations * mean_hessian_products(backend, everyone, deviations)).sum())
            trace, error = factor * total / n, 0.0
        else:
            draws = noise_draws(
                backend, probes, np.random.default_rng() if rng is None else rng,
                batch_size=batch_size, replacement=replacement,
            )  # fmt: skip
            values = (draws * mean_hessian_products(backend, everyone, draws)).sum(axis=1)
            trace, error = float(values.mean()), float(values.std(ddof=1) / np.sqrt(probes))
    return StepPrediction(parameters.directed_activity, parameters.total_variance, along_mean, trace, error)


def mean_gradient(backend: Backend) -> np.ndarray:
    """``g``, shape (P,), float64."""
    return sum_gradients(backend, [np.arange(backend.n_samples)]).mean


def noise_draws(
    backend: Backend, n_draws: int, rng: np.random.Generator, *, batch_size: int, replacement: bool = False
) -> np.ndarray:
    """Gaussian vectors with the covariance C of minibatch gradients, without ever forming C.

    ``sqrt(kappa / N) sum_i xi_i (g_i - g)`` with independent standard normal ``xi_i`` has the covariance
    ``kappa Sigma = C``.

    Parameters
    ----------
    backend : Backend
    n_draws : int
    rng : numpy.random.Generator
    batch_size : int
    replacement : bool

    Returns
    -------
    ndarray, shape (n_draws, P)
    """
    n = backend.n_samples
    weights = rng.normal(size=(n, n_draws))
    weights -= weights.mean(axis=0)  # takes the mean gradient off
    pieces = chunks(np.arange(n), backend.chunk_size)
    total = np.sum([backend.weighted_sums(piece, weights[piece]) for piece in pieces], axis=0)
    return np.sqrt(variance_factor(n, batch_size, replacement=replacement) / n) * total
