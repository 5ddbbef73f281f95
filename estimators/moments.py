"""Additive statistics of per-sample gradients, and the moments they give.

Two passes over the samples suffice for every scalar of the minibatch ensemble: the first sums losses, squared norms
and gradients; the second, with the mean gradients known, sums projections on them. Both kinds of sum merge by ``+``,
so chunks, workers and devices can be added up in any order.
"""

from dataclasses import dataclass, replace

import numpy as np

from sgdphases.estimators.backend import Backend, chunks, still, to_numpy
from sgdphases.theory.minibatch_ensemble import mixture_variance


@dataclass(frozen=True, eq=False)
class GradientSums:
    """Sums over samples from one forward and backward pass; ``gradient`` has shape (P,), all float64."""

    count: int
    loss: float
    errors: float
    squared_norm: float
    gradient: np.ndarray

    def __add__(self, other: "GradientSums") -> "GradientSums":
        return GradientSums(
            self.count + other.count,
            self.loss + other.loss,
            self.errors + other.errors,
            self.squared_norm + other.squared_norm,
            self.gradient + other.gradient,
        )

    @property
    def mean(self) -> np.ndarray:
        """The mean gradient, shape (P,)."""
        return self.gradient / self.count


@dataclass(frozen=True)
class ProjectionSums:
    """Sums of ``g_i . v`` and of its square, taken about the known value of its mean: no cancellation."""

    count: int
    deviation: np.ndarray
    squared_deviation: np.ndarray

    def __add__(self, other: "ProjectionSums") -> "ProjectionSums":
        return ProjectionSums(
            self.count + other.count,
            self.deviation + other.deviation,
            self.squared_deviation + other.squared_deviation,
        )


@dataclass(frozen=True)
class PopulationMoments:
    """What one population of samples adds to the closed forms; none of it depends on the batch size.

    Attributes
    ----------
    count : int
    loss, error : float
        Means; ``error`` is NaN for regression.
    mean_squared_norm : float
        ``mean |g_i|^2``.
    squared_mean : float
        ``|mean g_i|^2``.
    mean_on_mean, variance_on_mean : float
        Mean and variance, over the population's samples, of ``g_i . g`` with g the mean gradient of all samples.
    variance_on_own : float
        Variance of ``g_i . g_p`` with g_p the population's own mean gradient.
    """

    count: int
    loss: float
    error: float
    mean_squared_norm: float
    squared_mean: float
    mean_on_mean: float
    variance_on_mean: float
    variance_on_own: float

    @property
    def gradient_variance(self) -> float:
        """``Tr Sigma``, the total variance of per-sample gradients in the population."""
        return max(0.0, self.mean_squared_norm - self.squared_mean)


@dataclass(frozen=True)
class GradientMoments:
    """Moments of all samples and, where wrong labels are known, of the two populations.

    ``clean`` and ``wrong`` are None where unknown or empty; ``inner_product_cw`` is ``g_c . g_w`` (NaN then).
    """

    everything: PopulationMoments
    clean: PopulationMoments | None
    wrong: PopulationMoments | None
    inner_product_cw: float
    fraction: float

    @property
    def squared_gap(self) -> float:
        """``|g_c - g_w|^2``; NaN unless both populations are there."""
        if self.clean is None or self.wrong is None:
            return float("nan")
        return max(0.0, self.clean.squared_mean + self.wrong.squared_mean - 2 * self.inner_product_cw)


def sum_gradients(backend: Backend, indices: np.ndarray) -> GradientSums:
    """First pass over the samples of ``indices``, at least one, in chunks."""
    parts = (_first_pass(backend, piece) for piece in chunks(indices, backend.chunk_size))
    total = next(parts)
    for part in parts:
        total = total + part
    return replace(total, gradient=to_numpy(total.gradient).astype(np.float64, copy=False))


def sum_projections(backend: Backend, indices: np.ndarray, directions: np.ndarray, means: np.ndarray) -> ProjectionSums:
    """Second pass: projections on ``directions``, shape (k, P), about their known ``means``, shape (k,)."""
    total = ProjectionSums(0, np.zeros(len(directions)), np.zeros(len(directions)))
    for piece in chunks(indices, backend.chunk_size):
        deviation = backend.projections(piece, directions) - means
        total = total + ProjectionSums(len(piece), deviation.sum(axis=0), (deviation**2).sum(axis=0))
    return total


def gradient_moments(backend: Backend, wrong: np.ndarray | None = None) -> GradientMoments:
    """Moments of the whole training set, in two passes.

    Parameters
    ----------
    backend : Backend
    wrong : ndarray of bool, shape (N,), or None
        The samples with wrong labels; None where unknown.
    """
    everyone = np.arange(backend.n_samples)
    if wrong is None:
        groups = [everyone]
    else:
        groups = [members for members in (everyone[~wrong], everyone[wrong]) if len(members)]
    with still(backend):
        sums = [sum_gradients(backend, members) for members in groups]
        total = sums[0] if len(sums) == 1 else sums[0] + sums[1]
        populations = [
            _population(backend, members, part, total.mean) for members, part in zip(groups, sums, strict=True)
        ]
    if len(populations) == 2:
        clean, faulty = populations
        fraction = faulty.count / backend.n_samples
        return GradientMoments(
            _merged(clean, faulty, fraction, total), clean, faulty, float(sums[0].mean @ sums[1].mean), fraction
        )
    only = populations[0]
    if wrong is None:
        return GradientMoments(only, None, None, float("nan"), float("nan"))
    all_wrong = bool(wrong.all())
    return GradientMoments(
        only, None if all_wrong else only, only if all_wrong else None, float("nan"), float(all_wrong)
    )


def _first_pass(backend: Backend, indices: np.ndarray) -> GradientSums:
    found = backend.gradient_sums(indices)
    errors = float(np.sum(1.0 - found.correct))
    return GradientSums(
        len(indices), float(found.loss.sum()), errors, float(found.squared_norm.sum()), found.gradient_sum
    )


def _population(
    backend: Backend, indices: np.ndarray, sums: GradientSums, mean_of_all: np.ndarray
) -> PopulationMoments:
    own = sums.mean
    centres = np.array([own @ mean_of_all, own @ own])
    projected = sum_projections(backend, indices, np.stack([mean_of_all, own]), centres)
    drift = projected.deviation / projected.count
    variance = np.maximum(0.0, projected.squared_deviation / projected.count - drift**2)
    return PopulationMoments(
        count=sums.count,
        loss=sums.loss / sums.count,
        error=sums.errors / sums.count,
        mean_squared_norm=sums.squared_norm / sums.count,
        squared_mean=float(centres[1]),
        mean_on_mean=float(centres[0] + drift[0]),
        variance_on_mean=float(variance[0]),
        variance_on_own=float(variance[1]),
    )


def _merged(
    clean: PopulationMoments, wrong: PopulationMoments, fraction: float, sums: GradientSums
) -> PopulationMoments:
    mean = sums.mean
    gap = (clean.mean_on_mean - wrong.mean_on_mean) ** 2
    variance = mixture_variance(fraction, clean.variance_on_mean, wrong.variance_on_mean, gap)
    return PopulationMoments(
        count=sums.count,
        loss=sums.loss / sums.count,
        error=sums.errors / sums.count,
        mean_squared_norm=sums.squared_norm / sums.count,
        squared_mean=float(mean @ mean),
        mean_on_mean=(1 - fraction) * clean.mean_on_mean + fraction * wrong.mean_on_mean,
        variance_on_mean=variance,
        variance_on_own=variance,
    )
