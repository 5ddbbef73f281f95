"""SGD and the Langevin equation side by side, from the same weights."""

from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.curvature.langevin import mean_gradient, noise_draws
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.estimators.errors import UsageError


def langevin_steps(
    backend: Backend,
    n_steps: int,
    rng: np.random.Generator,
    *,
    learning_rate: float,
    batch_size: int,
    replacement: bool = False,
    substeps: int = 1,
) -> None:
    """Move a model by the Langevin equation of SGD, with the noise matrix of each moment (Feng & Tu 2021, eq 2).

    Euler-Maruyama: ``w <- w - alpha g dt + alpha sqrt(dt) z`` with z drawn from ``N(0, C(w))``. Each step looks at all
    samples once for g and once for z.

    Parameters
    ----------
    backend : Backend
        With all its weights measured.
    n_steps : int
        Iterations of SGD to cover.
    rng : numpy.random.Generator
    learning_rate : float
        alpha.
    batch_size : int
        B.
    replacement : bool
    substeps : int
        Euler steps an iteration, 1/dt. One is the nearest to SGD itself; many approach the continuous equation.

    Raises
    ------
    UsageError
        If the backend measures only part of its weights, or substeps is below 1.
    """
    if substeps < 1:
        raise UsageError(f"substeps = {substeps}: at least one Euler step an iteration is needed.")
    weights = backend.weights
    if len(weights) != backend.n_parameters:
        raise UsageError("the Langevin equation moves all weights: measure all parameters, not a subset.")
    dt = 1.0 / substeps
    for _ in range(n_steps * substeps):
        noise = noise_draws(backend, 1, rng, batch_size=batch_size, replacement=replacement)[0]
        step = learning_rate * (np.sqrt(dt) * noise - dt * mean_gradient(backend))
        backend.load_weights((backend.weights + step).astype(weights.dtype))


def sgd_steps(
    backend: Backend, n_steps: int, rng: np.random.Generator, *, learning_rate: float, batch_size: int
) -> None:
    """Steps of SGD whose minibatches are drawn independently of one another, each without repeats."""
    for _ in range(n_steps):
        backend.train(rng.choice(backend.n_samples, size=batch_size, replace=False), batch_size, learning_rate)


def sgd_and_langevin(
    backend: Backend,
    steps: np.ndarray,
    *,
    learning_rate: float,
    batch_size: int,
    n_replicas: int = 10,
    substeps: int = 1,
    seed: int = 0,
) -> xr.Dataset:
    """Replicas of SGD and of its Langevin equation from the present weights, which are put back afterwards.

    Parameters
    ----------
    backend : Backend
    steps : ndarray of int, shape (T,)
        Iterations at which to look, rising from 0 or later.
    learning_rate, batch_size : float, int
    n_replicas : int
        Of each.
    substeps : int
        As in `langevin_steps`.
    seed : int

    Returns
    -------
    xarray.Dataset
        ``loss`` and ``squared_displacement`` (``|w - w_0|^2``), dimensions "process" ("sgd", "langevin"), "replica" and
        "step".

    Raises
    ------
    UsageError
        If the steps do not rise from 0 or later.
    """
    steps = np.asarray(steps, dtype=np.int64)
    if steps.ndim != 1 or len(steps) == 0 or steps[0] < 0 or (np.diff(steps) <= 0).any():
        raise UsageError("steps must be a rising list of iterations, from 0 or later.")
    start = backend.weights
    common: dict[str, Any] = dict(learning_rate=learning_rate, batch_size=batch_size)
    values = np.empty((2, 2, n_replicas, len(steps)))
    try:
        for number, stream in enumerate(np.random.SeedSequence(seed).spawn(2 * n_replicas)):
            process, replica = divmod(number, n_replicas)
            rng, at = np.random.default_rng(stream), 0
            backend.load_weights(start)
            for place, stop in enumerate(steps):
                if process == 0:
                    sgd_steps(backend, int(stop) - at, rng, **common)
                else:
                    langevin_steps(backend, int(stop) - at, rng, substeps=substeps, **common)
                at = int(stop)
                moved = (backend.weights - start).astype(np.float64)
                values[:, process, replica, place] = mean_scores(backend)[0], moved @ moved
    finally:
        backend.load_weights(start)
    dimensions = ("process", "replica", "step")
    return xr.Dataset(
        {"loss": (dimensions, values[0]), "squared_displacement": (dimensions, values[1])},
        {"process": ["sgd", "langevin"], "replica": np.arange(n_replicas), "step": steps},
        {"learning_rate": learning_rate, "batch_size": batch_size, "substeps": substeps},
    )
