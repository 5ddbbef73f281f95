"""Order parameters of the minibatch gradients of an online committee, with no simulation: from Q, R and T alone.

Inputs are ``x ~ N(0, I_d)``, fields ``w.x / sqrt(d)``, losses ``(student - label)^2 / 2``. The mean gradient of a unit
is a combination of all weight vectors, so products of mean gradients follow from its overlaps ``E[g'(u_i) u_b e]`` and
the inverse covariance of the fields; that is exact at any d. Squared norms of single gradients are to leading order,
with ``|x|^2 = d``. Label noise comes in two kinds: a share rho of labels that have nothing to do with the input, which
makes the wrong population, and an additive one on all others.
"""

from typing import Any

import numpy as np

from sgdphases.theory.committee.averages import FieldAverages, field_averages
from sgdphases.theory.committee.rectified import rectified_averages
from sgdphases.theory.committee.state import CommitteeState, checked_covariance
from sgdphases.theory.ensemble import cosine, ratio

UNITS = {"erf": field_averages, "relu": rectified_averages}
SINGULAR = 1e-10  # eigenvalues of the covariance of the fields below so much of the largest count as none


def committee_order_parameters(
    state: CommitteeState,
    *,
    dimension: int,
    batch_size: float,
    noise_fraction: float = 0.0,
    label_variance: float | None = None,
    noise_variance: float = 0.0,
    units: str = "erf",
    student_weights: Any = None,
    teacher_weights: Any = None,
) -> dict[str, float]:
    """A, A0, D, R_cw and the rest for a committee that learns from examples drawn anew each time.

    Parameters
    ----------
    state : CommitteeState
        Q (K, K), R (K, M), T (M, M): products of weight vectors over the dimension.
    dimension : int
        d; mean gradients have squared norms of order 1/d, single ones of order 1.
    batch_size : float
        B, examples drawn independently.
    noise_fraction : float
        rho, the share of examples with a label independent of the input, of mean 0.
    label_variance : float or None
        Variance of those labels; None takes that of the teacher's output.
    noise_variance : float
        Of the noise that is added to the other labels.
    units : {"erf", "relu"}
        ``erf(u / sqrt(2))`` or ``max(u, 0)``.
    student_weights, teacher_weights : array_like, shapes (K,) and (M,), or None
        Of the outputs, fixed; None for ones.

    Returns
    -------
    dict of float
        By the project's names; those of the two populations as in `closed_form`, where ``directed_activity_c`` is
        ``(1-rho)^2 |g_c|^2``. Missing where there is no such population.

    Raises
    ------
    ValueError
        If the state is none, or a number is out of range.

    References
    ----------
    Saad & Solla (1995) for the averages of erf units; Feng & Tu (2021), eqs 5 to 15, for the order parameters.
    """
    _check(dimension, batch_size, noise_fraction, noise_variance, label_variance, units)
    covariance = checked_covariance(state)
    k, m = np.shape(state.overlap)
    if units == "relu" and covariance.diagonal().min() <= 0:
        raise ValueError("a unit has no weights at all: the slope of a ReLU unit is undefined there; start off zero.")
    own, others = _weights(student_weights, k, "student"), _weights(teacher_weights, m, "teacher")
    output, error = np.concatenate([own, np.zeros(m)]), np.concatenate([own, -others])
    averages = UNITS[units](covariance, k)
    label = np.concatenate([np.zeros(k), others])
    spread = float(label @ averages.product @ label) if label_variance is None else label_variance
    overlaps = {"c": _overlaps(averages, own, error), "w": _overlaps(averages, own, output)}
    inverse = np.linalg.pinv(covariance, rcond=SINGULAR, hermitian=True) / dimension
    inner = {p + q: float(np.sum((overlaps[p] @ inverse) * overlaps[q])) for p, q in ("cc", "cw", "ww")}
    norms = {
        "c": _squared_norm(averages, own, error, noise_variance),
        "w": _squared_norm(averages, own, output, spread),
    }
    losses = _losses(averages, error, output, spread, noise_variance)
    return _scalars(inner, norms, noise_fraction, batch_size) | losses


