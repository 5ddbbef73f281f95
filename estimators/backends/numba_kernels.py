"""Compiled forward and backward passes of a multilayer perceptron.

Values of all layers lie one after another in a flat buffer: layer ``l`` of ``n`` samples is the ``(n, sizes[l])`` block
that starts at ``n * sum(sizes[:l])``. Products below `BLAS_FROM` multiplications are plain loops over the contiguous
fan-in, which the compiler turns into vector instructions; larger ones go to BLAS.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

RELU, TANH, ERF = 0, 1, 2
CROSS_ENTROPY, SQUARED = 0, 1
BLAS_FROM = 30_000  # multiplications, from which a BLAS call beats the loops (benchmarks/toy_training.py)
# Sums may be reordered and fused, so that dot products vectorise; NaN and infinity keep their meaning.
FAST = {"reassoc", "contract", "arcp", "nsz"}


@njit(cache=True, fastmath=FAST)
def _affine(a, w, b, z):
    """z = a w^T + b, for a (n, in), w (out, in), b (out,)."""
    n, fan_in = a.shape
    fan_out = len(b)
    if n * fan_in * fan_out >= BLAS_FROM:
        np.dot(a, w.T, z)
        for r in range(n):
            for o in range(fan_out):
                z[r, o] += b[o]
    else:
        for r in range(n):
            for o in range(fan_out):
                total = b[o]
                for i in range(fan_in):
                    total += a[r, i] * w[o, i]
                z[r, o] = total


@njit(cache=True, fastmath=FAST)
def _activate(z, slope, activation):
    """Turn pre-activations into activations in place, and leave their derivative in ``slope``."""
    n, width = z.shape
    one = z.dtype.type(1)
    for r in range(n):
        for j in range(width):
            value = z[r, j]
            if activation == RELU:
                positive = value > 0
                z[r, j] = value if positive else z.dtype.type(0)
                slope[r, j] = one if positive else z.dtype.type(0)
            elif activation == TANH:
                value = math.tanh(value)
                z[r, j] = value
                slope[r, j] = one - value * value
            else:
                z[r, j] = math.erf(value / math.sqrt(2.0))
                slope[r, j] = math.sqrt(2.0 / math.pi) * math.exp(-0.5 * value * value)


@njit(cache=True, fastmath=FAST)
def _losses_and_delta(outputs, targets, loss_kind, losses, delta):
    """Losses, and the derivative of each with respect to the outputs."""
    n, width = outputs.shape
    for r in range(n):
        if loss_kind == SQUARED:
            total = 0.0
            for k in range(width):
                delta[r, k] = outputs[r, k] - targets[r, k]
                total += 0.5 * delta[r, k] * delta[r, k]
            losses[r] = total
        else:
            top = outputs[r, 0]
            for k in range(1, width):
                top = max(top, outputs[r, k])
            partition = outputs.dtype.type(0)
            linear = 0.0
            for k in range(width):
                delta[r, k] = math.exp(outputs[r, k] - top)
                partition += delta[r, k]
                linear += targets[r, k] * (outputs[r, k] - top)
            losses[r] = math.log(partition) - linear
            for k in range(width):
                delta[r, k] = delta[r, k] / partition - targets[r, k]


@njit(cache=True, fastmath=FAST)
def _pull_back(delta, w, below, row):
    """below = (delta w) * below, where ``below`` comes in as the slope of the activation; ``row`` has room for one."""
    n, fan_out = delta.shape
    fan_in = w.shape[1]
    if n * fan_in * fan_out >= BLAS_FROM:
        product = np.dot(delta, w)
        for r in range(n):
            for i in range(fan_in):
                below[r, i] *= product[r, i]
    else:
        for r in range(n):
            for i in range(fan_in):
                row[i] = 0
            for o in range(fan_out):
                factor = delta[r, o]
                for i in range(fan_in):
                    row[i] += factor * w[o, i]
            for i in range(fan_in):
                below[r, i] *= row[i]


@njit(cache=True, fastmath=FAST)
def _add_weight_gradient(delta, a, factor, w, b, scratch):
    """w += factor * delta^T a and b += factor * sum of delta over samples."""
    n, fan_out = delta.shape
    fan_in = a.shape[1]
    if n * fan_in * fan_out >= BLAS_FROM:
        product = scratch[: fan_out * fan_in].reshape(fan_out, fan_in)
        np.dot(delta.T, a, product)
        for o in range(fan_out):
            for i in range(fan_in):
                w[o, i] += factor * product[o, i]
    else:
        for o in range(fan_out):
            for r in range(n):
                scaled = factor * delta[r, o]
                for i in range(fan_in):
                    w[o, i] += scaled * a[r, i]
    for r in range(n):
        for o in range(fan_out):
            b[o] += factor * delta[r, o]


@njit(cache=True)
def block(buffer, sizes, layer, n):
    start = n * sizes[:layer].sum()
    return buffer[start : start + n * sizes[layer]].reshape(n, sizes[layer])


@njit(cache=True)
def _layer(weights, sizes, layer):
    start = 0
    for below in range(layer):
        start += (sizes[below] + 1) * sizes[below + 1]
    middle = start + sizes[layer] * sizes[layer + 1]
    return weights[start:middle].reshape(sizes[layer + 1], sizes[layer]), weights[middle : middle + sizes[layer + 1]]


@njit(cache=True)
def _gather(rows, indices, found):
    """Some of the rows; element by element, since numba takes two seconds to compile the assignment of a row."""
    for r in range(len(indices)):
        number = indices[r]
        for i in range(found.shape[1]):
            found[r, i] = rows[number, i]


@njit(cache=True)
def forward(weights, sizes, activation, inputs, indices, values, slopes):
    """Fill ``values`` with inputs, activations and outputs of the samples, and ``slopes`` of the hidden layers."""
    n = len(indices)
    first = block(values, sizes, 0, n)
    _gather(inputs, indices, first)
    last = len(sizes) - 1
    for layer in range(last):
        w, b = _layer(weights, sizes, layer)
        out = block(values, sizes, layer + 1, n)
        _affine(block(values, sizes, layer, n), w, b, out)
        if layer + 1 < last:
            _activate(out, block(slopes, sizes, layer + 1, n), activation)


@njit(cache=True)
def output_losses(sizes, loss_kind, targets, indices, values, deltas, losses):
    """Losses of the samples, and the last layer's block of ``deltas``."""
    n = len(indices)
    last = len(sizes) - 1
    rows = targets[indices]
    _losses_and_delta(block(values, sizes, last, n), rows, loss_kind, losses, block(deltas, sizes, last, n))


