"""Inverse variance-flatness of a network with the sampler switched: independent minibatches against reshuffled epochs.

A network is trained until its loss no longer changes much, and goes on from there with either sampler. Along the
principal directions of either path, seen once an epoch and at every step, stand the variance of the weights and the
flatness F of the loss. At a minimum that all minibatches share, ``variance ~ F^(-psi)`` with psi = 0 for independent
ones, and 4 and 2 for reshuffled ones (see `sgdphases.sim.solvable.sampler_flatness`). A network differs in three ways:
minibatches have Hessians of their own, it still learns, and nothing holds it along the flattest directions, so that
under independent minibatches it drifts along them as long as it is watched.
"""

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.curvature.variance_flatness import VarianceFlatness, variance_flatness
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.estimators.errors import UsageError
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import prepare
from sgdphases.sim.solvable.finite_rate import Experiment

HIDDEN, BATCH, RATE = (50, 50), 50, 0.1
BEFORE, EPOCHS, WATCHED = 400, 240, 60
"""Epochs of training, then of either sampler; of these the last ones are seen at every step."""
DIRECTIONS = sorted({round(float(number)) for number in np.geomspace(2, 40, 16)})
EXPECTED = {"independent_epoch": 0.0, "independent_step": 0.0, "epoch": 4.0, "step": 2.0}
ALLOWED, SIGMAS = 0.5, 2.0  # an exponent may be further from what is expected by the larger of both


def network_flatness_experiment(dataset: str, data_dir: str | None, train_size: int, seed: int) -> Experiment:
    """Variances and flatness of a tanh network on a data set, under both samplers.

    It holds if all four exponents are within 0.5 or two of their standard errors of 0, 0, 4 and 2.

    Parameters
    ----------
    dataset, data_dir : str
        As of a run.
    train_size : int
        Training samples, a multiple of `BATCH`.
    seed : int

    Returns
    -------
    Experiment
        Columns: ``independent_epoch``, ``independent_step``, ``epoch``, ``step`` (variances), and each with
        ``_flatness`` after its name.

    Raises
    ------
    UsageError, InputError
        If the data set cannot be had, the number of samples does not fit, or it is not learnt without an error.
    """
    if train_size % BATCH or train_size < 4 * BATCH:
        raise UsageError(f"--train-size {train_size}: choose a multiple of {BATCH}, at least {4 * BATCH}.")
    settings = make_settings(
        dict(dataset=dataset, data_dir=data_dir, train_size=train_size, test_size=BATCH, hidden=HIDDEN,
             activation="tanh", seed=seed, dtype="float64", batch_size=BATCH, learning_rate=RATE)
    )  # fmt: skip
    backend, rng = prepare(settings).train, np.random.default_rng(seed)
    for _ in range(BEFORE):
        backend.train(rng.permutation(train_size), BATCH, RATE)
    start, (loss, error) = backend.weights, mean_scores(backend)
    if not error == 0:
        raise UsageError(
            f"{dataset}: after {BEFORE} epochs the training error is {error:.3g}, so there is no minimum to stay near; "
            "choose another data set, or fewer samples with --train-size."
        )
    rows: dict[str, np.ndarray] = {}
    found: dict[str, VarianceFlatness] = {}
    for prefix in ("independent_", ""):
        backend.load_weights(start)
        ends, steps = _paths(backend, train_size, bool(prefix), rng)
        for when, path in (("epoch", ends), ("step", steps)):
            each = variance_flatness(backend, path, DIRECTIONS)
            found[prefix + when] = each
            rows[prefix + when], rows[f"{prefix}{when}_flatness"] = each.variances, each.flatness
    near = {
        name: abs(each.exponent - EXPECTED[name]) <= max(ALLOWED, SIGMAS * each.exponent_error)
        for name, each in found.items()
    }
    psi = {name: f"{each.exponent:.2f} ± {each.exponent_error:.2f}" for name, each in found.items()}
    finding = (
        f"psi = {psi['epoch']} for reshuffled minibatches once an epoch (expected 4) and {psi['step']} at every step "
        f"(2); {psi['independent_epoch']} and {psi['independent_step']} for independent ones (0 and 0); off: "
        f"{', '.join(name for name in near if not near[name]) or 'none'}; loss {loss:.2g} at the start; once an epoch "
        f"independent ones spread {np.median(rows['independent_epoch'] / rows['epoch']):.3g} times as much"
    )
    return Experiment(rows, finding, all(near.values()))


def _paths(
    backend: Backend, n_samples: int, independent: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Weights after each epoch, and after each step of the last epochs; single precision."""
    ends, steps = [], []
    for epoch in range(EPOCHS):
        order = rng.permutation(n_samples)
        if independent:
            drawn = [rng.choice(n_samples, BATCH, replace=False) for _ in range(n_samples // BATCH)]
            order = np.concatenate(drawn)
        pieces = order.reshape(-1, BATCH) if epoch >= EPOCHS - WATCHED else [order]
        for piece in pieces:
            backend.train(piece, BATCH, RATE)
            if len(piece) == BATCH:
                steps.append(backend.weights.astype(np.float32))
        ends.append(backend.weights.astype(np.float32))
    return np.array(ends), np.array(steps)
