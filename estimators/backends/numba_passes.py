"""Compiled measurements of a multilayer perceptron: what a checkpoint asks for, in one call each.

The sums are those of `numba_kernels`, in the same order, so that nothing depends on which way they were asked for.
Numba's cache on disk knows the tuples below by their names in this module: where one is renamed or removed, older
caches cannot be read, unless the module is renamed, too.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from sgdphases.estimators.backends.numba_kernels import (
    FAST,
    add_gradient_parts,
    add_gradient_sum,
    backward,
    block,
    forward,
    output_losses,
    projections,
    squared_norms,
)


class Kept(NamedTuple):
    """Flat working memory for all samples: values and deltas of all layers, and one matrix product."""

    values: np.ndarray
    deltas: np.ndarray
    scratch: np.ndarray


class Passes(NamedTuple):
    """What is filled in by both passes.

    ``samples``, shape (3, N): losses, errors and squared norms; ``gradient``, shape (K, W): sums in the dtype of the
    weights, zero for weights that are not measured; ``along``, shape (2, N): projections on the mean gradient of all
    samples and on the population's own.
    """

    samples: np.ndarray
    gradient: np.ndarray
    along: np.ndarray


@njit(cache=True)
def answer(outputs, label):
    """1 where the largest of the outputs, or the sign of a single one, is the label; NaN without a label."""
    if label < 0:
        return np.nan
    chosen = 0
    if len(outputs) == 1:
        chosen = 1 if outputs[0] > 0 else 0
    else:
        for k in range(len(outputs)):
            if outputs[k] > outputs[chosen] or (np.isnan(outputs[k]) and not np.isnan(outputs[chosen])):
                chosen = k
    return 1.0 if chosen == label else 0.0


@njit(cache=True)
def score(weights, layers, inputs, targets, labels, indices, kept, loss, correct):
    """A forward pass over some samples: losses, and whether they are given their labels."""
    n = len(indices)
    forward(weights, layers.sizes, layers.activation, inputs, indices, kept.values, kept.deltas)
    output_losses(layers.sizes, layers.loss, targets, indices, kept.values, kept.deltas, loss)
    outputs = block(kept.values, layers.sizes, len(layers.sizes) - 1, n)
    for r in range(n):
        correct[r] = answer(outputs[r], labels[indices[r]])


@njit(cache=True, fastmath=FAST)
def _losses_of_labels(outputs, found):
    for r in range(len(outputs)):
        top = outputs[r, 0]
        for k in range(1, outputs.shape[1]):
            top = max(top, outputs[r, k])
        partition = outputs.dtype.type(0)
        for k in range(outputs.shape[1]):
            partition += math.exp(outputs[r, k] - top)
        whole = math.log(partition)
        for k in range(outputs.shape[1]):
            found[r, k] = whole - np.float64(outputs[r, k] - top)


@njit(cache=True)
def label_losses(weights, layers, inputs, indices, kept, found):
    """A forward pass over some samples: the cross-entropy that each would have under each label, shape (n, K)."""
    forward(weights, layers.sizes, layers.activation, inputs, indices, kept.values, kept.deltas)
    _losses_of_labels(block(kept.values, layers.sizes, len(layers.sizes) - 1, len(indices)), found)


@njit(cache=True)
def both_passes(weights, layers, inputs, targets, labels, order, counts, share, measured, kept, found):
    """The first pass over K populations and the second, which takes the layers' values and deltas of the first.

    ``order`` holds the samples, one population of ``counts[k]`` of them after the other.
    """
    samples, gradient, along = found
    sizes, width = layers.sizes, layers.sizes.sum()
    start = 0
    gradient[:] = 0
    for k in range(len(counts)):
        stop = start + counts[k]
        if counts[k] > 0:
            values, deltas = kept.values[start * width : stop * width], kept.deltas[start * width : stop * width]
            loss, error = samples[0, start:stop], samples[1, start:stop]
            own = Kept(values, deltas, kept.scratch)
            score(weights, layers, inputs, targets, labels, order[start:stop], own, loss, error)
            for r in range(counts[k]):
                error[r] = 1.0 - error[r]
            backward(weights, sizes, counts[k], deltas)
            squared_norms(sizes, counts[k], values, deltas, share, samples[2, start:stop])
            add_gradient_sum(gradient[k], sizes, counts[k], weights.dtype.type(1), values, deltas, kept.scratch)
        start = stop
    mean, of_own = np.empty_like(weights), np.empty_like(weights)
    total = counts.sum()
    for i in range(len(weights)):
        if not measured[i]:
            gradient[:, i] = 0
        whole = 0.0
        for k in range(len(counts)):
            whole += np.float64(gradient[k, i])
        mean[i] = whole / total
    start = 0
    for k in range(len(counts)):
        n, stop = counts[k], start + counts[k]
        if n > 0:
            values, deltas = kept.values[start * width : stop * width], kept.deltas[start * width : stop * width]
            projections(mean, sizes, n, values, deltas, along[0, start:stop])
            if len(counts) == 1:
                for r in range(n):
                    along[1, r] = along[0, r]
            else:
                for i in range(len(weights)):
                    of_own[i] = np.float64(gradient[k, i]) / n
                projections(of_own, sizes, n, values, deltas, along[1, start:stop])
        start = stop


@njit(cache=True)
def batch_gradients(weights, layers, inputs, targets, batches, wrong, kept, losses, counts, out):
    """Sums of gradients over minibatches: ``out[0, m]`` over that of number m, or over its right and its wrong samples.

    ``batches``: shape (M, B); ``wrong``: shape (N,), of which a sum over whole minibatches takes no notice;
    ``counts``: shape (K, M), filled with the samples that each sum is over; ``out``: shape (K, M, W).
    """
    sizes = layers.sizes
    n = batches.shape[1]
    batch, losses = np.empty_like(batches[0]), losses[:n]
    out[:] = 0
    for m in range(len(batches)):
        place = 0
        for k in range(len(counts)):  # one kind after the other
            counts[k, m] = -place
            for sample in batches[m]:
                if len(counts) == 1 or wrong[sample] == (k == 1):
                    batch[place] = sample
                    place += 1
            counts[k, m] += place
        forward(weights, sizes, layers.activation, inputs, batch, kept.values, kept.deltas)
        output_losses(sizes, layers.loss, targets, batch, kept.values, kept.deltas, losses)
        backward(weights, sizes, n, kept.deltas)
        start = 0
        for k in range(len(counts)):
            stop = start + counts[k, m]
            if stop > start:
                add_gradient_parts(out[k, m], sizes, n, start, stop, kept.values, kept.deltas, kept.scratch)
            start = stop
