"""Compiled measurements of a multilayer perceptron: what a checkpoint asks for, in one call each.

The sums are those of `numba_kernels`, in the same order, so that nothing depends on which way they were asked for.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from sgdphases.estimators.backends.numba_kernels import (
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


class Answers(NamedTuple):
    """What is filled in, in float64: a number a sample, shape (N,), and ``projection``, shape (2, N).

    Samples stand one population after the other. The rows of ``projection`` are those on the mean gradient of all
    samples and on the population's own.
    """

    loss: np.ndarray
    correct: np.ndarray
    squared_norm: np.ndarray
    projection: np.ndarray


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


@njit(cache=True)
def both_passes(weights, layers, inputs, targets, labels, order, counts, share, measured, kept, gradient, answers):
    """The first pass over K populations and the second, which takes the layers' values and deltas of the first.

    ``order`` holds the samples, one population of ``counts[k]`` of them after the other; ``gradient``, shape (K, W),
    is filled with their sums in the dtype of the weights, zero for weights that are not ``measured``.
    """
    sizes, width = layers.sizes, layers.sizes.sum()
    start = 0
    gradient[:] = 0
    for k in range(len(counts)):
        stop = start + counts[k]
        if counts[k] > 0:
            values, deltas = kept.values[start * width : stop * width], kept.deltas[start * width : stop * width]
            piece, loss, correct = order[start:stop], answers.loss[start:stop], answers.correct[start:stop]
            own = Kept(values, deltas, kept.scratch)
            score(weights, layers, inputs, targets, labels, piece, own, loss, correct)
            backward(weights, sizes, counts[k], deltas)
            squared_norms(sizes, counts[k], values, deltas, share, answers.squared_norm[start:stop])
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
            projections(mean, sizes, n, values, deltas, answers.projection[0, start:stop])
            if len(counts) == 1:
                answers.projection[1] = answers.projection[0]
            else:
                for i in range(len(weights)):
                    of_own[i] = np.float64(gradient[k, i]) / n
                projections(of_own, sizes, n, values, deltas, answers.projection[1, start:stop])
        start = stop


@njit(cache=True)
def batch_gradients(weights, layers, inputs, targets, batches, parts, kept, losses, out):
    """Sums of gradients over the parts of minibatches: ``out[k, m]`` over the samples of batch m with ``parts`` 1 at k.

    ``batches``: shape (M, B); ``parts``: shape (K, M, B), 1 or 0; ``out``: shape (K, M, W), zero on entry.
    """
    sizes = layers.sizes
    n = batches.shape[1]
    scaled = np.empty_like(kept.deltas)
    for m in range(len(batches)):
        forward(weights, sizes, layers.activation, inputs, batches[m], kept.values, kept.deltas)
        output_losses(sizes, layers.loss, targets, batches[m], kept.values, kept.deltas, losses)
        backward(weights, sizes, n, kept.deltas)
        for k in range(len(parts)):
            for layer in range(1, len(sizes)):
                whole, part = block(kept.deltas, sizes, layer, n), block(scaled, sizes, layer, n)
                for r in range(n):
                    for j in range(sizes[layer]):
                        part[r, j] = whole[r, j] * parts[k, m, r]
            add_gradient_sum(out[k, m], sizes, n, weights.dtype.type(1), kept.values, scaled, kept.scratch)