def _overlaps(averages: FieldAverages, own: np.ndarray, error: np.ndarray) -> np.ndarray:
    """``v_i E[g'(u_i) u_b e]``, shape (K, K+M): sqrt(d) times each unit's mean gradient on every weight vector."""
    return np.asarray(own[:, None] * (averages.slope_field_product @ error))


def _squared_norm(averages: FieldAverages, own: np.ndarray, error: np.ndarray, noise: float) -> float:
    """``sum_i v_i^2 E[g'(u_i)^2 (e + noise)^2]``."""
    units = np.arange(len(own))
    squares = averages.slopes_product[units, units] @ error @ error + noise * averages.slopes[units, units]
    return float(own**2 @ squares)


def _scalars(inner: dict[str, float], norms: dict[str, float], rho: float, batch_size: float) -> dict[str, float]:
    directed = (1 - rho) ** 2 * inner["cc"] + 2 * rho * (1 - rho) * inner["cw"] + rho**2 * inner["ww"]
    variance = (1 - rho) * norms["c"] + rho * norms["w"] - directed
    found = {
        "activity": directed + variance / batch_size,
        "directed_activity": directed,
        "total_variance": variance / batch_size,
        "gradient_variance": variance,
        "gradient_noise_scale": ratio(variance, directed),
        "aligned_fraction": ratio(directed, directed + variance / batch_size),
    }
    shares = {"c": 1 - rho, "w": rho}
    for p, share in shares.items():
        if share > 0:
            found[f"directed_activity_{p}"] = share**2 * inner[p + p]
            found[f"total_variance_{p}"] = (norms[p] - inner[p + p]) / (share * batch_size)
            found[f"activity_{p}"] = inner[p + p] + found[f"total_variance_{p}"]
    if 0 < rho < 1:
        found["alignment_cw"] = cosine(inner["cw"], inner["cc"], inner["ww"])
        on_c = (1 - rho) * inner["cc"] + rho * inner["cw"]
        on_w = (1 - rho) * inner["cw"] + rho * inner["ww"]
        found["alignment_ac"] = cosine(on_c, directed, inner["cc"])
        found["alignment_aw"] = cosine(on_w, directed, inner["ww"])
    return found


def _losses(
    averages: FieldAverages, error: np.ndarray, output: np.ndarray, spread: float, noise: float
) -> dict[str, float]:
    """Mean losses of the clean and the wrong population."""
    clean = error @ averages.product @ error + noise
    return {"loss_c": float(clean) / 2, "loss_w": float(output @ averages.product @ output + spread) / 2}


def _weights(given: Any, n: int, whose: str) -> np.ndarray:
    weights = np.ones(n) if given is None else np.asarray(given, dtype=np.float64)
    if weights.shape != (n,) or not np.isfinite(weights).all():
        raise ValueError(f"{whose}_weights of shape {weights.shape}: give {n} finite numbers.")
    return weights


def _check(
    dimension: int, batch_size: float, rho: float, noise_variance: float, label_variance: float | None, units: str
) -> None:
    if units not in UNITS:
        raise ValueError(f"units = {units!r}: choose one of {', '.join(UNITS)}.")
    if dimension < 1 or not batch_size > 0:
        raise ValueError(f"dimension = {dimension} and batch_size = {batch_size}: choose both above 0.")
    if not 0 <= rho <= 1:
        raise ValueError(f"noise_fraction = {rho}: choose a share between 0 and 1.")
    for name, value in (("noise_variance", noise_variance), ("label_variance", label_variance)):
        if value is not None and not 0 <= value < np.inf:
            raise ValueError(f"{name} = {value}: choose 0 or a finite number above.")
