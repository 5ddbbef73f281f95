"""Cleansing of images by the recipe: what it learns from, and what is trained with what was found."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from sgdphases.estimators.cleansing.consensus import LEAST_PROBES, consensus
from sgdphases.estimators.cleansing.planted import PlantedShare, planted_share
from sgdphases.estimators.cleansing.wrong_labels import wrong_labels
from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.sim.cleansing.cleanse import Cleansing, Show, judged, suggestions
from sgdphases.sim.cleansing.cross_fit import PARTS, part_settings, parts, place
from sgdphases.sim.data.label_noise.input_dependent import LEAST_PROBABILITY, mistakes_from
from sgdphases.sim.recipe.learner import ImageLearner
from sgdphases.sim.recipe.watch import PIECE_STEPS, Learnt, learn
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.streams import stream

OTHER = 0.25  # weight of the likeliest other class, beside the label's own probability
RECENT = 8  # losses are averaged over the last 1/8 of the epochs so far
PART_STEPS = 1_500  # of networks that learn a part, at least: after 2,000 thirds agree less often than they are right
PLANTED = 0.075  # share of the labels that are replaced by known mistakes of each of two kinds


def cleanse_images(
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
    """Find the wrong labels of a training set of images; the part of `cleanse` for ``network = "image"``.

    Trains once on all labels. t_c and its window come from log-spaced epochs, as for other networks, and from losses
    smoothed over the last eighth of the epochs so far (`recent`), since at a high learning rate those of two
    epochs differ by chance. How many labels are wrong is read off the smoothed losses at the end of the window, which
    off `image_suspicion`. Suggested is the likeliest class of the second half of the run, and for labels flagged
    another than the given one, by the networks of the thirds, too, as the one that has seen the labels may have
    memorised them by then.

    Trains once on each third of the samples, and asks about the others: what these networks disagree with bounds the
    share of wrong labels, and if they agree with one another more often than with the labels, these are flagged even
    where scores show no two populations. Where nothing is seen, trains once more, with some labels replaced by mistakes
    that those networks might make, and others by any class: see `sgdphases.estimators.cleansing.planted`.

    Parameters, returns and errors are those of `sgdphases.sim.cleansing.cleanse.cleanse`; beside ``checkpoint`` each
    of these has a file of its own, ``watch-part-1.npz`` beside ``watch.npz``. Of the weights only those at the end are
    kept, with BatchNorm's running means.
    """
    epochs = probe_epochs(settings)
    last = _to_the_end(settings, x, y, n_classes, "training on all labels", show, checkpoint=checkpoint)
    smoothed = {epoch: mean_loss(last.sample_loss[recent(epoch) - 1]) for epoch in map(int, epochs)}
    agreed = consensus(epochs, np.stack(list(smoothed.values())))
    chosen = round(agreed.window[1])
    loss = smoothed[chosen]
    agreed = replace(agreed, loss=loss)
    found = wrong_labels(loss, y, kind=kind, per_class=per_class, known_fraction=known_fraction)
    inside, outside = last.probability.argmax(axis=1), None
    if found.found_by != "given":
        outside = probabilities_of_parts(settings, x, y, n_classes, checkpoint, show)

    def planted(outside: np.ndarray) -> PlantedShare:
        return ask_planted(settings, x, y, n_classes, outside.mean(axis=0), chosen, checkpoint, show)

    score = image_suspicion(loss, last.probability, y)
    said = judged(found, loss, y, inside, outside, smoothed[settings.epochs], planted, score=score)
    return Cleansing(
        consensus=agreed,
        score=score,
        suggested=suggestions(last.probability, outside, y, said["keep"]),
        weights=np.empty(0),
        clean_step=round(agreed.t_clean) * (last.n_steps // settings.epochs),
        end_weights=last.state,
        **said,
    )


def probe_epochs(settings: RunSettings) -> np.ndarray:
    """Epochs that t_c is chosen among: log-spaced from the first to the last, at most ``settings.checkpoints``.

    Raises
    ------
    UsageError
        If they are fewer than three.
    """
    spaced = np.geomspace(1, settings.epochs, settings.checkpoints)
    found = np.unique(np.rint(spaced).astype(np.int64))
    if len(found) < LEAST_PROBES:
        raise UsageError(
            f"{settings.epochs} epochs and {settings.checkpoints} probes make {len(found)} different epochs to look "
            f"at: choose {LEAST_PROBES} of both at least."
        )
    return found


def probabilities_of_parts(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    checkpoint: Path | None = None,
    show: Show | None = None,
) -> np.ndarray:
    """How probable the recipe's networks, trained on a third of the samples, find each class of the others.

    The parts are those of `sgdphases.sim.cleansing.cross_fit.cross_fitted_probabilities`, and so is what is returned,
    of shape (2, N, K).
    """
    part, found = parts(y, settings.seed), np.empty((PARTS - 1, len(y), n_classes))
    for k in range(PARTS):
        trained, asked = np.flatnonzero(part == k), np.flatnonzero(part != k)
        where = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.stem}-part-{k + 1}.npz")

        def shown(what: str, step: int, last: int, k: int = k) -> None:
            if show is not None:
                show(what, k * last + step, PARTS * last)

        made = part_settings(settings, k, len(trained))
        made = made.model_copy(update={"epochs": part_epochs(settings, len(y), len(trained))})
        found[place(part[asked], k), asked] = probabilities_of_others(
            made, x[trained], y[trained], n_classes, x[asked], checkpoint=where, show=shown,
            what="asking networks that have not seen a label",
        )  # fmt: skip
    return found


def part_epochs(settings: RunSettings, n_samples: int, n_part: int) -> int:
    """Epochs on a part of the samples: as many as on all, or as make as many steps, but no more than `PART_STEPS`.

    Parameters
    ----------
    settings : RunSettings
        Of a training on all.
    n_samples, n_part : int
        All samples, and those of the part.
    """
    steps = settings.epochs * steps_per_epoch(n_samples, settings.batch_size)
    per_epoch = steps_per_epoch(n_part, min(settings.batch_size, n_part))
    return max(settings.epochs, -(-min(steps, PART_STEPS) // per_epoch))


def plant(probability: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The labels, some of them replaced by known mistakes.

    Parameters
    ----------
    probability : ndarray, shape (N, K)
        Of each class, by networks that have not seen the sample.
    y : ndarray of int, shape (N,)
        As given.
    seed : int
        The run's.

    Returns
    -------
    labels : ndarray of int64, shape (N,)
    plausible, arbitrary : ndarray of bool, shape (N,)
        Those replaced by what a network that has not seen the sample might say (see
        `sgdphases.sim.data.label_noise.input_dependent.mistakes_from`), and, as many, by any other class.
    """
    rng, count = stream(seed, "planted"), round(PLANTED * len(y))
    labels = mistakes_from(np.maximum(probability, LEAST_PROBABILITY), y, count, rng)
    plausible, arbitrary = labels != y, np.zeros(len(y), dtype=bool)
    arbitrary[rng.permutation(np.flatnonzero(~plausible))[:count]] = True
    others = rng.integers(1, probability.shape[1], count)
    labels[arbitrary] = (labels[arbitrary] + others[: arbitrary.sum()]) % probability.shape[1]
    return labels, plausible, arbitrary


