"""Toy networks at full speed: compiled multilayer perceptrons, float32 or float64."""

from typing import Self

import numpy as np

from sgdphases.estimators import numba_kernels as kernels
from sgdphases.estimators.backend import SampleGradients, Scores
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.mlp import MLP
from sgdphases.estimators.numpy_backend import flat_inputs, require_mlp
from sgdphases.estimators.targets import is_correct, prepare_samples

CHUNK_NUMBERS = 2**22  # activations held at once
_ACTIVATION = {"relu": kernels.RELU, "tanh": kernels.TANH, "erf": kernels.ERF}
_LOSS = {"cross-entropy": kernels.CROSS_ENTROPY, "squared": kernels.SQUARED}


class NumbaBackend:
    """Multilayer perceptrons of any depth, trained and measured by compiled code on the CPU.

    Per-sample quantities come from layer factors (inputs ``a_i`` and back-propagated ``delta_i``), so memory does not
    grow with N*P.

    Parameters
    ----------
    model : MLP
    x : ndarray, shape (N, ...)
        Flattened to (N, inputs).
    y : ndarray, shape (N,) or (N, outputs)
        Integer class labels or real targets.
    loss : {"cross-entropy", "squared"}
    dtype : None, "float32" or "float64"
        Of weights and activations; float32 by default. Sums over samples are float64 either way.
    device : None or "cpu"

    Raises
    ------
    UsageError
        For a setting this backend does not know.
    InputError
        If data and network do not fit together.
    """

    def __init__(self, model: MLP, x, y, *, loss: str = "cross-entropy", dtype=None, device: str | None = None):
        model = require_mlp(model, "numba", device)
        self.dtype = np.dtype(dtype or np.float32)
        if self.dtype not in (np.float32, np.float64):
            raise UsageError(f"dtype = {self.dtype}: the numba backend knows float32 and float64.")
        self.mlp = model
        self._sizes = np.array(model.layer_sizes)
        self._flat = np.array(model.weights, dtype=self.dtype)
        self._attach(x, y, loss)

    def _attach(self, x, y, loss: str) -> None:
        self.samples = prepare_samples(
            flat_inputs(x, self.mlp), y, n_outputs=self.mlp.layer_sizes[-1], loss=loss, dtype=self.dtype
        )
        self.n_samples = self.samples.n_samples
        self.n_parameters = self.mlp.n_parameters
        self.chunk_size = max(1, CHUNK_NUMBERS // int(self._sizes.sum()))

    @property
    def weights(self) -> np.ndarray:
        return self._flat.copy()

    def load_weights(self, weights: np.ndarray) -> None:
        self._flat[:] = self.mlp.with_weights(weights).weights

    def on(self, x, y) -> Self:
        other = object.__new__(type(self))
        other.dtype, other.mlp, other._sizes, other._flat = self.dtype, self.mlp, self._sizes, self._flat
        other._attach(x, y, self.samples.loss)
        return other

    def scores(self, indices: np.ndarray) -> Scores:
        values, _, losses = self._forward(indices)
        return Scores(losses, self._correct(indices, values))

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        values, deltas, losses = self._factors(indices)
        total = np.zeros(self.n_parameters, self.dtype)
        norms = np.empty(len(indices))
        one = self.dtype.type(1)
        kernels.add_gradient_sum(total, self._sizes, len(indices), one, values, deltas, self._scratch())
        kernels.squared_norms(self._sizes, len(indices), values, deltas, norms)
        return SampleGradients(losses, self._correct(indices, values), norms, total.astype(np.float64))

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        values, deltas, _ = self._factors(indices)
        out = np.empty((len(directions), len(indices)))
        for row, direction in zip(out, np.asarray(directions).astype(self.dtype), strict=True):
            kernels.projections(direction, self._sizes, len(indices), values, deltas, row)
        return out.T

    def gram(self, indices: np.ndarray) -> np.ndarray:
        values, deltas, _ = self._factors(indices)
        blocks, n = [], len(indices)
        ends = n * np.concatenate([[0], np.cumsum(self._sizes)])
        for layer in range(len(self._sizes) - 1):
            a = values[ends[layer] : ends[layer + 1]].reshape(n, -1).astype(np.float64)
            d = deltas[ends[layer + 1] : ends[layer + 2]].reshape(n, -1).astype(np.float64)
            blocks.append((a @ a.T + 1) * (d @ d.T))
        return np.sum(blocks, axis=0)

    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        rows = min(batch_size, len(order))
        values, deltas, losses = self._buffers(rows)
        kernels.train(
            self._flat, self._sizes, *self._kinds(), self.samples.inputs, self.samples.targets,
            np.asarray(order, dtype=np.int64), batch_size, learning_rate, values, deltas, losses, self._scratch(),
        )  # fmt: skip

    def _kinds(self) -> tuple[int, int]:
        return _ACTIVATION[self.mlp.activation], _LOSS[self.samples.loss]

    def _buffers(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width = int(self._sizes.sum())
        return np.empty(n * width, self.dtype), np.empty(n * width, self.dtype), np.empty(n)

    def _scratch(self) -> np.ndarray:
        return np.empty(int((self._sizes[1:] * self._sizes[:-1]).max()), self.dtype)

    def _forward(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, deltas, losses = self._buffers(len(indices))
        activation, loss = self._kinds()
        kernels.forward(self._flat, self._sizes, activation, self.samples.inputs, indices, values, deltas)
        kernels.output_losses(self._sizes, loss, self.samples.targets, indices, values, deltas, losses)
        return values, deltas, losses

    def _factors(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        values, deltas, losses = self._forward(indices)
        kernels.backward(self._flat, self._sizes, len(indices), deltas)
        return values, deltas, losses

    def _correct(self, indices: np.ndarray, values: np.ndarray) -> np.ndarray:
        outputs = values[-len(indices) * self.mlp.layer_sizes[-1] :].reshape(len(indices), -1)
        return is_correct(outputs, self.samples.labels[indices])
