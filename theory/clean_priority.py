"""Mean gradients of clean and wrong samples while a network does not yet tell them apart (Liu, Zhu & Belkin 2023).

Before anything is memorised, the network's answer to a sample does not depend on whether its label is clean or wrong.
Let it give the true class the probability q on average, and the other K - 1 classes the rest in equal parts. The loss
derivative at the outputs is answer minus label, so with ``v = e_true - (1 - e_true) / (K - 1)``:

- clean samples pull by ``-(1 - q) v``,
- wrong samples by ``+(q - tau) v``, where tau is the chance that a wrong label is the right one nevertheless: 0 if
  it is drawn from the other K - 1 classes, 1/K if from all K.

Through the same network both become opposed mean gradients, ``R_cw = -1``, with

    rho |g_w| / ((1 - rho) |g_c|) = rho (q - tau) / ((1 - rho) (1 - q)).

At the start q = 1/K. Clean samples lead while the ratio is below one; it reaches one at ``q = 1 - rho (1 - tau)``, the
share of labels that are right: there the mean gradient of all samples vanishes, and the clean priority ends.

What is assumed: classes on an equal footing, answers near the stated form, and no memorising; it stops being valid
where wrong labels begin to be fitted. Mean gradients of finitely many samples also carry sampling noise,
``E|g_w|^2 = |E g_w|^2 + Tr Sigma_w / N_w``, which is all that is left of g_w at the start if wrong labels are drawn
from all classes; `with_sampling_noise` adds it. A real network does not answer 1/K to everything even at the start:
what its answers have in common pulls both populations the same way, and lifts R_cw by some 0.1 (measured on Gaussian
mixtures and digits); `sgdphases.estimators.ensemble.clean_priority` predicts with its actual answers.
"""

from typing import NamedTuple

import numpy as np


class GradientBalance(NamedTuple):
    """``ratio``: ``rho |g_w| / ((1 - rho) |g_c|)``; ``alignment_cw``: their cosine, NaN where one vanishes."""

    ratio: float
    alignment_cw: float


def balance(
    noise_fraction: float, n_classes: int, *, confidence: float | None = None, chance_right: float = 0.0
) -> GradientBalance:
    """Ratio and alignment of the two mean gradients, in expectation.

    Parameters
    ----------
    noise_fraction : float
        rho, at least 0 and below 1.
    n_classes : int
        K, at least 2.
    confidence : float or None
        q, the mean probability given to the true class, 0 to 1 (excluded); None takes 1/K, as at the start.
    chance_right : float
        tau: 0 for wrong labels from the other classes, ``1 / K`` for labels drawn from all.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    _check(noise_fraction, n_classes, chance_right)
    q = 1.0 / n_classes if confidence is None else confidence
    if not 0 <= q < 1:
        raise ValueError(f"confidence = {confidence}: give a probability, at least 0 and below 1.")
    pull = 0.0 if np.isclose(q, chance_right, rtol=1e-12, atol=0) else q - chance_right
    ratio = noise_fraction * abs(pull) / ((1 - noise_fraction) * (1 - q))
    return GradientBalance(float(ratio), float(-np.sign(pull)) if pull and noise_fraction else float("nan"))


def end_of_priority(noise_fraction: float, n_classes: int, *, chance_right: float = 0.0) -> float:
    """The confidence q at which wrong samples pull as hard as clean ones.

    It is ``1 - rho (1 - tau)``, the share of labels that are right. Where that is not above ``1 / K`` there is no clean
    priority at all: with wrong labels from the other classes, from ``rho = 1 - 1/K`` on.

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    _check(noise_fraction, n_classes, chance_right)
    return 1.0 - noise_fraction * (1.0 - chance_right)


def transition_balance(transition: np.ndarray, noise_fraction: float, similarity: np.ndarray) -> GradientBalance:
    """The same at the start for any transition matrix, classes equally frequent.

    Parameters
    ----------
    transition : ndarray, shape (K, K)
        Row a: where wrong labels of class a go; rows sum to one.
    noise_fraction : float
        rho, at least 0 and below 1.
    similarity : ndarray, shape (K, K)
        Inner products of the classes' mean features, as seen by the gradient (for a linear network those of the mean
        inputs, with one added for the bias); the identity if classes have nothing in common.

    Raises
    ------
    ValueError
        If a matrix has the wrong shape, or rows do not sum to one.
    """
    transition, similarity = np.asarray(transition, dtype=np.float64), np.asarray(similarity, dtype=np.float64)
    n_classes = len(transition)
    _check(noise_fraction, n_classes, 0.0)
    if transition.shape != (n_classes, n_classes) or similarity.shape != transition.shape:
        raise ValueError(
            f"transition {transition.shape} and similarity {similarity.shape}: give two matrices of shape (K, K)."
        )
    if (transition < 0).any() or not np.allclose(transition.sum(axis=1), 1):
        raise ValueError(f"rows of the transition matrix sum to {transition.sum(axis=1)}: make each a distribution.")
    clean, wrong = 1 / n_classes - np.eye(n_classes), 1 / n_classes - transition  # answer minus label, by class
    inner = [float((similarity * (a @ b.T)).sum()) for a, b in ((clean, clean), (wrong, wrong), (clean, wrong))]
    squared_c, squared_w, product = inner[0], max(inner[1], 0.0), inner[2]
    if squared_w <= 1e-15 * squared_c or noise_fraction == 0:
        return GradientBalance(0.0, float("nan"))
    ratio = noise_fraction * np.sqrt(squared_w / squared_c) / (1 - noise_fraction)
    return GradientBalance(float(ratio), float(product / np.sqrt(squared_c * squared_w)))


