"""Mistakes an annotator would plausibly make: wrong labels where classes overlap, into the class on the other side.

The idea that label noise is likeliest near class boundaries is that of Zhang, Zheng, Wu, Goswami & Chen, "Learning with
feature-dependent label noise: a progressive approach" (2021).
"""

import warnings

import numpy as np

from sgdphases.sim.data.parts import class_balanced_parts

FOLDS = 5
MOST_COMPONENTS = 100  # inputs of more numbers are reduced to so many principal components first
LEAST_PROBABILITY = 1e-6  # of any class for any sample: every mistake is possible, however far-fetched


def plausible_mistakes(
    x: np.ndarray, y: np.ndarray, n_classes: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """The labels, exactly `count` of them replaced by mistakes.

    With p_n(k) of `confusion_probabilities`, samples are chosen without replacement with probabilities proportional to
    1 - p_n(y_n), and each gets a class k != y_n with a probability proportional to p_n(k).

    Parameters
    ----------
    x : ndarray, shape (N, ...)
    y : ndarray of int, shape (N,)
        The right labels, 0..K-1.
    n_classes : int
        K, at least 2.
    count : int
        From 0 to N.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int64, shape (N,)
    """
    return mistakes_from(confusion_probabilities(x, y, n_classes, rng), y, count, rng)


def mistakes_from(probabilities: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The labels, exactly `count` of them replaced by mistakes that some classifier makes.

    Parameters
    ----------
    probabilities : ndarray, shape (N, K)
        Of each class for each sample, p_n(k); none is 0.
    y, count, rng
        As for `plausible_mistakes`.

    Returns
    -------
    ndarray of int64, shape (N,)
    """
    scores = np.log(probabilities)
    scores[np.arange(len(y)), y] = -np.inf
    doubt = np.logaddexp.reduce(scores, axis=1)  # log(1 - p_n(y_n)), exact however sure the classifier is
    # the largest of log-weights plus Gumbel noise are draws without replacement with those weights
    chosen = np.argsort(doubt + rng.gumbel(size=len(y)), kind="stable")[len(y) - count :]
    mistaken = y.astype(np.int64)
    mistaken[chosen] = (scores[chosen] + rng.gumbel(size=(count, scores.shape[1]))).argmax(axis=1)
    return mistaken


def confusion_probabilities(x: np.ndarray, y: np.ndarray, n_classes: int, rng: np.random.Generator) -> np.ndarray:
    """What a linear classifier holds each sample for that it was not trained on.

    Linear discriminant analysis with Ledoit-Wolf shrinkage, cross-validated over `FOLDS` parts that each hold their
    share of every class. A class with a single sample cannot be learnt from the others: that sample is taken for one of
    another class.

    Parameters
    ----------
    x, y, n_classes, rng
        As for `plausible_mistakes`.

    Returns
    -------
    ndarray, shape (N, K), float64
        Rows sum to 1; no entry is much below `LEAST_PROBABILITY`.
    """
    n = len(x)
    inputs = _few_numbers(x.reshape(n, -1), int(rng.integers(2**31)))
    parts = class_balanced_parts(y, FOLDS, rng)
    found = np.zeros((n, n_classes))
    for part in range(FOLDS):
        asked, known = parts == part, np.unique(y[parts != part])
        if len(known) > 1 and asked.any():
            found[np.ix_(asked, known)] = _classify(inputs[~asked], y[~asked], inputs[asked])
    found = np.maximum(found, LEAST_PROBABILITY)  # where nothing can be learnt, all classes are alike
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def _classify(x: np.ndarray, y: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Probabilities of the classes in `y`, in their order, for each of the samples asked about."""
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

    n_known = len(np.unique(y))
    if not x.shape[1] or len(x) == n_known:  # nothing varies, or nothing within a class
        return np.ones((len(asked), n_known))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Only one sample available")  # a class of one has no covariance
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x, y)
    return np.asarray(model.predict_proba(asked))


def _few_numbers(flat: np.ndarray, seed: int) -> np.ndarray:
    """Inputs without their constant features, and the leading principal components where that leaves many."""
    varying = np.ptp(flat, axis=0) > 0
    flat = flat if varying.all() else flat[:, varying]
    if flat.shape[1] <= MOST_COMPONENTS:
        return flat.astype(np.float64)
    from sklearn.decomposition import PCA

    components = min(MOST_COMPONENTS, len(flat))
    reduced = PCA(components, svd_solver="randomized", random_state=seed).fit_transform(flat)
    return np.asarray(reduced, dtype=np.float64)
