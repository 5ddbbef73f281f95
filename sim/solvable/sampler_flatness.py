"""Inverse variance-flatness with the sampler switched: spread of the weights around the minimum of least squares.

At a minimum with noise C proportional to the Hessian H, minibatches drawn independently spread the weights alike along
all directions, sharp or flat. Within a reshuffled epoch the noise of its minibatches sums to zero, so slow directions
move little: if all minibatches curve alike, the variance goes as ``h^2`` seen once an epoch, and as h seen at every
step. The flatness F of a direction of curvature h is ``h^(-1/2)`` up to a factor, so ``variance ~ F^(-psi)`` with
psi = 0, 4 and 2. Real minibatches also differ in their Hessians: what one of them leaves along a sharp direction, the
next turns into flat ones. That leaves more of the variance at the end of an epoch, mostly along flat directions: psi is
then nearer to 3 than to 4. Seen one step later, the noise of that step hides both, and psi is 2.
"""

import numpy as np

from sgdphases.sim.solvable.finite_rate import Experiment
from sgdphases.theory.langevin import shuffled_variance, stationary_variance

SAMPLES, DIMENSION, BATCH, RATE, EPOCHS = 400, 20, 40, 0.05, 1500
EXPECTED = {"independent": 0.0, "epoch": 4.0, "step": 2.0}
ALLOWED = 0.5  # of each exponent; over seeds they scatter by 0.1 to 0.2


def flatness_experiment(seed: int) -> Experiment:
    """Variances along the Hessian's eigenvectors under both samplers, seen once an epoch and at every step.

    It holds if with one Hessian for all minibatches the exponents psi lie within 0.5 of 0, 4 and 2, and the variances
    of independent and of reshuffled minibatches (at every step) have a median within 15 % of those that
    `sgdphases.theory.langevin` expects.

    Returns
    -------
    Experiment
        Columns: ``curvature``; ``independent``, ``epoch``, ``step``: variances with one Hessian; ``epoch_own``,
        ``step_own``: with each minibatch's own; ``independent_theory``, ``step_theory``.
    """
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(SAMPLES, DIMENSION)) * np.geomspace(1, 0.2, DIMENSION)
    y = rng.normal(size=SAMPLES)
    residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
    curvature, vectors = np.linalg.eigh(x.T @ x / SAMPLES)
    inputs, per_epoch = x @ vectors, SAMPLES // BATCH
    found: dict[str, np.ndarray] = {"curvature": curvature}
    found["independent"] = _path(inputs, residual, curvature, False, False, rng).var(axis=0)
    for ending, own in (("", False), ("_own", True)):
        path = _path(inputs, residual, curvature, True, own, rng)
        found[f"epoch{ending}"], found[f"step{ending}"] = path[per_epoch - 1 :: per_epoch].var(axis=0), path.var(axis=0)
    factor = (SAMPLES - BATCH) / (BATCH * (SAMPLES - 1))
    noise = factor * ((inputs * residual[:, None]) ** 2).mean(axis=0)
    found["independent_theory"] = stationary_variance(curvature, noise, RATE)
    found["step_theory"] = shuffled_variance(curvature, noise, RATE, per_epoch)
    seen = [name for name in found if name != "curvature"]
    psi = {name: 2 * float(np.polyfit(np.log(curvature), np.log(found[name]), 1)[0]) for name in seen}
    near = all(abs(np.median(found[name] / found[f"{name}_theory"]) - 1) < 0.15 for name in ("independent", "step"))
    finding = (
        f"psi = {psi['independent']:.2f} for independent minibatches (expected 0); reshuffled ones with one Hessian "
        f"{psi['epoch']:.2f} once an epoch (4) and {psi['step']:.2f} at every step (2); with their own Hessians "
        f"{psi['epoch_own']:.2f} and {psi['step_own']:.2f}"
    )
    return Experiment(found, finding, near and all(abs(psi[name] - EXPECTED[name]) < ALLOWED for name in EXPECTED))


def _path(
    inputs: np.ndarray,
    residual: np.ndarray,
    curvature: np.ndarray,
    reshuffled: bool,
    own: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """Deviations from the minimum after each step of all epochs but the first twentieth, shape (steps, d)."""
    per_epoch, w = SAMPLES // BATCH, np.zeros(len(curvature))
    pulls = inputs * residual[:, None]
    path = np.empty((per_epoch * EPOCHS, len(curvature)))
    order = np.arange(SAMPLES)
    for step in range(len(path)):
        slot = step % per_epoch if reshuffled else 0
        if slot == 0:
            order = rng.permutation(SAMPLES)
        chosen = order[slot * BATCH : (slot + 1) * BATCH]
        bent = inputs[chosen].T @ (inputs[chosen] @ w) / BATCH if own else curvature * w
        w = w - RATE * (bent - pulls[chosen].sum(axis=0) / BATCH)
        path[step] = w
    return path[per_epoch * (EPOCHS // 20) :]
