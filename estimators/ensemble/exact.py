"""Every order parameter that has a closed form, over all minibatches at once."""

import numpy as np

from sgdphases.estimators.backend import GradientSource
from sgdphases.estimators.ensemble.checks import check_ensemble, check_mask
from sgdphases.estimators.ensemble.moments import gradient_moments
from sgdphases.estimators.ensemble.order_parameters import OrderParameters, from_moments
from sgdphases.estimators.ensemble.workers import Workers


def exact(
    backend: GradientSource,
    *,
    batch_size: int,
    wrong: np.ndarray | None = None,
    replacement: bool = False,
    ensemble: str = "plain",
    workers: Workers | None = None,
) -> OrderParameters:
    """Order parameters of the ensemble of all minibatches, without sampling (Feng & Tu 2021, eqs 5-15).

    Two passes over the training set in chunks: memory does not grow with N*P.

    Parameters
    ----------
    backend : GradientSource
        A backend, or a part of one.
    batch_size : int
        B, 1 to N (any with replacement).
    wrong : ndarray of bool, shape (N,), or None
        Samples with wrong labels; None where unknown.
    replacement : bool
        False: what SGD does, minibatches without repeats.
    ensemble : {"plain", "stratified"}
    workers : Workers or None
        The others that share in the samples, which then are N together; None where this process has them all.

    Returns
    -------
    OrderParameters
        With NaN for the sampled alignments R, R_c and R_w.

    Raises
    ------
    UsageError
        If no such ensemble exists.
    InputError
        If the mask does not fit the data.
    """
    total = backend.n_samples if workers is None else workers.total
    check_ensemble(total, batch_size, replacement, ensemble, known=wrong is not None)
    moments = gradient_moments(backend, check_mask(wrong, backend.n_samples), workers)
    return from_moments(moments, batch_size, replacement=replacement, ensemble=ensemble)
