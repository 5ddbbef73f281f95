"""Training by the recipe with every sample's loss recorded after each epoch, on disk so that it can go on."""

import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sgdphases.estimators.errors import InputError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.recipe.learner import ImageLearner
from sgdphases.sim.run.checkpoint import fingerprint
from sgdphases.sim.run.settings import RunSettings, check_fixed, fixed_settings
from sgdphases.sim.storage.arrays import read_npz
from sgdphases.sim.storage.atomic import write_whole

RECIPE = 3  # raised whenever the recipe learns otherwise: a run that another one began is not gone on with
SAVE_SECONDS = 20.0  # at most this much training is lost if the process is killed
ASKED = 12  # epochs of the second half, at most, after which others than the samples learnt are asked about
PIECE_STEPS = 16  # between two reports of progress; at most this much is lost by Ctrl-C


@dataclass(frozen=True, eq=False)
class Learnt:
    """What was recorded along a run.

    Attributes
    ----------
    step, n_steps : int
        SGD steps done, and those of the whole run.
    sample_loss : ndarray, shape (T, N), float32
        -log of the probability of each training sample's given label after each of the T epochs asked at so far, in
        nats: by the network as it answers, with running means for BatchNorm, of another view of the image after each
        epoch (see `ImageLearner.log_probabilities`), and of two in the second half of the run. Shape (0, N) where
        others were asked about.
    probability : ndarray, shape (M, K)
        Mean over the epochs asked at in the second half of the run of the probability of each class: of the training
        samples in both views, or of the samples asked about as they are. All 0 before the end.
    state : ndarray, shape (W,)
        Weights and running means at present.
    """

    step: int
    n_steps: int
    sample_loss: np.ndarray
    probability: np.ndarray
    state: np.ndarray


@dataclass(frozen=True, eq=False)
class _Point:
    """Where a run can go on."""

    step: int
    state: np.ndarray
    momentum: np.ndarray
    sample_loss: np.ndarray
    total: np.ndarray


def first_counted(n_epochs: int) -> int:
    """The epoch, from 1 on, with which the second half of a run begins."""
    return n_epochs // 2 + 1


def learn(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    *,
    asked: np.ndarray | None = None,
    epochs: np.ndarray | None = None,
    checkpoint: Path | None = None,
) -> Generator[Learnt, None, None]:
    """Train by the recipe, and record how probable the network finds each class of each sample.

    Parameters
    ----------
    settings : RunSettings
        Of `sgdphases.sim.recipe.choose.recipe_settings`.
    x : ndarray, shape (N, height, width) or (N, channels, height, width)
    y : ndarray of int, shape (N,)
        Labels 0..K-1.
    n_classes : int
        K.
    asked : ndarray, shape (M, ...), optional
        Other samples that the network is asked about, instead of those that it learns; it is a plain one then, see
        `ImageLearner`.
    epochs : ndarray of int, increasing, optional
        After which, counted from 1, samples are asked about; the run ends with the last. If not given, every one, or
        for ``asked`` `ASKED` of the second half.
    checkpoint : Path, optional
        A file to go on from, if it is there, and to be kept up to date: on a CPU, with as many threads, a run that is
        continued ends in the same bits.

    Yields
    ------
    Learnt
        After every piece of training; the last is of the whole run.

    Raises
    ------
    UsageError
        As `ImageLearner` does; and for a checkpoint made with other settings.
    InputError
        If the checkpoint is damaged or was made with other data.
    TrainingDiverged
        If a loss is no longer finite.
    """
    learner = ImageLearner(settings, x, y, n_classes, is_plain=asked is not None)
    others = x if asked is None else asked
    at = _epochs_asked_at(settings.epochs, asked is None) if epochs is None else epochs
    n_steps = int(at[-1]) * learner.per_epoch
    point = _start(learner, len(others), n_classes, asked is None)
    mark = "" if checkpoint is None else fingerprint(Dataset("labels", x, y, others, y[:1], n_classes))
    if checkpoint is not None and checkpoint.exists():
        point = _read(checkpoint, settings, mark, point, learner, at)
        learner.load(point.step, point.state, point.momentum)
    saved = time.monotonic()
    counted = max(1, int((at >= first_counted(settings.epochs)).sum()))
    try:
        while True:
            done = point.step == n_steps
            if checkpoint is not None and (done or time.monotonic() - saved > SAVE_SECONDS):
                _write(checkpoint, settings, mark, point)
                saved = time.monotonic()
            share = point.total / counted if done else np.zeros_like(point.total)
            yield Learnt(point.step, n_steps, point.sample_loss, share, point.state)
            if done:
                return
            point = _next(learner, point, others, None if asked is not None else y, at)
    except (KeyboardInterrupt, GeneratorExit):  # the last point still stands, even if training was cut off within
        if checkpoint is not None:
            _write(checkpoint, settings, mark, point)
        raise


