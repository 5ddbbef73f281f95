"""Brute force: every minibatch of tiny data, and the paper's definitions applied to them word by word."""

from itertools import combinations, product

import numpy as np

from sgdphases.estimators.backend import SampleGradients, Scores


class TableBackend:
    """A backend whose per-sample gradients are the rows of a given table."""

    def __init__(self, gradients, chunk_size=10**6):
        self.table = np.asarray(gradients, dtype=np.float64)
        self.n_samples, self.n_parameters = self.table.shape
        self.chunk_size = chunk_size

    def scores(self, indices):
        return Scores(np.ones(len(indices)), np.zeros(len(indices)))

    def gradient_sums(self, indices):
        assert len(indices) <= self.chunk_size
        rows = self.table[indices]
        return SampleGradients(*self.scores(indices), (rows**2).sum(axis=1), rows.sum(axis=0))

    def weighted_sums(self, indices, coefficients):
        assert len(indices) <= self.chunk_size
        return coefficients.T @ self.table[indices]

    def gram(self, indices, others):
        assert max(len(indices), len(others)) <= self.chunk_size
        return self.table[indices] @ self.table[others].T

    def projections(self, indices, directions):
        assert len(indices) <= self.chunk_size
        return self.table[indices] @ np.asarray(directions).T


def minibatches(members, size, replacement):
    """All minibatches of that size, as index tuples; with replacement in every order, all equally likely."""
    return list(product(members, repeat=size)) if replacement else list(combinations(members, size))


def plain_ensemble(gradients, batch_size, replacement=False):
    """Mean gradient of every minibatch, one a row."""
    batches = minibatches(range(len(gradients)), batch_size, replacement)
    return np.array([gradients[list(batch)].mean(axis=0) for batch in batches])


def stratified_ensemble(gradients, wrong, size_c, size_w, replacement=False):
    """Mean gradient of every minibatch of size_c clean and size_w wrong samples, drawn independently."""
    clean = minibatches(np.flatnonzero(~wrong), size_c, replacement)
    faulty = minibatches(np.flatnonzero(wrong), size_w, replacement)
    return np.array([gradients[[*a, *b]].mean(axis=0) for a in clean for b in faulty])


def definitions(ensemble):
    """Order parameters of an enumerated ensemble, straight from Feng & Tu 2021, eqs 5-9."""
    g = ensemble.mean(axis=0)
    directed = g @ g
    found = {
        "activity": (ensemble**2).sum(axis=1).mean(),
        "directed_activity": directed,
        "total_variance": np.trace(np.atleast_2d(np.cov(ensemble.T, bias=True))),
    }
    if directed > 0:
        lam = ensemble @ g / directed
        across = ensemble - lam[:, None] * g
        found["mean_projection"] = lam.mean()
        found["projection_variance"] = (lam**2).mean() - 1
        found["orthogonal_activity"] = (across**2).sum(axis=1).mean()
        found["parallel_activity"] = (lam**2).mean() * directed
        found["parallel_variance"] = ((lam**2).mean() - 1) * directed
    return found
