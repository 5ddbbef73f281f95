"""How many labels are wrong: a number where it can be told, and bounds that hold where it cannot.

Losses separate wrong labels from right ones where the wrong ones have nothing to do with the input. Where they follow
it, as people's mistakes do, they resemble right labels of hard samples, and no statistic of one training run separates
the two. What can be said without knowing which case it is:

- A wrong label is one that a network trained on *other* samples seldom gives. So the share of labels it disagrees with
  holds the wrong labels, but for those whose mistake it has learnt, and hard samples. That bounds their share from
  above: as many again may be learnt (`LEARNT`) as are not, but for those that stand out clearly, since mistakes that
  can be learnt do not. Where some are, right labels are still a part to be learnt, so this does not raise the bound
  beyond `MOST_LEARNABLE`: otherwise the mistakes are the task.
- Where two populations are seen, and the wrong one accounts for much of the disagreement, labels for which this network
  and the one trained on them name the same other class are wrong, or the two share a mistake. Their share, or the lower
  end of the fitted one, bounds it from below; and so does the share of labels that are contradicted where networks are
  surest, if that is less.
- Where no two populations are seen, labels may still be *contradicted*: two networks that share no sample agree with
  one another more often than with them (see `sgdphases.estimators.cleansing.outside`). Where they are contradicted as
  often by networks that are sure as by others, that gives a number and a lower bound. Where contradictions vanish with
  sureness, mistakes that follow the input and right labels of overlapping classes look the same: there is no number
  then, and the lower bound is 0, even if two populations are seen.
- Where neither is seen, mistakes planted on purpose show how those that follow the input score: see
  `sgdphases.estimators.cleansing.planted`. They bound the share from above, and show arbitrary mistakes.
"""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.cleansing.outside import Contradiction
from sgdphases.estimators.cleansing.planted import PlantedShare
from sgdphases.estimators.cleansing.wrong_labels import MOST, WrongLabels
from sgdphases.estimators.errors import InputError
from sgdphases.theory.proportions import share_at_least, share_at_most

TAIL = 0.025  # of either bound's sampling error: 95 % together
LEARNT = 0.5  # of wrong labels that follow the input, at most, in which a network's answers may follow them
MOST_LEARNABLE = 0.75  # share of wrong labels, at most, of whose mistakes networks learn some
EXPLAINED = 1 / 3  # of the labels that a network disagrees with, least share that a fitted number has to account for
FEW = 0.2  # share of labels that may be wrong although no noise is seen, at most, for "none" to be an answer


@dataclass(frozen=True)
class Share:
    """The share of wrong labels.

    Attributes
    ----------
    fraction : float
        The best number; 0 where no noise is seen and few labels could be wrong, NaN where it cannot be told: no noise
        is seen where many labels, or whole classes, are not learnt, or so little that most disagreement is left
        unexplained, or contradictions vanish with sureness.
    low, high : float
        Bounds at 95 %: of the sampling error, and of what cannot be known.
    """

    fraction: float
    low: float
    high: float

    @property
    def is_known(self) -> bool:
        """Whether there is a number at all."""
        return not np.isnan(self.fraction)

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.fraction:.1%}, as given"
        if not self.is_known:
            bounds = f"between {self.low:.0%} and {self.high:.0%}"
            return f"{bounds}: wrong labels cannot be told from right ones of hard samples"
        if self.fraction == 0:
            return f"none seen, and at most {self.high:.1%}"
        return f"{self.fraction:.1%}, between {self.low:.1%} and {self.high:.1%}"


def share_of_wrong(
    found: WrongLabels,
    labels: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
    against: Contradiction | None = None,
    planted: PlantedShare | None = None,
) -> Share:
    """The share of wrong labels, from losses and from what networks answer that have not seen a label.

    Parameters
    ----------
    found : WrongLabels
        Of the losses.
    labels : ndarray of int, shape (N,)
        As given.
    inside : ndarray of int, shape (N,)
        The class that the network trained on all labels gives each sample around t_c.
    outside : ndarray of int, shape (N,)
        That of a network trained on other samples.
    against : Contradiction, optional
        Labels held against two networks that share no sample.
    planted : PlantedShare, optional
        Where mistakes were planted.

    Returns
    -------
    Share

    Raises
    ------
    InputError
        If shapes do not fit.
    """
    if not len(labels) == len(inside) == len(outside):
        raise InputError(f"{len(labels)} labels, {len(inside)} and {len(outside)} answers do not fit: give one each.")
    if found.found_by == "given":
        return Share(found.noise_fraction, found.noise_fraction, found.noise_fraction)
    n, disagree = len(labels), outside != labels
    high = share_at_most(int(disagree.sum()), n, TAIL)
    apart = min(found.noise_fraction, high) if found.is_clear else 0.0
    high = max(high, min(apart + (high - apart) / (1 - LEARNT), MOST_LEARNABLE))
    if planted is not None:
        high = min(high, planted.high)
    if found.found_by == "contradictions" and against is not None:
        return _disputed_share(against, high)
    agreed = share_at_least(int((disagree & (inside == outside)).sum()), n, TAIL)
    if found.found_by == "planted mistakes":
        high = max(high, found.noise_fraction)
        return Share(found.noise_fraction, min((1 - LEARNT) * agreed, found.noise_fraction), high)
    if not found.has_noise:
        return _none_seen(found, high)
    if explains_little(found, float(disagree.mean())):
        return Share(float("nan"), 0.0, high)
    low = min(found.noise_interval[0], agreed)
    if against is not None:
        if against.follows_input:
            return Share(float("nan"), 0.0, high)
        low = min(low, against.overall.low if against.gives_number or found.is_clear else 0.0)
    return Share(float(np.clip(found.noise_fraction, low, high)), low, high)


def explains_little(found: WrongLabels, disagreed: float, least: float = EXPLAINED) -> bool:
    """Whether the noise found, if any, is a few of the labels disagreed with: hard samples, just as likely."""
    return found.noise_fraction < least * disagreed


def _disputed_share(against: Contradiction, high: float) -> Share:
    low = min(against.low, high)
    return Share(float(np.clip(against.surest, low, high)) if against.gives_number else float("nan"), low, high)


def _none_seen(found: WrongLabels, high: float) -> Share:
    return Share(0.0 if high <= FEW and not found.is_of_classes else float("nan"), 0.0, high)


def share_from_losses(found: WrongLabels, early_error: float, n: int) -> Share:
    """The share of wrong labels, from losses alone: nobody was asked who has not seen the labels.

    Parameters
    ----------
    found : WrongLabels
    early_error : float
        The highest share of labels that the network did not give in phase II or just before, at the end of the first
        epoch say: few labels are memorised then.
    n : int
        Samples.

    Returns
    -------
    Share
        The fitted one and its sampling error, widened to what losses cannot tell: NaN where no noise is seen and many
        labels were not learnt in the first epoch, or whole classes are not, or where most would be wrong, as they may
        be what is not learnt yet.
    """
    if found.found_by == "given":
        return Share(found.noise_fraction, found.noise_fraction, found.noise_fraction)
    high = share_at_most(round(n * early_error), n, TAIL)
    if not found.has_noise:
        return _none_seen(found, high)
    low, fitted = found.noise_interval
    if found.noise_fraction > MOST:
        return Share(float("nan"), 0.0, max(fitted, high))
    return Share(found.noise_fraction, low if found.is_clear else 0.0, fitted if found.is_clear else max(fitted, high))
