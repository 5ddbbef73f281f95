"""Mixtures of two components fitted to losses, and whether there are two populations at all."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import optimize, special, stats

from sgdphases.estimators.errors import InputError, UsageError

LEAST_LOSS, MOST_LOSS = 1e-7, 50.0  # nats; beyond, float32 cannot resolve the probability
LEAST_GAIN = 10.0  # BIC by which two components must beat one: "very strong" evidence (Kass & Raftery 1995)
LEAST_SEPARATION = 2.0  # Ashman's D from which two equal components of equal width have two modes
MOST_FRACTION = 0.9  # 1 - 1/K for ten classes: with more wrong labels, clean ones no longer set the direction
DISBELIEVED = float(np.log(2))  # mean loss, in nats, of labels the network holds for less likely than not
LEAST_VALUES = 20
STEPS, TOLERANCE = 2000, 1e-7  # of the EM iteration
STARTS = (0.03, 0.2, 0.5, 0.8)  # fractions that EM begins with: the upper part of the values
NARROWEST = 1e-3  # least deviation of a component by the range of the values: ties would otherwise form a component


def _log_odds(loss: np.ndarray) -> np.ndarray:
    clipped = np.clip(loss, LEAST_LOSS, MOST_LOSS)
    return clipped + np.log(-np.expm1(-clipped))


SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log-odds": _log_odds,
    "log-loss": lambda loss: np.log(np.clip(loss, LEAST_LOSS, None)),
    "loss": lambda loss: np.asarray(loss, dtype=float),
    "score": lambda score: np.asarray(score, dtype=float),
}
"""Scale on which losses l, in nats, are fitted: log((1-p)/p) with p = exp(-l) the probability of the
given label; log l; l itself; any other score as it is. The two Gaussians of log-odds share one variance: in phase II
both populations have about the same there, and with one the probability of being wrong rises with the loss all the
way, and a few wrong labels are distinguished from the tail of the right ones."""


@dataclass(frozen=True, eq=False)
class LossMixture:
    """Two components fitted to losses, the lower one clean: ``(1-r) f_c + r f_w`` (Feng & Tu 2021, sec. 5).

    Attributes
    ----------
    kind : str
        One of `SCALES`; what follows is on that scale.
    fraction : float
        r, the weight of the upper component.
    mean_c, mean_w, deviation_c, deviation_w : float
        Means and standard deviations of the components.
    gain : float
        By how much the Bayesian information criterion of one component exceeds that of two.
    distance : float
        Kolmogorov and Smirnov's: the largest difference between fitted and empirical distribution function.
    """

    kind: str
    fraction: float
    mean_c: float
    mean_w: float
    deviation_c: float
    deviation_w: float
    gain: float
    distance: float

    @property
    def is_two(self) -> bool:
        """Whether two components are there: otherwise the values have one mode with a long tail.

        They must justify their parameters (gain) and be separated (separation). Except for "score", the network must
        also hold the upper one's labels for less likely than not, because hard samples with right labels form an upper
        component, too, but are learnt soon; and the upper one must not hold nearly all samples, because then the lower
        one is only a tail.
        """
        apart = self.gain > LEAST_GAIN and self.separation > LEAST_SEPARATION
        fitting = self.fraction < MOST_FRACTION and self._loss(self.mean_w) > DISBELIEVED
        return bool(apart and (self.kind == "score" or fitting))

    @property
    def separation(self) -> float:
        """Distance of the means by the root mean square of the deviations (Ashman, Bird & Zepf 1994, their D)."""
        spread = np.hypot(self.deviation_c, self.deviation_w)
        return float(np.sqrt(2) * (self.mean_w - self.mean_c) / spread) if spread > 0 else 0.0

    @property
    def midpoint(self) -> float:
        """Mean of the two means, as a loss: the paper's second choice of l_c."""
        return self._loss((self.mean_c + self.mean_w) / 2)

    @property
    def loss_threshold(self) -> float:
        """l_c: the loss where the weighted densities are equal, the paper's first choice.

        Infinite where the upper component is nowhere the likelier, minus infinity where it always is; where the
        deviations differ, only a place between the means counts.
        """
        if self.kind == "log-odds" and self.mean_w > self.mean_c and 0 < self.fraction < 1:
            shift = self.deviation_c**2 / (self.mean_w - self.mean_c) * special.logit(self.fraction)
            return self._loss((self.mean_c + self.mean_w) / 2 - float(shift))
        low, high = (float(self._posterior(np.array([mean]))[0]) - 0.5 for mean in (self.mean_c, self.mean_w))
        if high <= 0:
            return float("inf")
        if low >= 0:
            return float("-inf")
        place = optimize.brentq(lambda value: self._posterior(np.array([value]))[0] - 0.5, self.mean_c, self.mean_w)
        return self._loss(place)

    def wrong_probability(self, losses: np.ndarray) -> np.ndarray:
        """Posterior probability of the upper component, shape (N,); all 0 where there are not two.

        Where the deviations differ, it is held constant outside the two means, because the wider component dominates
        both tails. So it never falls as the loss grows.
        """
        losses = np.asarray(losses, dtype=float)
        return self.posterior(losses) if self.is_two else np.zeros(len(losses))

    def posterior(self, losses: np.ndarray) -> np.ndarray:
        """Posterior of the upper component, whether there are two or not."""
        return self._posterior(SCALES[self.kind](np.asarray(losses, dtype=float)))

    def crossing_at(self, loss: float) -> "LossMixture":
        """The same components, weighted so that their densities cross at this loss, l_c; for kind "log-odds"."""
        place = SCALES[self.kind](np.array([loss]))
        lower, upper = (float(component.logpdf(place)[0]) for component in self.components)
        return replace(self, fraction=float(special.expit(lower - upper)))

    @property
    def components(self) -> tuple[stats.rv_continuous, stats.rv_continuous]:
        """The two distributions f_c and f_w, frozen, on the fitted scale."""
        return tuple(
            stats.norm(mean, max(deviation, 1e-300))
            for mean, deviation in ((self.mean_c, self.deviation_c), (self.mean_w, self.deviation_w))
        )

    def densities(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted densities (1-r) f_c and r f_w at values on the fitted scale."""
        lower, upper = self.components
        return (1 - self.fraction) * lower.pdf(values), self.fraction * upper.pdf(values)

    def cumulative(self, values: np.ndarray) -> np.ndarray:
        """Fitted distribution function at values on the fitted scale."""
        lower, upper = self.components
        return np.asarray((1 - self.fraction) * lower.cdf(values) + self.fraction * upper.cdf(values))

    def _posterior(self, values: np.ndarray) -> np.ndarray:
        same = self.kind == "log-odds"
        inside = values if same else np.clip(values, self.mean_c, self.mean_w)
        lower, upper = self.components
        if self.fraction <= 0 or self.fraction >= 1:
            return np.full(len(values), float(self.fraction))
        odds = np.log(self.fraction) - np.log1p(-self.fraction) + upper.logpdf(inside) - lower.logpdf(inside)
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))

    def _loss(self, value: float) -> float:
        """The loss that lies at a value of the fitted scale."""
        if self.kind == "log-odds":
            return float(np.logaddexp(0, value))
        return float(np.exp(value) if self.kind == "log-loss" else value)


def fit_mixture(losses: np.ndarray, kind: str = "log-odds", *, starts: Sequence[float] = STARTS) -> LossMixture:
    """Fit two components to losses, or to any other score.

    Parameters
    ----------
    losses : ndarray, shape (N,)
        In nats, not negative; for ``kind="score"`` any finite numbers.
    kind : {"log-odds", "log-loss", "loss", "score"}
        See `SCALES`.
    starts : sequence of float in (0, 1)
        scikit-learn's EM begins with these upper parts of the values as the second component, each in turn; of what it
        finds the likeliest is taken.

    Returns
    -------
    LossMixture
        Of too few values (below 20), or all the same, one without a second component.

    Raises
    ------
    UsageError
        For an unknown kind.
    InputError
        For values that are not finite, or no losses.
    """
    if kind not in SCALES:
        raise UsageError(f"kind = {kind!r} of mixture: choose one of {', '.join(SCALES)}.")
    losses = np.asarray(losses, dtype=float)
    if losses.ndim != 1:
        raise InputError(f"losses have the shape {losses.shape}: give one number a sample.")
    if not np.isfinite(losses).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(losses))} losses are not finite: training has diverged.")
    if kind != "score" and (losses < 0).any():
        raise InputError(f"a loss is {losses.min():g}: cross-entropies are not negative; for scores take kind 'score'.")
    values = SCALES[kind](losses)
    spread = float(values.std()) if len(values) else 0.0
    if len(values) < LEAST_VALUES or spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        mean = float(values.mean()) if len(values) else 0.0
        return LossMixture(kind, 0.0, mean, mean, spread, spread, 0.0, 0.0)
    return _fit(values, kind, starts)


def fraction_interval(losses: np.ndarray, mixture: LossMixture, *, level: float = 0.95) -> tuple[float, float]:
    """Interval of the fraction r from the Fisher information: the sampling error, not that of the components' shapes.

    The other parameters count as unknown, too; the interval is that of a normal logit of r.

    Parameters
    ----------
    losses : ndarray, shape (N,)
    mixture : LossMixture
        Fitted to them.
    level : float
        Probability that it covers r, where the model holds.

    Returns
    -------
    low, high : float
        Both 0 where there are not two components.
    """
    if not mixture.is_two:
        return 0.0, 0.0
    values, fraction = SCALES[mixture.kind](np.asarray(losses, dtype=float)), mixture.fraction
    weighted = np.array(mixture.densities(values))
    shares = weighted / np.maximum(weighted.sum(axis=0), 1e-300)  # (2, N)
    means, deviations = np.array([[mixture.mean_c, mixture.mean_w], [mixture.deviation_c, mixture.deviation_w]])
    standard = (values - means[:, None]) / deviations[:, None]
    by_mean = shares * standard  # scores: derivatives of the log likelihood by logit r, means, deviations
    by_deviation = shares * (standard**2 - 1)
    if mixture.kind == "log-odds":
        by_deviation = by_deviation.sum(axis=0, keepdims=True)
    scores = np.concatenate([(shares[1] - fraction)[None], by_mean, by_deviation])
    error = np.sqrt(np.linalg.pinv(scores @ scores.T)[0, 0])
    reach = stats.norm.ppf((1 + level) / 2) * error
    low, high = special.expit(special.logit(fraction) + np.array([-reach, reach]))
    return float(low), float(high)


def _fit(values: np.ndarray, kind: str, starts: Sequence[float]) -> LossMixture:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    column, ordered = values[:, None], np.sort(values)
    options: dict[str, Any] = dict(
        covariance_type="tied" if kind == "log-odds" else "full",
        tol=TOLERANCE,
        max_iter=STEPS,
        reg_covar=(NARROWEST * float(np.ptp(values))) ** 2 / 12,
    )
    fits = []
    for share in starts:
        above = min(max(round(share * len(values)), 1), len(values) - 1)
        parts = ordered[:-above], ordered[-above:]
        weights = np.array([len(part) / len(values) for part in parts])
        variances = np.array([part.var() for part in parts]) + options["reg_covar"]
        precisions = np.array([[1 / (weights @ variances)]]) if kind == "log-odds" else 1 / variances[:, None, None]
        means = np.array([[part.mean()] for part in parts])
        start = GaussianMixture(2, weights_init=weights, means_init=means, precisions_init=precisions, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # one mode: EM is slow, and the fit is rejected anyway
            fits.append(start.fit(column))
    best = max(fits, key=lambda fit: fit.lower_bound_)
    deviations = np.sqrt(np.broadcast_to(best.covariances_.ravel(), 2))
    order = np.argsort(best.means_.ravel())
    (mean_c, mean_w), (deviation_c, deviation_w) = best.means_.ravel()[order], deviations[order]
    fitted = LossMixture(
        kind=kind,
        fraction=float(best.weights_[order[1]]),
        mean_c=float(mean_c),
        mean_w=float(mean_w),
        deviation_c=float(deviation_c),
        deviation_w=float(deviation_w),
        gain=float(GaussianMixture(1).fit(column).bic(column) - best.bic(column)),
        distance=0.0,
    )
    return replace(fitted, distance=float(stats.ks_1samp(values, fitted.cumulative).statistic))
