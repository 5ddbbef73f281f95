"""Order parameters of the online committee in closed form beside gradients of examples, at random Q, R and T.

Each comparison is a t-test: examples are drawn in groups, and the jackknife over groups gives the standard error. The
allowed deviation, in standard errors, is such that of all comparisons together, were every formula right, one or more
would be further off with the probability `FALSE_POSITIVES` at most, whatever their correlations (Bonferroni).
"""

from collections.abc import Callable

import numpy as np
from scipy.special import erf
from scipy.stats import t as student_t

from sgdphases.estimators.verify import Check
from sgdphases.theory.committee.order_parameters import committee_order_parameters
from sgdphases.theory.committee.state import CommitteeState

STATES, GROUPS, EXAMPLES = 20, 64, 2048
FALSE_POSITIVES = 1e-3
BATCH = 10
SYMBOLS = {
    "activity": "A", "directed_activity": "A_0", "directed_activity_c": "A_0c", "directed_activity_w": "A_0w",
    "total_variance": "D", "gradient_noise_scale": "B_simple", "alignment_cw": "R_cw", "alignment_ac": "R_ac",
    "alignment_aw": "R_aw", "loss_c": "L_c", "loss_w": "L_w",
}  # fmt: skip
Unit = Callable[[np.ndarray], np.ndarray]
UNITS: dict[str, tuple[Unit, Unit]] = {
    "erf": (lambda u: erf(u / np.sqrt(2)), lambda u: np.sqrt(2 / np.pi) * np.exp(-(u**2) / 2)),
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(np.float64)),
}


def allowed_deviation() -> float:
    """In standard errors, for each of all comparisons."""
    return float(student_t.isf(FALSE_POSITIVES / (2 * STATES * len(SYMBOLS) * len(UNITS)), GROUPS - 1))


def tolerance() -> str:
    """What is compared, how far off a value may be, and how often right formulas fail."""
    n = STATES * len(SYMBOLS) * len(UNITS)
    return (
        f"Theory (left) against {GROUPS * EXAMPLES:,} examples (right) at {STATES} random states of each kind of unit: "
        f"the largest of {n} deviations, in standard errors. {allowed_deviation():.2f} of them are allowed: right "
        f"formulas fail with a probability of at most {FALSE_POSITIVES:.1%}."
    )


def check_committee(seed: int) -> dict[str, list[Check]]:
    """Compare each order parameter at `STATES` random states of one to three students and teachers.

    Parameters
    ----------
    seed : int
        Of states and examples.

    Returns
    -------
    dict of list of Check
        By kind of unit; one for each order parameter, that of the state with the largest deviation.
    """
    return {units: _check_units(units, np.random.default_rng([seed, k])) for k, units in enumerate(UNITS)}


def _check_units(units: str, rng: np.random.Generator) -> list[Check]:
    worst: dict[str, Check] = {}
    for _ in range(STATES):
        k, m = int(rng.integers(1, 4)), int(rng.integers(1, 4))
        d = 2 * (k + m)
        vectors = rng.normal(size=(k + m, d))
        vectors[:k] += rng.uniform(0, 1.5) * vectors[k + np.arange(k) % m]
        vectors *= rng.uniform(0.5, 1.5, (k + m, 1)) / np.linalg.norm(vectors, axis=1, keepdims=True)
        own, others = rng.normal(size=k), rng.normal(size=m)
        rho, noise = float(rng.uniform(0.1, 0.8)), float(rng.uniform(0, 0.5))
        c = vectors @ vectors.T
        predicted = committee_order_parameters(
            CommitteeState(c[:k, :k], c[:k, k:], c[k:, k:]), dimension=d, batch_size=BATCH, noise_fraction=rho,
            noise_variance=noise, units=units, student_weights=own, teacher_weights=others,
        )  # fmt: skip
        groups = _groups(vectors, k, UNITS[units], own, others, noise, rng)
        for name, (value, error) in _jackknife(groups, rho).items():
            deviation = abs(predicted[name] - value) / error
            if name not in worst or not deviation <= worst[name].residual:
                label = f"{SYMBOLS[name]} (standard error {error / abs(value):.1%})"
                worst[name] = Check(label, predicted[name], value, deviation, allowed_deviation())
    return [worst[name] for name in SYMBOLS]


def _groups(
    vectors: np.ndarray, k: int, unit: tuple[Unit, Unit], own: np.ndarray, others: np.ndarray, noise: float, rng
) -> dict[str, np.ndarray]:
    """Means over each group of examples, the first axis: of gradients, their squared norms with ``|x|^2 = d``, losses.

    Fields are ``w.x`` of unit vectors' products Q, R and T, so a gradient by weights ``sqrt(d) w`` is ``x / sqrt(d)``.
    """
    activate, slope = unit
    shape, d = (GROUPS, EXAMPLES), vectors.shape[1]
    found = {}
    for p in ("c", "w"):
        x = rng.normal(size=(*shape, d))
        fields = x @ vectors.T
        if p == "c":
            label = activate(fields[..., k:]) @ others + np.sqrt(noise) * rng.normal(size=shape)
        else:  # the answer to another input, of either sign: the theory's wrong labels have mean 0
            label = activate(rng.normal(size=(*shape, d)) @ vectors[k:].T) @ others * rng.choice([-1.0, 1.0], shape)
        error = activate(fields[..., :k]) @ own - label
        pull = slope(fields[..., :k]) * own * error[..., None]
        found[f"gradient_{p}"] = np.einsum("gei,ged->gid", pull, x).reshape(GROUPS, -1) / EXAMPLES / np.sqrt(d)
        found[f"norm_{p}"] = (pull**2).sum(axis=2).mean(axis=1)
        found[f"loss_{p}"] = 0.5 * (error**2).mean(axis=1)
    return found


def _jackknife(groups: dict[str, np.ndarray], rho: float) -> dict[str, tuple[float, float]]:
    """Estimate, its bias removed, and standard error."""
    total = _estimates({name: values.mean(axis=0) for name, values in groups.items()}, rho)
    without = [
        _estimates({name: np.delete(values, g, axis=0).mean(axis=0) for name, values in groups.items()}, rho)
        for g in range(GROUPS)
    ]
    found = {}
    for name, value in total.items():
        pseudo = GROUPS * value - (GROUPS - 1) * np.array([each[name] for each in without])
        found[name] = float(pseudo.mean()), float(pseudo.std(ddof=1) / np.sqrt(GROUPS))
    return found


def _estimates(mean: dict[str, np.ndarray], rho: float) -> dict[str, float]:
    """Order parameters from mean gradients and squared norms."""
    c, w = mean["gradient_c"], mean["gradient_w"]
    whole = (1 - rho) * c + rho * w
    directed = float(whole @ whole)
    variance = (1 - rho) * float(mean["norm_c"]) + rho * float(mean["norm_w"]) - directed

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.sqrt((one @ one) * (other @ other)))

    return {
        "activity": directed + variance / BATCH,
        "directed_activity": directed,
        "directed_activity_c": float((1 - rho) ** 2 * (c @ c)),
        "directed_activity_w": float(rho**2 * (w @ w)),
        "total_variance": variance / BATCH,
        "gradient_noise_scale": variance / directed,
        "alignment_cw": cosine(c, w),
        "alignment_ac": cosine(whole, c),
        "alignment_aw": cosine(whole, w),
        "loss_c": float(mean["loss_c"]),
        "loss_w": float(mean["loss_w"]),
    }