def ask_planted(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    probability: np.ndarray,
    chosen: int,
    checkpoint: Path | None = None,
    show: Show | None = None,
) -> PlantedShare:
    """Train by the recipe on labels with planted mistakes, and read off them how many others there are.

    Parameters
    ----------
    probability : ndarray, shape (N, K)
        Of each class, by networks that have not seen the sample.
    chosen : int
        Epoch, counted from 1, that scores are taken at.
    checkpoint : Path, optional
        Of the training on the labels as they are: this one's is ``watch-planted.npz`` beside ``watch.npz``.

    Other parameters and errors are those of `cleanse_images`.
    """
    labels, plausible, arbitrary = plant(probability, y, settings.seed)
    place = None if checkpoint is None else checkpoint.with_name(f"{checkpoint.stem}-planted.npz")
    learnt = _to_the_end(
        settings, x, labels, n_classes, "training with planted mistakes", show, epochs=recent(chosen), checkpoint=place
    )
    return planted_share(mean_loss(learnt.sample_loss), plausible, arbitrary)


def probabilities_of_others(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    asked: np.ndarray,
    *,
    checkpoint: Path | None = None,
    show: Show | None = None,
    what: str = "training on a part",
) -> np.ndarray:
    """Train by the recipe on some samples, and ask about others that the network never sees.

    Parameters
    ----------
    settings : RunSettings
        Of `sgdphases.sim.recipe.choose.recipe_settings`; a batch_size beyond N becomes N.
    x : ndarray, shape (N, ...)
        Samples to learn.
    y : ndarray of int, shape (N,)
        Their labels, 0..K-1; not every class has to be there.
    n_classes : int
        K.
    asked : ndarray, shape (M, ...)
    checkpoint : Path, optional
        A file of its own to go on from, and to be kept up to date.
    show : callable, optional
    what : str
        The name of this stage for ``show``.

    Returns
    -------
    ndarray, shape (M, K)
        Probability of each class, averaged over some epochs of the second half of the run.

    Raises
    ------
    UsageError, InputError, TrainingDiverged
        As `sgdphases.sim.recipe.watch.learn` does.
    """
    settings = settings.model_copy(update={"batch_size": min(settings.batch_size, len(x))})
    return _to_the_end(
        settings, x, y, n_classes, what, show, asked=asked, checkpoint=checkpoint
    ).probability  # fmt: skip


