"""Linear teacher and student under label noise: gradient flow in the limit of many samples and dimensions.

Inputs are Gaussian with covariance ``Lambda = diag(eigenvalues)``, the clean target is ``z_i = u.x_i`` with a teacher
u, and the training target is ``y_i = s_i z_i`` with ``s_i = -1`` with probability rho (a sample with a wrong label) and
+1 otherwise. Weights start at zero and follow ``dw/dt = -grad L`` for the mean loss ``L`` of ``(x_i.w - y_i)^2 / 2``.

With ``c = 1 - 2 rho`` the target is ``y_i = c z_i + e_i``, where ``e_i = (s_i - c) z_i`` has mean zero given the input
and variance ``4 rho (1-rho) zeta``, ``zeta = u^T Lambda u``. As N grows at a fixed ratio d/N, traces and quadratic
forms of functions of ``H = X^T X / N`` and ``K = X X^T / N`` concentrate on deterministic values given by one
effective ridge (Marchenko & Pastur 1967; Silverstein & Bai 1995; for products of two resolvents see Bach 2024,
"High-dimensional analysis of double descent"). That ``e_i`` scales with ``z_i`` changes them by parts of order 1/N
only. A single data set deviates by parts of order ``N^(-1/2)``: the realised rho, the norms of targets, the empirical
spectrum; the mean over data sets by parts of order 1/N.

It stops being valid for few samples and for inputs whose norm varies from sample to sample by a finite share beyond
what Gaussian inputs have. Deviations are small against the values at time 0, not against values that have themselves
become exponentially small: late times rest on the lowest edge of the spectrum, which fluctuates more than its bulk.
Descent follows the flow where its learning rate is far below ``2 / h_max``; minibatch noise is not in it. The
numbers are exact to some twelve digits of the values at time 0, but for the test loss at d > N, which loses a digit
for every tenfold time beyond some ``10^4 / h_max``.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

NAMES = ("loss", "loss_c", "loss_w", "test_loss", "directed_activity")
# Nodes of the cotangent contour that inverts Laplace transforms with singularities on the negative axis only
# (Talbot 1979, with the parameters of Trefethen, Weideman & Schmelzer 2006): the error falls as 3.9^-NODES.
NODES = 24


def effective_ridge(ridge: ArrayLike, eigenvalues: ArrayLike, n_samples: float) -> np.ndarray:
    """kappa, the ridge that the true covariance must be given to act as the empirical one with ridge lambda.

    The solution of ``kappa = lambda + (kappa/N) Tr Lambda (Lambda + kappa)^-1`` that continues the positive one from
    positive lambda; then ``lambda (H + lambda)^-1`` acts as ``kappa (Lambda + kappa)^-1``, and ``1/kappa`` is
    ``Tr (K + lambda)^-1 / N``.

    Parameters
    ----------
    ridge : array_like of complex, shape (M,)
        lambda, in units of the eigenvalues; anywhere but on the negative real axis and 0.
    eigenvalues : array_like, shape (d,)
        Of the covariance of inputs; not negative.
    n_samples : float
        N, positive. Only the shares ``1/N`` of each eigenvalue count: repeat all eigenvalues k times and multiply N
        by k, and nothing changes.

    Returns
    -------
    ndarray of complex, shape (M,)

    Raises
    ------
    ValueError
        If a number is out of range.
    RuntimeError
        If the equation was not solved to rounding; no input is known that does this.
    """
    target, spectrum = np.asarray(ridge, dtype=np.complex128), _not_negative("eigenvalues", eigenvalues)
    if target.ndim != 1 or not np.isfinite(target).all() or ((target.imag == 0) & (target.real <= 0)).any():
        raise ValueError(f"ridge = {target}: give a list of finite numbers off the negative real axis and 0.")
    n = _positive("n_samples", n_samples)
    found = np.abs(target) + spectrum.sum() / n
    for part in np.linspace(0, 1, 5):  # turn each ridge from the positive axis, where Newton cannot miss
        turned = np.abs(target) * np.exp(1j * part * np.angle(target))
        for _ in range(100):
            share = spectrum / (spectrum + found[:, None])
            error = found - turned - found * share.sum(axis=1) / n
            found = found - error / (1 - (share**2).sum(axis=1) / n)
            if (np.abs(error) <= 1e-12 * np.abs(found)).all():
                break
    # On the positive axis and, off it, in the half-plane of the ridge there is just one solution.
    positive = np.abs(target.imag) <= 1e-9 * target.real
    beside = np.where(positive, found.real > 0, found.imag * np.sign(target.imag) > 0)
    solved = (np.abs(error) <= 1e-10 * np.abs(found)) & beside
    if not solved.all():
        raise RuntimeError(f"no effective ridge found for ridge = {target[~solved]} with {n} samples.")
    return found


def flow_limit(
    times: ArrayLike, eigenvalues: ArrayLike, squared_teacher: ArrayLike, n_samples: float, noise_fraction: float
) -> dict[str, np.ndarray]:
    """Losses and directed activity along gradient flow from zero weights, in the limit of large N and d.

    With ``e_i`` the noise of the targets and ``s2`` its variance,

        L     = (1/2) [c^2 u^T H exp(-2Ht) u + s2 Tr exp(-2Kt) / N]
        A_0   = c^2 u^T H^2 exp(-2Ht) u + s2 Tr K exp(-2Kt) / N
        L_te  = (1/2) [u^T F Lambda F u + s2 Tr Lambda (1 - exp(-Ht))^2 H^-1 / N],  F = 1 - c (1 - exp(-Ht)).

    A residual is ``r_i = -(k e_i + a z_i)`` plus a part of variance v that knows neither ``s_i`` nor ``z_i``, with
    ``k = Tr exp(-Kt) / N`` and ``a = c u^T H exp(-Ht) u / zeta``, so

        L_c = zeta (a + 2 rho k)^2 / 2 + v/2,   L_w = zeta (a - 2 (1-rho) k)^2 / 2 + v/2,

    and v follows from L. Every function of H or K is the inverse Laplace transform of its resolvent in t.

    Parameters
    ----------
    times : array_like, shape (T,)
        Finite, not negative; ``learning rate * steps`` for descent with a small rate.
    eigenvalues : array_like, shape (d,)
        Of the covariance of inputs.
    squared_teacher : array_like, shape (d,)
        Squared coefficients of the teacher along the eigenvectors; all equal for a random isotropic one.
    n_samples : float
        N, positive; see `effective_ridge`.
    noise_fraction : float
        rho, from 0 to 1.

    Returns
    -------
    dict of ndarray, each of shape (T,)
        ``loss``, ``loss_c``, ``loss_w``, ``test_loss`` (mean loss of fresh inputs with clean targets) and
        ``directed_activity``. NaN is the loss of a population that has no samples.

    Raises
    ------
    ValueError
        If shapes disagree or a number is out of range.
    """
    spectrum, teacher = _not_negative("eigenvalues", eigenvalues), _not_negative("squared_teacher", squared_teacher)
    n, rho = _positive("n_samples", n_samples), float(noise_fraction)
    if teacher.shape != spectrum.shape:
        raise ValueError(f"squared_teacher has shape {teacher.shape}: give one an eigenvalue, {spectrum.shape}.")
    if not 0 <= rho <= 1:
        raise ValueError(f"noise_fraction = {rho}: choose a share between 0 and 1.")
    if not (teacher * spectrum).sum() > 0:
        raise ValueError("squared_teacher leaves all clean targets zero: give it weight where an eigenvalue is not 0.")
    rows = [_at(time, spectrum, teacher, n, rho) for time in _not_negative("times", times)]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in NAMES}


class _Contour(NamedTuple):
    """A contour around the spectrum, for one time: ``sum_k weights_k F(ridge_k)`` inverts a Laplace transform F."""

    weights: np.ndarray
    ridge: np.ndarray
    kappa: np.ndarray
    resolvent: np.ndarray  # of shape (nodes, d): 1 / (Lambda + kappa)
    trace: np.ndarray  # Tr Lambda (Lambda + kappa)^-1 / N, which is 1 - ridge / kappa

    def invert(self, transform: np.ndarray) -> float:
        return float((self.weights @ transform).real)


def _contour(time: float, spectrum: np.ndarray, n: float) -> _Contour:
    edge = spectrum.max() * (1 + np.sqrt(len(spectrum) / n)) ** 2  # no eigenvalue of H lies beyond
    if time * edge < 2:  # a circle of twice that radius
        nodes = 64
        ridge = 2 * edge * np.exp(2j * np.pi * (np.arange(nodes) + 0.5) / nodes)
        weights = np.exp(ridge * time) * ridge / nodes
    else:
        angle = np.pi * (2 * np.arange(NODES) + 1 - NODES) / NODES
        turn = 0.6407 * angle
        ridge = NODES / time * (0.5017 * angle / np.tan(turn) - 0.6122 + 0.2645j * angle)
        speed = NODES / time * (0.5017 / np.tan(turn) - 0.5017 * turn / np.sin(turn) ** 2 + 0.2645j)
        weights = np.exp(ridge * time) * speed / (1j * NODES)
    kappa = effective_ridge(ridge, spectrum, n)
    resolvent = 1 / (spectrum + kappa[:, None])
    return _Contour(weights, ridge, kappa, resolvent, resolvent @ spectrum / n)


def _at(time: float, spectrum: np.ndarray, teacher: np.ndarray, n: float, rho: float) -> dict[str, float]:
    once, twice = _contour(time, spectrum, n), _contour(2 * time, spectrum, n)
    power, c = teacher * spectrum, 1 - 2 * rho
    zeta = float(power.sum())
    noise = 4 * rho * (1 - rho) * zeta
    # H exp(-Ht) and H^2 exp(-Ht) between teachers, Tr exp(-Kt) / N, at t or 2t
    overlap = c * once.invert(once.resolvent @ power) / zeta
    kept = once.invert(1 / once.kappa)
    signal = twice.invert(twice.resolvent @ power)
    lifted = spectrum + (twice.kappa * twice.trace)[:, None]  # Lambda + kappa - ridge
    signal_activity = twice.invert((lifted * twice.resolvent) @ power)
    loss = (c**2 * signal + noise * twice.invert(1 / twice.kappa)) / 2
    rest = (2 * loss - noise * kept**2 - zeta * overlap**2) / 2
    learnt = 2 * _learnt(once) - _learnt(twice)
    decay, double_decay = _decay(once, power), _double_decay(once, spectrum, power, n)
    missed = (1 - c) ** 2 * zeta + 2 * c * (1 - c) * decay + c**2 * double_decay
    return {
        "loss": loss,
        "loss_c": zeta / 2 * (overlap + 2 * rho * kept) ** 2 + rest if rho < 1 else np.nan,
        "loss_w": zeta / 2 * (overlap - 2 * (1 - rho) * kept) ** 2 + rest if rho > 0 else np.nan,
        "test_loss": (missed + noise * learnt) / 2,
        "directed_activity": c**2 * signal_activity + noise * twice.invert(twice.trace),
    }


def _learnt(at: _Contour) -> float:
    """``Tr Lambda (1 - exp(-Ht)) H^-1 / N``."""
    return at.invert(at.kappa * at.trace / at.ridge**2)


def _decay(at: _Contour, power: np.ndarray) -> float:
    """``u^T Lambda exp(-Ht) u``."""
    return at.invert(at.kappa / at.ridge * (at.resolvent @ power))


def _double_decay(at: _Contour, spectrum: np.ndarray, power: np.ndarray, n: float) -> float:
    """``u^T exp(-Ht) Lambda exp(-Ht) u``, from two resolvents with Lambda between them, on the contour twice."""
    scale = at.weights * at.kappa / at.ridge
    correlated = (at.resolvent * spectrum**2) @ at.resolvent.T / n
    return float((scale @ ((at.resolvent * power) @ at.resolvent.T / (1 - correlated)) @ scale).real)


def _not_negative(name: str, values: ArrayLike) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not ((found >= 0) & (found < np.inf)).all():
        raise ValueError(f"{name} = {found}: give a list of finite numbers, none negative.")
    return found


def _positive(name: str, value: float) -> float:
    if not 0 < value < np.inf:
        raise ValueError(f"{name} = {value}: give a positive, finite number.")
    return float(value)
