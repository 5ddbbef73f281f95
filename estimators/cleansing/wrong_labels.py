"""Which labels are wrong: a probability for each sample, from its loss around t_c."""

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from sgdphases.estimators.cleansing.mixture import LEAST_VALUES, SCALES, LossMixture, fit_mixture, fraction_interval
from sgdphases.estimators.errors import InputError, UsageError

LEAST_IN_CLASS = 100  # samples that a class needs for a mixture of its own
MOST_LABEL_SHARE = 0.5  # share of the variance of log-odds between labels above which some classes are not learnt yet
HARD_CLASSES = 0.2  # share above which classes that are hard to learn may form a component of their own
MOST = 0.5  # weight of an upper component beyond which it may be what the network has not learnt yet, not wrong labels
WHOLE = 0.9  # share of a class's labels in the upper component from which on the class may not be learnt at all
MOST_WHOLE = 0.5  # share of the upper component, at most, that may be of such classes if it is wrong labels
CLEAR_SEPARATION = 4.0  # Ashman's D from which on two components count as noise even then
FoundBy = Literal["nothing", "losses", "losses confirmed", "contradictions", "planted mistakes", "given"]
"""No label noise is seen; two populations of losses (`wrong_labels`); the same, taken for hard classes until networks
that have not seen the labels disagreed (`sgdphases.estimators.cleansing.confirmed`); such networks alone (`disputed`);
mistakes planted on purpose (`from_planted`); the user who gave the share."""


@dataclass(frozen=True, eq=False)
class WrongLabels:
    """What was found about the labels.

    Attributes
    ----------
    probability : ndarray, shape (N,)
        That a label is wrong; all 0 where no label noise is seen.
    mixture : LossMixture
        Of all losses together.
    per_class : dict of LossMixture
        By label; those without one of their own are left out. Empty unless asked for.
    noise_fraction : float
        r, the estimated share of wrong labels; 0 where no label noise is seen.
    noise_interval : tuple of float
        Interval of it at 95 %, from the Fisher information.
    label_share : float
        How much of the variance of the log-odds lies between the given labels; NaN where they were not given. Where
        most of it does, the network has learnt some classes and not others, and wrong labels cannot be found.
    whole_classes : tuple of int
        Classes whose labels lie nearly all (`WHOLE`) in the upper component: the network may not have learnt them, as
        it may be with rare ones. Empty where labels were not given.
    whole_share : float
        How many of the labels in the upper component are theirs.
    found_by : str
        What the share of wrong labels, and so the labels flagged, come from: one of `FoundBy`.
    """

    probability: np.ndarray
    mixture: LossMixture
    per_class: dict[int, LossMixture]
    noise_fraction: float
    noise_interval: tuple[float, float]
    label_share: float
    whole_classes: tuple[int, ...]
    whole_share: float
    found_by: FoundBy

    @property
    def has_noise(self) -> bool:
        """Whether label noise is found, by whatever way, or its share was given."""
        return self.found_by != "nothing"

    @property
    def is_fitted(self) -> bool:
        """Whether the components are those that fit the losses, not cut where a share demands."""
        return self.found_by in ("nothing", "losses", "losses confirmed")

    @property
    def is_refuted(self) -> bool:
        """Whether two populations are seen, but networks that have not seen it give many of the upper one's labels."""
        seen = _is_noise(self.mixture, self.label_share, self.whole_share, bool(self.per_class))
        return not self.has_noise and seen

    @property
    def is_of_classes(self) -> bool:
        """Whether two populations are seen, and the upper one is small and mostly made of whole classes."""
        return self.mixture.is_two and _is_of_classes(self.mixture, self.whole_share)

    @property
    def is_clear(self) -> bool:
        """Whether noise is two components of losses so far apart that hard samples are no explanation."""
        return self.has_noise and self.is_fitted and self.mixture.separation > CLEAR_SEPARATION

    @property
    def is_learnt(self) -> bool:
        """Whether losses differ between samples, not only between learnt and unlearnt classes; True where unknown."""
        return not self.label_share > MOST_LABEL_SHARE

    @property
    def flagged(self) -> np.ndarray:
        """Labels that are more probably wrong than right, shape (N,), bool."""
        return self.probability > 0.5


