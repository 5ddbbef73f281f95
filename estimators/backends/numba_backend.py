"""Toy networks at full speed: compiled multilayer perceptrons, float32 or float64."""

from collections.abc import Sequence

import numpy as np

from sgdphases.estimators.backend import SampleGradients, Scores, chunks
from sgdphases.estimators.backends import numba_kernels as kernels
from sgdphases.estimators.backends import numba_passes as passes
from sgdphases.estimators.backends import numba_rows as rows
from sgdphases.estimators.backends.mlp import MLP, layer_views
from sgdphases.estimators.backends.perceptron import PerceptronBackend
from sgdphases.estimators.backends.samples import is_correct
from sgdphases.theory.order_parameters import GradientMoments, PopulationMoments

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
        passes.score(self._flat, *self._data(), np.asarray(indices), self._kept(len(indices)), loss, correct)
        return Scores(loss, correct)

    def label_losses(self, indices: np.ndarray) -> np.ndarray:
        """The cross-entropy that each sample would have under each label, shape (n, K), in nats: a forward pass."""
        found, kept = np.empty((len(indices), self.mlp.layer_sizes[-1])), self._kept(len(indices))
        passes.label_losses(self._flat, self._layers(), self.samples.inputs, np.asarray(indices), kept, found)
        return found

    def moments(self, populations: Sequence[np.ndarray]) -> GradientMoments | None:
        """Moments of one population, all samples, or of two, right and wrong ones, in one call: see `Backend`."""
        ensemble = self._ensemble(populations, 1)
        n, k = len(ensemble.order), len(ensemble.counts)
        if n > self.chunk_size:
            return None
        found, table = self._passes(n, k), np.empty((1 + k, 7))
        passes.both_passes(self._flat, *self._data(), *ensemble[:4], self._kept(n), found)
        return _as_record(table, ensemble.counts, rows.moments(found, ensemble.counts, table))

    def alignments(self, batches: np.ndarray, wrong: np.ndarray | None) -> np.ndarray:
        """R, R_c and R_w of drawn minibatches and their standard errors, in one call: see `Backend`."""
        (count, size), found = batches.shape, np.empty((3, 2))
        drawing, kept = self._drawing(count, size, wrong), self._kept(size)
        layers, inputs, targets, _ = self._data()
        rows.alignments(self._flat, layers, inputs, targets, batches, self._is_measured, kept, drawing, found)
        return found

    def checkpoints(
        self, test: "NumbaBackend", *, batch_size: int, wrong: np.ndarray | None, n_batches: int
    ) -> "Checkpoints | None":
        """Measurements of the same samples at many points in weight space, each in one call.

        None where the samples do not fit into memory at once.

        Parameters
        ----------
        test : NumbaBackend
            The same network on the test samples.
        batch_size : int
            B.
        wrong : ndarray of bool, shape (N,), or None
        n_batches : int
            Minibatches to be given to each measurement, for the sampled alignments; 0 for none.
        """
        if max(self.n_samples, batch_size) > self.chunk_size:
            return None
        return Checkpoints(self, test, batch_size, wrong, n_batches)

    def _ensemble(self, populations: Sequence[np.ndarray], batch_size: int) -> rows.Ensemble:
        counts = np.array([len(population) for population in populations])
        return rows.Ensemble(np.concatenate(populations), counts, self._share, self._is_measured, batch_size)

    def _passes(self, n: int, k: int) -> passes.Passes:
        return passes.Passes(np.empty((3, n)), np.empty((k, self.mlp.n_parameters), self.dtype), np.empty((2, n)))

    def _drawing(self, n_batches: int, batch_size: int, wrong: np.ndarray | None) -> rows.Drawing:
        parts = 1 if wrong is None else 2
        mask = np.zeros(self.n_samples, bool) if wrong is None else wrong
        counts = np.empty((parts, n_batches), np.int64)
        gradients = np.empty((parts, n_batches, self.mlp.n_parameters), self.dtype)
        return rows.Drawing(mask, np.empty(batch_size), counts, gradients)

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

    def _kept(self, n: int) -> passes.Kept:
        return passes.Kept(*self._buffers(n)[:2], self._scratch())

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


