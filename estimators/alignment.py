"""Alignment R of minibatch gradients, from sampled minibatches, with a standard error."""

from typing import NamedTuple

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.exact import check_mask
from sgdphases.estimators.moments import sum_gradients

MIN_BATCHES = 3  # fewer leave no jackknife standard error


class Alignment(NamedTuple):
    """Mean cosine between two independent gradients, and its standard error; NaN where undefined."""

    value: float
    standard_error: float


class SampledAlignment(NamedTuple):
    """Alignment of whole minibatches, and of their clean and wrong parts."""

    everything: Alignment
    clean: Alignment
    wrong: Alignment


UNDEFINED = Alignment(float("nan"), float("nan"))


def mean_cosine(gradients: np.ndarray) -> Alignment:
    """Unbiased mean cosine over all pairs of rows (Feng & Tu 2021, eq 6).

    ``(|sum of unit vectors|^2 - M) / (M (M-1))`` with the jackknife standard error of this U-statistic.

    Parameters
    ----------
    gradients : ndarray, shape (M, P)
        Independently drawn minibatch gradients; fewer than three, or one of norm zero, give NaN.
    """
    n = len(gradients)
    norms = np.linalg.norm(gradients, axis=1)
    if n < MIN_BATCHES or not (norms > 0).all():
        return UNDEFINED
    units = gradients / norms[:, None]
    total = units.sum(axis=0)
    square = total @ total
    left_out = (square - 2 * (units @ total) + 1 - (n - 1)) / ((n - 1) * (n - 2))
    spread = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    return Alignment(float((square - n) / (n * (n - 1))), float(spread))


def sampled_alignment(
    backend: Backend,
    *,
    batch_size: int,
    n_batches: int,
    rng: np.random.Generator,
    wrong: np.ndarray | None = None,
    replacement: bool = False,
) -> SampledAlignment:
    """R, R_c and R_w from independently drawn minibatches (Feng & Tu 2021, eq 6 and below eq 15).

    R_c and R_w compare the clean (wrong) parts of the drawn minibatches, whose sizes are (1-rho)B and rho B on
    average; a minibatch without such a part is left out of that average.

    Parameters
    ----------
    backend : Backend
    batch_size : int
        B.
    n_batches : int
        M, at least 3.
    rng : numpy.random.Generator
    wrong : ndarray of bool, shape (N,), or None
    replacement : bool
        Whether a minibatch may hold a sample twice. Different minibatches may share samples either way.

    Raises
    ------
    UsageError
        If M is below 3 or no minibatch of that size exists.
    InputError
        If the mask does not fit the data.
    """
    if n_batches < MIN_BATCHES:
        raise UsageError(f"{n_batches} minibatches give no standard error of the alignment: draw at least {MIN_BATCHES}.")
    if not replacement and batch_size > backend.n_samples:
        raise UsageError(f"batch_size = {batch_size} exceeds the {backend.n_samples} samples.")
    mask = check_mask(wrong, backend.n_samples)
    wholes, parts = [], ([], [])
    for _ in range(n_batches):
        batch = rng.choice(backend.n_samples, size=batch_size, replace=replacement)
        members = (batch, batch[:0]) if mask is None else (batch[~mask[batch]], batch[mask[batch]])
        whole = np.zeros(backend.n_parameters)
        for kept, part in zip(parts, members, strict=True):
            if len(part):
                gradient = sum_gradients(backend, part).gradient
                kept.append(gradient)
                whole += gradient
        wholes.append(whole)
    everything = mean_cosine(np.stack(wholes))
    if mask is None:
        return SampledAlignment(everything, UNDEFINED, UNDEFINED)
    clean, faulty = (mean_cosine(np.stack(part)) if part else UNDEFINED for part in parts)
    return SampledAlignment(everything, clean, faulty)
