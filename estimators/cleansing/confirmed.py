"""Two populations of losses, held against networks that have not seen the labels: wrong and right, or hard and easy?

Samples that are merely hard, or of a class that is learnt late, are given their label by networks trained on others.
Wrong labels are not. So an upper component is taken for wrong labels only if such networks disagree with most of it,
even if its labels are those of few classes, which may be hard. Where classes differ so much that some may not have been
learnt at all, it must not be made of whole classes for the most part, and those networks must also answer as they do
elsewhere. About samples of a class that they have not learnt they disagree with one another, or take all of them for
one other class; where classes are of very unequal size and labels are wrong at random, most labels of the small ones
are wrong, and what is answered is what is answered to all.

Where the upper component holds most samples, the lower one may be the few that the network has learnt so far. Networks
that know next to nothing disagree with nearly every label, and are no witnesses then: they must agree with one another
more often than with the labels.
"""

from dataclasses import replace

import numpy as np

from sgdphases.estimators.cleansing.mixture import fraction_interval
from sgdphases.estimators.cleansing.outside import Contradiction
from sgdphases.estimators.cleansing.wrong_labels import CLEAR_SEPARATION, MOST, WrongLabels

LEAST_CONFIRMED = 0.1  # weight of an upper component that may be confirmed: hard samples form smaller ones
CONFIRMED = 0.65  # share of an upper component that networks which have not seen it disagree with, if it is noise
AGREED = 0.65  # of their agreement elsewhere, how much there is at least about samples that are no harder
SCATTERED = 0.15  # total variation, at most, between their answers there, label by label, and those to everybody


def confirmed(
    found: WrongLabels, losses: np.ndarray, labels: np.ndarray, outside: np.ndarray, against: Contradiction
) -> WrongLabels:
    """Take two components for wrong and right labels, or not, as networks say that have not seen the labels.

    Parameters
    ----------
    found : WrongLabels
        Of two components or one.
    losses : ndarray, shape (N,)
        Those it was found from.
    labels : ndarray of int, shape (N,)
        As given.
    outside : ndarray, shape (2, N, K)
        Probabilities by two networks trained on other samples.
    against : Contradiction
        Of these probabilities and labels.

    Returns
    -------
    WrongLabels
        With noise where there are two components, and the networks disagree with `CONFIRMED` of the upper one; if it
        holds more than `MOST` of the samples, they must agree with one another more often than with labels. Where
        classes may be hard, it must hold a tenth, and where they may not be learnt, lie clearly apart and be
        `scattered`, too. What lies clearly apart, is less than half and no matter of classes is left as it is.
    """
    clear, most = found.mixture.separation > CLEAR_SEPARATION, found.mixture.fraction > MOST
    if not found.mixture.is_two or found.is_of_classes or (found.has_noise and clear and not most):
        return found
    upper = found.mixture.posterior(losses) > 0.5
    disagreed = outside.mean(axis=0).argmax(axis=1) != labels
    is_against = bool(upper.any() and disagreed[upper].mean() >= CONFIRMED and (against.agrees_more or not most))
    if found.has_noise:
        return found if is_against else _refuted(found)
    if not is_against or found.mixture.fraction < LEAST_CONFIRMED:
        return found
    if not found.is_learnt and not (clear and scattered(outside, labels, upper)):
        return found
    return replace(
        found,
        probability=found.mixture.wrong_probability(losses),
        noise_fraction=found.mixture.fraction,
        noise_interval=fraction_interval(losses, found.mixture),
        found_by="losses confirmed",
    )


def scattered(outside: np.ndarray, labels: np.ndarray, chosen: np.ndarray) -> bool:
    """Whether networks answer some samples, whatever their label, with what they answer to all others.

    Parameters
    ----------
    outside : ndarray, shape (2, N, K)
        Probabilities by two networks that have not seen the samples.
    labels : ndarray of int, shape (N,)
        As given, 0..K-1.
    chosen : ndarray of bool, shape (N,)

    Returns
    -------
    bool
        Whether the two agree with one another there to `AGREED` of what they do elsewhere, and of the chosen samples
        that they do not give the label, those of each label are given the other classes about as often as all samples
        are. False where all or none are chosen.
    """
    if chosen.all() or not chosen.any():
        return False
    agree, answers = outside[0].argmax(axis=1) == outside[1].argmax(axis=1), outside.mean(axis=0).argmax(axis=1)
    if agree[chosen].mean() < AGREED * agree[~chosen].mean():
        return False
    against, classes = chosen & (answers != labels), outside.shape[2]
    counts = np.zeros((classes, classes))  # by label and answer
    np.add.at(counts, (labels[against], answers[against]), 1)
    expected = np.tile(np.bincount(answers, minlength=classes).astype(float), (classes, 1))
    np.fill_diagonal(expected, 0)
    expected *= counts.sum(axis=1, keepdims=True) / np.maximum(expected.sum(axis=1, keepdims=True), 1)
    return bool(np.abs(counts - expected).sum() / 2 <= SCATTERED * max(counts.sum(), 1))


def _refuted(found: WrongLabels) -> WrongLabels:
    none = np.zeros(len(found.probability))
    return replace(found, probability=none, noise_fraction=0.0, noise_interval=(0.0, 0.0), found_by="nothing")