def train_images_cleansed(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    found: Cleansing,
    how: str,
    show: Show | None = None,
) -> ImageLearner:
    """The part of `sgdphases.sim.cleansing.cleanse.train_cleansed` for ``network = "image"``.

    "stop" trains on all labels once more, as far as t_c: on a CPU, through the same weights. "restart" trains on those
    kept, for `part_epochs`. There is no "continue": at t_c the learning rate is in the middle of its cycle.

    Raises
    ------
    UsageError
        For "continue", and where too few labels are kept.
    """
    if how == "continue":
        raise UsageError(
            f"how = 'continue': network = {settings.network!r} runs through one cycle of learning rates, which cannot "
            "be gone on with from t_c: choose restart."
        )
    if how == "stop":
        learner, stop = ImageLearner(settings, x, y, n_classes), found.clean_step
    else:
        kept = int(found.keep.sum())
        if not kept:
            raise UsageError("no label is kept: there is nothing to train on.")
        enough = {"batch_size": min(settings.batch_size, kept), "epochs": part_epochs(settings, len(y), kept)}
        settings = settings.model_copy(update=enough)
        learner = ImageLearner(settings, x[found.keep], y[found.keep], n_classes)
        stop = learner.n_steps
    train_on(learner, stop, f"training without them ({how})", show)
    return learner


def train_on(learner: ImageLearner, stop: int, what: str, show: Show | None = None) -> None:
    """Train as far as a step, saying so from time to time."""
    while learner.step < stop:
        end = learner.step - learner.step % learner.per_epoch + learner.per_epoch
        learner.advance(min(learner.step + PIECE_STEPS, end, stop))
        if show is not None:
            show(what, learner.step, stop)


def image_accuracy(learner: ImageLearner, x: np.ndarray, y: np.ndarray) -> float:
    """Share of the samples that are given their label."""
    return float((learner.log_probabilities(x).argmax(axis=1) == y).mean())


def recent(epoch: int) -> np.ndarray:
    """The last eighth of the epochs from the first to this one, counted from 1, rounded up."""
    return np.arange(epoch - -(-epoch // RECENT), epoch) + 1


def image_suspicion(loss: np.ndarray, probability: np.ndarray, y: np.ndarray) -> np.ndarray:
    """How suspect the label of each image is: `OTHER` of the likeliest other class's probability, less the label's own.

    A hard image's label loses to many classes, a wrong one to the right class: of labels exchanged in pairs that tells
    more than the loss. As what is likeliest is averaged over the second half of the run, when many labels have been
    memorised, it counts for less.

    Parameters
    ----------
    loss : ndarray, shape (N,)
        -log of the label's probability, averaged over some epochs.
    probability : ndarray, shape (N, K)
        Mean over the second half of the run.
    y : ndarray of int, shape (N,)

    Returns
    -------
    ndarray, shape (N,)
        The higher, the more suspect.
    """
    others = probability.copy()
    others[np.arange(len(y)), y] = -1
    return np.asarray(OTHER * others.max(axis=1) - np.exp(-loss))


def mean_loss(sample_loss: np.ndarray) -> np.ndarray:
    """-log of each label's mean probability.

    Parameters
    ----------
    sample_loss : ndarray, shape (T, N)
        In nats.

    Returns
    -------
    ndarray, shape (N,)
    """
    return np.asarray(-np.log(np.maximum(np.exp(-sample_loss.astype(float)).mean(axis=0), 1e-300)))


def _to_the_end(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    what: str,
    show: Show | None,
    *,
    asked: np.ndarray | None = None,
    epochs: np.ndarray | None = None,
    checkpoint: Path | None = None,
) -> Learnt:
    last: Learnt | None = None
    with closing(learn(settings, x, y, n_classes, asked=asked, epochs=epochs, checkpoint=checkpoint)) as pieces:
        for last in pieces:
            if show is not None:
                show(what, last.step, last.n_steps)
    if last is None:
        raise InputError(f"{checkpoint} holds no state: remove it.")
    return last
