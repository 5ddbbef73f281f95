"""Which weights of a run to keep where no clean samples can say: those whose answers their neighbours share."""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.cleansing.consensus import consensus
from sgdphases.estimators.errors import InputError

NEIGHBOURS = 1.6  # factor in the epoch up to which probes vote on the one between
MOST_ROUNDS = 10  # of voting and choosing
MEMORISED = 1 / 3  # of the labels that the vote is against, least share that is given at the end if any are memorised
LEVEL_WITH_BEST = 0.003  # less agreement than the best probe's, at most, for a later one to be as good


@dataclass(frozen=True, eq=False)
class BestProbe:
    """The probe to go back to.

    Attributes
    ----------
    place : int
        Among all probes given.
    epoch : float
    agreement : ndarray, shape (T,)
        Share of the samples to which each probe gives the answer that most of those around the chosen one give.
    window : tuple of float
        First and last epoch of the window around t_c: see `consensus`.
    is_last : bool
        Whether there is nothing to go back to: the last probe agrees as well as any.
    memorised : float
        Of the samples whose label the vote is against, the share that the last probe gives it: near 1 where training
        has memorised labels, below `MEMORISED` where answers merely change as it goes on. 0 where the vote is against
        none, NaN without labels.
    """

    place: int
    epoch: float
    agreement: np.ndarray
    window: tuple[float, float]
    is_last: bool
    memorised: float = float("nan")


def best_probe(
    epochs: np.ndarray, sample_loss: np.ndarray, answers: np.ndarray, labels: np.ndarray | None = None
) -> BestProbe:
    """The probe whose answers its neighbours share: where answers have come to rest, and no label is memorised yet.

    Each probe of the window around t_c (`consensus`) votes for a class of every sample. In phase I answers still
    change, in phase III those to wrong labels turn into the labels; in between they agree with the vote. The latest
    probe within 0.003 of the best agreement is taken, as training goes on improving where nothing is memorised. Then
    the probes within a factor of 1.6 of its epoch vote, and so on until the choice stays.

    Parameters
    ----------
    epochs : ndarray, shape (T,), increasing
        At least three from the first epoch on.
    sample_loss : ndarray, shape (T, N)
        Each sample's loss under its given label, in nats.
    answers : ndarray of int, shape (T, N)
        The class that the network gives each sample.
    labels : ndarray of int, shape (N,), optional
        Those it is trained on, for ``memorised``.

    Returns
    -------
    BestProbe

    Raises
    ------
    InputError
        As `consensus` does; and for answers that do not fit.
    """
    given = np.asarray(answers)
    if given.shape != np.shape(sample_loss):
        raise InputError(f"answers of shape {given.shape} do not fit sample losses of shape {np.shape(sample_loss)}.")
    agreed = consensus(epochs, sample_loss)
    when, first = np.asarray(epochs, dtype=float), len(given) - len(agreed.epochs)
    inside = np.concatenate([np.zeros(first, dtype=bool), agreed.in_window])
    place, agreement = -1, np.zeros(len(given))
    for _ in range(MOST_ROUNDS):
        agreement = (given == _voted(given[inside])).mean(axis=1)
        chosen = latest_of_best(agreement, np.arange(first, len(given)))
        if chosen == place:
            break
        place = chosen
        inside = (when >= when[place] / NEIGHBOURS) & (when <= when[place] * NEIGHBOURS)
    memorised = float("nan")
    if labels is not None:
        against = _voted(given[inside]) != labels
        memorised = float((given[-1] == labels)[against].mean()) if against.any() else 0.0
    return BestProbe(place, float(when[place]), agreement, agreed.window, place == len(given) - 1, memorised)


def latest_of_best(agreement: np.ndarray, places: np.ndarray) -> int:
    """The last of some places, in order, whose agreement is within `LEVEL_WITH_BEST` of the best among them."""
    among = agreement[places]
    return int(places[np.flatnonzero(among >= among.max() - LEVEL_WITH_BEST)[-1]])


def _voted(answers: np.ndarray) -> np.ndarray:
    """The commonest answer to each sample, shape (N,); the lowest class of equals."""
    classes, places = np.unique(answers, return_inverse=True)
    places = places.reshape(answers.shape)
    votes = np.array([(places == k).sum(axis=0) for k in range(len(classes))])
    return np.asarray(classes[votes.argmax(axis=0)])
