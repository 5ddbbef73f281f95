"""Every identity of the theory, held against a person's own network: `verify` in one call."""

import copy
from typing import Any

import numpy as np

from sgdphases.estimators.backend import Backend, each_array, to_arrays, to_numpy
from sgdphases.estimators.backends.mlp import MLP
from sgdphases.estimators.backends.registry import make_backend, takes_option
from sgdphases.estimators.ensemble.checks import check_mask
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.sampled import sampled
from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.verify import ROUNDING, SIGMAS, Check, verify

HALF = 0.05  # rounding of models that compute in half precision, relative
N_BATCHES = 200  # of the training loop's own
LEGEND = """\
g_i: gradient of sample i; K: all products g_i·g_j; v, c_i: random directions and numbers; reference: float64, sample by
sample. Compared is a random part of the samples in small minibatches, so values differ from those of `measure`."""


class Checks(tuple[Check, ...]):
    """The checks made; printed, a table of them, and whether all hold."""

    @property
    def hold(self) -> bool:
        """Whether all of them hold."""
        return all(check.holds for check in self)

    def __str__(self) -> str:
        width = max((len(check.identity) for check in self), default=0)
        lines = [f"{'identity':{width}}  {'left':>12}  {'right':>12}  {'residual':>9}  {'allowed':>8}"]
        lines += [
            f"{c.identity:{width}}  {c.left:12.6g}  {c.right:12.6g}  {c.residual:9.2g}  {c.allowed:8.2g}  "
            f"{'holds' if c.holds else 'VIOLATED'}"
            for c in self
        ]
        lines.append(LEGEND)
        violated = sum(not c.holds for c in self)
        lines.append(f"{violated} of {len(self)} VIOLATED" if violated else f"all {len(self)} hold")
        return "\n".join(lines)


def check(
    model: Any,
    x: Any,
    y: Any,
    *,
    batch_size: int | None = None,
    wrong: Any = None,
    n_samples: int = 100,
    smooth: bool = False,
    seed: int = 0,
    backend: str | None = None,
    **options: Any,
) -> Checks:
    """Hold every identity of the theory, and every answer of the backend, against a network of one's own.

    The network is compared on a random subset of the data with autograd, one sample after the other in float64, and
    with the minibatch gradients that a training loop finds. It is left as it was.

    Parameters
    ----------
    model, x, y, wrong, backend, **options : as for `measure`
    batch_size : int or None
        B; None takes a tenth of the samples compared.
    n_samples : int
        Samples compared, at most all; at least 8.
    smooth : bool
        Whether the loss is twice differentiable in the weights: then the second-order change of the loss in a step is
        compared as well.
    seed : int
        Of the subset, directions and minibatches.

    Returns
    -------
    Checks
        A tuple of `Check`; ``.hold`` says whether all hold, and printing it shows a table.

    Raises
    ------
    UsageError, InputError
        As `measure` does: what cannot be measured cannot be checked.

    Examples
    --------
    >>> import numpy as np, sgdphases
    >>> rng = np.random.default_rng(0)
    >>> model = sgdphases.initial_mlp((20, 10, 2), "relu", rng)
    >>> sgdphases.check(model, rng.normal(size=(100, 20)), rng.integers(0, 2, 100)).hold
    True
    """
    x, y = to_arrays(x), None if y is None else to_numpy(y)
    lengths: list[int] = []
    each_array(x, lambda values: lengths.append(len(values)))
    n = lengths[0]
    mask = check_mask(None if wrong is None else to_numpy(wrong), n)
    if n_samples < 8 or seed < 0:
        raise UsageError(f"n_samples = {n_samples}, seed = {seed}: compare at least 8 samples, with a seed from 0 on.")
    chosen = np.sort(np.random.default_rng(seed).permutation(n)[:n_samples])
    x = each_array(x, lambda values: values[chosen])
    y, mask = (None if values is None else values[chosen] for values in (y, mask))
    size = max(1, len(chosen) // 10) if batch_size is None else batch_size
    made = make_backend(copy.deepcopy(model), x, y, backend=backend, **options)
    rounding = HALF if getattr(made, "is_coarse", False) else None
    compared: dict[str, Any] = dict(batch_size=size, wrong=mask)
    checks = verify(made, _reference(model, x, y, options), **compared, smooth=smooth, seed=seed, rounding=rounding)
    if takes_option(model, backend, "per_sample"):
        loop = make_backend(copy.deepcopy(model), x, y, backend=backend, **options, per_sample=False)
        tolerance = rounding or ROUNDING["float32"]
        checks += _as_a_training_loop(made, loop, **compared, rounding=tolerance, rng=np.random.default_rng(seed))
    return Checks(checks)


def _reference(model: Any, x: np.ndarray, y: np.ndarray, options: dict[str, Any]) -> Backend:
    """An independent backend in float64: that of numpy for an MLP, sample by sample for a PyTorch module."""
    ignored = ("dtype", "device", "autocast", "keep_activations")
    kept = {name: value for name, value in options.items() if name not in ignored}
    if isinstance(model, MLP):
        return make_backend(model, x, y, backend="numpy", **kept)
    from sgdphases.estimators.backends.torch.reference import AutogradReference  # PyTorch is not always there

    return AutogradReference(model, x, y, **kept)


def _as_a_training_loop(
    made: Backend, loop: Backend, *, batch_size: int, wrong: np.ndarray | None, rounding: float, rng
) -> list[Check]:
    """Closed forms beside what plain backward passes of drawn minibatches give, in standard errors."""
    closed = exact(made, batch_size=batch_size, wrong=wrong)
    drawn = sampled(loop, batch_size=batch_size, wrong=wrong, n_batches=N_BATCHES, rng=rng)
    names = {"activity": "A", "directed_activity": "A_0", "total_variance": "D"}
    found = []
    for name, symbol in names.items():
        left, right = getattr(closed, name), getattr(drawn, name)
        error = float(np.hypot(drawn.standard_errors[name], rounding * closed.activity))
        away = abs(left - right) / error if error > 0 else 0.0 if left == right else float("inf")
        identity = f"{symbol}, closed and from {N_BATCHES} minibatches of a training loop (residual in σ)"
        found.append(Check(identity, left, right, away, SIGMAS))
    return found
