"""The reference: explicit per-sample gradients in float64 numpy. Slow, and obviously right."""

from typing import Self

import numpy as np
from scipy.special import logsumexp, softmax

from sgdphases.estimators.backend import SampleGradients, Scores
from sgdphases.estimators.backends.mlp import MLP, activate, layer_views, measured_places, slope
from sgdphases.estimators.backends.mlp_hessian import mlp_hessian_products
from sgdphases.estimators.backends.samples import is_correct, prepare_samples
from sgdphases.estimators.errors import InputError, UsageError

CHUNK_NUMBERS = 2**23  # explicit gradients held at once: 64 MiB


class NumpyBackend:
    """Multilayer perceptrons by explicit per-sample gradients, float64.

    Parameters
    ----------
    model : MLP
    x : ndarray, shape (N, ...)
        Flattened to (N, inputs).
    y : ndarray, shape (N,) or (N, outputs)
        Integer class labels or real targets.
    loss : {"cross-entropy", "squared"}
    dtype : None or "float64"
    device : None or "cpu"
    parameters : str, list of str, or None
        Parameters to measure, such as "layers.1.weight", ``*`` allowed; None takes all. Training moves all.

    Raises
    ------
    UsageError
        For a setting this backend does not know.
    InputError
        If data and network do not fit together.
    """

    def __init__(
        self, model: MLP, x, y, *, loss: str = "cross-entropy", dtype=None, device: str | None = None, parameters=None
    ):
        model = require_mlp(model, "numpy", device)
        if dtype is not None and np.dtype(dtype) != np.float64:
            raise UsageError(f"dtype = {dtype}: the numpy backend is the float64 reference; use numba or torch.")
        self.mlp = model
        self._flat = np.array(model.weights, dtype=np.float64)
        self._measured = measured_places(model.layer_sizes, parameters)
        self._attach(x, y, loss)

    def _attach(self, x, y, loss: str) -> None:
        self.samples = prepare_samples(
            flat_inputs(x, self.mlp), y, n_outputs=self.mlp.layer_sizes[-1], loss=loss, dtype=np.float64
        )
        self.n_samples = self.samples.n_samples
        self.n_parameters = len(self._measured)
        self.chunk_size = max(1, CHUNK_NUMBERS // self.mlp.n_parameters)

    @property
    def weights(self) -> np.ndarray:
        return self._flat.copy()

    def load_weights(self, weights: np.ndarray) -> None:
        self._flat[:] = self.mlp.with_weights(weights).weights

    def on(self, x, y) -> Self:
        other = object.__new__(type(self))
        other.mlp, other._flat, other._measured = self.mlp, self._flat, self._measured
        other._attach(x, y, self.samples.loss)
        return other

    def scores(self, indices: np.ndarray) -> Scores:
        outputs = self._forward(indices)[-1]
        return Scores(self._loss(indices, outputs), is_correct(outputs, self.samples.labels[indices]))

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        gradients = self.sample_gradients(indices)
        return SampleGradients(*self.scores(indices), (gradients**2).sum(axis=1), gradients.sum(axis=0))

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        return self.sample_gradients(indices) @ np.asarray(directions, dtype=np.float64).T

    def weighted_sums(self, indices: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        return np.asarray(coefficients).T @ self.sample_gradients(indices)

    def gram(self, indices: np.ndarray, others: np.ndarray) -> np.ndarray:
        return self.sample_gradients(indices) @ self.sample_gradients(others).T

    def hessian_products(self, indices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        return mlp_hessian_products(self.mlp, self._flat, self.samples, indices, vectors, self._measured)

    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            step = np.zeros(self.mlp.n_parameters)
            for first in range(0, len(batch), self.chunk_size):
                step += self._all_gradients(batch[first : first + self.chunk_size]).sum(axis=0)
            self._flat -= learning_rate / len(batch) * step

    def sample_gradients(self, indices: np.ndarray) -> np.ndarray:
        """``g_i`` in rows, shape (n, P): what all else is made of."""
        gradients = self._all_gradients(indices)
        return gradients if self.n_parameters == self.mlp.n_parameters else gradients[:, self._measured]

    def _all_gradients(self, indices: np.ndarray) -> np.ndarray:
        values = self._forward(indices)
        gradients = np.empty((len(indices), self.mlp.n_parameters))
        layers = layer_views(self.mlp.layer_sizes, self._flat)
        slots = layer_views(self.mlp.layer_sizes, gradients)
        delta = self._output_delta(indices, values[-1])
        for depth in reversed(range(len(layers))):
            inputs = values[depth] if depth == 0 else activate(values[depth], self.mlp.activation)
            slots[depth][0][:] = delta[:, :, None] * inputs[:, None, :]
            slots[depth][1][:] = delta
            if depth:
                delta = (delta @ layers[depth][0]) * slope(values[depth], self.mlp.activation)
        return gradients

    def _forward(self, indices: np.ndarray) -> list[np.ndarray]:
        """Inputs, then the pre-activations of every layer; the last are the outputs."""
        values = [self.samples.inputs[indices]]
        for depth, (matrix, bias) in enumerate(layer_views(self.mlp.layer_sizes, self._flat)):
            inputs = values[-1] if depth == 0 else activate(values[-1], self.mlp.activation)
            values.append(inputs @ matrix.T + bias)
        return values

    def _loss(self, indices: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        targets = self.samples.targets[indices]
        if self.samples.loss == "squared":
            return 0.5 * ((outputs - targets) ** 2).sum(axis=1)
        return logsumexp(outputs, axis=1) - (outputs * targets).sum(axis=1)

    def _output_delta(self, indices: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        prediction = outputs if self.samples.loss == "squared" else softmax(outputs, axis=1)
        return prediction - self.samples.targets[indices]


def require_mlp(model, backend: str, device: str | None) -> MLP:
    """The model, if it is one the backend can work with.

    Raises
    ------
    UsageError
        If the model is no MLP or a device other than the CPU is asked for.
    """
    if not isinstance(model, MLP):
        raise UsageError(
            f"the {backend} backend takes an sgdphases MLP, not {type(model).__name__}: use backend='torch'."
        )
    if device not in (None, "cpu"):
        raise UsageError(f"device = {device!r}: the {backend} backend runs on the CPU; use backend='torch'.")
    return model


def flat_inputs(x, mlp: MLP) -> np.ndarray:
    """Samples as rows, shape (N, inputs).

    Raises
    ------
    InputError
        If a sample has another size than the network's input.
    """
    x = np.asarray(x)
    rows = x.reshape(len(x), -1) if x.ndim > 1 and len(x) else x
    if rows.ndim == 2 and rows.shape[1] != mlp.layer_sizes[0]:
        raise InputError(f"a sample of shape {x.shape[1:]} does not fit a network with {mlp.layer_sizes[0]} inputs.")
    return rows
