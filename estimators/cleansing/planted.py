"""What known mistakes say of the others: labels replaced on purpose, by what networks confuse the samples with.

Where wrong labels follow the input, no property of the losses alone tells them from right labels of hard samples: their
scores have one mode. But mistakes that are put in on purpose, into the classes that networks which have not seen the
sample hold for likely, show how such mistakes score. If wrong labels lie no lower than these do, then

    share of labels above a score = (1 - r) (right ones above it) + r (wrong ones above it) >= r (planted ones above it)

at every score, so r is at most the ratio of the two shares, wherever right labels are rarest: among the highest scores.
That is the estimate of a mixture's proportion where one component is known (Blanchard, Lee & Scott, "Semi-supervised
novelty detection", 2010); samples with labels known to be wrong are those of Pleiss, Zhang, Elenberg & Weinberger,
"Identifying mislabeled data using the area under the margin ranking" (2020), who give them a class of their own.

Whether there is noise at all shows in how the ratio changes: the scores of right labels fall off faster than those of
planted ones, so without wrong labels the ratio goes on falling; with them it levels off at r.
"""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.theory.proportions import share_at_least, share_at_most

UPPER, MIDDLE = 0.2, 0.5  # shares of the planted labels above the two scores at which the ratio is taken
LEVEL = 0.75  # ratio at the first by that at the second from which on it has levelled off
LEAST_SEEN = 0.25  # of the estimate: of hard samples alone it reached 0.2
LEAST_PLANTED = 50  # of which the upper fifth holds ten
TAIL = 0.0125  # of either sampling error: 97.5 % together


@dataclass(frozen=True)
class PlantedShare:
    """What planted mistakes say of the share of wrong labels.

    Attributes
    ----------
    fraction : float
        The share of labels above the score that a fifth of the planted ones exceed, by that fifth; at most 1.
    high : float
        Upper end of it at 97.5 %: not exceeded by the share of wrong labels as long as these score no lower than
        planted ones. 1 where fewer than 50 were planted.
    level : float
        ``fraction`` by the same ratio at the median of the planted ones: about 1 where the ratio has levelled off.
    n_planted : int
    """

    fraction: float
    high: float
    level: float
    n_planted: int

    @property
    def is_seen(self) -> bool:
        """Whether there are wrong labels: the ratio levels off, and not near zero."""
        return self.n_planted >= LEAST_PLANTED and self.fraction >= LEAST_SEEN and self.level >= LEVEL


def planted_share(scores: np.ndarray, planted: np.ndarray) -> PlantedShare:
    """Read the share of wrong labels off those that were planted.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Of a training on labels of which some were planted: high for labels that are hardly believed.
    planted : ndarray of bool, shape (N,)
        Which these are.

    Returns
    -------
    PlantedShare

    Raises
    ------
    InputError
        If all labels are planted or none, scores are not finite, or shapes differ.
    """
    scores, planted = np.asarray(scores, dtype=float), np.asarray(planted, dtype=bool)
    if scores.shape != planted.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise InputError(f"{scores.shape} scores for {planted.shape} labels: give a finite one for each label.")
    count, rest = int(planted.sum()), scores[~planted]
    if not count or not len(rest):
        raise InputError(f"{count} of {len(scores)} labels are planted: some must be, and some not.")
    (share, above), (middle, above_middle) = (_reached(rest, scores[planted], share) for share in (UPPER, MIDDLE))
    fraction = above / len(rest) / (share / count)
    ratio = above_middle / len(rest) / (middle / count)
    least, most = share_at_least(share, count, TAIL), share_at_most(above, len(rest), TAIL)
    high = min(1.0, most / least) if count >= LEAST_PLANTED else 1.0
    level = fraction / ratio if ratio > 0 else 0.0
    return PlantedShare(float(min(1.0, fraction)), float(high), float(level), count)


def _reached(rest: np.ndarray, planted: np.ndarray, share: float) -> tuple[int, int]:
    """How many planted labels, and others, reach the score that this share of the planted ones reaches at least."""
    score = np.quantile(planted, 1 - share, method="lower")
    return int((planted >= score).sum()), int((rest >= score).sum())