def wrong_labels(
    losses: np.ndarray,
    labels: np.ndarray | None = None,
    *,
    kind: str = "log-odds",
    per_class: bool = False,
    known_fraction: float | None = None,
) -> WrongLabels:
    """The probability of each label to be wrong, and how many are.

    Parameters
    ----------
    losses : ndarray, shape (N,)
        Of `consensus`.
    labels : ndarray of int, shape (N,), optional
        The given labels: for ``per_class``, and to see whether all classes have been learnt.
    kind : {"log-odds", "log-loss", "loss"}
        What mixture is fitted: see `sgdphases.estimators.cleansing.mixture.SCALES`.
    per_class : bool
        Fit one to each label with `LEAST_IN_CLASS` samples at least: for classes that differ in how hard they are, or
        in how many of their labels are wrong. Where one label's losses show no two components, those of all do.
    known_fraction : float in (0, 1), optional
        The share of wrong labels, where it is known, for instance from some labels checked again. Then that many are
        flagged, those with the highest losses, whether two populations are seen or not. For kind "log-odds".

    Returns
    -------
    WrongLabels

    Raises
    ------
    UsageError
        If ``per_class`` is asked for without labels, the kind is unknown, or the known fraction is not between 0 and 1,
        or given with another kind or ``per_class``.
    InputError
        If losses are not finite; with a known fraction, if they are all the same, or fewer than 20.
    """
    losses = np.asarray(losses, dtype=float)
    if per_class and (labels is None or len(labels) != len(losses)):
        raise UsageError("per_class = True needs the labels, one for each loss.")
    check_known_fraction(known_fraction, kind, per_class)
    mixture = fit_mixture(losses, kind)
    share = float("nan") if labels is None else _label_share(losses, np.asarray(labels), kind)
    whole = _whole_classes(mixture.posterior(losses) > 0.5, labels)
    if known_fraction is not None:
        if not mixture.mean_w > mixture.mean_c:
            raise InputError(
                f"{len(losses)} samples, fewer than {LEAST_VALUES} or all of the same loss: the most suspect cannot "
                "be found; give more samples."
            )
        weighted = mixture.crossing_at(_loss_exceeded_by(losses, known_fraction))
        interval = (known_fraction, known_fraction)
        probability = weighted.posterior(losses)
        return WrongLabels(probability, weighted, {}, known_fraction, interval, share, *whole, "given")
    known: dict[int, LossMixture] = {}
    if per_class and _is_noise(mixture, share, whole[1], per_class):
        known = _of_each_class(losses, np.asarray(labels), kind)
    if not _is_noise(mixture, share, whole[1], bool(known)):
        return WrongLabels(np.zeros(len(losses)), mixture, {}, 0.0, (0.0, 0.0), share, *whole, "nothing")
    probability = mixture.wrong_probability(losses)
    for label, fitted in known.items():
        own = np.asarray(labels) == label
        probability[own] = fitted.wrong_probability(losses[own])
    fraction = float(probability.mean()) if known else mixture.fraction
    interval = fraction_interval(losses, mixture)
    return WrongLabels(probability, mixture, known, fraction, interval, share, *whole, "losses")


def disputed(losses: np.ndarray, labels: np.ndarray, fraction: float) -> WrongLabels:
    """Flag as many labels as networks that have not seen them go against, those with the highest scores.

    Parameters
    ----------
    losses : ndarray, shape (N,)
    labels : ndarray of int, shape (N,)
        As given.
    fraction : float
        Of `sgdphases.estimators.cleansing.outside.Contradiction`.

    Returns
    -------
    WrongLabels
        Its ``noise_interval`` is (0, 1): what bounds the share is in `sgdphases.estimators.cleansing.share`.

    Raises
    ------
    InputError
        As `wrong_labels` does where a share is given.
    """
    return replace(_as_many(losses, labels, fraction), noise_interval=(0.0, 1.0), found_by="contradictions")


def from_planted(losses: np.ndarray, labels: np.ndarray, fraction: float, outside: np.ndarray) -> WrongLabels:
    """Flag as many labels as planted mistakes say there are, those with the highest scores.

    But no more than are disagreed with: where wrong labels have nothing to do with the input they score higher than
    planted ones, and the share read off these is too high.

    Parameters
    ----------
    losses : ndarray, shape (N,)
    labels, outside : ndarray of int, shape (N,)
        As given, and what networks answer that were trained on other samples.
    fraction : float
        Of `sgdphases.estimators.cleansing.planted.PlantedShare`.

    Returns
    -------
    WrongLabels
        Its ``noise_interval`` is (0, ``fraction``).
    """
    found = _as_many(losses, labels, min(fraction, float((outside != labels).mean())))
    return replace(found, noise_interval=(0.0, fraction), found_by="planted mistakes")


