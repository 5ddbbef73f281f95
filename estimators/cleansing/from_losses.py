"""Wrong labels from losses that somebody's own training has recorded."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from sgdphases.estimators.cleansing.consensus import FIRST_EPOCH, Consensus, consensus
from sgdphases.estimators.cleansing.mixture import DISBELIEVED
from sgdphases.estimators.cleansing.share import share_from_losses
from sgdphases.estimators.cleansing.wrong_labels import WrongLabels, check_known_fraction, wrong_labels
from sgdphases.estimators.errors import InputError


@dataclass(frozen=True, eq=False)
class LabelsFromLosses:
    """What the losses of samples along a training run say of their labels; all in the order of the samples.

    Attributes
    ----------
    wrong_probability : ndarray, shape (N,)
        That the given label is wrong; all 0 where no label noise is seen.
    flagged : ndarray of bool, shape (N,)
        Labels that are more probably wrong than right.
    score : ndarray, shape (N,)
        The loss of the mean prediction over the window around t_c, in nats: the higher, the more suspect.
    noise_fraction : float
        Estimated share of wrong labels; NaN where it cannot be told from losses alone.
    noise_interval : tuple of float
        Its bounds: see `share_from_losses`.
    has_noise : bool
    t_clean : float
        t_c, in epochs.
    consensus : Consensus
    details : WrongLabels
    """

    wrong_probability: np.ndarray
    flagged: np.ndarray
    score: np.ndarray
    noise_fraction: float
    noise_interval: tuple[float, float]
    has_noise: bool
    t_clean: float
    consensus: Consensus
    details: WrongLabels


def find_wrong_labels_from_losses(
    epochs: Any,
    sample_loss: Any,
    labels: Any = None,
    *,
    mixture: str = "log-odds",
    per_class: bool = False,
    known_fraction: float | None = None,
) -> LabelsFromLosses:
    """Find wrong labels by the order in which a network learns them (Feng & Tu 2021, sec. 5), from recorded losses.

    Parameters
    ----------
    epochs : array_like, shape (T,), increasing
        When the losses were recorded, in passes over the training set; log-spaced is best, at least three from the
        first epoch on.
    sample_loss : array_like, shape (T, N)
        The cross-entropy of each sample under its given label, in nats; without dropout and augmentation.
    labels : array_like of int or text, shape (N,), or None
        As given: for ``per_class``, and to see whether all classes have been learnt.
    mixture, per_class, known_fraction
        See `sgdphases.find_wrong_labels`.

    Returns
    -------
    LabelsFromLosses

    Raises
    ------
    UsageError
        For settings that make no sense together.
    InputError
        If losses, epochs and labels do not fit together, or losses are not finite or below zero.

    Examples
    --------
    >>> import numpy as np, sgdphases
    >>> epochs = np.geomspace(1, 100, 12)
    >>> wrong = np.arange(500) < 150
    >>> slow = np.where(wrong, 40.0, 3.0) * np.random.default_rng(0).lognormal(0, 0.2, 500)
    >>> found = sgdphases.find_wrong_labels_from_losses(epochs, 3 * np.exp(-epochs[:, None] / slow) + 0.01)
    >>> float(found.flagged[wrong].mean()) > 0.9
    True
    """
    check_known_fraction(known_fraction, mixture, per_class)
    when, losses = (np.asarray(values, dtype=np.float64) for values in (epochs, sample_loss))
    if when.ndim != 1 or (np.diff(when) <= 0).any():
        raise InputError("epochs must be one number a record, increasing.")
    if (losses < 0).any():
        raise InputError("sample losses lie below zero: give the cross-entropy of each sample, in nats.")
    encoded = None
    if labels is not None:
        given = np.asarray(labels)
        if given.shape != losses.shape[1:]:
            raise InputError(f"labels of shape {given.shape} do not fit sample losses of shape {losses.shape}.")
        encoded = np.unique(given, return_inverse=True)[1]
    agreed = consensus(when, losses)
    found = wrong_labels(agreed.loss, encoded, kind=mixture, per_class=per_class, known_fraction=known_fraction)
    unlearnt = (losses[when >= FIRST_EPOCH] > DISBELIEVED).mean(axis=1)
    share = share_from_losses(found, float(unlearnt.max()), losses.shape[1])
    return LabelsFromLosses(
        wrong_probability=found.probability,
        flagged=found.flagged,
        score=agreed.loss,
        noise_fraction=share.fraction,
        noise_interval=(share.low, share.high),
        has_noise=found.has_noise,
        t_clean=agreed.t_clean,
        consensus=agreed,
        details=found,
    )
