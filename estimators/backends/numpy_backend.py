"""The reference: explicit per-sample gradients in float64 numpy. Slow, and obviously right."""

import numpy as np
from scipy.special import logsumexp, softmax

from sgdphases.estimators.backend import SampleGradients, Scores
from sgdphases.estimators.backends.mlp import activate, layer_views, slope
from sgdphases.estimators.backends.perceptron import PerceptronBackend
from sgdphases.estimators.backends.samples import is_correct


class NumpyBackend(PerceptronBackend):
    """Multilayer perceptrons by explicit per-sample gradients, float64; parameters as for `PerceptronBackend`."""

    name, dtypes = "numpy", ("float64",)
    chunk_numbers = 2**23  # explicit gradients: 64 MiB

    def numbers_per_sample(self) -> int:
        return self.mlp.n_parameters

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