def in_order_of(found: WrongLabels, score: np.ndarray, labels: np.ndarray) -> WrongLabels:
    """The same probabilities, and as many labels flagged, given to the samples in the order of another score.

    Losses say how many labels are wrong; another score may say better which.

    Parameters
    ----------
    found : WrongLabels
    score : ndarray, shape (N,)
        The higher, the more suspect.
    labels : ndarray of int, shape (N,)
        As given: where classes have mixtures of their own, each class keeps its own probabilities.

    Returns
    -------
    WrongLabels
    """
    probability, groups = found.probability.copy(), labels if found.per_class else np.zeros(len(score))
    for group in np.unique(groups):
        own = np.flatnonzero(groups == group)
        probability[own[np.argsort(score[own], kind="stable")]] = np.sort(found.probability[own])
    return replace(found, probability=probability)


def _as_many(losses: np.ndarray, labels: np.ndarray, fraction: float) -> WrongLabels:
    n = len(labels)
    return wrong_labels(losses, labels, known_fraction=float(np.clip(fraction, 1 / n, 1 - 1 / n)))


def reliability(wrong: np.ndarray, probability: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observed share of wrong labels and mean predicted probability, in ten bins of the probability.

    Parameters
    ----------
    wrong : ndarray of bool, shape (N,)
    probability : ndarray, shape (N,)

    Returns
    -------
    counts, predicted, observed : ndarray, shape (10,)
        Samples in each bin, their mean probability, and the share of them that is wrong; NaN for an empty bin.
    """
    place = np.minimum((probability * 10).astype(int), 9)
    counts = np.bincount(place, minlength=10)
    known = np.where(counts > 0, counts, np.nan)
    predicted, observed = (np.bincount(place, values, minlength=10) / known for values in (probability, wrong))
    return counts, predicted, observed


def check_known_fraction(known_fraction: float | None, kind: str, per_class: bool) -> None:
    """Raise UsageError for a share outside (0, 1), or one that does not fit the other options of `wrong_labels`."""
    if known_fraction is None:
        return
    if not 0 < known_fraction < 1:
        raise UsageError(f"known_fraction = {known_fraction}: give the share of wrong labels, between 0 and 1.")
    if kind != "log-odds" or per_class:
        raise UsageError(
            f"known_fraction = {known_fraction} goes with the mixture of log-odds of all classes: leave mixture and "
            "per_class out."
        )


def _of_each_class(losses: np.ndarray, labels: np.ndarray, kind: str) -> dict[int, LossMixture]:
    """The mixture of each label that has enough samples, and two components."""
    values, counts = np.unique(labels, return_counts=True)
    fits = {int(label): fit_mixture(losses[labels == label], kind) for label in values[counts >= LEAST_IN_CLASS]}
    return {label: fitted for label, fitted in fits.items() if fitted.is_two}


def _loss_exceeded_by(losses: np.ndarray, fraction: float) -> float:
    """A loss that this share of the samples exceeds, to the nearest whole number of them."""
    ordered = np.sort(losses)
    place = min(max(len(ordered) - round(fraction * len(ordered)), 1), len(ordered) - 1)
    return float(ordered[place - 1 : place + 1].mean())


def _is_noise(mixture: LossMixture, label_share: float, whole_share: float, per_class: bool) -> bool:
    """Whether two components are wrong and right labels, rather than unlearnt and learnt, or hard and easy, classes.

    Hard classes do not matter where each class has a mixture of its own.
    """
    clear = per_class or mixture.separation > CLEAR_SEPARATION or not label_share > HARD_CLASSES
    unlearnt = label_share > MOST_LABEL_SHARE or _is_of_classes(mixture, whole_share)
    return mixture.is_two and clear and not unlearnt


def _whole_classes(upper: np.ndarray, labels: np.ndarray | None) -> tuple[tuple[int, ...], float]:
    """Classes that lie nearly whole in the upper component, and how many of the samples in it are theirs."""
    if labels is None:
        return (), 0.0
    values, places = np.unique(labels, return_inverse=True)
    inside = np.bincount(places, upper)
    whole = inside >= WHOLE * np.bincount(places)
    share = float(inside[whole].sum() / inside.sum()) if upper.any() else 0.0
    return tuple(int(value) for value in values[whole]), share


def _is_of_classes(mixture: LossMixture, whole_share: float) -> bool:
    """Whether the upper component may be classes that are not learnt; if it holds most samples, it is all of them."""
    return mixture.fraction <= MOST and whole_share > MOST_WHOLE


def _label_share(losses: np.ndarray, labels: np.ndarray, kind: str) -> float:
    """The share of the variance of the losses, on the fitted scale, that lies between labels."""
    values = SCALES[kind](losses)
    _, places = np.unique(labels, return_inverse=True)
    means = np.bincount(places, values) / np.bincount(places)
    whole = values.var()
    return float(means[places].var() / whole) if whole > 0 else 0.0