class Checkpoints:
    """Measurements of the same samples at many points in weight space: see `NumbaBackend.checkpoints`.

    Attributes
    ----------
    correct : ndarray, shape (N_test,)
        1 where the last measurement found a test sample given its label, 0 where not; NaN for regression.
    """

    def __init__(
        self, train: NumbaBackend, test: NumbaBackend, batch_size: int, wrong: np.ndarray | None, n_batches: int
    ):
        n, n_test, k = train.n_samples, test.n_samples, 1 if wrong is None else 2
        groups = [np.arange(n)] if wrong is None else [np.flatnonzero(~wrong), np.flatnonzero(wrong)]
        self._train, self._ensemble = train, train._ensemble(groups, batch_size)
        self._row = rows.Row(np.empty((1 + k, 7)), np.empty(len(rows.CLOSED)), np.empty((3, 2)), np.empty(2))
        at_once = min(n_test, test.chunk_size)
        found = np.empty((2, n_test))
        samples = test.samples.inputs, test.samples.targets, test.samples.labels
        self._tested = rows.Tested(*samples, np.arange(n_test), test._kept(at_once), at_once, *found)
        self._given = (
            *train._data(), self._ensemble, train._kept(max(n, batch_size)), train._passes(n, k),
        )  # fmt: skip
        self._drawing = train._drawing(n_batches, batch_size, wrong)
        self._none = np.empty((0, batch_size), np.int64)
        self.correct = found[1]

    def measure(self, batches: np.ndarray | None = None) -> dict[str, float]:
        """All scalars at the present weights by name, mean loss and error of the test among them.

        Parameters
        ----------
        batches : ndarray of int, shape (M, B), or None
            Sample numbers of the minibatches for R, R_c and R_w.
        """
        drawn = self._none if batches is None else batches
        row, drawing = self._row, self._drawing
        self._inner_cw = rows.checkpoint(self._train._flat, *self._given, drawn, drawing, self._tested, row)
        found = dict(zip(rows.CLOSED, row.closed.tolist(), strict=True))
        if batches is not None:
            found |= zip(_STANDARD_ERRORS, row.sampled[:, 1].tolist(), strict=True)
        found["test_loss"], found["test_error"] = row.test.tolist()
        return found

    def moments(self) -> GradientMoments:
        """Those of the last measurement."""
        return _as_record(self._row.table, self._ensemble.counts, self._inner_cw)

    def lost(self, errors: np.ndarray, before: np.ndarray) -> tuple[float, np.ndarray]:
        """Fraction of test samples right at the lowest error before, and wrong at the last measurement; and its bits.

        Parameters
        ----------
        errors : ndarray, shape (k,)
            Test errors of the measurements before.
        before : ndarray of uint8, shape (k, bytes)
            The bits that they returned here.
        """
        bits = np.empty(-(-len(self.correct) // 8), np.uint8)
        return rows.lost(self.correct, self._row.test[1], errors, before, bits), bits


_STANDARD_ERRORS = tuple(f"{rows.CLOSED[place]}_standard_error" for place in rows.SAMPLED)


def _as_record(table: np.ndarray, counts: np.ndarray, inner_cw: float) -> GradientMoments:
    """Moments from the table of the compiled code."""
    sizes = [int(counts.sum()), *counts.tolist()]
    parts = [PopulationMoments(n, *row) if n else None for n, row in zip(sizes, table.tolist(), strict=True)]
    whole = parts[0]
    assert whole is not None  # there is at least one sample
    if len(parts) == 2:
        return GradientMoments(whole, None, None, float("nan"), float("nan"))
    return GradientMoments(whole, parts[1], parts[2], inner_cw, sizes[2] / sizes[0])
