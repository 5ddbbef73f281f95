"""Three statements about finite learning rates and minibatches, each tried on a small network: rows and a verdict."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.gram import gram_alignment, gram_matrix
from sgdphases.theory.ensemble import variance_factor
from sgdphases.theory.finite_rate import alignment_to_second_order, falling_losses

CLASSES, DIMENSION, HIDDEN = 5, 20, 20
SAMPLES, BATCH, RATE, RHO = 300, 30, 0.3, 0.4
SIGMAS = 4.0  # of a statistical comparison


@dataclass(frozen=True, eq=False)
class Experiment:
    """What was seen: columns of equal length by name, a sentence, and whether the statement held."""

    rows: dict[str, np.ndarray]
    finding: str
    holds: bool


def alignment_experiment(checkpoints: int, seed: int) -> Experiment:
    """R along a run, beside A_0/A, its expansion to second order for normal noise, and with the measured scatter.

    Once few samples make most of the gradient, minibatches are far from normal: then the scatter of ``|g_mu|^2`` and
    its covariance with ``g . g_mu``, measured, replace what normal noise would have. The statement holds if R differs
    from the expansion for normal noise by no more than its random error and the order left out (the square of the
    relative correction), at every checkpoint where the scatter of ``|g_mu|^2`` is within a quarter of normal noise's.
    """
    rows: dict[str, list[float]] = {
        name: [] for name in ("step", "measured", "error", "first", "second", "moments", "scatter")
    }
    rng = np.random.default_rng([seed, 1])
    for step, backend, _ in _run(checkpoints, seed):
        found = exact(backend, batch_size=BATCH)
        gram = gram_matrix(backend)
        centred = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
        squared = (variance_factor(SAMPLES, BATCH) / SAMPLES) ** 2 * float((centred**2).sum())
        measured = gram_alignment(gram, batch_size=BATCH, n_batches=2000, rng=rng)
        directed, activity = found.directed_activity, found.activity
        second = alignment_to_second_order(directed, activity, found.parallel_variance, squared)
        normal = (4 * found.parallel_variance * directed + 2 * squared) / activity**2
        variance, covariance = _scatter(gram, rng)
        variance, covariance = variance / activity**2, covariance / (directed * activity)
        moments = directed / activity * (1 + 0.75 * variance - covariance)
        values = (
            step,
            measured.value,
            measured.standard_error,
            directed / activity,
            second,
            moments,
            variance / normal,
        )
        for name, value in zip(rows, values, strict=True):
            rows[name].append(float(value))
    table = {name: np.array(values) for name, values in rows.items()}
    off = {name: np.abs(table["measured"] - table[name]) for name in ("first", "second", "moments")}
    left_out = (table["second"] / table["first"] - 1) ** 2 * table["first"]
    normal_noise = np.abs(table["scatter"] - 1) < 0.25
    within = off["second"] <= SIGMAS * table["error"] + left_out
    finding = (
        f"noise near normal at {normal_noise.sum()} of {len(within)} checkpoints, R within {SIGMAS:g} standard errors "
        f"of the expansion at {(within & normal_noise).sum()} of these and {(within & ~normal_noise).sum()} others; "
        f"largest deviation of A_0/A {off['first'].max():.2g}, of the expansion {off['second'].max():.2g}, with the "
        f"measured scatter {off['moments'].max():.2g}"
    )
    return Experiment(table, finding, bool(within[normal_noise].all() and normal_noise.any()))


def _scatter(gram: np.ndarray, rng: np.random.Generator, n_batches: int = 4000) -> tuple[float, float]:
    """Variance of ``|g_mu|^2`` over minibatches, and its covariance with ``g . g_mu``."""
    norms, along = np.empty(n_batches), np.empty(n_batches)
    on_mean = gram.mean(axis=1)
    for k in range(n_batches):
        batch = rng.choice(SAMPLES, BATCH, replace=False)
        norms[k], along[k] = gram[np.ix_(batch, batch)].mean(), on_mean[batch].mean()
    return float(norms.var()), float(np.cov(norms, along, ddof=0)[0, 1])


def losses_experiment(checkpoints: int, seed: int, step_size: float = 1e-5) -> Experiment:
    """The sign of both losses' change in one small real step along -g, beside the margins of R_cw.

    It holds if no sign differs where the margin is more than 1e-3, which the curvature over such a step cannot undo.
    """
    rows: dict[str, list[float]] = {
        name: [] for name in ("step", "margin_c", "margin_w", "change_c", "change_w", "alignment_cw")
    }
    for step, backend, wrong in _run(checkpoints, seed):
        found = exact(backend, batch_size=BATCH, wrong=wrong)
        margins = falling_losses(found.alignment_cw, found.directed_activity_c, found.directed_activity_w)
        start, before = backend.weights, _losses(backend, wrong)
        size = step_size / np.sqrt(found.directed_activity)
        backend.load_weights(start - size * _gradient(backend, np.arange(SAMPLES)))
        change = _losses(backend, wrong) - before
        backend.load_weights(start)
        for name, value in zip(rows, (step, *margins, *change, found.alignment_cw), strict=True):
            rows[name].append(float(value))
    table = {name: np.array(values) for name, values in rows.items()}
    margin = np.concatenate([table["margin_c"], table["margin_w"]])
    change = np.concatenate([table["change_c"], table["change_w"]])
    clear = np.abs(margin) > 1e-3
    right = np.sign(margin[clear]) == -np.sign(change[clear])
    both = int(((table["change_c"] < 0) & (table["change_w"] < 0) & (table["alignment_cw"] < 0)).sum())
    finding = (
        f"{right.sum()} of {len(right)} signs as R_cw says; both losses fall although R_cw < 0 at {both} of "
        f"{len(table['step'])} checkpoints"
    )
    return Experiment(table, finding, bool(right.all()))


def reshuffling_experiment(seed: int, n_batches: int = 4) -> Experiment:
    """One epoch of SGD, averaged over all orders of its minibatches, beside the flow on L and on L + (alpha/4) A.

    A is that of the epoch's minibatches, whose mean over epochs is that of the ensemble. It holds if the deviation from
    the flow on L falls as alpha^2 and that from the flow on L + (alpha/4) A as alpha^3: measured powers within 0.25.
    """
    *_, (_, backend, _) = _run(3, seed)
    start = backend.weights
    batches = np.array_split(np.random.default_rng([seed, 2]).permutation(SAMPLES), n_batches)
    rates = 0.2 * 0.5 ** np.arange(5)
    off: dict[str, list[float]] = {"flow": [], "corrected": []}

    def slope(weights: np.ndarray) -> np.ndarray:
        backend.load_weights(weights)
        return np.mean([_gradient(backend, batch) for batch in batches], axis=0)

    for rate in rates:
        ends = []
        for order in permutations(range(n_batches)):
            backend.load_weights(start)
            for k in order:
                backend.load_weights(backend.weights - rate * _gradient(backend, batches[k]))
            ends.append(backend.weights)
        mean = np.mean(ends, axis=0)

        def corrected(weights: np.ndarray, rate: float = float(rate)) -> np.ndarray:
            return slope(weights) + rate / 4 * _activity_slope(backend, weights, batches)

        for name, field in (("flow", slope), ("corrected", corrected)):
            off[name].append(float(np.linalg.norm(mean - _flow(field, start, rate * n_batches))))
    table = {"learning_rate": rates, **{name: np.array(values) for name, values in off.items()}}
    powers = {name: float(np.polyfit(np.log(rates[2:]), np.log(table[name][2:]), 1)[0]) for name in off}
    finding = (
        f"deviation of the mean epoch from the flow on L falls as alpha^{powers['flow']:.2f}, on L + (alpha/4) A as "
        f"alpha^{powers['corrected']:.2f}"
    )
    return Experiment(table, finding, abs(powers["flow"] - 2) < 0.25 and abs(powers["corrected"] - 3) < 0.25)


def _run(checkpoints: int, seed: int):  # type: ignore[no-untyped-def]
    """A smooth network that learns and memorises a mixture; yields step, backend and mask at each checkpoint."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(CLASSES, DIMENSION))
    centres *= 3 / np.linalg.norm(centres, axis=1, keepdims=True)
    labels = rng.permutation(np.arange(SAMPLES) % CLASSES)
    x = centres[labels] + rng.normal(size=(SAMPLES, DIMENSION))
    wrong = rng.permutation(np.arange(SAMPLES) < RHO * SAMPLES)
    labels[wrong] = (labels[wrong] + rng.integers(1, CLASSES, wrong.sum())) % CLASSES
    backend = NumpyBackend(initial_mlp((DIMENSION, HIDDEN, CLASSES), "tanh", rng), x, labels)
    marks = np.unique(np.rint(np.geomspace(1, 3001, checkpoints)).astype(int) - 1)
    done = 0
    for mark in marks:
        while done < mark:
            order = rng.choice(SAMPLES, BATCH, replace=False)
            backend.train(order, BATCH, RATE)
            done += 1
        yield mark, backend, wrong


