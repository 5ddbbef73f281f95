"""Two populations in one heap of losses: mixtures of two components, and whether there are two at all."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special, stats

from sgdphases.estimators.errors import InputError, UsageError

LEAST_LOSS, MOST_LOSS = 1e-7, 50.0  # nats; beyond, float32 knows no more of a probability
LEAST_GAIN = 10.0  # BIC by which two components must beat one: "very strong" evidence (Kass & Raftery 1995)
LEAST_SEPARATION = 2.0  # Ashman's D, from which on two equal heaps of equal width show two tops
MOST_FRACTION = 0.9  # 1 - 1/K for ten classes: with more wrong labels, clean ones no longer set the direction
DISBELIEVED = float(np.log(2))  # mean loss, in nats, of labels the network holds for less likely than not
LEAST_VALUES = 20
STEPS, TOLERANCE = 2000, 1e-7  # of the EM iteration
STARTS = (0.03, 0.1, 0.3, 0.5, 0.7, 0.9)  # fractions that EM begins with: the upper part of the values
_RESAMPLES = 200
_BINS = 1000  # of the histogram that is fitted: 60,000 samples cost no more than 1,000


def _log_odds(loss: np.ndarray) -> np.ndarray:
    clipped = np.clip(loss, LEAST_LOSS, MOST_LOSS)
    return clipped + np.log(-np.expm1(-clipped))


SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log-odds": _log_odds,
    "log-loss": lambda loss: np.log(np.clip(loss, LEAST_LOSS, None)),
    "loss": lambda loss: np.asarray(loss, dtype=float),
    "score": lambda score: np.asarray(score, dtype=float),
    "beta": lambda loss: np.clip(-np.expm1(-np.asarray(loss, dtype=float)), 1e-4, 1 - 1e-4),
}
"""How losses l, in nats, are laid out before they are fitted: log((1-p)/p) with p = exp(-l) the probability of the
given label; log l; l itself; any other score as it is; 1-p, fitted by beta distributions, the others by Gaussians.
Those of log-odds share one variance: in phase II both populations have about the same there, and with one the
probability of being wrong rises with the loss all the way, and a few wrong labels are told from the tail of the
right ones."""


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
        """Whether two components are there: else the values are one heap with a long tail.

        They must be worth their parameters (gain) and apart (separation). But for "score", the upper one's labels must
        also be disbelieved by the network, for hard samples with right labels form an upper heap, too, but are learnt
        soon enough; and it must not hold nearly all samples, for then the lower one is but a tail.
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
        """l_c: the loss between the means where the weighted densities are equal, the paper's first choice.

        Infinite where the upper component is nowhere the likelier, minus infinity where it always is.
        """
        low, high = (float(self._posterior(np.array([mean]))[0]) - 0.5 for mean in (self.mean_c, self.mean_w))
        if high <= 0:
            return float("inf")
        if low >= 0:
            return float("-inf")
        place = optimize.brentq(lambda value: self._posterior(np.array([value]))[0] - 0.5, self.mean_c, self.mean_w)
        return self._loss(place)

    def wrong_probability(self, losses: np.ndarray) -> np.ndarray:
        """Posterior probability of the upper component, shape (N,); all 0 where there are not two.

        Where the deviations differ it stays, outside the two means, at its value there: the wider component would claim
        both ends for itself. So it never falls as the loss grows.
        """
        values = SCALES[self.kind](np.asarray(losses, dtype=float))
        return self._posterior(values) if self.is_two else np.zeros(len(values))

    def densities(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted densities (1-r) f_c and r f_w at values on the fitted scale."""
        lower, upper = self._distributions()
        return (1 - self.fraction) * lower.pdf(values), self.fraction * upper.pdf(values)

    def _posterior(self, values: np.ndarray) -> np.ndarray:
        same = self.kind == "log-odds"
        inside = values if same else np.clip(values, self.mean_c, self.mean_w)
        lower, upper = self._distributions()
        if self.fraction <= 0 or self.fraction >= 1:
            return np.full(len(values), float(self.fraction))
        odds = np.log(self.fraction) - np.log1p(-self.fraction) + upper.logpdf(inside) - lower.logpdf(inside)
        return np.asarray(1 / (1 + np.exp(-np.clip(odds, -500, 500))))

    def _distributions(self) -> tuple[stats.rv_continuous, stats.rv_continuous]:
        return (
            _distribution(self.kind, self.mean_c, self.deviation_c),
            _distribution(self.kind, self.mean_w, self.deviation_w),
        )

    def _loss(self, value: float) -> float:
        """The loss that lies at a value of the fitted scale."""
        if self.kind == "log-odds":
            return float(np.logaddexp(0, value))
        if self.kind == "log-loss":
            return float(np.exp(value))
        return float(-np.log1p(-value)) if self.kind == "beta" else float(value)


def fit_mixture(losses: np.ndarray, kind: str = "log-odds") -> LossMixture:
    """Fit two components to losses, or to any other score.

    Parameters
    ----------
    losses : ndarray, shape (N,)
        In nats, not negative; for ``kind="score"`` any finite numbers.
    kind : {"log-odds", "log-loss", "loss", "score", "beta"}
        See `SCALES`. Fitted by EM on a histogram, from several starts; of beta distributions the moments are taken in
        the place of the maximum (Arazo et al. 2019).

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
    return _fit(values, kind)


def fraction_interval(
    losses: np.ndarray, mixture: LossMixture, *, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Bootstrap interval of the fraction r: the sampling error, not that of the components' shapes.

    Parameters
    ----------
    losses : ndarray, shape (N,)
    mixture : LossMixture
        Fitted to them; every fit to resampled losses begins there.
    level : float
        Share of the resampled fractions inside.
    seed : int

    Returns
    -------
    low, high : float
        Both 0 where there are not two components.
    """
    if not mixture.is_two:
        return 0.0, 0.0
    rng = np.random.default_rng(seed)
    values, counts = _histogram(SCALES[mixture.kind](np.asarray(losses, dtype=float)), mixture.kind)
    lower, upper = mixture.densities(values)
    start, total = upper / np.maximum(lower + upper, 1e-300), counts.sum()
    drawn = rng.multinomial(total, counts / total, _RESAMPLES)
    found = [_expectation_maximisation(values, each, start, mixture.kind)[0] for each in drawn]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _fit(values: np.ndarray, kind: str) -> LossMixture:
    spread = float(values.std()) if len(values) else 0.0
    if len(values) < LEAST_VALUES or spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        mean = float(values.mean()) if len(values) else 0.0
        return LossMixture(kind, 0.0, mean, mean, spread, spread, 0.0, 0.0)
    places, counts = _histogram(values, kind)
    below = np.cumsum(counts) / len(values)
    fits = [
        _expectation_maximisation(places, counts, (below > 1 - share).astype(float), kind)
        for share in STARTS
        if 0 < counts[below > 1 - share].sum() < len(values)
    ]
    fraction, means, deviations, _ = max(fits, key=lambda fit: fit[3])
    if means[0] > means[1]:
        fraction, means, deviations = 1 - fraction, means[::-1], deviations[::-1]
    lower, upper = (_distribution(kind, m, s) for m, s in zip(means, deviations, strict=True))
    one = _distribution(kind, float(values.mean()), spread)
    density = np.log(np.maximum((1 - fraction) * lower.pdf(values) + fraction * upper.pdf(values), 1e-300))
    more = 2 if kind == "log-odds" else 3  # parameters than one component has
    gain = 2 * float((density - one.logpdf(values)).sum()) - more * np.log(len(values))
    ordered = np.sort(values)
    fitted = (1 - fraction) * lower.cdf(ordered) + fraction * upper.cdf(ordered)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max(np.abs(fitted - steps[1:]).max(), np.abs(fitted - steps[:-1]).max())
    return LossMixture(kind, float(fraction), *map(float, (*means, *deviations, gain, distance)))


def _histogram(values: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Middles of the bins that hold anything, and how many values each holds."""
    counts, edges = np.histogram(values, _BINS, (0.0, 1.0) if kind == "beta" else None)
    return ((edges[:-1] + edges[1:]) / 2)[counts > 0], counts[counts > 0]


def _expectation_maximisation(
    values: np.ndarray, counts: np.ndarray, upper: np.ndarray, kind: str
) -> tuple[float, np.ndarray, np.ndarray, float]:
    """Weight of the second component, means, deviations and mean log likelihood, from ``upper``, its first shares."""
    before, total = -np.inf, counts.sum()
    least = ((values[-1] - values[0]) / _BINS) ** 2 / 12  # the variance within a bin: no component is narrower
    for _ in range(STEPS):
        shares = np.array([counts @ (1 - upper), counts @ upper])
        fraction = float(shares[1] / total)
        safe = np.maximum(shares, 1e-9)
        means = np.array([(counts * (1 - upper)) @ values, (counts * upper) @ values]) / safe
        squares = np.array(
            [(counts * (1 - upper)) @ (values - means[0]) ** 2, (counts * upper) @ (values - means[1]) ** 2]
        )
        variances = np.maximum(squares.sum() / total if kind == "log-odds" else squares / safe, least)
        deviations = np.sqrt(np.broadcast_to(variances, 2))
        lower_part = (1 - fraction) * _density(kind, values, means[0], deviations[0])
        upper_part = fraction * _density(kind, values, means[1], deviations[1])
        density = np.maximum(lower_part + upper_part, 1e-300)
        likelihood = float(counts @ np.log(density)) / total
        if abs(likelihood - before) < TOLERANCE:
            break
        upper, before = upper_part / density, likelihood
    return fraction, means, deviations, likelihood


def _density(kind: str, values: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    if kind == "beta":
        a, b = _beta_shape(mean, deviation)
        return np.exp((a - 1) * np.log(values) + (b - 1) * np.log1p(-values) - special.betaln(a, b))
    return np.exp(-0.5 * ((values - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))


def _distribution(kind: str, mean: float, deviation: float) -> stats.rv_continuous:
    if kind != "beta":
        return stats.norm(mean, max(deviation, 1e-300))
    return stats.beta(*_beta_shape(mean, deviation))


def _beta_shape(mean: float, deviation: float) -> tuple[float, float]:
    """Parameters a and b of the beta distribution with these moments, or the nearest possible."""
    mean = min(max(mean, 1e-6), 1 - 1e-6)
    most = mean * (1 - mean)
    size = max(most / max(deviation**2, 1e-9), 1.01) - 1  # a + b; the variance of a beta stays below most
    return mean * size, (1 - mean) * size
