"""The pull of wrong labels at a network's present weights, predicted from clean samples alone."""

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.ensemble.moments import sum_gradients
from sgdphases.estimators.errors import InputError
from sgdphases.theory.clean_priority import GradientBalance
from sgdphases.theory.ensemble import cosine


def predicted_balance(
    backend: Backend, x: np.ndarray, y: np.ndarray, n_wrong: int, transition: np.ndarray
) -> GradientBalance:
    """Ratio and alignment of the mean gradients of clean and wrong samples, before any label is memorised.

    A wrong sample is like a clean one whose label was redrawn by the transition matrix. So the clean samples, given
    every other label in turn with its probability, yield the mean and the variance of the wrong samples' gradients at
    these weights, for any outputs of the network. The prediction fails once labels are memorised, because the network
    then answers wrong samples differently from clean ones.

    Parameters
    ----------
    backend : Backend
        The network; its own data are not used.
    x : ndarray, shape (N_c, ...)
        Clean samples.
    y : ndarray of int, shape (N_c,)
        Their labels.
    n_wrong : int
        N_w, for the share ``rho = N_w / (N_c + N_w)`` and for the sampling noise of the wrong gradient.
    transition : ndarray, shape (K, K)
        Row a: where wrong labels of class a go.

    Returns
    -------
    GradientBalance
        Made of expected squares and inner product.

    Raises
    ------
    InputError
        If there are no clean or wrong samples, or the matrix does not fit the labels.
    """
    y, transition = np.asarray(y), np.asarray(transition, dtype=np.float64)
    n = len(y)
    if n == 0 or n_wrong < 1:
        raise InputError(f"{n} clean and {n_wrong} wrong samples: a balance needs both kinds.")
    if transition.ndim != 2 or transition.shape[0] != transition.shape[1] or y.max() >= len(transition):
        raise InputError(f"a transition matrix of shape {transition.shape} does not fit labels up to {y.max()}.")
    mean_c = sum_gradients(backend.on(x, y), [np.arange(n)]).mean
    mean_w, squared_w = np.zeros_like(mean_c), 0.0
    for label, chances in enumerate(transition.T):
        classes = np.intersect1d(np.flatnonzero(chances), y)
        if len(classes):
            sums = sum_gradients(backend.on(x, np.full(n, label)), [np.flatnonzero(y == each) for each in classes])
            mean_w += chances[classes] @ sums.gradient / n
            squared_w += float(chances[classes] @ sums.squared_norm) / n
    noise = max(squared_w - float(mean_w @ mean_w), 0.0) / n_wrong
    size_c, size_w = float(mean_c @ mean_c), float(mean_w @ mean_w) + noise
    ratio = n_wrong / n * np.sqrt(size_w / size_c) if size_c > 0 else float("nan")
    return GradientBalance(float(ratio), cosine(float(mean_c @ mean_w), size_c, size_w))
