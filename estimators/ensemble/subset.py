"""Order parameters of a data set from a random subset of its samples: unbiased, each with a standard error.

The mean gradient of n samples is longer than that of all N, by their noise: ``E|g_n|^2 = |g|^2 + (1/n - 1/N) Tr S``.
So A0 comes out too large, and sigma_lambda^2 too small. Here ``|g|^2`` is a U-statistic over distinct samples,
corrected for the finite N (the form that McCandlish et al. 2018 use for two batch sizes); the variance along the mean
gradient compares samples of one group with the mean gradients of two others, so that no sample meets its own noise.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdphases.estimators.backend import GradientSource, chunks, frozen_weights, own_copy, to_numpy
from sgdphases.estimators.ensemble.checks import check_ensemble, check_mask
from sgdphases.estimators.ensemble.order_parameters import OrderParameters, from_moments
from sgdphases.estimators.ensemble.workers import Workers, alone
from sgdphases.estimators.errors import UsageError
from sgdphases.theory.ensemble import mixture_variance
from sgdphases.theory.order_parameters import GradientMoments, PopulationMoments

GROUPS = 6  # of samples, left out in turn for the standard errors
EXACT = ("noise_fraction", "mean_projection", "alignment", "alignment_c", "alignment_w")  # or estimated elsewhere
OF_POPULATIONS = ("_c", "_w", "_cw", "_ac", "_aw")
LEAST = 2 * GROUPS  # samples of a population from which its moments can be estimated


@dataclass(frozen=True, eq=False)
class _Observed:
    """What two passes over the n samples of one population leave; G groups, S populations.

    ``size``: samples of the population in the whole data set; ``group``: shape (n,); ``loss``, ``error``,
    ``squared_norm``: shape (n,); ``projections``: ``g_i`` on the mean gradient of every group of every population,
    shape (n, S, G).
    """

    size: int
    group: np.ndarray
    loss: np.ndarray
    error: np.ndarray
    squared_norm: np.ndarray
    projections: np.ndarray


def measure_subset(
    backend: GradientSource,
    *,
    batch_size: int,
    sizes: Sequence[int],
    wrong: np.ndarray | None = None,
    rng: np.random.Generator,
    workers: Workers | None = None,
) -> OrderParameters:
    """Order parameters of SGD on a data set of which a backend holds a random subset (Feng & Tu 2021, eqs 5-15).

    Minibatches are plain ones, drawn without replacement from the whole data set.

    Parameters
    ----------
    backend : GradientSource
        Around n samples drawn without replacement.
    batch_size : int
        B, 1 to n.
    sizes : sequence of int
        N; or N_c and N_w, the samples with right and wrong labels in the whole data set, if ``wrong`` is given.
    wrong : ndarray of bool, shape (n,), or None
        Samples with wrong labels.
    rng : numpy.random.Generator
        Of the division into groups.
    workers : Workers or None
        The others that share in the n samples, with generators in the same state; None where this process has them all.

    Returns
    -------
    OrderParameters
        With a jackknife standard error, over `GROUPS` groups of samples, for every closed form that varies. A0 may be
        negative where it cannot be distinguished from zero; ratios to it are NaN then.

    Raises
    ------
    UsageError
        If the subset is too small for the batch size, or for a standard error.
    InputError
        If the mask does not fit the samples.
    """
    everyone = alone(backend.n_samples) if workers is None else workers
    mask = check_mask(wrong, backend.n_samples)
    check_ensemble(everyone.total, batch_size, False, "plain", known=mask is not None)
    members = [np.arange(everyone.total)]
    if mask is not None:
        of_all = everyone.gather(mask) > 0.5
        members = [np.flatnonzero(~of_all), np.flatnonzero(of_all)]
    for indices, size in zip(members, sizes, strict=True):
        if len(indices) > size:
            raise UsageError(f"a subset of {len(indices)} samples cannot be drawn from {size}.")
        if size and len(indices) < LEAST:
            raise UsageError(
                f"{len(indices)} samples of a population of {size} are too few to estimate its moments: "
                f"measure at least {LEAST} of each."
            )
    present = [(indices, size) for indices, size in zip(members, sizes, strict=True) if size]
    with frozen_weights(backend):
        observed, gram = _observe(backend, present, rng, everyone)
    fraction = float("nan") if mask is None else sizes[1] / sum(sizes)

    def scalars(kept: np.ndarray) -> tuple[OrderParameters, dict[str, float]]:
        found = [_population(observed, gram, k, kept) for k in range(len(observed))]
        moments = _joined(found, mask is not None, sizes, fraction)
        parameters = from_moments(moments, batch_size)
        return parameters, parameters.scalars()

    everything, values = scalars(np.arange(GROUPS))
    left_out = [scalars(np.delete(np.arange(GROUPS), k))[1] for k in range(GROUPS)]
    unseen = 1 - everyone.total / sum(sizes)
    errors = {}
    for name in values:
        if name in EXACT or (mask is None and name.endswith(OF_POPULATIONS)):
            continue
        rows = np.array([row[name] for row in left_out])
        errors[name] = float(np.sqrt(unseen * (GROUPS - 1) / GROUPS * ((rows - rows.mean()) ** 2).sum()))
    return everything.with_values(standard_errors=errors)


def _observe(
    backend: GradientSource, present: list, rng: np.random.Generator, everyone: Workers
) -> tuple[list[_Observed], np.ndarray]:
    """The two passes over this worker's samples; and the inner products of the groups' mean gradients, (S, G, S, G)."""
    totals = np.zeros((len(present), GROUPS, backend.n_parameters))
    groups = [rng.permutation(np.arange(len(indices)) % GROUPS) for indices, _ in present]
    first = [np.zeros((3, len(indices))) for indices, _ in present]
    numbers = [indices - everyone.first for indices, _ in present]  # as this worker's backend has them
    own = [(number >= 0) & (number < backend.n_samples) for number in numbers]
    for k, number in enumerate(numbers):
        for g in range(GROUPS):
            total: Any = None
            for piece in chunks(np.flatnonzero((groups[k] == g) & own[k]), backend.chunk_size):
                found = backend.gradient_sums(number[piece])
                first[k][:, piece] = found.loss, 1.0 - found.correct, found.squared_norm
                if total is None:
                    total = own_copy(found.gradient_sum)
                else:
                    total += found.gradient_sum
            if total is not None:
                totals[k, g] = to_numpy(total)
    means = everyone.add(totals)
    for k, group in enumerate(groups):
        means[k] /= np.bincount(group, minlength=GROUPS)[:, None]
    flat = means.reshape(-1, means.shape[-1])
    shape = means.shape[:2]
    observed = []
    for k, (indices, size) in enumerate(present):
        onto = np.zeros((len(indices), len(flat)))
        for piece in chunks(np.flatnonzero(own[k]), backend.chunk_size):
            onto[piece] = backend.projections(numbers[k][piece], flat)
        loss, error, squared_norm = everyone.add(first[k])
        onto = everyone.add(onto).reshape(-1, *shape)
        observed.append(_Observed(size, groups[k], loss, error, squared_norm, onto))
    return observed, (flat @ flat.T).reshape(shape * 2)


def _population(observed: list[_Observed], gram: np.ndarray, k: int, kept: np.ndarray) -> tuple[PopulationMoments, Any]:
    """Moments of population k from some groups, and the inner products of its mean gradient with those of others."""
    own = observed[k]
    inside = np.isin(own.group, kept)
    n, size = int(inside.sum()), own.size
    weights = [np.bincount(o.group, minlength=GROUPS)[kept] / np.isin(o.group, kept).sum() for o in observed]
    products = np.array(
        [weights[k] @ gram[k][kept, j][:, kept] @ weights[j] for j in range(len(observed))]
    )
    squares = float(own.squared_norm[inside].mean())
    distinct = (n * products[k] - squares) / (n - 1)
    products[k] = ((size - 1) * distinct + squares) / size
    shares = np.array([o.size for o in observed]) / sum(o.size for o in observed)
    towards = np.einsum("isg,s->ig", own.projections, shares)
    overall = np.stack([weights[j] * shares[j] for j in range(len(observed))])
    plain_all = np.einsum("isg,sg->i", own.projections[:, :, kept], overall)[inside]
    plain_own = (own.projections[:, k][:, kept] @ weights[k])[inside]
    moments = PopulationMoments(
        count=size,
        loss=float(own.loss[inside].mean()),
        error=float(own.error[inside].mean()),
        mean_squared_norm=squares,
        squared_mean=float(products[k]),
        mean_on_mean=float(products @ shares),
        variance_on_mean=_variance(towards, plain_all, own.group, kept, n / size, size),
        variance_on_own=_variance(own.projections[:, k], plain_own, own.group, kept, n / size, size),
    )
    return moments, products


def _variance(projections, plain, group, kept, share: float, size: int) -> float:
    """Variance along the mean gradient: covariance of projections on the means of two groups, in a third.

    It is too low by ``Tr S^2 / N``, the variance of projections on the common mean too high by
    ``(1/n - 1/N) Tr S^2``; weighted by n/N the two are free of both.
    """
    found = []
    for own in kept:
        others = np.setdiff1d(kept, own)
        centred = projections[group == own][:, others]
        centred = centred - centred.mean(axis=0)
        m = len(others)
        pairs = (centred.sum(axis=1) ** 2 - (centred**2).sum(axis=1)).sum()
        found.append(pairs / (m * (m - 1)) / (len(centred) - 1))
    apart = float(np.mean(found))
    value = apart + share * (float(plain.var(ddof=1)) - apart)
    return max(value * (size - 1) / size, 0.0)


def _joined(found: list, known: bool, sizes: Sequence[int], fraction: float) -> GradientMoments:
    nan = float("nan")
    if not known:
        return GradientMoments(found[0][0], None, None, nan, nan)
    if len(found) == 1:
        only = found[0][0]
        clean, wrong = (only, None) if sizes[0] else (None, only)
        return GradientMoments(only, clean, wrong, nan, fraction)
    (of_clean, products), (of_wrong, _) = found
    product = float(products[1])
    gap = (of_clean.mean_on_mean - of_wrong.mean_on_mean) ** 2
    variance = mixture_variance(fraction, of_clean.variance_on_mean, of_wrong.variance_on_mean, gap)

    def mean(name: str) -> float:
        return (1 - fraction) * getattr(of_clean, name) + fraction * getattr(of_wrong, name)

    whole = PopulationMoments(
        count=int(sum(sizes)),
        loss=mean("loss"),
        error=mean("error"),
        mean_squared_norm=mean("mean_squared_norm"),
        squared_mean=mean("mean_on_mean"),
        mean_on_mean=mean("mean_on_mean"),
        variance_on_mean=variance,
        variance_on_own=variance,
    )
    return GradientMoments(whole, of_clean, of_wrong, product, fraction)
