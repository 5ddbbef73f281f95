"""Every identity of the theory, and the agreement of backends, at one point in weight space."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdphases.estimators.backend import Backend, CurvedBackend, to_numpy
from sgdphases.estimators.curvature.langevin import mean_gradient, step_prediction
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.gram import gram_matrix
from sgdphases.estimators.ensemble.sampled import sampled
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.theory.ensemble import activity_from_populations, plain_excess, variance_factor

ROUNDING = {"float32": 2e-4, "float64": 1e-9}
SIGMAS = 5.0  # of each statistical check: by chance it fails less than once in 100,000 times
STEPS = 300  # of SGD from the same weights, for the Langevin checks


@dataclass(frozen=True)
class Check:
    """One identity: both sides (where they are arrays, the norms), what they differ by, and what is allowed.

    ``residual`` is relative to the larger side, or in standard errors for a statistical check.
    """

    identity: str
    left: float
    right: float
    residual: float
    allowed: float

    @property
    def holds(self) -> bool:
        return bool(self.residual <= self.allowed)


def verify(
    backend: Backend,
    reference: Backend,
    *,
    batch_size: int,
    wrong: np.ndarray | None,
    smooth: bool = False,
    seed: int = 0,
    rounding: float | None = None,
) -> list[Check]:
    """Check a backend against the theory and against a reference at the same weights.

    Parameters
    ----------
    backend, reference : Backend
        Around the same model and data; the reference in float64. Weights are as before on return.
    batch_size : int
    wrong : ndarray of bool, shape (N,), or None
        If both populations are present, their identities are checked as well.
    smooth : bool
        Whether the loss is twice differentiable. Then a step's loss change is checked to second order; in a ReLU
        network steps cross kinks, whose curvature is not in the Hessian.
    seed : int
        Of random directions and minibatches.
    rounding : float or None
        Relative difference allowed between values that should be equal; None takes that of the weights' dtype.

    Returns
    -------
    list of Check
    """
    rng = np.random.default_rng(seed)
    if rounding is None:
        rounding = ROUNDING["float64" if backend.weights.dtype == np.float64 else "float32"]
    checks = [*_identities(backend, batch_size, wrong, rounding), *_answers(backend, reference, rng, rounding)]
    checks += [*_training(backend, reference, batch_size, rng, rounding), _sampling(backend, batch_size, rng)]
    return [*checks, *_langevin(backend, batch_size, smooth, rng)]


def _identities(backend: Backend, batch_size: int, wrong: np.ndarray | None, rounding: float) -> list[Check]:
    found = exact(backend, batch_size=batch_size, wrong=wrong)
    gram = gram_matrix(backend)  # an independent route: inner products of per-sample gradients only
    on_mean, directed = gram.mean(axis=1), float(gram.mean())
    checks = [_equal("⟨λ⟩ = 1", found.mean_projection, 1.0, rounding)]
    if directed > 0:
        factor = variance_factor(backend.n_samples, batch_size)
        across = factor * float((np.diag(gram) - on_mean**2 / directed).mean())
        along = factor * float(on_mean.var()) / directed
        checks += [
            _equal("D = A_⊥ + D_∥, by K", found.total_variance, across + along, rounding),
            _equal("A = A_0 + A_⊥ + D_∥, by K", found.activity, directed + across + along, rounding),
            _equal("A = A_⊥ + A_∥, by K", found.activity, across + (directed + along), rounding),
            _equal("σ_λ², by K", found.projection_variance, along / directed, rounding),
        ]
    if found.alignment_cw != found.alignment_cw:
        return checks
    moments = found.known_moments()
    rho, clean, faulty = found.noise_fraction, moments.clean, moments.wrong
    assert clean is not None and faulty is not None  # R_cw is defined
    cross = 2 * np.sqrt(found.directed_activity_c * found.directed_activity_w) * found.alignment_cw
    sides = clean.squared_mean, faulty.squared_mean, found.alignment_cw
    layered = found.in_ensemble("stratified")
    drawn = found.at_batch_size(batch_size, replacement=True)
    return [
        *checks,
        _equal(
            "A_0 = A_0c + A_0w + 2 √(A_0c A_0w) R_cw  (eq 14)",
            found.directed_activity,
            found.directed_activity_c + found.directed_activity_w + cross,
            rounding,
        ),
        _equal(
            "A of stratified minibatches  (eq 15)",
            layered.activity,
            activity_from_populations(rho, layered.activity_c, layered.activity_w, *sides),
            rounding,
        ),
        _equal(
            "A of plain minibatches with replacement = eq 15 + ρ(1-ρ)|g_c-g_w|²/B",
            drawn.activity,
            activity_from_populations(rho, drawn.activity_c, drawn.activity_w, *sides)
            + plain_excess(rho, moments.squared_gap, batch_size),
            rounding,
        ),
    ]


def _answers(backend: Backend, reference: Backend, rng: np.random.Generator, rounding: float) -> list[Check]:
    few = np.sort(rng.choice(backend.n_samples, size=min(60, backend.n_samples, backend.chunk_size), replace=False))
    few = few[: reference.chunk_size]
    directions, weights = rng.normal(size=(3, backend.n_parameters)), rng.normal(size=(len(few), 2))
    own, other = backend.gradient_sums(few), reference.gradient_sums(few)
    gram = gram_matrix(backend, few)
    mean = to_numpy(own.gradient_sum).astype(np.float64) / len(few)
    return [
        _equal("losses: as the reference", own.loss, other.loss, rounding),
        _equal("|g_i|²: as the reference", own.squared_norm, other.squared_norm, rounding),
        _equal("Σ g_i: as the reference", to_numpy(own.gradient_sum), to_numpy(other.gradient_sum), rounding),
        _equal(
            "g_i·v: as the reference",
            backend.projections(few, directions),
            reference.projections(few, directions),
            rounding,
        ),
        _equal(
            "Σ c_i g_i: as the reference",
            backend.weighted_sums(few, weights),
            reference.weighted_sums(few, weights),
            rounding,
        ),
        _equal("g_i·g_j: as the reference", gram, gram_matrix(reference, few), rounding),
        _equal("Σ_i |g_i|² = Tr K", float(own.squared_norm.sum()), float(np.trace(gram)), rounding),
        _equal("g_i·g = mean of a row of K", backend.projections(few, mean[None])[:, 0], gram.mean(axis=1), rounding),
    ]


def _training(
    backend: Backend, reference: Backend, batch_size: int, rng: np.random.Generator, rounding: float
) -> list[Check]:
    weights, order, rate = backend.weights, rng.permutation(backend.n_samples)[: 3 * batch_size], 0.01
    expected = reference.weights
    try:
        backend.train(order, batch_size, rate)
        reference.train(order, batch_size, rate)
        moved, ought = backend.weights.astype(np.float64) - weights, reference.weights - expected
    finally:
        backend.load_weights(weights)
        reference.load_weights(expected)
    return [_equal("three steps of SGD: as the reference", moved, ought, min(50 * rounding, 0.1))]


def _sampling(backend: Backend, batch_size: int, rng: np.random.Generator) -> Check:
    closed = exact(backend, batch_size=batch_size).activity
    drawn = sampled(backend, batch_size=batch_size, n_batches=100, rng=rng)
    error = drawn.standard_errors["activity"]
    gap = abs(drawn.activity - closed)
    away = 0.0 if gap <= 1e-6 * closed else gap / error if error > 0 else float("inf")
    return Check("A, closed and from 100 minibatches (residual in σ)", closed, drawn.activity, away, SIGMAS)


def _langevin(backend: Backend, batch_size: int, smooth: bool, rng: np.random.Generator) -> list[Check]:
    """Mean, covariance and effect of a step of SGD, over many steps from the same weights (Feng & Tu 2021, eqs 2-5).

    The first-order part of the loss change, ``g . dw``, is noise and is subtracted; the curvature term remains.
    """
    weights, rate = backend.weights, 0.02
    if len(weights) != backend.n_parameters or batch_size == backend.n_samples:
        return []
    mean, before = mean_gradient(backend), mean_scores(backend)[0]
    size = float(np.linalg.norm(mean))
    if size == 0:
        return []
    found = exact(backend, batch_size=batch_size)
    along, across, missed = np.empty((3, STEPS))
    try:
        for step in range(STEPS):
            backend.load_weights(weights)
            backend.train(rng.choice(backend.n_samples, batch_size, replace=False), batch_size, rate)
            moved = (backend.weights.astype(np.float64) - weights) / rate
            along[step], across[step] = -(mean @ moved) / size, ((moved + mean) ** 2).sum()
            missed[step] = mean_scores(backend)[0] - before - rate * (mean @ moved)
    finally:
        backend.load_weights(weights)
    tiny = 1e-5 if weights.dtype != np.float64 else 1e-12
    checks = [
        _drawn("drift of a step: -α √A_0 along g", size, along, tiny * size),
        _drawn("covariance of a step: α² D", found.total_variance, across, tiny * found.total_variance),
        _drawn("its part along g: α² D_∥", found.parallel_variance, (along - size) ** 2, tiny * found.total_variance),
    ]
    if smooth and isinstance(backend, CurvedBackend):
        probes = step_prediction(backend, batch_size=batch_size, probes=STEPS, rng=rng)
        curved = (probes.curvature_along_mean + probes.curvature_of_noise) / 2
        rounding = (2e-8 if weights.dtype != np.float64 else 1e-14) * max(1.0, abs(before)) / rate**2
        third_order = rate * abs(curved)  # what the next order may add
        error = np.hypot(probes.curvature_of_noise_error / 2, rounding + third_order)
        checks.append(_drawn("loss change of second order: α²/2 (gᵀHg + Tr HC)", curved, missed / rate**2, error))
    return checks


def _drawn(identity: str, expected: float, values: np.ndarray, error: float) -> Check:
    """A mean of drawn values against what is expected, in standard errors; ``error`` comes on top of their own."""
    mean = float(values.mean())
    total = float(np.hypot(values.std(ddof=1) / np.sqrt(len(values)), error))
    away = abs(mean - expected) / total if total > 0 else (0.0 if mean == expected else float("inf"))
    return Check(f"{identity} (residual in σ)", expected, mean, away, SIGMAS)


def _equal(identity: str, left: Any, right: Any, allowed: float) -> Check:
    one, other = (np.atleast_1d(np.asarray(side, dtype=np.float64)) for side in (left, right))
    size = max(float(np.linalg.norm(one)), float(np.linalg.norm(other)))
    residual = float(np.linalg.norm(one - other)) / size if size > 0 else 0.0
    if not np.isfinite(residual):
        both_undefined = np.array_equal(np.isnan(one), np.isnan(other)) and np.isnan(one).all()
        residual = 0.0 if both_undefined else float("inf")
    shown = [float(side[0]) if side.size == 1 else float(np.linalg.norm(side)) for side in (one, other)]
    return Check(identity, shown[0], shown[1], residual, allowed)