def _gradient(backend: Backend, indices: np.ndarray) -> np.ndarray:
    return np.asarray(backend.gradient_sums(indices).gradient_sum, dtype=np.float64) / len(indices)


def _losses(backend: Backend, wrong: np.ndarray) -> np.ndarray:
    loss = backend.scores(np.arange(SAMPLES)).loss
    return np.array([loss[~wrong].mean(), loss[wrong].mean()])


def _activity_slope(backend: Backend, weights: np.ndarray, batches: list[np.ndarray]) -> np.ndarray:
    """Gradient of the minibatches' mean ``|g_k|^2``, which is ``2 H_k g_k``, by central differences along ``g_k``."""
    total = np.zeros_like(weights)
    for batch in batches:
        backend.load_weights(weights)
        own = _gradient(backend, batch)
        width = 1e-5 / np.linalg.norm(own)
        ends = []
        for sign in (1, -1):
            backend.load_weights(weights + sign * width * own)
            ends.append(_gradient(backend, batch))
        total += 2 * (ends[0] - ends[1]) / (2 * width)
    return total / len(batches)


def _flow(field: Callable[[np.ndarray], np.ndarray], start: np.ndarray, time: float, steps: int = 8) -> np.ndarray:
    """Runge-Kutta of fourth order along -field."""
    weights, h = start, -time / steps
    for _ in range(steps):
        one = field(weights)
        two = field(weights + h / 2 * one)
        three = field(weights + h / 2 * two)
        weights = weights + h / 6 * (one + 2 * two + 2 * three + field(weights + h * three))
    return weights
