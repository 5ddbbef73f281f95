"""Losses and errors of all samples of a backend."""

import numpy as np

from sgdphases.estimators.backend import Backend, Scores, chunks


def mean_scores(backend: Backend) -> tuple[float, float]:
    """Mean loss and error over all samples of a backend: a forward pass; the error is NaN for regression."""
    found = all_scores(backend)
    return float(found.loss.mean()), float(1.0 - found.correct.mean())


def all_scores(backend: Backend) -> Scores:
    """Losses and correctness of all samples of a backend, in their order: a forward pass in chunks."""
    pieces = [backend.scores(piece) for piece in chunks(np.arange(backend.n_samples), backend.chunk_size)]
    if len(pieces) == 1:
        return pieces[0]
    return Scores(*(np.concatenate(part) for part in zip(*pieces, strict=True)))
