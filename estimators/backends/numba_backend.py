"""Toy networks at full speed: compiled multilayer perceptrons, float32 or float64."""

from collections.abc import Sequence

import numpy as np

from sgdphases.estimators.backend import BothPasses, SampleGradients, Scores, chunks
from sgdphases.estimators.backends import numba_kernels as kernels
from sgdphases.estimators.backends import numba_measuring as measuring
from sgdphases.estimators.backends.mlp import MLP, layer_views
from sgdphases.estimators.backends.perceptron import PerceptronBackend
from sgdphases.estimators.backends.samples import is_correct

MANY_DIRECTIONS = 8  # from here on products are left to BLAS
CHUNK_NUMBERS = 2**22  # activations held at once
_ACTIVATION = {"relu": kernels.RELU, "tanh": kernels.TANH, "erf": kernels.ERF}
_LOSS = {"cross-entropy": kernels.CROSS_ENTROPY, "squared": kernels.SQUARED}


class NumbaBackend(PerceptronBackend):
    """Multilayer perceptrons of any depth, trained and measured by compiled code on the CPU.

    Per-sample quantities come from layer factors (inputs ``a_i`` and back-propagated ``delta_i``), so memory does not
    grow with N*P. Parameters as for `PerceptronBackend`.
    """

    name, dtypes = "numba", ("float32", "float64")
    chunk_numbers = CHUNK_NUMBERS

    def __init__(
        self, model: MLP, x, y, *, loss: str = "cross-entropy", dtype=None, device: str | None = None, parameters=None
    ):
        super().__init__(model, x, y, loss=loss, dtype=dtype, device=device, parameters=parameters)
        self._sizes = np.array(self.mlp.layer_sizes)
        self._width, self._largest = int(self._sizes.sum()), int((self._sizes[1:] * self._sizes[:-1]).max())
        chosen = np.zeros(self.mlp.n_parameters)
        chosen[self._measured] = 1
        self._share = np.array([[m.flat[0], b[0]] for m, b in layer_views(self.mlp.layer_sizes, chosen)])
        self._is_measured = chosen > 0

    def numbers_per_sample(self) -> int:
        return sum(self.mlp.layer_sizes)

    def scores(self, indices: np.ndarray) -> Scores:
        loss, correct = np.empty((2, len(indices)))
        measuring.score(self._flat, *self._data(), np.asarray(indices), self._kept(len(indices)), loss, correct)
        return Scores(loss, correct)

    def both_passes(self, populations: Sequence[np.ndarray]) -> BothPasses | None:
        """Both passes over K populations in one call, the layers' factors kept from the first to the second."""
        order = np.concatenate(populations)
        n, counts = len(order), np.array([len(population) for population in populations])
        if n > self.chunk_size:
            return None
        gradient = np.empty((len(counts), self.mlp.n_parameters), self.dtype)
        answers = measuring.Answers(np.empty(n), np.empty(n), np.empty(n), np.empty((2, n)))
        kept, chosen = self._kept(n), (self._share, self._is_measured)
        measuring.both_passes(self._flat, *self._data(), order, counts, *chosen, kept, gradient, answers)
        sums = gradient if self.n_parameters == gradient.shape[1] else gradient[:, self._measured]
        return BothPasses(
            answers.loss, answers.correct, answers.squared_norm, sums.astype(np.float64), answers.projection
        )

    def batch_sums(self, batches: np.ndarray, parts: np.ndarray) -> np.ndarray:
        """Sums of gradients over parts of minibatches in one call, shape (k, M, P): see `Backend`."""
        sums = np.zeros((*parts.shape[:2], self.mlp.n_parameters), self.dtype)
        kept, losses = self._kept(batches.shape[1]), np.empty(batches.shape[1])
        layers, inputs, targets, _ = self._data()
        measuring.batch_gradients(self._flat, layers, inputs, targets, batches, parts, kept, losses, sums)
        return (sums if self.n_parameters == sums.shape[2] else sums[:, :, self._measured]).astype(np.float64)

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        values, deltas, losses = self._factors(indices)
        norms = np.empty(len(indices))
        kernels.squared_norms(self._sizes, len(indices), values, deltas, self._share, norms)
        total = self._gradient_sum(len(indices), values, deltas)
        return SampleGradients(losses, self._correct(indices, values), norms, total)

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        whole = np.zeros((len(directions), self.mlp.n_parameters), self.dtype)
        whole[:, self._measured] = directions
        if len(whole) > MANY_DIRECTIONS:
            return self._many_projections(indices, whole)
        values, deltas, _ = self._factors(indices)
        out = np.empty((len(directions), len(indices)))
        for row, direction in zip(out, whole, strict=True):
            kernels.projections(direction, self._sizes, len(indices), values, deltas, row)
        return out.T

    def _many_projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """One wide matrix product a layer; layers that are not measured cost nothing."""
        out = np.zeros((len(indices), len(directions)))
        matrices = layer_views(self.mlp.layer_sizes, directions)
        for (a, d), (matrix, bias), (of_matrix, of_bias) in zip(
            self._blocks(indices), matrices, self._share, strict=True
        ):
            if of_matrix:
                for sample in chunks(np.arange(len(indices)), max(1, CHUNK_NUMBERS // bias.size)):
                    pushed = (a[sample] @ matrix.reshape(-1, a.shape[1]).T).reshape(len(sample), *bias.shape)
                    out[sample] += np.matmul(pushed, d[sample, :, None])[:, :, 0]
            if of_bias:
                out += d @ bias.T
        return out

    def weighted_sums(self, indices: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        values, deltas, _ = self._factors(indices)
        return self._weighted(len(indices), values, deltas, coefficients)

    def gram(self, indices: np.ndarray, others: np.ndarray) -> np.ndarray:
        own = self._blocks(indices)
        second = own if others is indices else self._blocks(others)
        total = np.zeros((len(indices), len(others)))
        for (a, d), (b, e), (matrix, bias) in zip(own, second, self._share, strict=True):
            total += (matrix * (a @ b.T) + bias) * (d @ e.T)
        return total

    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        buffers = kernels.Buffers(*self._buffers(min(batch_size, len(order))), self._scratch())
        layers = self._layers()
        order = np.asarray(order, dtype=np.int64)
        inputs, targets = self.samples.inputs, self.samples.targets
        kernels.train(self._flat, layers, inputs, targets, order, batch_size, learning_rate, buffers)

    def _weighted(self, n: int, values: np.ndarray, deltas: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """``sum_i c_ik g_i``, shape (k, P), from the factors of n samples."""
        starts = n * np.concatenate([[0], np.cumsum(self._sizes)])
        rows = []
        for column in np.asarray(coefficients).T:
            scaled = np.empty_like(deltas)
            for layer in range(1, len(self._sizes)):
                piece = slice(starts[layer], starts[layer + 1])
                scaled[piece] = (deltas[piece].reshape(n, -1) * column[:, None]).ravel()
            rows.append(self._gradient_sum(n, values, scaled))
        return np.stack(rows)

    def _gradient_sum(self, n: int, values: np.ndarray, deltas: np.ndarray) -> np.ndarray:
        total = np.zeros(self.mlp.n_parameters, self.dtype)
        kernels.add_gradient_sum(total, self._sizes, n, self.dtype.type(1), values, deltas, self._scratch())
        return total[self._measured].astype(np.float64)

    def _blocks(self, indices: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Inputs and deltas of every layer, float64."""
        values, deltas, _ = self._factors(indices)
        n = len(indices)
        ends = n * np.concatenate([[0], np.cumsum(self._sizes)])
        cut = [(values[ends[k] : ends[k + 1]], deltas[ends[k + 1] : ends[k + 2]]) for k in range(len(self._sizes) - 1)]
        return [(a.reshape(n, -1).astype(np.float64), d.reshape(n, -1).astype(np.float64)) for a, d in cut]

    def _layers(self) -> kernels.Layers:
        return kernels.Layers(self._sizes, *self._kinds())

    def _data(self) -> tuple[kernels.Layers, np.ndarray, np.ndarray, np.ndarray]:
        return self._layers(), self.samples.inputs, self.samples.targets, self.samples.labels

    def _kept(self, n: int) -> measuring.Kept:
        return measuring.Kept(*self._buffers(n)[:2], self._scratch())

    def _kinds(self) -> tuple[int, int]:
        return _ACTIVATION[self.mlp.activation], _LOSS[self.samples.loss]

    def _buffers(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return np.empty(n * self._width, self.dtype), np.empty(n * self._width, self.dtype), np.empty(n)

    def _scratch(self) -> np.ndarray:
        return np.empty(self._largest, self.dtype)

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
