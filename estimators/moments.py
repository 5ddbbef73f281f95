"""Additive statistics of per-sample gradients, and the moments they give.

Two passes over the samples suffice for every scalar of the minibatch ensemble: the first sums losses, squared norms
and gradients; the second, with the mean gradients known, sums projections on them. Both kinds of sum merge by ``+``,
so chunks, workers and devices can be added up in any order.
"""

from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np

from sgdphases.estimators.backend import GradientSource, chunks, own_copy, still, to_numpy
from sgdphases.estimators.workers import Workers
from sgdphases.theory.minibatch_ensemble import mixture_variance

Sums = TypeVar("Sums", "GradientSums", "ProjectionSums")


@dataclass(frozen=True, eq=False)
class GradientSums:
    """First pass: sums over the samples of each of K populations; those of several workers add up, array by array.

    ``count``, ``loss``, ``errors``, ``squared_norm``: shape (K,); ``gradient``: shape (K, P).
    """

    count: np.ndarray
    loss: np.ndarray
    errors: np.ndarray
    squared_norm: np.ndarray
    gradient: np.ndarray

    @property
    def means(self) -> np.ndarray:
        """Mean gradient of each population, shape (K, P); zero where it is empty."""
        return self.gradient / np.maximum(self.count, 1)[:, None]


@dataclass(frozen=True, eq=False)
class ProjectionSums:
    """Second pass: sums of deviations and of their squares, shape (K, 2); merge with ``+``.

    The columns are projections on the mean gradient of all samples and on the population's own, each less the value
    expected from the first pass, so that nothing is lost where a variance is much smaller than a mean.
    """

    count: np.ndarray
    deviation: np.ndarray
    squared_deviation: np.ndarray

    def __add__(self, other: "ProjectionSums") -> "ProjectionSums":
        return ProjectionSums(*(a + b for a, b in zip(_values(self), _values(other), strict=True)))


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


def gradient_moments(
    backend: GradientSource, wrong: np.ndarray | None = None, workers: Workers | None = None
) -> GradientMoments:
    """Batch-free moments of the per-sample gradients of all, clean and wrong samples (Feng & Tu 2021, eqs 5-15).

    Parameters
    ----------
    backend : GradientSource
        A backend, or a part of one.
    wrong : ndarray of bool, shape (N,), or None
        The samples with wrong labels; None where unknown.
    workers : Workers or None
        The others that share in the samples; None where this process has them all.
    """
    members = np.ones((backend.n_samples, 1)) if wrong is None else np.stack([~wrong, wrong], axis=1).astype(float)
    with still(backend):
        sums = _merged_over(workers, sum_gradients(backend, members))
        projected = _merged_over(workers, sum_projections(backend, members, sums))
    populations = _populations(sums, projected)
    if wrong is None:
        whole = populations[0]
        assert whole is not None  # there is at least one sample
        return GradientMoments(whole, None, None, float("nan"), float("nan"))
    clean, faulty = populations
    fraction = float(sums.count[1] / sums.count.sum())
    if clean is None or faulty is None:
        only = faulty if clean is None else clean
        assert only is not None  # there is at least one sample
        return GradientMoments(only, clean, faulty, float("nan"), fraction)
    product = inner(*sums.means)
    return GradientMoments(_merged(clean, faulty, fraction, sums), clean, faulty, product, fraction)


def sum_gradients(backend: GradientSource, members: np.ndarray) -> GradientSums:
    """First pass over all samples in chunks; ``members[i, k]`` is 1 where sample i belongs to population k, else 0."""
    total: Any = None
    for piece in chunks(np.arange(backend.n_samples), backend.chunk_size):
        part = members[piece]
        found = backend.gradient_sums(piece, None if part.shape[1] == 1 else part)
        each = np.stack([found.loss, 1.0 - found.correct, found.squared_norm])
        sums = np.where(part.T[None] > 0, each[:, None], 0.0).sum(axis=2)
        if total is None:
            gradient, total, count = own_copy(found.gradient_sum), sums, part.sum(axis=0)
        else:
            gradient += found.gradient_sum
            total, count = total + sums, count + part.sum(axis=0)
    return GradientSums(count, total[0], total[1], total[2], to_numpy(gradient))


def sum_projections(backend: GradientSource, members: np.ndarray, sums: GradientSums) -> ProjectionSums:
    """Second pass over all samples in chunks, with the mean gradients that the first one found."""
    directions, share = sums.means, sums.count / sums.count.sum()
    products = np.array([[inner(a, b) for b in directions] for a in directions])
    centres = np.stack([products @ share, np.diag(products)], axis=1)  # of each population: on the mean, on its own
    n_populations = len(directions)
    total = ProjectionSums(np.zeros(n_populations), *np.zeros((2, n_populations, 2)))
    for piece in chunks(np.arange(backend.n_samples), backend.chunk_size):
        projected = backend.projections(piece, directions)
        on_mean = projected @ share
        part = members[piece]
        deviations = np.stack([on_mean[:, None] - centres[:, 0], projected - centres[:, 1]], axis=2)  # (n, K, 2)
        inside = deviations * part[:, :, None]
        total = total + ProjectionSums(part.sum(axis=0), inside.sum(axis=0), (inside**2).sum(axis=0))
    return total


def inner(one: np.ndarray, other: np.ndarray) -> float:
    """Inner product of two long vectors; not by BLAS, whose idle threads would hold up those of the backend."""
    return float((one * other).sum())


def _merged_over(workers: Workers | None, sums: Sums) -> Sums:
    return sums if workers is None else type(sums)(*(workers.add(values) for values in _values(sums)))


def _values(sums: Any) -> list[np.ndarray]:
    return [getattr(sums, entry.name) for entry in fields(sums)]


def _populations(sums: GradientSums, projected: ProjectionSums) -> list[PopulationMoments | None]:
    share = sums.count / sums.count.sum()
    means = sums.means
    mean = share @ means
    found: list[PopulationMoments | None] = []
    for k, own in enumerate(means):
        count = float(sums.count[k])
        if count == 0:
            found.append(None)
            continue
        drift = projected.deviation[k] / count
        variance = np.maximum(0.0, projected.squared_deviation[k] / count - drift**2)
        found.append(
            PopulationMoments(
                count=int(count),
                loss=float(sums.loss[k] / count),
                error=float(sums.errors[k] / count),
                mean_squared_norm=float(sums.squared_norm[k] / count),
                squared_mean=inner(own, own),
                mean_on_mean=float(inner(own, mean) + drift[0]),
                variance_on_mean=float(variance[0]),
                variance_on_own=float(variance[1]),
            )
        )
    return found


def _merged(
    clean: PopulationMoments, wrong: PopulationMoments, fraction: float, sums: GradientSums
) -> PopulationMoments:
    mean = sums.gradient.sum(axis=0) / sums.count.sum()
    gap = (clean.mean_on_mean - wrong.mean_on_mean) ** 2
    variance = mixture_variance(fraction, clean.variance_on_mean, wrong.variance_on_mean, gap)
    n_samples = sums.count.sum()
    return PopulationMoments(
        count=int(n_samples),
        loss=float(sums.loss.sum() / n_samples),
        error=float(sums.errors.sum() / n_samples),
        mean_squared_norm=float(sums.squared_norm.sum() / n_samples),
        squared_mean=inner(mean, mean),
        mean_on_mean=(1 - fraction) * clean.mean_on_mean + fraction * wrong.mean_on_mean,
        variance_on_mean=variance,
        variance_on_own=variance,
    )
