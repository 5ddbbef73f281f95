"""The public measurement: order parameters of a model on a labelled data set."""

import sys
from typing import Any

import numpy as np

from sgdphases.estimators.alignment import sampled_alignment
from sgdphases.estimators.backend import Backend, backend_class
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.exact import exact
from sgdphases.estimators.mlp import MLP
from sgdphases.estimators.order_parameters import OrderParameters


def measure(
    model: Any,
    x: Any,
    y: Any,
    *,
    batch_size: int,
    wrong: np.ndarray | None = None,
    loss: str = "cross-entropy",
    replacement: bool = False,
    ensemble: str = "plain",
    alignment_batches: int = 32,
    seed: int = 0,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
) -> OrderParameters:
    """Order parameters of SGD at a model's present weights (Feng & Tu 2021, eqs 5-15).

    The model is left as it was found.

    Parameters
    ----------
    model : torch.nn.Module, sgdphases.MLP, or what the chosen backend takes
    x : array or tensor, shape (N, ...)
        Training inputs.
    y : array or tensor, shape (N,) or (N, outputs)
        The labels the model is trained on (integers), or real targets for ``loss="squared"``.
    batch_size : int
        B, 1 to N.
    wrong : array of bool, shape (N,), or None
        Samples whose label is wrong. None leaves the two populations NaN.
    loss : {"cross-entropy", "squared"}
        Per sample: cross-entropy in nats, or ``|f - target|^2 / 2``.
    replacement : bool
        Whether a minibatch may hold a sample twice; SGD's do not.
    ensemble : {"plain", "stratified"}
    alignment_batches : int
        Minibatches drawn for the alignments R, R_c, R_w; 0 leaves them NaN, otherwise at least 3.
    seed : int
        Of that drawing. Nothing else is random.
    backend : str or None
        A registered backend; None takes "torch" for a PyTorch module and "numba" for an MLP.
    dtype, device : passed on to the backend

    Returns
    -------
    OrderParameters

    Raises
    ------
    UsageError
        For settings that make no sense or that the backend does not know.
    InputError
        If data, labels, mask and model do not fit together.

    Examples
    --------
    >>> import numpy as np, sgdphases
    >>> rng = np.random.default_rng(0)
    >>> model = sgdphases.initial_mlp((20, 10, 2), "relu", rng)
    >>> x, y = rng.normal(size=(100, 20)), rng.integers(0, 2, 100)
    >>> found = sgdphases.measure(model, x, y, batch_size=10)
    >>> bool(abs(found.mean_projection - 1) < 1e-5)
    True
    """
    chosen = backend_class(backend or _default_backend(model))
    made = chosen(model, as_array(x), as_array(y), loss=loss, dtype=dtype, device=device)
    return measure_backend(
        made,
        batch_size=batch_size,
        wrong=None if wrong is None else as_array(wrong),
        replacement=replacement,
        ensemble=ensemble,
        alignment_batches=alignment_batches,
        rng=np.random.default_rng(seed),
    )


def measure_backend(
    backend: Backend,
    *,
    batch_size: int,
    wrong: np.ndarray | None,
    replacement: bool = False,
    ensemble: str = "plain",
    alignment_batches: int = 0,
    rng: np.random.Generator,
) -> OrderParameters:
    """`measure` for a backend that is already there: closed forms, and sampled alignments if asked for."""
    found = exact(backend, batch_size=batch_size, wrong=wrong, replacement=replacement, ensemble=ensemble)
    if alignment_batches == 0:
        return found
    sampled = sampled_alignment(
        backend,
        batch_size=batch_size,
        n_batches=alignment_batches,
        rng=rng,
        wrong=wrong,
        replacement=replacement,
    )
    return found.with_values(
        alignment=sampled.everything.value,
        alignment_standard_error=sampled.everything.standard_error,
        alignment_c=sampled.clean.value,
        alignment_c_standard_error=sampled.clean.standard_error,
        alignment_w=sampled.wrong.value,
        alignment_w_standard_error=sampled.wrong.standard_error,
    )


def as_array(values: Any) -> np.ndarray:
    """A numpy array from an array, a list or a tensor on any device."""
    return values.detach().cpu().numpy() if hasattr(values, "detach") else np.asarray(values)


def _default_backend(model: Any) -> str:
    if isinstance(model, MLP):
        return "numba"
    torch = sys.modules.get("torch")  # a module of it can only exist once it has been imported
    if torch is not None and isinstance(model, torch.nn.Module):
        return "torch"
    raise UsageError(f"no backend is known for a {type(model).__name__}: name one with backend=...")
