"""Moments of per-sample gradients, from additive statistics.

Two passes over the samples suffice for every scalar of the minibatch ensemble: the first sums losses, squared norms
and gradients; the second, with the mean gradients known, sums projections on them. Both kinds of sum are additive,
so chunks, workers and devices can be added up in any order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from sgdphases.estimators.backend import GradientSource, chunks, frozen_weights, own_copy, to_numpy
from sgdphases.estimators.ensemble.workers import Workers
from sgdphases.theory.ensemble import mixture_variance
from sgdphases.theory.order_parameters import GradientMoments, PopulationMoments

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

    @cached_property
    def directions(self) -> np.ndarray:
        """Mean gradients, shape (2 K - 1, P): of one population alone, or of the first, of all samples, of the second.

        So a population's own and that of all samples are neighbours, and nothing as long as P is copied again. Zero
        where a population is empty.
        """
        table = np.empty((2 * len(self.count) - 1, self.gradient.shape[1]))
        table[len(table) // 2] = self.gradient.sum(axis=0) / self.count.sum()
        if len(table) > 1:
            np.divide(self.gradient, np.maximum(self.count, 1)[:, None], out=table[::2])
        return table

    @property
    def means(self) -> np.ndarray:
        """Mean gradient of each population, shape (K, P)."""
        return self.directions[::2]

    @property
    def mean(self) -> np.ndarray:
        """Mean gradient of all samples, shape (P,)."""
        return self.directions[len(self.directions) // 2]


@dataclass(frozen=True, eq=False)
class ProjectionSums:
    """Second pass: sums of deviations and of their squares, shape (K, 2); they add up like those of the first.

    The columns are projections on the mean gradient of all samples and on the population's own, each less the value
    expected from the first pass, so that nothing is lost where a variance is much smaller than a mean.
    """

    deviation: np.ndarray
    squared_deviation: np.ndarray


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
    # One population after the other: a chunk of both would need its samples weighted twice, at twice the cost.
    groups = [np.arange(backend.n_samples)] if wrong is None else [np.flatnonzero(~wrong), np.flatnonzero(wrong)]
    at_once = backend.moments(groups) if workers is None and hasattr(backend, "moments") else None
    if at_once is not None:
        return at_once
    with frozen_weights(backend):
        sums = _merged_over(workers, sum_gradients(backend, groups))
        projected = _merged_over(workers, sum_projections(backend, groups, sums))
    totals = [float(values.sum()) for values in (sums.loss, sums.errors, sums.squared_norm)]
    return _moments(_populations(sums, projected), sums.means, sums.mean, totals)


def _moments(
    populations: Sequence[PopulationMoments | None],
    means: Sequence[np.ndarray] | np.ndarray,
    mean: np.ndarray,
    totals: Sequence[float],
) -> GradientMoments:
    """Moments of all samples from those of one population, all of them, or of two, the clean and the wrong samples.

    ``totals``: losses, errors and squared norms, added up over all samples.
    """
    if len(populations) == 1:
        whole = populations[0]
        assert whole is not None  # there is at least one sample
        return GradientMoments(whole, None, None, float("nan"), float("nan"))
    clean, faulty = populations
    if clean is None or faulty is None:
        only = faulty if clean is None else clean
        assert only is not None
        return GradientMoments(only, clean, faulty, float("nan"), 0.0 if faulty is None else 1.0)
    fraction = faulty.count / (clean.count + faulty.count)
    whole = _merged(clean, faulty, fraction, inner(mean, mean), totals)
    return GradientMoments(whole, clean, faulty, inner(*means), fraction)


def sum_gradients(backend: GradientSource, populations: Sequence[np.ndarray]) -> GradientSums:
    """First pass, in chunks: sums over each of K populations, given by the numbers of their samples."""
    sums, gradients = np.zeros((3, len(populations))), np.zeros((len(populations), backend.n_parameters))
    for k, indices in enumerate(populations):
        gradient: Any = None
        for piece in chunks(indices, backend.chunk_size):
            found = backend.gradient_sums(piece)
            sums[:, k] += found.loss.sum(), (1.0 - found.correct).sum(), found.squared_norm.sum()
            if gradient is None:
                gradient = own_copy(found.gradient_sum)
            else:
                gradient += found.gradient_sum
        if gradient is not None:
            gradients[k] = to_numpy(gradient)
    count = np.array([float(len(indices)) for indices in populations])
    return GradientSums(count, sums[0], sums[1], sums[2], gradients)


def sum_projections(backend: GradientSource, populations: Sequence[np.ndarray], sums: GradientSums) -> ProjectionSums:
    """Second pass, in chunks: with the mean gradients that the first one found for all samples together."""
    first, second = np.zeros((2, len(populations), 2))
    for k, indices in enumerate(populations):
        directions = sums.directions[k : k + 2]
        centres = np.array([inner(sums.means[k], direction) for direction in directions])
        columns = [1 - k, k] if len(directions) == 2 else [0, 0]  # of the mean, of the population's own
        for piece in chunks(indices, backend.chunk_size):
            deviations = backend.projections(piece, directions) - centres
            first[k] += deviations.sum(axis=0)[columns]
            second[k] += (deviations**2).sum(axis=0)[columns]
    return ProjectionSums(first, second)


def inner(one: np.ndarray, other: np.ndarray) -> float:
    """Inner product of two long vectors; not by BLAS, whose idle threads would hold up those of the backend."""
    return float(np.einsum("i,i->", one, other))


def _merged_over(workers: Workers | None, sums: Sums) -> Sums:
    return sums if workers is None else type(sums)(*(workers.add(values) for values in _values(sums)))


def _values(sums: Any) -> list[np.ndarray]:
    return [getattr(sums, entry.name) for entry in fields(sums)]


def _populations(sums: GradientSums, projected: ProjectionSums) -> list[PopulationMoments | None]:
    found: list[PopulationMoments | None] = []
    for k, own in enumerate(sums.means):
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
                mean_on_mean=float(inner(own, sums.mean) + drift[0]),
                variance_on_mean=float(variance[0]),
                variance_on_own=float(variance[1]),
            )
        )
    return found


def _merged(
    clean: PopulationMoments, wrong: PopulationMoments, fraction: float, squared_mean: float, totals: Sequence[float]
) -> PopulationMoments:
    gap = (clean.mean_on_mean - wrong.mean_on_mean) ** 2
    variance = mixture_variance(fraction, clean.variance_on_mean, wrong.variance_on_mean, gap)
    count = clean.count + wrong.count
    loss, errors, squared_norm = totals
    return PopulationMoments(
        count=count,
        loss=loss / count,
        error=errors / count,
        mean_squared_norm=squared_norm / count,
        squared_mean=squared_mean,
        mean_on_mean=(1 - fraction) * clean.mean_on_mean + fraction * wrong.mean_on_mean,
        variance_on_mean=variance,
        variance_on_own=variance,
    )