def _epochs_asked_at(n_epochs: int, is_own: bool) -> np.ndarray:
    """Every epoch for the samples learnt; for others some of the second half, the last among them."""
    if is_own:
        return np.arange(1, n_epochs + 1)
    first = first_counted(n_epochs)
    return np.unique(np.rint(np.linspace(first, n_epochs, min(ASKED, n_epochs - first + 1))).astype(int))


def _start(learner: ImageLearner, n_asked: int, n_classes: int, is_own: bool) -> _Point:
    losses = np.empty((0, learner.n_samples if is_own else 0), np.float32)
    return _Point(0, learner.state, learner.momentum, losses, np.zeros((n_asked, n_classes)))


def _next(
    learner: ImageLearner, point: _Point, others: np.ndarray, labels: np.ndarray | None, at: np.ndarray
) -> _Point:
    """A piece of training; at the end of some epochs, what the network thinks of every sample."""
    end = point.step - point.step % learner.per_epoch + learner.per_epoch
    learner.advance(min(point.step + PIECE_STEPS, end))
    losses, total = point.sample_loss, point.total
    epoch = end // learner.per_epoch
    if learner.step == end and epoch in at:
        counts = epoch >= first_counted(learner.settings.epochs)
        views = [0] if labels is None else [2 * epoch, 2 * epoch + 1] if counts else [epoch]
        answers = np.logaddexp.reduce([learner.log_probabilities(others, view) for view in views])
        answers -= np.float32(np.log(len(views)))
        if counts:
            total = total + np.exp(answers, dtype=np.float64)
        if labels is not None:
            own = -answers[np.arange(len(labels)), labels]
            losses = np.concatenate([losses, own[None]])
    return _Point(learner.step, learner.state, learner.momentum, losses, total)


def _write(path: Path, settings: RunSettings, mark: str, point: _Point) -> None:
    def write(part: Path) -> None:
        with open(part, "wb") as file:
            np.savez(
                file,
                recipe=np.int64(RECIPE),
                step=np.int64(point.step),
                state=point.state,
                momentum=point.momentum,
                sample_loss=point.sample_loss,
                total=point.total,
                fingerprint=np.array(mark),
                settings=np.array(fixed_settings(settings)),
            )

    write_whole(path, write)


def _read(path: Path, settings: RunSettings, mark: str, start: _Point, learner: ImageLearner, at: np.ndarray) -> _Point:
    """The point kept in a file, once it is sure that it belongs to this very run."""
    remedy = "restore it from a copy, or remove it to start again"
    stored = read_npz(path, "checkpoint", remedy)
    try:
        step, found = int(stored["step"]), str(stored["fingerprint"])
        point = _Point(step, *(stored[name] for name in ("state", "momentum", "sample_loss", "total")))
        check_fixed(str(stored["settings"]), settings, path.with_name("config.toml"), "choose another folder")
    except (KeyError, ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is no usable checkpoint ({error}): {remedy}.") from None
    if "recipe" not in stored or int(stored["recipe"]) != RECIPE:
        raise InputError(f"{path} was made by another version of sgdphases, which learnt images otherwise: {remedy}.")
    if found != mark:
        raise InputError(f"the data differ from those {path} was made with: restore them, or start again.")
    rows = int((at <= step // learner.per_epoch).sum()) if start.sample_loss.shape[1] else 0
    shapes = (start.state.shape, start.momentum.shape, (rows, start.sample_loss.shape[1]), start.total.shape)
    arrays = (point.state, point.momentum, point.sample_loss, point.total)
    fits = all(each.shape == shape for each, shape in zip(arrays, shapes, strict=True))
    if not 0 <= step <= at[-1] * learner.per_epoch or not fits or not all(np.isfinite(each).all() for each in arrays):
        raise InputError(
            f"{path} does not go with these settings: put back those it was made with, or remove it to start again."
        )
    return point
