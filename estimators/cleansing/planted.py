"""What known mistakes say of the others: labels replaced on purpose, by what networks confuse the samples with.

Where wrong labels follow the input, no property of the losses alone tells them from right labels of hard samples: their
scores have one mode. But mistakes that are put in on purpose, into the classes that networks which have not seen the
sample hold for likely, show how such mistakes score. If wrong labels lie no lower than these do, then

    share of labels above a score = (1 - r) (right ones above it) + r (wrong ones above it) >= r (planted ones above it)

at every score, so r is at most the ratio of the two shares, wherever right labels are rarest: among the highest scores.
That is the estimate of a mixture's proportion where one component is known (Blanchard, Lee & Scott, "Semi-supervised
novelty detection", 2010); samples with labels known to be wrong are those of Pleiss, Zhang, Elenberg & Weinberger,
"Identifying mislabeled data using the area under the margin ranking" (2020), who give them a class of their own.

Such mistakes cannot show that there is noise. Right labels of a hard data set score like them: on 2,000 CIFAR-10 images
without a wrong label half of the given ones did, as many as on 5,000 images with 40 % of wrong ones. But wrong labels
that have nothing to do with the input score higher than any other. So some are planted of that kind, too. The scores of
right labels fall off faster than theirs, so without wrong labels the ratio goes on falling towards higher scores; with
them it levels off at r. As many arbitrary mistakes are mixed with the plausible ones as the ratio stays level with, and
if these are half of them or more, wrong labels are seen.
"""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.theory.proportions import share_at_least, share_at_most

UPPER, MIDDLE = 0.2, 0.5  # shares of the planted labels above the two scores at which the ratio is taken
LEVEL = 0.9  # ratio at the first by that at the second from which on it counts as level
LEAST_ARBITRARY = 0.5  # share of arbitrary mistakes in the mixture, if wrong labels are seen; 0.05 at most without
LEAST_SEEN = 0.1  # of the estimate
LEAST_PLANTED = 50  # of which the upper fifth holds ten
STEPS = 20  # of the share of arbitrary mistakes that is tried
ROUNDING = 1e-9  # of sums of weights
TAIL = 0.0125  # of either sampling error: 97.5 % together


@dataclass(frozen=True)
class PlantedShare:
    """What planted mistakes say of the share of wrong labels.

    Attributes
    ----------
    fraction : float
        The share of labels that reach the score which a fifth of the planted ones reach, by that fifth; at most 1.
    high : float
        Upper end of it at 97.5 %, by plausible mistakes alone: not exceeded by the share of wrong labels as long as
        these score no lower. 1 where fewer than 50 were planted.
    level : float
        The ratio at that score by the ratio at the median, of plausible mistakes alone: near 1 where it levels off,
        above where it rises.
    arbitrary : float
        Share of the mistakes planted at random that are mixed in for ``fraction``.
    is_seen : bool
        Whether there are wrong labels, which have nothing to do with the input for the most part.
    """

    fraction: float
    high: float
    level: float
    arbitrary: float
    is_seen: bool


def planted_share(scores: np.ndarray, plausible: np.ndarray, arbitrary: np.ndarray) -> PlantedShare:
    """Read the share of wrong labels off those that were planted.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Of a training on labels of which some were planted: high for labels that are hardly believed.
    plausible, arbitrary : ndarray of bool, shape (N,)
        Those replaced by mistakes that networks would make, and by any other class.

    Returns
    -------
    PlantedShare

    Raises
    ------
    InputError
        If no label is planted of a kind, or none is left, a label is planted twice, scores are not finite, or shapes
        differ.
    """
    scores = np.asarray(scores, dtype=float)
    kinds = [np.asarray(each, dtype=bool) for each in (plausible, arbitrary)]
    if any(scores.shape != each.shape for each in kinds) or scores.ndim != 1 or not np.isfinite(scores).all():
        raise InputError(f"{scores.shape} scores for {kinds[0].shape} labels: give a finite one for each label.")
    rest = scores[~(kinds[0] | kinds[1])]
    if not len(rest) or not all(each.any() for each in kinds) or (kinds[0] & kinds[1]).any():
        raise InputError(
            f"{kinds[0].sum()} and {kinds[1].sum()} of {len(scores)} labels are planted: some must be of each kind, "
            "none of both, and some must be left."
        )
    first, second = (scores[each] for each in kinds)
    level = _ratio(rest, first, second, 0.0)[1]
    shares, least = np.linspace(0, 1, STEPS + 1), min(level, LEVEL)
    share = next((each for each in shares[::-1] if _ratio(rest, first, second, each)[1] >= least), 0.0)
    found = min(1.0, _ratio(rest, first, second, share)[0])
    is_seen = len(second) >= LEAST_PLANTED and share >= LEAST_ARBITRARY and found >= LEAST_SEEN and level >= LEVEL
    return PlantedShare(float(found), _at_most(rest, first), level, float(share), bool(is_seen))


def _ratio(rest: np.ndarray, plausible: np.ndarray, arbitrary: np.ndarray, share: float) -> tuple[float, float]:
    """The ratio among the highest scores, and that by the one at the median, for a mixture of planted labels."""
    planted = np.concatenate([plausible, arbitrary])
    weights = np.repeat([(1 - share) / len(plausible), share / len(arbitrary)], [len(plausible), len(arbitrary)])
    order = np.argsort(-planted, kind="stable")
    reached = np.cumsum(weights[order])
    ratios = []
    for part in (UPPER, MIDDLE):
        score = planted[order][min(int(np.searchsorted(reached, part - ROUNDING)), len(planted) - 1)]
        ratios.append(float((rest >= score).mean() / weights[planted >= score].sum()))
    return ratios[0], ratios[0] / ratios[1] if ratios[1] > 0 else 0.0


def _at_most(rest: np.ndarray, planted: np.ndarray) -> float:
    """Upper bound of the ratio among the highest scores."""
    if len(planted) < LEAST_PLANTED:
        return 1.0
    score = np.quantile(planted, 1 - UPPER, method="lower")
    least = share_at_least(int((planted >= score).sum()), len(planted), TAIL)
    return min(1.0, share_at_most(int((rest >= score).sum()), len(rest), TAIL) / least)
