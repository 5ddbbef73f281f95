"""When to look for wrong labels: the order of the losses in phase II, from the losses along a run alone.

Nothing here knows which labels are wrong, nor anything of a test set.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from sgdphases.estimators.errors import InputError

AGREEMENT = 0.8  # rank correlation with the medoid from which on a probe counts as one of phase II
LATEST = 3.0  # times t_c, the latest end of the window: later, few wrong labels are learnt though their rank stays high
LEAST_PROBES = 3  # from the first epoch on
FIRST_EPOCH = 1.0  # before, the order of losses is that in which samples were visited


@dataclass(frozen=True, eq=False)
class Consensus:
    """What the probes of a run have in common.

    Attributes
    ----------
    epochs : ndarray, shape (T,)
        Those of the probes used, from `FIRST_EPOCH` on.
    agreement : ndarray, shape (T, T)
        Spearman's correlation between the losses at two probes.
    t_clean : float
        t_c: epoch of the medoid, the probe that agrees best with all others on average.
    in_window : ndarray of bool, shape (T,)
        Probes around the medoid that agree with it to `AGREEMENT` at least, up to `LATEST` t_c: those of phase II.
    rank : ndarray, shape (N,)
        Mean rank of a sample's loss over the window, 0 to 1. The same under any increasing function of the losses.
    loss : ndarray, shape (N,)
        Loss of the mean prediction over the window, ``-log <exp(-l)>``, in nats: what separates best.
    """

    epochs: np.ndarray
    agreement: np.ndarray
    t_clean: float
    in_window: np.ndarray
    rank: np.ndarray
    loss: np.ndarray

    @property
    def medoid(self) -> int:
        """The place of t_c among the probes."""
        return int(np.flatnonzero(self.epochs == self.t_clean)[0])

    @property
    def window(self) -> tuple[float, float]:
        """First and last epoch of the window."""
        inside = self.epochs[self.in_window]
        return float(inside[0]), float(inside[-1])


def consensus(epochs: np.ndarray, sample_loss: np.ndarray) -> Consensus:
    """The medoid of the probes, the window around it, and each sample's rank and loss there.

    In phase I the order of the losses reflects noise and the initial weights, in phase III which wrong labels happen to
    be learnt already. Only the order of phase II is shared with both neighbouring phases, so the probe that agrees best
    with all others on average lies there. Where few labels are wrong the order persists after phase II, because those
    learnt last keep the largest losses; but by then the network gives them a high probability, so the window ends
    before.

    Parameters
    ----------
    epochs : ndarray, shape (T,), increasing
        When the losses were recorded; log-spaced, or late probes outvote the others.
    sample_loss : ndarray, shape (T, N)
        Each sample's loss under its given label, in nats.

    Returns
    -------
    Consensus

    Raises
    ------
    InputError
        If shapes do not fit, losses are not finite, or fewer than three probes lie after the first epoch.
    """
    epochs, losses = np.asarray(epochs, dtype=float), np.asarray(sample_loss)
    if losses.ndim != 2 or epochs.shape != losses.shape[:1]:
        raise InputError(f"epochs {epochs.shape} and sample losses {losses.shape} do not fit: give (T,) and (T, N).")
    if not np.isfinite(losses).all():
        raise InputError("sample losses hold NaN or infinity: training has diverged; lower the learning rate.")
    late = epochs >= FIRST_EPOCH
    epochs, losses = epochs[late], losses[late]
    if len(epochs) < LEAST_PROBES or losses.shape[1] < 2:
        raise InputError(
            f"{len(epochs)} probes of {losses.shape[1]} samples from epoch {FIRST_EPOCH:g} on: at least {LEAST_PROBES} "
            "probes and 2 samples are needed; train for more epochs or probe more often."
        )
    ranks = rankdata(losses, axis=1)
    agreement = _correlations(ranks)
    medoid = int(agreement.mean(axis=1).argmax())
    inside = agreement[medoid] >= min(AGREEMENT, agreement[medoid, medoid])
    first = medoid - int(np.argmin(np.append(inside[medoid::-1], False))) + 1
    inside &= epochs <= LATEST * epochs[medoid]
    last = medoid + int(np.argmin(np.append(inside[medoid:], False))) - 1
    window = np.zeros(len(epochs), dtype=bool)
    window[first : last + 1] = True
    predicted = np.exp(-losses[window].astype(float)).mean(axis=0)
    return Consensus(
        epochs=epochs,
        agreement=agreement,
        t_clean=float(epochs[medoid]),
        in_window=window,
        rank=(ranks[window].mean(axis=0) - 1) / (ranks.shape[1] - 1),
        loss=-np.log(np.maximum(predicted, 1e-300)),
    )


def _correlations(ranks: np.ndarray) -> np.ndarray:
    """Pearson's correlations between rows; 0 with a row that does not vary."""
    centred = ranks - ranks.mean(axis=1, keepdims=True)
    norms = np.sqrt((centred**2).sum(axis=1))
    scaled = centred / np.where(norms > 0, norms, 1)[:, None]
    return np.asarray(scaled @ scaled.T)
