"""The public measurement: order parameters of a model on a labelled data set."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sgdphases.estimators.backend import Backend, to_numpy
from sgdphases.estimators.backends.registry import make_backend, takes_option
from sgdphases.estimators.ensemble.alignment import Alignment, SampledAlignment, sampled_alignment
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.order_parameters import OrderParameters
from sgdphases.estimators.ensemble.sampled import sampled
from sgdphases.estimators.ensemble.subset import measure_subset
from sgdphases.estimators.ensemble.workers import Workers, alone, torch_workers
from sgdphases.estimators.errors import UsageError
from sgdphases.theory.ensemble import ratio

ESTIMATORS = ("exact", "sampled")


def measure(
    model: Any,
    x: Any,
    y: Any,
    *,
    batch_size: int,
    wrong: Any = None,
    loss: Any = "cross-entropy",
    replacement: bool = False,
    ensemble: str = "plain",
    estimator: str = "exact",
    n_batches: int = 100,
    partition: bool = False,
    alignment_batches: int = 32,
    seed: int = 0,
    parameters: str | Sequence[str] | None = None,
    distributed: bool = False,
    drawn_from: int | Sequence[int] | None = None,
    backend: str | None = None,
    dtype: Any = None,
    device: str | None = None,
    **options: Any,
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
    wrong : array or tensor of bool, shape (N,), or None
        Samples whose label is wrong. None leaves the two populations NaN.
    loss : {"cross-entropy", "squared"}, or what the backend takes
        Per sample: cross-entropy in nats, or ``|f - target|^2 / 2``. The torch backend also takes PyTorch's own
        losses, such as ``torch.nn.CrossEntropyLoss(label_smoothing=0.1)``.
    replacement : bool
        Whether a minibatch may hold a sample twice; SGD's do not.
    ensemble : {"plain", "stratified"}
    estimator : {"exact", "sampled"}
        Closed forms over all minibatches, or ``n_batches`` drawn ones (see `sampled`), which needs nothing but
        gradients of minibatches: it also measures samples that are coupled, and losses that are no mean over samples.
        A_c and A_w are not quite the same: "exact" has minibatch parts of (1-rho)B and rho B samples, "sampled" those
        of plain minibatches, whose sizes vary.
    n_batches : int
        M, for the sampled estimator.
    partition : bool
        For the sampled estimator: the minibatches of one epoch instead of independent ones.
    alignment_batches : int
        Minibatches drawn for the alignments R, R_c, R_w beside the exact scalars; 0 leaves them NaN, otherwise at
        least 3.
    seed : int
        Of the drawing. Nothing else is random.
    parameters : str, list of str, or None
        Measure the gradient by these parameters only, such as ``"layers.1.weight"``; ``*`` allowed. None takes all.
    distributed : bool
        Under `torch.distributed`: every process gives its own shard of the samples, and all get what one process with
        all samples would. For the exact estimator.
    drawn_from : int, (int, int) or None
        Where x and y are a random subset of the training set: its size N, or, with ``wrong``, its numbers of samples
        with right and wrong labels (from N alone they are estimated). The result then is that of the whole training
        set, unbiased, and every value has a standard error; B is at most the size of the subset. See `measure_subset`.
    backend : str or None
        A registered backend; None takes "torch" for a PyTorch module and "numba" for an MLP.
    dtype, device : passed on to the backend
    **options : passed on to the backend
        `TorchBackend` lists its own: ``batch_norm``, ``dropout``, ``autocast``, ``keep_activations``.

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
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UsageError(f"seed = {seed!r}: give 0 or a positive whole number.")
    if estimator == "sampled" and takes_option(model, backend, "per_sample"):
        options = {"per_sample": False, **options}  # it needs no gradient of a single sample
    made = make_backend(
        model, x, y, backend=backend, loss=loss, dtype=dtype, device=device, parameters=parameters, **options
    )
    mask = None if wrong is None else to_numpy(wrong)
    common: dict[str, Any] = dict(batch_size=batch_size, wrong=mask, replacement=replacement, ensemble=ensemble)
    rng = np.random.default_rng(seed)
    workers = torch_workers(made.n_samples) if distributed else None
    if drawn_from is not None:
        if estimator != "exact" or replacement or ensemble != "plain":
            raise UsageError("drawn_from goes with estimator='exact' and plain minibatches without replacement.")
        everyone = alone(made.n_samples) if workers is None else workers
        own = check_mask(mask, made.n_samples)
        of_all = None if own is None else everyone.gather(own) > 0.5
        sizes = _population_sizes(drawn_from, of_all, everyone.total)
        subset: dict[str, Any] = dict(batch_size=batch_size, wrong=mask, sizes=sizes, rng=rng, workers=workers)
        return measure_subset_backend(made, **subset, alignment_batches=alignment_batches)
    if estimator == "exact":
        return measure_backend(made, **common, alignment_batches=alignment_batches, rng=rng, workers=workers)
    if distributed:
        raise UsageError("distributed = True goes with estimator='exact'.")
    if estimator == "sampled":
        return sampled(made, **common, n_batches=n_batches, partition=partition, rng=rng)
    raise UsageError(f"estimator = {estimator!r}: choose one of {', '.join(ESTIMATORS)}.")


def measure_backend(
    backend: Backend,
    *,
    batch_size: int,
    wrong: np.ndarray | None,
    replacement: bool = False,
    ensemble: str = "plain",
    alignment_batches: int = 0,
    rng: np.random.Generator | None = None,
    workers: Workers | None = None,
) -> OrderParameters:
    """`measure` for a backend that is already there: closed forms, and sampled alignments, if asked for, by ``rng``."""
    common: dict[str, Any] = dict(batch_size=batch_size, wrong=wrong, replacement=replacement, workers=workers)
    found = exact(backend, **common, ensemble=ensemble)
    if alignment_batches == 0:
        return found
    assert rng is not None
    drawn = sampled_alignment(backend, **common, n_batches=alignment_batches, rng=rng)
    return _with_alignments(found, drawn)


def measure_subset_backend(
    backend: Backend,
    *,
    batch_size: int,
    sizes: Sequence[int],
    wrong: np.ndarray | None,
    alignment_batches: int = 0,
    rng: np.random.Generator,
    workers: Workers | None = None,
) -> OrderParameters:
    """`measure_backend` for a backend that holds a random subset of the training set: see `measure_subset`.

    R comes from disjoint minibatches, whose gradients have inner products lower by ``Tr Sigma/(N-1)`` than those of
    independent ones; that is corrected to first order. It is NaN where the subset holds fewer than six minibatches.
    """
    common: dict[str, Any] = dict(batch_size=batch_size, wrong=wrong, rng=rng, workers=workers)
    found = measure_subset(backend, **common, sizes=sizes)
    if alignment_batches == 0:
        return found
    drawn = sampled_alignment(backend, **common, n_batches=alignment_batches, disjoint=True)
    moments = found.known_moments()
    parts = (moments.everything, found.activity), (moments.clean, found.activity_c), (moments.wrong, found.activity_w)
    shifts = [
        0.0 if part is None or part.count < 2 else ratio(part.gradient_variance / (part.count - 1), activity)
        for part, activity in parts
    ]
    return _with_alignments(
        found, SampledAlignment(*(Alignment(a.value + b, a.standard_error) for a, b in zip(drawn, shifts, strict=True)))
    )


def _with_alignments(found: OrderParameters, drawn: SampledAlignment) -> OrderParameters:
    parts = {
        "alignment": drawn.everything,
        "alignment_c": drawn.clean,
        "alignment_w": drawn.wrong,
    }
    errors = {name: part.standard_error for name, part in parts.items()}
    return found.with_values(
        **{name: part.value for name, part in parts.items()}, standard_errors={**found.standard_errors, **errors}
    )


def _population_sizes(drawn_from: int | Sequence[int], mask: np.ndarray | None, n: int) -> tuple[int, ...]:
    """N, or N_c and N_w, of the data set a subset of n samples was drawn from."""
    sizes = tuple(int(size) for size in np.atleast_1d(np.asarray(drawn_from)))
    if mask is not None and len(sizes) == 1:
        n_wrong = round(float(mask.mean()) * sizes[0])
        sizes = sizes[0] - n_wrong, n_wrong
    if len(sizes) != (1 if mask is None else 2) or min(sizes) < 0 or sum(sizes) < n:
        raise UsageError(
            f"drawn_from = {drawn_from}: give the size of the training set that the {n} samples were drawn from, or "
            "with `wrong` its numbers of samples with right and wrong labels."
        )
    return sizes