@njit(cache=True)
def backward(weights, sizes, n, deltas):
    """From the last layer's deltas and the hidden layers' slopes to the deltas of every layer but the inputs."""
    row = np.empty(sizes.sum(), deltas.dtype)
    for layer in range(len(sizes) - 2, 0, -1):
        w, _ = _layer(weights, sizes, layer)
        _pull_back(block(deltas, sizes, layer + 1, n), w, block(deltas, sizes, layer, n), row)


@njit(cache=True)
def add_gradient_sum(target, sizes, n, factor, values, deltas, scratch):
    """target += factor * sum over the samples of the gradient; ``target`` may be the weights themselves."""
    for layer in range(len(sizes) - 1):
        w, b = _layer(target, sizes, layer)
        a = block(values, sizes, layer, n)
        _add_weight_gradient(block(deltas, sizes, layer + 1, n), a, factor, w, b, scratch)


@njit(cache=True)
def add_gradient_parts(target, sizes, n, start, stop, values, deltas, scratch):
    """target += sum of the gradients of the samples from ``start`` to ``stop`` of n."""
    one = target.dtype.type(1)
    for layer in range(len(sizes) - 1):
        w, b = _layer(target, sizes, layer)
        a, d = block(values, sizes, layer, n)[start:stop], block(deltas, sizes, layer + 1, n)[start:stop]
        _add_weight_gradient(d, a, one, w, b, scratch)


