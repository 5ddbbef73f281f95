"""Alignment R of minibatch gradients, from sampled minibatches, with a standard error."""

from typing import NamedTuple

import numpy as np

from sgdphases.estimators.backend import Backend, chunks
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.ensemble.workers import Workers, alone
from sgdphases.estimators.errors import UsageError

MIN_BATCHES = 3  # fewer leave no jackknife standard error
MIN_DISJOINT = 6  # fewer leave none to rely on: of three batches of real images it was too small by a factor of four


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


def mean_cosine(gram: np.ndarray) -> Alignment:
    """Unbiased mean cosine over all pairs of vectors, from their inner products (Feng & Tu 2021, eq 6).

    The mean of ``K_ij / sqrt(K_ii K_jj)`` over i != j, which is ``(|sum of unit vectors|^2 - M) / (M (M-1))``, with the
    jackknife standard error of this U-statistic.

    Parameters
    ----------
    gram : ndarray, shape (M, M)
        Inner products of M independently drawn minibatch gradients; fewer than three of them, or one of norm zero,
        give NaN.
    """
    n, squares = len(gram), np.diag(gram)
    if n < MIN_BATCHES or not (squares > 0).all():
        return UNDEFINED
    norms = np.sqrt(squares)
    rows = (gram / norms / norms[:, None]).sum(axis=1) - 1  # cosines of each with all others
    left_out = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    spread = np.sqrt((n - 1) / n * ((left_out - left_out.mean()) ** 2).sum())
    return Alignment(float(rows.sum() / (n * (n - 1))), float(spread))


def sampled_alignment(
    backend: Backend,
    *,
    batch_size: int,
    n_batches: int,
    rng: np.random.Generator,
    wrong: np.ndarray | None = None,
    replacement: bool = False,
    disjoint: bool = False,
    workers: Workers | None = None,
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
    disjoint : bool
        Draw minibatches that share no sample, as many of the M as there are: for a random subset of a larger data set,
        whose minibatches would share few. NaN where there are fewer than six.
    workers : Workers or None
        The others that share in the samples, with generators in the same state; None for none.

    Raises
    ------
    UsageError
        If M is below 3 or no minibatch of that size exists.
    InputError
        If the mask does not fit the data.
    """
    everyone = alone(backend.n_samples) if workers is None else workers
    if n_batches < MIN_BATCHES:
        raise UsageError(
            f"{n_batches} minibatches give no standard error of the alignment: draw at least {MIN_BATCHES}."
        )
    if not replacement and batch_size > everyone.total:
        raise UsageError(f"batch_size = {batch_size} exceeds the {everyone.total} samples.")
    mask = check_mask(wrong, backend.n_samples)
    order = rng.permutation(everyone.total) if disjoint else None
    if disjoint:
        n_batches = min(n_batches, everyone.total // batch_size)
        if n_batches < MIN_DISJOINT:
            return SampledAlignment(UNDEFINED, UNDEFINED, UNDEFINED)
    if order is None:
        drawn = np.array([rng.choice(everyone.total, size=batch_size, replace=replacement) for _ in range(n_batches)])
    else:
        drawn = order[: n_batches * batch_size].reshape(n_batches, batch_size)
    if workers is None and hasattr(backend, "alignments") and batch_size <= backend.chunk_size:
        return SampledAlignment(*(Alignment(*pair) for pair in backend.alignments(drawn, mask).tolist()))
    gradients, sizes = _one_by_one(backend, drawn - everyone.first, mask)
    sides = len(gradients)
    gradients, present = everyone.add(gradients), everyone.add(sizes) > 0
    flat = gradients.reshape(sides * n_batches, -1)
    gram = (flat @ flat.T).reshape(sides, n_batches, sides, n_batches)
    whole = mean_cosine(gram.sum(axis=(0, 2)))
    if mask is None:
        return SampledAlignment(whole, UNDEFINED, UNDEFINED)
    clean, faulty = (mean_cosine(gram[side, :, side][np.ix_(present[side], present[side])]) for side in range(sides))
    return SampledAlignment(whole, clean, faulty)


def _one_by_one(backend: Backend, batches: np.ndarray, mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Gradients of the clean and wrong parts of minibatches, as far as their samples are here, and numbers of samples.

    Shapes (k, M, P) and (k, M), with k = 1 where the parts are unknown.
    """
    sides = 1 if mask is None else 2
    gradients, sizes = np.zeros((sides, len(batches), backend.n_parameters)), np.zeros((sides, len(batches)))
    for number, drawn in enumerate(batches):
        batch = drawn[(drawn >= 0) & (drawn < backend.n_samples)]
        members = np.ones((len(batch), 1)) if mask is None else np.stack([~mask[batch], mask[batch]], 1).astype(float)
        for piece in chunks(np.arange(len(batch)), backend.chunk_size):
            gradients[:, number] += backend.weighted_sums(batch[piece], members[piece])
        sizes[:, number] = members.sum(axis=0)
    return gradients, sizes
