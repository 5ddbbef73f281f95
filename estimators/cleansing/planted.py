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
without a wrong label half of the given ones did, as many as on 5,000 images with 40 % of wrong ones.
"""

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.theory.proportions import share_at_least, share_at_most

UPPER = 0.2  # share of the planted labels above the score at which the ratio is taken
LEAST_PLANTED = 50  # of which the upper fifth holds ten
TAIL = 0.0125  # of either sampling error: 97.5 % together


def planted_bound(scores: np.ndarray, planted: np.ndarray) -> float:
    """Bound the share of wrong labels from above by mistakes that were planted.

    Parameters
    ----------
    scores : ndarray, shape (N,)
        Of a training on labels of which some were planted: high for labels that are hardly believed.
    planted : ndarray of bool, shape (N,)
        Those replaced by mistakes that networks would make.

    Returns
    -------
    float
        Upper bound at 97.5 %, not exceeded by the share of wrong labels as long as these score no lower than planted
        ones. 1 where fewer than 50 were planted.

    Raises
    ------
    InputError
        If no label is planted, or none is left, scores are not finite, or shapes differ.
    """
    scores, planted = np.asarray(scores, dtype=float), np.asarray(planted, dtype=bool)
    if scores.shape != planted.shape or scores.ndim != 1 or not np.isfinite(scores).all():
        raise InputError(f"{scores.shape} scores for {planted.shape} labels: give a finite one for each label.")
    if not planted.any() or planted.all():
        raise InputError(f"{planted.sum()} of {len(scores)} labels are planted: some must be, and some must be left.")
    if planted.sum() < LEAST_PLANTED:
        return 1.0
    known, rest = scores[planted], scores[~planted]
    score = np.quantile(known, 1 - UPPER, method="lower")
    least = share_at_least(int((known >= score).sum()), len(known), TAIL)
    return min(1.0, share_at_most(int((rest >= score).sum()), len(rest), TAIL) / least)
