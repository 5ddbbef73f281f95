"""Cleansing: watch a run, find t_c and the wrong labels, then stop there, go on, or begin again without them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.cleansing.confirmed import confirmed
from sgdphases.estimators.cleansing.consensus import Consensus, consensus
from sgdphases.estimators.cleansing.margins import margins, suspicion
from sgdphases.estimators.cleansing.mixture import DISBELIEVED
from sgdphases.estimators.cleansing.outside import Contradiction, contradiction
from sgdphases.estimators.cleansing.planted import PlantedShare
from sgdphases.estimators.cleansing.share import Share, explains_little, share_of_wrong
from sgdphases.estimators.cleansing.wrong_labels import (
    WrongLabels,
    check_known_fraction,
    disputed,
    from_planted,
    in_order_of,
    wrong_labels,
)
from sgdphases.estimators.ensemble.scores import mean_scores
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.cross_fit import cross_fitted_probabilities
from sgdphases.sim.cleansing.sample_losses import (
    Watched,
    class_probabilities,
    probe_steps,
    revisit,
    train_to,
    trainer,
    watch,
)
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import IMAGE, RunSettings

SUGGESTION_PROBES = 5  # of the window, over which the network's answers are averaged
MOSTLY = 0.5  # of the labels contradicted where networks are surest, least share that a fitted number accounts for
MOST_UNLEARNT = 0.6  # of the labels flagged, at the end of a run that has seen enough
WAYS = ("stop", "continue", "restart")
Show = Callable[[str, int, int], None]  # takes what is done, and the steps done of all


@dataclass(frozen=True, eq=False)
class Cleansing:
    """All that was found, without any knowledge of which labels are wrong.

    Attributes
    ----------
    consensus : Consensus
        t_c, the window around it, each sample's loss there: what says how many labels are wrong.
    score : ndarray, shape (N,)
        What says which: the higher, the more suspect. See `sgdphases.estimators.cleansing.margins`; by the recipe
        `sgdphases.sim.cleansing.cleanse_images.image_suspicion`.
    found : WrongLabels
        Probabilities, the mixture, the share of wrong labels fitted.
    share : Share
        How many labels are wrong, with bounds of what cannot be known.
    against : Contradiction or None
        The labels held against networks that have not seen them; None where the share of wrong ones was given.
    suggested : ndarray of int, shape (N,)
        The class that the network's answers, averaged over probes of the window (by the recipe: over the second half of
        the run), hold for the likeliest; for labels flagged, another class than the given one, by the networks of the
        thirds, too.
    keep : ndarray of bool, shape (N,)
        Samples that stay: those whose label is not flagged.
    weights : ndarray, shape (W,)
        The network's at t_c; empty for the recipe, which trains there again.
    clean_step : int
        The step of t_c.
    end_weights : ndarray, shape (W,)
        Those at the end of the run on all labels.
    memorised : float
        Share of the labels flagged that the network holds for likelier than not at the end of the run; NaN where none
        is flagged. If it is low, the run ended before phase III, and t_c may be early.
    """

    consensus: Consensus
    score: np.ndarray
    found: WrongLabels
    share: Share
    against: Contradiction | None
    suggested: np.ndarray
    keep: np.ndarray
    weights: np.ndarray
    clean_step: int
    end_weights: np.ndarray
    memorised: float


def cleanse(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    kind: str = "log-odds",
    per_class: bool = False,
    known_fraction: float | None = None,
    checkpoint: Path | None = None,
    show: Show | None = None,
) -> Cleansing:
    """Find the wrong labels of a training set.

    Trains once on all labels, recording every sample's loss at log-spaced probes, and finds the medoid of the probes.
    Then it goes back to the weights up to the end of the window around it, kept in memory or, where they take too much
    of it or the training was interrupted, trained again: there the network is asked how probable it finds every class.
    Last, three networks trained on a third of the samples each are asked about the other two, where they answer best:
    what they disagree with bounds the share of wrong labels, and if they agree with one another more often than with
    the labels, these are flagged even where losses show nothing. Losses say how many labels are flagged, margins which.

    Parameters
    ----------
    settings : RunSettings
        Network, SGD, seed, backend; ``checkpoints`` is the number of probes. Settings of data and noise have no effect.
    x : ndarray, shape (N, ...)
    y : ndarray of int, shape (N,)
        Labels 0..K-1, as given.
    n_classes : int
        K.
    kind, per_class, known_fraction
        See `sgdphases.estimators.cleansing.consensus.wrong_labels`.
    checkpoint : Path, optional
        A file that the first training goes on from, if it is there, and keeps up to date.
    show : callable, optional
        Called with what is done, and the steps done of all.

    Returns
    -------
    Cleansing

    Raises
    ------
    UsageError
        For settings that make no sense together.
    InputError
        For a checkpoint of other data, or fewer than three probes.
    TrainingDiverged
        If a loss is no longer finite.
    """
    check_known_fraction(known_fraction, kind, per_class)
    if settings.network == IMAGE:
        from sgdphases.sim.cleansing.cleanse_images import cleanse_images  # PyTorch is not always there

        return cleanse_images(
            settings, x, y, n_classes, kind=kind, per_class=per_class, known_fraction=known_fraction,
            checkpoint=checkpoint, show=show,
        )  # fmt: skip
    steps = probe_steps(settings, len(x))
    if len(steps) < 3:
        raise UsageError(
            f"{settings.epochs} epochs and {settings.checkpoints} probes make {len(steps)} different steps to look at: "
            "choose 3 of both at least."
        )
    last: Watched | None = None
    for last in watch(settings, x, y, n_classes, checkpoint):
        if show is not None:
            show("training on all labels", last.step, int(steps[-1]))
    if last is None:
        raise InputError(f"{checkpoint} holds no probe: remove it.")
    agreed = consensus(last.epochs, last.sample_loss)
    found = wrong_labels(agreed.loss, y, kind=kind, per_class=per_class, known_fraction=known_fraction)
    window = steps, agreed.medoid, agreed.in_window
    answers, ahead, weights = _second_look(settings, x, y, n_classes, *window, last.kept, show)
    outside = None
    if found.found_by != "given":
        outside = cross_fitted_probabilities(settings, x, y, n_classes, show)
    score, inside = suspicion(ahead, y, outside), answers.argmax(axis=1)
    said = judged(found, agreed.loss, y, inside, outside, last.sample_loss[-1], score=score)
    return Cleansing(
        consensus=agreed,
        score=score,
        suggested=suggestions(answers, outside, y, said["keep"]),
        weights=weights,
        clean_step=int(steps[agreed.medoid]),
        end_weights=last.weights,
        **said,
    )


def judged(
    found: WrongLabels,
    loss: np.ndarray,
    y: np.ndarray,
    suggested: np.ndarray,
    outside: np.ndarray | None,
    last_loss: np.ndarray,
    plant: Callable[[np.ndarray], PlantedShare] | None = None,
    *,
    score: np.ndarray | None = None,
) -> dict[str, Any]:
    """What a `Cleansing` says of labels, once networks that have not seen them were asked: by its names.

    Parameters
    ----------
    found : WrongLabels
        From the losses alone.
    loss : ndarray, shape (N,)
        Those losses.
    y, suggested : ndarray of int, shape (N,)
        Labels given, and what the network that has seen them calls the samples.
    outside : ndarray, shape (2, N, K), or None
        Probabilities by networks that have not; None where the share of wrong labels was given.
    last_loss : ndarray, shape (N,)
        At the end of the run on all labels.
    plant : callable, optional
        Takes ``outside``, plants mistakes and says what they show; called only where no wrong labels are seen.
    score : ndarray, shape (N,), optional
        What orders the labels; the losses if not given.
    """
    against, answers, planted = None, y, None
    if outside is not None:
        against, answers = contradiction(outside, y), outside.mean(axis=0).argmax(axis=1)
        found = confirmed(found, loss, y, outside, against)
        little = not found.has_noise or explains_little(found, against.surest, MOSTLY)
        if little and (against.is_even or (against.is_seen and found.is_learnt)):
            found = disputed(loss, y, against.fraction)
        elif plant is not None and not found.has_noise and found.is_learnt:
            planted = plant(outside)
            if planted.is_seen:
                found = from_planted(loss, y, planted.fraction, answers)
    if score is not None:
        found = in_order_of(found, score, y)
    keep = ~found.flagged
    learnt = last_loss[~keep] < DISBELIEVED
    return {
        "found": found,
        "share": share_of_wrong(found, y, suggested, answers, against, planted),
        "against": against,
        "keep": keep,
        "memorised": float(learnt.mean()) if len(learnt) else float("nan"),
    }


def _second_look(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    steps: np.ndarray,
    medoid: int,
    in_window: np.ndarray,
    kept: Mapping[int, np.ndarray],
    show: Show | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean answers at some probes of the window, mean margins up to its end, and the weights at the medoid."""
    inside = np.flatnonzero(in_window)
    places = inside[np.unique(np.rint(np.linspace(0, len(inside) - 1, SUGGESTION_PROBES)).astype(int))]
    counted, wanted = {int(steps[place]) for place in places}, int(steps[medoid])
    total, ahead, weights = np.zeros((len(x), n_classes)), np.zeros(len(x)), np.empty(0)
    stops = [int(step) for step in steps[: inside[-1] + 1]]
    for step, backend in revisit(settings, x, y, n_classes, stops, kept):
        if backend is not None:
            answers = class_probabilities(backend, x, n_classes)
            ahead += margins(answers, y) / len(stops)
            if step in counted:
                total += answers / len(counted)
            if step == wanted:
                weights = backend.weights
        if show is not None:
            show("going back to phase II", step, stops[-1])
    return total, ahead, weights


