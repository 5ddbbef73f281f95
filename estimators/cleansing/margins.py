"""How far a label is ahead of the likeliest other class: the order in which labels are suspect.

A loss says how improbable a label is, not what stands in its place. A hard sample's label loses its probability to many
classes, a wrong label to the right one, so the margin tells them apart where the loss does not: where labels are
exchanged in pairs, or most of them are wrong. Margins were averaged over epochs before by Pleiss, Zhang, Elenberg &
Weinberger ("Identifying mislabeled data using the area under the margin ranking", 2020), there of logits and over the
whole run; here they are of probabilities, up to the end of phase II, and of networks that have not seen the label, too.
"""

import numpy as np

from sgdphases.estimators.errors import InputError

OUTSIDE = 0.25  # weight of the networks that have not seen the label, who have learnt from a third of the samples


def margins(probability: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Probability of the label less that of the likeliest other class.

    Parameters
    ----------
    probability : ndarray, shape (N, K)
    labels : ndarray of int, shape (N,)
        0..K-1.

    Returns
    -------
    ndarray, shape (N,)
        From -1 to 1.

    Raises
    ------
    InputError
        If shapes do not fit, or there is one class only.
    """
    probability, labels = np.asarray(probability, dtype=float), np.asarray(labels)
    if probability.ndim != 2 or probability.shape[:1] != labels.shape or probability.shape[1] < 2:
        raise InputError(
            f"probabilities of shape {probability.shape} do not go with labels of shape {labels.shape}: give (N, K), "
            "K at least 2, and (N,)."
        )
    everybody, others = np.arange(len(labels)), probability.copy()
    others[everybody, labels] = -np.inf
    return np.asarray(probability[everybody, labels] - others.max(axis=1))


def suspicion(inside: np.ndarray, labels: np.ndarray, outside: np.ndarray | None) -> np.ndarray:
    """Score of every label, the higher the more suspect.

    Parameters
    ----------
    inside : ndarray, shape (N,)
        Margins by the network that learns the labels, averaged over log-spaced probes from the first epoch to the end
        of phase II.
    labels : ndarray of int, shape (N,)
    outside : ndarray, shape (2, N, K), or None
        Probabilities by two networks that have not seen the sample; None where nobody was asked.

    Returns
    -------
    ndarray, shape (N,)
        From -1 to 1.

    Raises
    ------
    InputError
        As `margins` does.
    """
    if outside is None:
        return -np.asarray(inside, dtype=float)
    asked = np.mean([margins(each, labels) for each in outside], axis=0)
    return np.asarray((OUTSIDE - 1) * inside - OUTSIDE * asked)
