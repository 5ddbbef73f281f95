"""What a backend must answer.

A backend wraps a model at its present weights and one labelled data set. Estimators ask it about sets of samples and
never see the model, so every estimator works with every backend.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.estimators.nested import parts, remade


class Scores(NamedTuple):
    """How the model does on some samples.

    ``loss``: shape (n,), float64, in nats for cross-entropy. ``correct``: shape (n,), float64, 1 or 0, or NaN for
    regression.
    """

    loss: np.ndarray
    correct: np.ndarray


class SampleGradients(NamedTuple):
    """Result of one forward and backward pass over some samples.

    ``loss`` and ``correct`` as in `Scores`; ``squared_norm``: ``|g_i|^2``, shape (n,), float64;
    ``gradient_sum``: ``sum_i g_i``, shape (P,).
    """

    loss: np.ndarray
    correct: np.ndarray
    squared_norm: np.ndarray
    gradient_sum: Any


class GradientSource(Protocol):
    """Per-sample gradients, as far as the closed forms need them: a backend, or one part of its gradients."""

    n_samples: int
    n_parameters: int
    chunk_size: int

    def gradient_sums(self, indices: np.ndarray) -> SampleGradients:
        """Losses, squared gradient norms and the sum of gradients, from a forward and a backward pass."""

    def projections(self, indices: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """``g_i . v_k`` for directions ``v_k`` in the rows of a (k, P) array: shape (n, k)."""


@runtime_checkable
class Backend(GradientSource, Protocol):
    """A model at its present weights, on one labelled data set.

    Gradients are those by the measured parameters, P = ``n_parameters`` numbers; ``weights`` are all that training
    moves, W numbers. ``indices`` are sample numbers, shape (n,), repeats allowed; a backend is never asked about more
    than ``chunk_size`` of them at once, so it needs no chunks of its own, except in ``train``. Everything it returns is
    a float64 numpy array, whatever the dtype and device of the model; only a ``gradient_sum`` may stay a tensor, in its
    own dtype and on its device, where chunks are added up in float64 before the sum is fetched.

    Three more methods may be there, and then save time; each must give what the methods below give, to rounding.
    ``moments(populations)`` gives `sgdphases.theory.order_parameters.GradientMoments` of all samples, for the sample
    numbers of K = 1 population or of K = 2, the clean and the wrong ones; or None where they do not fit into memory.
    ``alignments(batches, wrong)`` gives the sampled R, R_c and R_w and their standard errors, shape (3, 2), NaN where
    undefined, for the sample numbers of M minibatches, shape (M, B), and the mask of wrong labels or None.
    ``label_losses(indices)`` gives the cross-entropy of each sample under each of K labels, shape (n, K).
    """

    @property
    def weights(self) -> np.ndarray:
        """All weights in one vector, shape (W,), in the model's own dtype: a copy."""

    def load_weights(self, weights: np.ndarray) -> None:
        """Move the model to these weights, shape (W,)."""

    def on(self, x: np.ndarray, y: np.ndarray) -> Self:
        """The same model, weights shared, on another labelled data set."""

    def scores(self, indices: np.ndarray) -> Scores:
        """Losses and correctness: a forward pass."""

    def weighted_sums(self, indices: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
        """``sum_i c_ik g_i`` for coefficients of shape (n, k): shape (k, P)."""

    def gram(self, indices: np.ndarray, others: np.ndarray) -> np.ndarray:
        """``g_i . g_j`` for the first samples and the others, shape (m,): shape (n, m)."""

    def train(self, order: np.ndarray, batch_size: int, learning_rate: float) -> None:
        """SGD steps over ``order``, sample numbers cut into minibatches of ``batch_size``, the last maybe smaller.

        A step moves the weights by ``-learning_rate`` times the mean gradient of its minibatch.
        """


@runtime_checkable
class CurvedBackend(Backend, Protocol):
    """A backend that also knows second derivatives, as the sharp and floor parts need them."""

    def hessian_products(self, indices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
        """``sum_i H_i v_k`` with H_i the Hessian of sample i's loss, for the rows of a (k, P) array: shape (k, P)."""


def frozen_weights(backend: Any) -> AbstractContextManager[None]:
    """A context in which the weights do not change, so that a backend may reuse what it has computed.

    A backend that can takes part by a ``frozen_weights`` method of its own; for others this does nothing.
    """
    return backend.frozen_weights() if hasattr(backend, "frozen_weights") else nullcontext()


def to_numpy(values: Any) -> np.ndarray:
    """A numpy array from an array, a list or a tensor on any device.

    Raises
    ------
    InputError
        For what is no array, such as lists of different lengths, and for sparse and quantized tensors.
    """
    try:
        if hasattr(values, "detach"):
            values = values.detach().cpu()
            return (values.float() if str(values.dtype) == "torch.bfloat16" else values).numpy()
        return np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(f"this is no array ({error}): give samples that all have the same shape.") from None


def to_arrays(x: Any) -> Any:
    """Inputs as an array; or with an array for every part, where a model takes several (see `each_array`)."""
    return each_array(x, to_numpy)


def each_array(x: Any, change: Callable[[Any], Any]) -> Any:
    """Inputs with every array changed: one, or those of dictionaries, tuples and dataclasses, nested.

    A list is one array, such as samples in a list; None stays None.
    """
    inside = None if isinstance(x, list) else parts(x)
    if inside is not None:
        return remade(x, [each_array(values, change) for values in inside.values()])
    return None if x is None else change(x)


def own_copy(values: Any) -> Any:
    """A copy to accumulate sums in: float64, on the same device (float32 on devices without float64)."""
    if not hasattr(values, "detach"):
        return np.array(values, dtype=np.float64)
    wide = values if values.device.type == "mps" else values.double()
    return values.clone() if wide is values else wide


def chunks(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """Cut sample numbers into the fewest pieces of at most ``size``, all of nearly the same length."""
    if len(indices) <= size:
        return [indices] if len(indices) else []
    return np.array_split(indices, -(-len(indices) // size))