def suggestions(inside: np.ndarray, outside: np.ndarray | None, y: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """A class for each sample: the likeliest, and for labels flagged the likeliest other than the label.

    Parameters
    ----------
    inside : ndarray, shape (N, K)
        Probabilities by the network that has seen the labels, and may have memorised them.
    outside : ndarray, shape (2, N, K), or None
        By networks that have not; asked about labels flagged as well.
    y : ndarray of int, shape (N,)
    keep : ndarray of bool, shape (N,)

    Returns
    -------
    ndarray of int, shape (N,)
    """
    others = inside + (0 if outside is None else outside.mean(axis=0))
    others[np.arange(len(y)), y] = -1
    return np.where(keep, inside.argmax(axis=1), others.argmax(axis=1))


def train_cleansed(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    found: Cleansing,
    how: str = "restart",
    show: Show | None = None,
) -> Any:
    """A network trained with what was found.

    Parameters
    ----------
    settings, x, y, n_classes
        As for `cleanse`.
    found : Cleansing
    how : {"stop", "continue", "restart"}
        "stop": the weights at t_c, early stopping. "continue": from there on the labels kept, to the epochs of the
        settings. "restart": from the start on the labels kept, as many epochs.
    show : callable, optional

    Returns
    -------
    Backend
        Holding the samples kept; for the recipe an `sgdphases.sim.recipe.learner.ImageLearner`.

    Raises
    ------
    UsageError
        For another way, or where too few labels are kept; for the recipe, if it is to continue.
    """
    if how not in WAYS:
        raise UsageError(f"how = {how!r}: choose one of {', '.join(WAYS)}.")
    if settings.network == IMAGE:
        from sgdphases.sim.cleansing.cleanse_images import train_images_cleansed  # PyTorch is not always there

        return train_images_cleansed(settings, x, y, n_classes, found, how, show)
    keep = found.keep
    settings = settings.model_copy(update={"batch_size": min(settings.batch_size, max(1, int(keep.sum())))})
    if not keep.any():
        raise UsageError("no label is kept: there is nothing to train on.")
    backend = trainer(settings, x[keep], y[keep], n_classes)
    if how != "restart":
        backend.load_weights(found.weights)
    if how == "stop":
        return backend
    per_epoch = steps_per_epoch(int(keep.sum()), settings.batch_size)
    begun = 0 if how == "restart" else int(np.ceil(found.consensus.t_clean)) * per_epoch
    for step in train_to(backend, settings, min(begun, settings.epochs * per_epoch), settings.epochs * per_epoch):
        if show is not None:
            show(f"training without them ({how})", step, settings.epochs * per_epoch)
    return backend


def cleansing_gain(accuracy_n: float, accuracy_c: float, accuracy_p: float) -> float:
    """Q = (a_c - a_n) / (a_p - a_n): the share of what wrong labels cost that cleansing wins back (Feng & Tu 2021).

    Parameters
    ----------
    accuracy_n, accuracy_c, accuracy_p : float
        Test accuracy without cleansing, with it, and with the right labels only.

    Returns
    -------
    float
        1 where nothing is left to win; NaN where wrong labels cost nothing.
    """
    lost = accuracy_p - accuracy_n
    return (accuracy_c - accuracy_n) / lost if lost > 0 else float("nan")


def measure_gain(settings: RunSettings, data: Dataset, found: Cleansing) -> dict[str, float]:
    """Test accuracies and Q of every way, where the right labels are known. For evaluation only.

    Parameters
    ----------
    settings : RunSettings
    data : Dataset
        With ``y_clean`` and a test set.
    found : Cleansing
        Of `cleanse` on its training set.

    Returns
    -------
    dict of float
        "accuracy_n", "accuracy_p"; "accuracy_WAY" and "cleansing_gain_WAY" for each of `WAYS`.

    Raises
    ------
    UsageError
        Where the right labels are not known.
    """
    if data.wrong is None or data.n_classes is None:
        raise UsageError("the gain of cleansing can only be measured where the right labels are known.")
    x, y, classes = data.x_train, data.y_train, data.n_classes

    def accuracy(backend: Backend) -> float:
        return 1 - mean_scores(backend.on(data.x_test, data.y_test))[1]

    everything = trainer(settings, x, y, classes)
    everything.load_weights(found.end_weights)
    right = ~data.wrong
    perfect = trainer(settings, x[right], y[right], classes)
    steps = settings.epochs * steps_per_epoch(int(right.sum()), settings.batch_size)
    for _ in train_to(perfect, settings, 0, steps):
        pass
    result = {"accuracy_n": accuracy(everything), "accuracy_p": accuracy(perfect)}
    for how in WAYS:
        reached = accuracy(train_cleansed(settings, x, y, classes, found, how))
        gain = cleansing_gain(result["accuracy_n"], reached, result["accuracy_p"])
        result |= {f"accuracy_{how}": reached, f"cleansing_gain_{how}": gain}
    return result
