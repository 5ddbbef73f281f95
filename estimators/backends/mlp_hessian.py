"""Hessian-vector products of a multilayer perceptron, by differentiating its backward pass along a direction."""

from typing import Any

import numpy as np
from scipy.special import softmax

from sgdphases.estimators.backends.mlp import MLP, activate, curvature, layer_views, slope
from sgdphases.estimators.backends.samples import Samples


def mlp_hessian_products(
    mlp: MLP, weights: np.ndarray, samples: Samples, indices: np.ndarray, vectors: np.ndarray, measured: np.ndarray
) -> np.ndarray:
    """``sum_i H_i v_k`` in float64 (Pearlmutter 1994); the second derivative of a ReLU is taken as zero.

    Parameters
    ----------
    mlp : MLP
        For its layer sizes and activation.
    weights : ndarray, shape (W,)
    samples : Samples
    indices : ndarray of int, shape (n,)
    vectors : ndarray, shape (k, P)
    measured : ndarray of int, shape (P,)
        Places of the measured parameters among the weights.

    Returns
    -------
    ndarray, shape (k, P)
    """
    layers = layer_views(mlp.layer_sizes, weights.astype(np.float64))
    values = [samples.inputs[indices].astype(np.float64)]  # inputs of each layer, then the outputs
    pre = []
    for depth, (matrix, bias) in enumerate(layers):
        pre.append(values[-1] @ matrix.T + bias)
        values.append(activate(pre[-1], mlp.activation) if depth + 1 < len(layers) else pre[-1])
    outputs, targets = values[-1], samples.targets[indices].astype(np.float64)
    squared = samples.loss == "squared"
    probability = outputs if squared else softmax(outputs, axis=1)
    deltas = [probability - targets]
    for depth in reversed(range(1, len(layers))):
        deltas.insert(0, (deltas[0] @ layers[depth][0]) * slope(pre[depth - 1], mlp.activation))
    out = np.empty((len(vectors), len(measured)))
    for k, vector in enumerate(vectors):
        whole = np.zeros(len(weights))
        whole[measured] = vector
        along = layer_views(mlp.layer_sizes, whole)
        moved: list[Any] = [None]  # the inputs do not move
        moved_pre: list[np.ndarray] = []
        for depth, ((matrix, _), (matrix_v, bias_v)) in enumerate(zip(layers, along, strict=True)):
            change = values[depth] @ matrix_v.T + bias_v
            moved_pre.append(change if depth == 0 else change + moved[-1] @ matrix.T)
            last = depth + 1 == len(layers)
            moved.append(moved_pre[-1] if last else slope(pre[depth], mlp.activation) * moved_pre[-1])
        turned: np.ndarray = moved[-1]
        if not squared:
            turned = probability * (turned - (probability * turned).sum(axis=1, keepdims=True))
        product = np.zeros(len(weights))
        slots = layer_views(mlp.layer_sizes, product)
        for depth in reversed(range(len(layers))):
            slots[depth][0][:] = turned.T @ values[depth]
            slots[depth][1][:] = turned.sum(axis=0)
            if depth:
                slots[depth][0][:] += deltas[depth].T @ moved[depth]
                z, push = pre[depth - 1], deltas[depth] @ layers[depth][0]
                change = turned @ layers[depth][0] + deltas[depth] @ along[depth][0]
                turned = change * slope(z, mlp.activation) + push * curvature(z, mlp.activation) * moved_pre[depth - 1]
        out[k] = product[measured]
    return out
