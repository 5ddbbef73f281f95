"""What the numpy and numba backends share: a multilayer perceptron, its weights, and its samples."""

from typing import ClassVar, Self

import numpy as np

from sgdphases.estimators.backends.mlp import MLP, measured_places
from sgdphases.estimators.backends.mlp_hessian import mlp_hessian_products
from sgdphases.estimators.backends.samples import prepare_samples
from sgdphases.estimators.errors import InputError, UsageError


class PerceptronBackend:
    """A multilayer perceptron on a labelled data set.

    A subclass names itself and its dtypes, says how many numbers it holds at once, and answers the rest of the
    `Backend` protocol.

    Parameters
    ----------
    model : MLP
    x : ndarray, shape (N, ...)
        Flattened to (N, inputs).
    y : ndarray, shape (N,) or (N, outputs)
        Integer class labels or real targets.
    loss : {"cross-entropy", "squared"}
    dtype : None or str
        Of weights and activations; None takes the first of `dtypes`. Sums over samples are float64 either way.
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

    name: ClassVar[str]
    dtypes: ClassVar[tuple[str, ...]]
    chunk_numbers: ClassVar[int]  # held at once, `numbers_per_sample` of them for each sample of a chunk

    def __init__(
        self, model: MLP, x, y, *, loss: str = "cross-entropy", dtype=None, device: str | None = None, parameters=None
    ):
        self.mlp = _checked_model(model, self.name, device)
        self.dtype = np.dtype(dtype or self.dtypes[0])
        if self.dtype.name not in self.dtypes:
            raise UsageError(
                f"dtype = {self.dtype}: the {self.name} backend has {' and '.join(self.dtypes)}; choose one of them, "
                "or another backend."
            )
        self._flat = np.array(model.weights, dtype=self.dtype)
        self._measured = measured_places(model.layer_sizes, parameters)
        self.n_parameters = len(self._measured)
        self.chunk_size = max(1, self.chunk_numbers // self.numbers_per_sample())
        self._attach(x, y, loss)

    def numbers_per_sample(self) -> int:
        raise NotImplementedError

    def _attach(self, x, y, loss: str) -> None:
        self.samples = prepare_samples(
            _flat_inputs(x, self.mlp), y, n_outputs=self.mlp.layer_sizes[-1], loss=loss, dtype=self.dtype
        )
        self.n_samples = self.samples.n_samples

    @property
    def weights(self) -> np.ndarray:
        return self._flat.copy()

    def load_weights(self, weights: np.ndarray) -> None:
        self._flat[:] = self.mlp.with_weights(weights).weights

    def on(self, x, y) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._attach(x, y, self.samples.loss)
        return other

    def hessian_products(self, indices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        return mlp_hessian_products(self.mlp, self._flat, self.samples, indices, vectors, self._measured)


def _checked_model(model, backend: str, device: str | None) -> MLP:
    """The model, if it is one the backend can work with.

    Raises
    ------
    UsageError
        If the model is not an MLP, or a device other than the CPU is asked for.
    """
    if not isinstance(model, MLP):
        raise UsageError(
            f"the {backend} backend takes an sgdphases MLP, not {type(model).__name__}: use backend='torch'."
        )
    if device not in (None, "cpu"):
        raise UsageError(f"device = {device!r}: the {backend} backend runs on the CPU; use backend='torch'.")
    return model


def _flat_inputs(x, mlp: MLP) -> np.ndarray:
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
