"""The ensemble of all minibatches, in closed form (Feng & Tu 2021, eqs 5-9 and 10-15).

Every function takes plain numbers (or arrays of them, element by element) and returns float64. With
per-sample gradients ``g_i``, their mean ``g`` and batch size ``B``, the covariance of minibatch gradients is
``C = kappa Sigma``, where ``Sigma`` is the population covariance of the ``g_i`` (normalised by N, not N-1).
"""

import math
from typing import NamedTuple

import numpy as np


class ActivitySplit(NamedTuple):
    """A = A0 + D, and both split along and across the mean gradient (Feng & Tu 2021, eqs 8 and 9)."""

    activity: float
    total_variance: float
    projection_variance: float
    parallel_variance: float
    parallel_activity: float
    orthogonal_activity: float


def variance_factor(n_samples: float, batch_size: float, *, replacement: bool = False) -> float:
    """kappa, the factor between the covariance of samples and that of minibatch means.

    Parameters
    ----------
    n_samples : float
        N, at least 1.
    batch_size : float
        B, between 0 (excluded) and N without replacement. It need not be whole: a stratum of a
        minibatch holds rho*B samples on average, and the closed form is defined for that too.
    replacement : bool
        Whether a minibatch may hold a sample twice.

    Returns
    -------
    float
        ``1/B`` with replacement; ``(N-B) / (B (N-1))`` without (Feng & Tu 2021, eq 5, in closed form).
        Zero for B = N without replacement, and for a single sample, which does not vary.

    Raises
    ------
    ValueError
        If the sizes allow no such minibatch.
    """
    if not n_samples >= 1:
        raise ValueError(f"n_samples = {n_samples}: an ensemble of minibatches needs at least one sample.")
    if not batch_size > 0:
        raise ValueError(f"batch_size = {batch_size}: a minibatch needs a positive size.")
    if replacement:
        return 1.0 / batch_size
    if batch_size > n_samples * (1 + 1e-12):
        raise ValueError(
            f"batch_size = {batch_size} exceeds the {n_samples} samples: without replacement it can be "
            f"at most that; choose a smaller batch or replacement=True."
        )
    return factor_without_repeats(n_samples, batch_size)


def factor_without_repeats(n_samples: float, batch_size: float) -> float:
    """`variance_factor` without replacement, for sizes known to allow such a minibatch."""
    if n_samples == 1:
        return 0.0
    return max(0.0, (n_samples - batch_size) / (batch_size * (n_samples - 1)))


def split_activity(directed_activity: float, total_variance: float, variance_along_mean: float) -> ActivitySplit:
    """Split activity and variance along the mean gradient (Feng & Tu 2021, eqs 7-9).

    Parameters
    ----------
    directed_activity : float
        ``A0 = |g|^2``, in squared units of the gradient, as are A and D.
    total_variance : float
        ``D = Tr C``.
    variance_along_mean : float
        ``g^T C g``, the variance of ``g^mu . g`` over minibatches, in the fourth power of the gradient.

    Returns
    -------
    ActivitySplit
        ``projection_variance``, ``parallel_*`` and ``orthogonal_activity`` are NaN where A0 = 0.
    """
    parallel = ratio(variance_along_mean, directed_activity)
    return ActivitySplit(
        activity=directed_activity + total_variance,
        total_variance=total_variance,
        projection_variance=ratio(parallel, directed_activity),
        parallel_variance=parallel,
        parallel_activity=directed_activity + parallel,
        orthogonal_activity=total_variance - parallel,
    )


def cosine(inner_product: float, squared_norm: float, other_squared_norm: float) -> float:
    """Cosine of the angle between two vectors (Feng & Tu 2021, eqs 6, 13).

    NaN where one of them is zero, or where an estimate of its squared norm is negative.
    """
    if squared_norm < 0 or other_squared_norm < 0:
        return math.nan
    value = ratio(inner_product, math.sqrt(squared_norm) * math.sqrt(other_squared_norm))
    return value if -1.0 <= value <= 1.0 or value != value else math.copysign(1.0, value)


def mixture_variance(fraction: float, variance_c: float, variance_w: float, squared_gap: float) -> float:
    """Variance of a mixture of two populations: within each, and between their means.

    ``(1-rho) V_c + rho V_w + rho (1-rho) gap^2``: the trace of the covariance of per-sample gradients when
    ``squared_gap = |g_c - g_w|^2``, the variance of a projection when it is the squared gap of its means.
    """
    return (1 - fraction) * variance_c + fraction * variance_w + fraction * (1 - fraction) * squared_gap


def stratified_variance(fraction: float, batch_variance_c: float, batch_variance_w: float) -> float:
    """Variance of a minibatch mean made of (1-rho)B clean and rho B wrong samples, drawn independently.

    ``(1-rho)^2 kappa_c V_c + rho^2 kappa_w V_w``; the arguments are the already scaled ``kappa V``.
    """
    return (1 - fraction) ** 2 * batch_variance_c + fraction**2 * batch_variance_w


def activity_from_populations(
    fraction: float,
    activity_c: float,
    activity_w: float,
    squared_norm_c: float,
    squared_norm_w: float,
    alignment_cw: float,
) -> float:
    """Total activity of the stratified ensemble from its two populations (Feng & Tu 2021, eq 15).

    ``(1-rho)^2 A_c + rho^2 A_w + 2 rho (1-rho) |g_c| |g_w| R_cw``.
    """
    cross = np.sqrt(squared_norm_c) * np.sqrt(squared_norm_w) * alignment_cw
    return float((1 - fraction) ** 2 * activity_c + fraction**2 * activity_w + 2 * fraction * (1 - fraction) * cross)


def plain_excess(fraction: float, squared_gap: float, batch_size: float) -> float:
    """What plain minibatches drawn with replacement add to eq 15: ``rho (1-rho) |g_c - g_w|^2 / B``."""
    return fraction * (1 - fraction) * squared_gap / batch_size


def ratio(numerator: float, denominator: float) -> float:
    """Quotient, NaN where the denominator is zero: undefined, and said so."""
    return float(numerator / denominator) if denominator > 0 else math.nan