def finite_balance(
    noise_fraction: float, n_classes: int, n_samples: int, noise_scale: float, *, chance_right: float = 0.0
) -> GradientBalance:
    """The balance that N samples show at a uniform output, from one number of the clean ones.

    With ``a = -1 / (K - 1)`` for wrong labels among the other classes and ``a = 0`` for labels drawn from all,

        R_cw = a / sqrt((1 + nu_c) (a^2 + nu_w)),    nu_p = Tr Sigma_p / (N_p |g_c|^2),

    in expectations of squares and products. At a uniform output single gradients are equally long in both populations,
    so ``Tr Sigma_w = Tr Sigma_c + (1 - a^2) |g_c|^2``.

    Parameters
    ----------
    noise_fraction : float
        rho, above 0 and below 1.
    n_classes : int
        K, at least 2.
    n_samples : int
        N, with ``rho N`` wrong ones.
    noise_scale : float
        ``Tr Sigma_c / |g_c|^2`` of clean samples: the batch at which their gradient is half noise.
    chance_right : float
        tau: 0 for wrong labels from the other classes, ``1 / K`` for labels drawn from all.

    Returns
    -------
    GradientBalance

    Raises
    ------
    ValueError
        If a number is out of its range.
    """
    expected = balance(noise_fraction, n_classes, chance_right=chance_right)
    if not noise_fraction * n_samples >= 1 or not 0 <= noise_scale < np.inf:
        raise ValueError(
            f"{n_samples} samples, a share {noise_fraction} wrong, a noise scale of {noise_scale}: give one wrong "
            f"sample or more, and a finite noise scale of at least 0."
        )
    size = expected.ratio * (1 - noise_fraction) / noise_fraction
    noise_c = noise_scale / ((1 - noise_fraction) * n_samples)
    noise_w = (noise_scale + 1 - size**2) / (noise_fraction * n_samples)
    return with_sampling_noise(expected, noise_fraction, 1.0, noise_c, noise_w)


def with_sampling_noise(
    expected: GradientBalance, noise_fraction: float, squared_norm_c: float, noise_c: float, noise_w: float
) -> GradientBalance:
    """Ratio and alignment that finitely many samples show, from what they are in expectation.

    Parameters
    ----------
    expected : GradientBalance
    noise_fraction : float
        rho, above 0 and below 1.
    squared_norm_c : float
        ``|E g_c|^2``, free of sampling noise: ``|g_c|^2 - Tr Sigma_c / (N_c - 1)``, above 0.
    noise_c, noise_w : float
        ``Tr Sigma_c / (N_c - 1)`` and ``Tr Sigma_w / (N_w - 1)``: what sampling adds to the squared norms.

    Returns
    -------
    GradientBalance
        Root of the ratio of expected squares, and expected inner product over the roots of expected squares.
    """
    if not squared_norm_c > 0:
        raise ValueError(f"squared_norm_c = {squared_norm_c}: without a mean clean gradient nothing can be predicted.")
    share = noise_fraction / (1 - noise_fraction)
    size = expected.ratio / share  # |E g_w| / |E g_c|
    squared_w = size**2 * squared_norm_c + noise_w
    squared_c = squared_norm_c + noise_c
    direction = expected.alignment_cw if expected.alignment_cw == expected.alignment_cw else 0.0
    ratio = share * np.sqrt(squared_w / squared_c)
    return GradientBalance(float(ratio), float(direction * size * squared_norm_c / np.sqrt(squared_c * squared_w)))


def _check(noise_fraction: float, n_classes: int, chance_right: float) -> None:
    if not 0 <= noise_fraction < 1:
        raise ValueError(f"noise_fraction = {noise_fraction}: give a share, at least 0 and below 1.")
    if n_classes < 2:
        raise ValueError(f"n_classes = {n_classes}: there are at least 2 classes.")
    if not 0 <= chance_right < 1:
        raise ValueError(f"chance_right = {chance_right}: give a probability, at least 0 and below 1.")