@njit(cache=True)
def squared_norms(sizes, n, values, deltas, share, out):
    """|g_i|^2 = sum over layers of (|a_i|^2 + 1) |delta_i|^2, summed in float64.

    ``share[layer]`` holds 1 or 0 for the matrix and for the bias: whether they are measured.
    """
    out[:] = 0.0
    for layer in range(len(sizes) - 1):
        a, d = block(values, sizes, layer, n), block(deltas, sizes, layer + 1, n)
        for r in range(n):
            size_a, size_d = 0.0, 0.0
            for i in range(a.shape[1]):
                size_a += np.float64(a[r, i]) * a[r, i]
            for o in range(d.shape[1]):
                size_d += np.float64(d[r, o]) * d[r, o]
            out[r] += (share[layer, 0] * size_a + share[layer, 1]) * size_d


@njit(cache=True)
def projections(direction, sizes, n, values, deltas, out):
    """g_i . v for one direction v in the weights' dtype, summed over layers in float64."""
    out[:] = 0.0
    for layer in range(len(sizes) - 1):
        v, v_bias = _layer(direction, sizes, layer)
        d = block(deltas, sizes, layer + 1, n)
        pushed = np.empty_like(d)
        _affine(block(values, sizes, layer, n), v, v_bias, pushed)
        for r in range(n):
            for o in range(d.shape[1]):
                out[r] += np.float64(pushed[r, o]) * d[r, o]


class Layers(NamedTuple):
    """Shape and kind of a network: layer sizes, and the codes of its activation and loss."""

    sizes: np.ndarray
    activation: int
    loss: int


class Buffers(NamedTuple):
    """Flat working memory for one minibatch: values and deltas of all layers, losses, and one matrix product."""

    values: np.ndarray
    deltas: np.ndarray
    losses: np.ndarray
    scratch: np.ndarray


@njit(cache=True, fastmath=FAST)
def _delta(outputs, targets, loss_kind, delta):
    """Derivatives of the losses by the outputs, as of `_losses_and_delta`, without the losses."""
    n, width = outputs.shape
    for r in range(n):
        if loss_kind == SQUARED:
            for k in range(width):
                delta[r, k] = outputs[r, k] - targets[r, k]
        else:
            top = outputs[r, 0]
            for k in range(1, width):
                top = max(top, outputs[r, k])
            partition = outputs.dtype.type(0)
            for k in range(width):
                delta[r, k] = math.exp(outputs[r, k] - top)
                partition += delta[r, k]
            for k in range(width):
                delta[r, k] = delta[r, k] / partition - targets[r, k]


@njit(cache=True)
def train(weights, layers, inputs, targets, order, batch_size, learning_rate, buffers):
    """SGD over ``order`` in minibatches; the weights move in place."""
    sizes, activation, loss_kind = layers
    values, deltas, _, scratch = buffers
    last = len(sizes) - 1
    parts = [_layer(weights, sizes, layer) for layer in range(last)]  # found once: finding them takes as long as a step
    n = 0
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        if len(batch) != n:
            n = len(batch)
            a = [block(values, sizes, layer, n) for layer in range(last + 1)]
            d = [block(deltas, sizes, layer, n) for layer in range(last + 1)]
            wanted = np.empty((n, targets.shape[1]), targets.dtype)
        _gather(inputs, batch, a[0])
        _gather(targets, batch, wanted)
        for layer in range(last):
            w, b = parts[layer]
            _affine(a[layer], w, b, a[layer + 1])
            if layer + 1 < last:
                _activate(a[layer + 1], d[layer + 1], activation)
        _delta(a[last], wanted, loss_kind, d[last])
        for layer in range(last - 1, 0, -1):
            _pull_back(d[layer + 1], parts[layer][0], d[layer], scratch)
        step = weights.dtype.type(-learning_rate / n)
        for layer in range(last):
            w, b = parts[layer]
            _add_weight_gradient(d[layer + 1], a[layer], step, w, b, scratch)
