"""A multilayer perceptron as a plain record: its shape, its activation and one flat vector of weights."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from scipy.special import erf

from sgdphases.estimators.backends.parameters import chosen_parameters
from sgdphases.estimators.errors import InputError, UsageError

ACTIVATIONS = ("relu", "tanh", "erf")


@dataclass(frozen=True, eq=False)
class MLP:
    """Fully connected network: affine layers, an activation after each but the last.

    Attributes
    ----------
    layer_sizes : tuple of int
        Inputs, hidden units of each layer, outputs: at least two numbers.
    activation : {"relu", "tanh", "erf"}
        "erf" is ``erf(z / sqrt(2))`` (Saad & Solla 1995). The slope of "relu" at zero is zero.
    weights : ndarray, shape (P,)
        Layer after layer: the matrix, shape (out, in) in row-major order, then the bias, shape (out,). The order
        of ``torch.nn.utils.parameters_to_vector`` for the same network in PyTorch.

    Raises
    ------
    UsageError
        For sizes below one or an unknown activation.
    InputError
        If the number of weights does not fit the sizes.
    """

    layer_sizes: tuple[int, ...]
    activation: str
    weights: np.ndarray

    def __post_init__(self) -> None:
        n_expected = n_weights(self.layer_sizes)
        if self.activation not in ACTIVATIONS:
            raise UsageError(f"activation = {self.activation!r}: choose one of {', '.join(ACTIVATIONS)}.")
        if np.shape(self.weights) != (n_expected,):
            raise InputError(
                f"weights of shape {np.shape(self.weights)} do not fit the layers "
                f"{'-'.join(map(str, self.layer_sizes))}: they need shape ({n_expected},)."
            )

    @property
    def n_parameters(self) -> int:
        """P, the number of weights and biases."""
        return len(self.weights)

    def with_weights(self, weights: np.ndarray) -> "MLP":
        """The same network at another point in weight space."""
        return replace(self, weights=weights)


def n_weights(layer_sizes: tuple[int, ...]) -> int:
    """Number of weights and biases of a network with these layers.

    Raises
    ------
    UsageError
        If there are fewer than two layers or a size is below one.
    """
    if len(layer_sizes) < 2 or any(size != int(size) or size < 1 for size in layer_sizes):
        raise UsageError(
            f"layer_sizes = {layer_sizes}: give inputs, hidden units if any, and outputs, each at least 1."
        )
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(layer_sizes))


def initial_mlp(layer_sizes: tuple[int, ...], activation: str, rng: np.random.Generator) -> MLP:
    """Network with weights and biases uniform in +-1/sqrt(fan_in), as PyTorch draws them by default.

    Parameters
    ----------
    layer_sizes : tuple of int
    activation : {"relu", "tanh", "erf"}
    rng : numpy.random.Generator

    Returns
    -------
    MLP
        With float64 weights.

    Raises
    ------
    UsageError
        For sizes below one or an unknown activation.
    """
    layer_sizes = tuple(layer_sizes)
    n_weights(layer_sizes)
    parts = []
    for fan_in, fan_out in pairwise(layer_sizes):
        parts.append(rng.uniform(-1, 1, (fan_in + 1) * fan_out) / np.sqrt(fan_in))
    return MLP(layer_sizes, activation, np.concatenate(parts))


def layer_views(layer_sizes: tuple[int, ...], flat: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Matrix, shape (..., out, in), and bias, shape (..., out), of every layer, as views into (..., P)."""
    views, start = [], 0
    for fan_in, fan_out in pairwise(layer_sizes):
        middle, stop = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        views.append((flat[..., start:middle].reshape(*flat.shape[:-1], fan_out, fan_in), flat[..., middle:stop]))
        start = stop
    return views


def measured_places(layer_sizes: tuple[int, ...], parameters: str | Sequence[str] | None) -> np.ndarray:
    """Places, in the flat weights, of the parameters chosen by name: ``layers.0.weight``, ``layers.0.bias``, …

    Raises
    ------
    UsageError
        If a name fits no parameter.
    """
    places, start = {}, 0
    for layer, (fan_in, fan_out) in enumerate(pairwise(layer_sizes)):
        middle, stop = start + fan_in * fan_out, start + (fan_in + 1) * fan_out
        places[f"layers.{layer}.weight"], places[f"layers.{layer}.bias"] = (start, middle), (middle, stop)
        start = stop
    chosen = chosen_parameters(list(places), parameters)
    return np.concatenate([np.arange(*places[name]) for name in chosen])


def activate(z: np.ndarray, activation: str) -> np.ndarray:
    """The activation at each pre-activation."""
    if activation == "relu":
        return np.maximum(z, 0.0)
    return np.tanh(z) if activation == "tanh" else erf(z / np.sqrt(2))


def slope(z: np.ndarray, activation: str) -> np.ndarray:
    """Its first derivative."""
    if activation == "relu":
        return (z > 0).astype(z.dtype)
    return 1 - np.tanh(z) ** 2 if activation == "tanh" else np.sqrt(2 / np.pi) * np.exp(-(z**2) / 2)


def curvature(z: np.ndarray, activation: str) -> np.ndarray:
    """Its second derivative; zero for ReLU."""
    if activation == "relu":
        return np.zeros_like(z)
    if activation == "tanh":
        return -2 * np.tanh(z) * (1 - np.tanh(z) ** 2)
    return -z * slope(z, activation)
