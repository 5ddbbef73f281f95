"""Two populations in one heap of losses: mixtures of two components, and whether there are two at all."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats
from sklearn.mixture import GaussianMixture

from sgdphases.estimators.errors import InputError, UsageError

LEAST_LOSS, MOST_LOSS = 1e-7, 50.0  # nats; beyond, float32 knows no more of a probability
LEAST_GAIN = 0.03  # BIC by which two components must beat one, a sample: three times the most seen on clean data
LEAST_VALUES = 20
STEPS, TOLERANCE = 500, 1e-4  # of the EM iteration
_RESAMPLES = 60


def _log_odds(loss: np.ndarray) -> np.ndarray:
    clipped = np.clip(loss, LEAST_LOSS, MOST_LOSS)
    return clipped + np.log(-np.expm1(-clipped))


SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "log-odds": _log_odds,
    "log-loss": lambda loss: np.log(np.clip(loss, LEAST_LOSS, None)),
    "loss": lambda loss: np.asarray(loss, dtype=float),
    "beta": lambda loss: np.clip(-np.expm1(-np.asarray(loss, dtype=float)), 1e-4, 1 - 1e-4),
}
"""How losses l, in nats, are laid out before they are fitted: log((1-p)/p) with p = exp(-l) the probability of the given
label; log l; l itself (any score will do); 1-p, fitted by beta distributions, the others by Gaussians."""


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
        By how much the Bayesian information criterion of one component exceeds that of two, a sample.
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
        """Whether two components are there: else the values are one heap with a long tail."""
        return self.gain > LEAST_GAIN

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

        Infinite where the upper component is nowhere the likelier, 0 (for "loss", minus infinity) where it always is.
        """
        low, high = (float(self._posterior(np.array([mean]))[0]) - 0.5 for mean in (self.mean_c, self.mean_w))
        if high <= 0:
            return float("inf")
        if low >= 0:
            return float("-inf") if self.kind == "loss" else 0.0
        place = optimize.brentq(lambda value: self._posterior(np.array([value]))[0] - 0.5, self.mean_c, self.mean_w)
        return self._loss(place)

    def wrong_probability(self, losses: np.ndarray) -> np.ndarray:
        """Posterior probability of the upper component, shape (N,); all 0 where there are not two.

        Outside the two means it stays at its value there: a Gaussian that is wider than the other would claim both
        ends for itself. So it never falls as the loss grows.
        """
        values = SCALES[self.kind](np.asarray(losses, dtype=float))
        return self._posterior(values) if self.is_two else np.zeros(len(values))

    def densities(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weighted densities (1-r) f_c and r f_w at values on the fitted scale."""
        lower, upper = self._distributions()
        return (1 - self.fraction) * lower.pdf(values), self.fraction * upper.pdf(values)

    def _posterior(self, values: np.ndarray) -> np.ndarray:
        inside = np.clip(values, self.mean_c, self.mean_w)
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
        return float(value) if self.kind == "loss" else float(-np.log1p(-value))


def fit_mixture(losses: np.ndarray, kind: str = "log-odds") -> LossMixture:
    """Fit two components to losses, or to any other score.

    Parameters
    ----------
    losses : ndarray, shape (N,)
        In nats, not negative; for ``kind="loss"`` any finite numbers.
    kind : {"log-odds", "log-loss", "loss", "beta"}
        See `SCALES`. Gaussians are fitted by scikit-learn's EM on values of mean 0 and variance 1, beta distributions
        by EM with moments in the place of the maximum (Arazo et al. 2019).

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
    if kind != "loss" and (losses < 0).any():
        raise InputError(f"a loss is {losses.min():g}: cross-entropies are not negative; for scores take kind 'loss'.")
    values = SCALES[kind](losses)
    return _fit(values, kind, None)


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
    values = SCALES[mixture.kind](np.asarray(losses, dtype=float))
    found = [_fit(rng.choice(values, len(values)), mixture.kind, mixture).fraction for _ in range(_RESAMPLES)]
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _fit(values: np.ndarray, kind: str, start: LossMixture | None) -> LossMixture:
    spread = float(values.std()) if len(values) else 0.0
    if len(values) < LEAST_VALUES or spread <= 1e-12 * max(1.0, float(np.abs(values).max())):
        mean = float(values.mean()) if len(values) else 0.0
        return LossMixture(kind, 0.0, mean, mean, spread, spread, 0.0, 0.0)
    fraction, means, deviations = (_betas if kind == "beta" else _gaussians)(values, kind, start)
    order = np.argsort(means)
    fraction = fraction if order[0] == 0 else 1 - fraction
    means, deviations = means[order], deviations[order]
    lower, upper = (_distribution(kind, m, s) for m, s in zip(means, deviations, strict=True))
    one = _distribution(kind, float(values.mean()), spread)
    density = np.log(np.maximum((1 - fraction) * lower.pdf(values) + fraction * upper.pdf(values), 1e-300))
    gain = 2 * float((density - one.logpdf(values)).mean()) - 3 * np.log(len(values)) / len(values)
    ordered = np.sort(values)
    fitted = (1 - fraction) * lower.cdf(ordered) + fraction * upper.cdf(ordered)
    steps = np.arange(len(values) + 1) / len(values)
    distance = max(np.abs(fitted - steps[1:]).max(), np.abs(fitted - steps[:-1]).max())
    return LossMixture(kind, float(fraction), *map(float, (*means, *deviations, gain, distance)))


def _gaussians(values: np.ndarray, kind: str, start: LossMixture | None) -> tuple[float, np.ndarray, np.ndarray]:
    """Weight of the second Gaussian, and means and deviations of both."""
    centre, spread = values.mean(), values.std()
    known = {}
    if start is not None:
        means, deviations = (np.array(pair) for pair in _pairs(start))
        known = dict(
            weights_init=[1 - start.fraction, start.fraction],
            means_init=((means - centre) / spread)[:, None],
            precisions_init=((spread / deviations) ** 2)[:, None, None],
        )
    model = GaussianMixture(
        2, n_init=1 if known else 4, max_iter=STEPS, tol=TOLERANCE, random_state=0, reg_covar=1e-6, **known
    )
    model.fit(((values - centre) / spread)[:, None])
    deviations = np.sqrt(model.covariances_[:, 0, 0]) * spread
    return float(model.weights_[1]), model.means_[:, 0] * spread + centre, deviations


def _betas(values: np.ndarray, kind: str, start: LossMixture | None) -> tuple[float, np.ndarray, np.ndarray]:
    """Weight of the second beta distribution, and means and deviations of both."""
    upper = (values > values.mean()).astype(float)
    before = -np.inf
    if start is not None:
        lower_density, upper_density = start.densities(values)
        upper = upper_density / np.maximum(lower_density + upper_density, 1e-300)
    for _ in range(STEPS):
        shares = np.array([(1 - upper).sum(), upper.sum()])
        if shares.min() < 1:
            break
        means = np.array([(1 - upper) @ values, upper @ values]) / shares
        squares = np.array([(1 - upper) @ (values - means[0]) ** 2, upper @ (values - means[1]) ** 2]) / shares
        fraction = float(shares[1] / shares.sum())
        parts = [
            weight * _distribution(kind, mean, np.sqrt(square)).pdf(values)
            for weight, mean, square in zip((1 - fraction, fraction), means, squares, strict=True)
        ]
        total = np.maximum(parts[0] + parts[1], 1e-300)
        upper, likelihood = parts[1] / total, float(np.log(total).mean())
        if abs(likelihood - before) < TOLERANCE / 100:
            break
        before = likelihood
    return fraction, means, np.sqrt(np.maximum(squares, 1e-12))


def _pairs(mixture: LossMixture) -> tuple[tuple[float, float], tuple[float, float]]:
    return (mixture.mean_c, mixture.mean_w), (mixture.deviation_c, mixture.deviation_w)


def _distribution(kind: str, mean: float, deviation: float) -> stats.rv_continuous:
    if kind != "beta":
        return stats.norm(mean, max(deviation, 1e-300))
    most = mean * (1 - mean)
    size = max(most / max(deviation**2, 1e-9), 1.01) - 1  # a + b; the variance of a beta stays below most
    return stats.beta(mean * size, (1 - mean) * size)
