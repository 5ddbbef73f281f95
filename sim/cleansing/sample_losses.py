"""Training with an eye on every sample: the loss of each at log-spaced probes, on disk so that it can go on."""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sgdphases.estimators.backend import Backend, chunks
from sgdphases.estimators.backends.registry import backend_class
from sgdphases.estimators.ensemble.scores import all_scores
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.data.dataset import Dataset
from sgdphases.sim.run.checkpoint import Checkpoint, fingerprint, load_checkpoint, save_checkpoint
from sgdphases.sim.run.schedule import sample_order, steps_per_epoch
from sgdphases.sim.run.settings import (
    RunSettings,
    check_batch_size,
    check_cross_entropy,
    check_fixed,
    fixed_settings,
)
from sgdphases.sim.run.training import initial_network

SAVE_SECONDS = 20.0  # at most this much training is lost
KEPT = 2**28  # bytes of weights that may be kept in memory, so that nothing is trained twice
LEAST_EPOCHS, LEAST_STEPS = 100, 10_000  # of a run that is to reach phase III, at the usual learning rates


@dataclass(frozen=True, eq=False)
class Watched:
    """What was seen along a run.

    Attributes
    ----------
    step : int
        SGD steps done.
    epochs : ndarray, shape (T,)
        When the probes were taken, from 1 on: before, some samples have not been seen.
    sample_loss : ndarray, shape (T, N), float32
        Loss of each training sample, under its given label, in nats.
    weights : ndarray, shape (W,)
        Present ones.
    kept : dict of ndarray
        Weights at probes, by their steps: of all that were taken since training began or went on; of none where they
        would take more than `KEPT` bytes.
    """

    step: int
    epochs: np.ndarray
    sample_loss: np.ndarray
    weights: np.ndarray
    kept: dict[int, np.ndarray]


def trainer(settings: RunSettings, x: np.ndarray, y: np.ndarray, n_classes: int) -> Backend:
    """A backend around the network of these settings at its start, on these samples.

    Parameters
    ----------
    settings : RunSettings
        Network, backend, device, dtype and seed count.
    x : ndarray, shape (N, ...)
    y : ndarray of int, shape (N,)
        Labels 0..K-1.
    n_classes : int
        K.
    """
    _check(settings, len(x), n_classes)
    model, dtype = initial_network(settings, _plain(x, y, n_classes))
    made: Backend = backend_class(settings.backend)(
        model, x, y, loss="cross-entropy", dtype=dtype, device=settings.device
    )
    return made


def enough_epochs(n_samples: int, batch_size: int) -> int:
    """Epochs to watch where nothing else is asked for: `LEAST_EPOCHS`, or as many as make `LEAST_STEPS` steps."""
    return max(LEAST_EPOCHS, -(-LEAST_STEPS // steps_per_epoch(n_samples, batch_size)))


def probe_steps(settings: RunSettings, n_samples: int) -> np.ndarray:
    """Steps at which to look: log-spaced from the end of the first epoch to the end of the run.

    Returns
    -------
    ndarray of int64, increasing; at most ``settings.checkpoints`` of them
    """
    per_epoch = steps_per_epoch(n_samples, settings.batch_size)
    spaced = np.geomspace(per_epoch, per_epoch * settings.epochs, settings.checkpoints)
    return np.unique(np.rint(spaced).astype(np.int64))


def train_to(backend: Backend, settings: RunSettings, start: int, stop: int) -> Iterator[int]:
    """SGD from one step to another; yields the steps done, at the end of every epoch and at ``stop``.

    Every epoch's order is fixed by the seed: going from a to c by way of b ends in the same bits.
    """
    n, batch_size = backend.n_samples, settings.batch_size
    per_epoch, step = steps_per_epoch(n, batch_size), start
    while step < stop:
        end = min(stop, step - step % per_epoch + per_epoch)
        backend.train(sample_order(settings.seed, step, end, n, batch_size), batch_size, settings.learning_rate)
        step = end
        yield step


def watch(
    settings: RunSettings, x: np.ndarray, y: np.ndarray, n_classes: int, checkpoint: Path | None = None
) -> Iterator[Watched]:
    """Train on the labels given and record every sample's loss at every probe.

    Parameters
    ----------
    settings : RunSettings
        Of the training; ``checkpoints`` is the number of probes.
    x, y, n_classes
        As for `trainer`.
    checkpoint : Path, optional
        A file to go on from, if it is there, and to be kept up to date.

    Yields
    ------
    Watched
        After every piece of training, at most an epoch long; the last has all probes.

    Raises
    ------
    InputError
        If the checkpoint is damaged or was made with other data.
    TrainingDiverged
        If a loss is no longer finite.
    """
    backend = trainer(settings, x, y, n_classes)
    marks, mark = probe_steps(settings, len(x)), fingerprint(_plain(x, y, n_classes))
    step, losses = 0, np.empty((0, len(x)), np.float32)
    if checkpoint is not None and checkpoint.exists():
        found = load_checkpoint(checkpoint)
        check_fixed(found.settings, settings, checkpoint.with_name("config.toml"), "choose another folder")
        if found.fingerprint != mark:
            raise InputError(f"the data differ from those {checkpoint} was made with: restore them, or start anew.")
        step, losses = found.step, found.rows.get("sample_loss", losses)
        n = len(losses)
        if (
            n > len(marks)
            or losses.shape != (n, len(x))
            or not (marks[n - 1] if n else 0) <= step <= marks[min(n, len(marks) - 1)]
            or found.weights.shape != backend.weights.shape
        ):
            raise InputError(
                f"{checkpoint} does not go with these settings: put back those it was made with, or start anew."
            )
        backend.load_weights(found.weights)
    per_epoch, saved = steps_per_epoch(len(x), settings.batch_size), time.monotonic()

    size = backend.weights.nbytes
    kept: dict[int, np.ndarray] = {}

    def seen() -> Watched:
        return Watched(step, marks[: len(losses)] / per_epoch, losses, backend.weights, kept)

    def keep() -> None:
        if checkpoint is not None:
            rows = {"sample_loss": losses} if len(losses) else {}
            save_checkpoint(checkpoint, Checkpoint(step, backend.weights, rows, mark, fixed_settings(settings)))

    while len(losses) < len(marks):
        start = step
        for step in train_to(backend, settings, start, int(marks[len(losses)])):
            if step < marks[len(losses)]:
                if time.monotonic() - saved > SAVE_SECONDS:
                    keep()
                    saved = time.monotonic()
                yield seen()
        losses = np.concatenate([losses, sample_losses(backend, settings, step)[None]])
        if size * len(marks) <= KEPT:
            kept[int(step)] = backend.weights
        if len(losses) == len(marks) or time.monotonic() - saved > SAVE_SECONDS:
            keep()
            saved = time.monotonic()
        if len(losses) < len(marks):
            yield seen()
    yield seen()


def sample_losses(backend: Backend, settings: RunSettings, step: int) -> np.ndarray:
    """The loss of every sample, shape (N,), float32; raises TrainingDiverged where one is not finite."""
    losses = all_scores(backend).loss
    if not np.isfinite(losses).all():
        raise TrainingDiverged(
            f"at step {step} {np.count_nonzero(~np.isfinite(losses))} losses are not finite: training diverged; lower "
            f"the learning rate (now {settings.learning_rate}), or scale the inputs."
        )
    return losses.astype(np.float32)


def class_probabilities(backend: Backend, x: np.ndarray, n_classes: int) -> np.ndarray:
    """The network's probability of every class for every sample, shape (N, K): a forward pass, or one a class."""
    if hasattr(backend, "label_losses"):
        asked: Any = backend.on(x, np.zeros(len(x), dtype=np.int64))
        pieces = chunks(np.arange(len(x)), asked.chunk_size)
        return np.exp(-np.concatenate([asked.label_losses(piece) for piece in pieces]))
    found = np.empty((len(x), n_classes))
    for k in range(n_classes):
        found[:, k] = np.exp(-all_scores(backend.on(x, np.full(len(x), k))).loss)
    return found


def revisit(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    steps: Sequence[int],
    kept: Mapping[int, np.ndarray] | None = None,
) -> Iterator[tuple[int, Backend | None]]:
    """Go back to some steps; yields the steps done, with the backend at each of ``steps``, else None.

    To weights that were kept, where all of them were; otherwise it trains again from the start. On a CPU it then passes
    through the weights of the first time, bit by bit.
    """
    backend, step = trainer(settings, x, y, n_classes), 0
    for target in sorted(steps):
        if kept is not None and all(each in kept for each in steps):
            backend.load_weights(kept[target])
            yield target, backend
            continue
        start = step
        for step in train_to(backend, settings, start, target):
            if step < target:
                yield step, None
        yield target, backend


def _plain(x: np.ndarray, y: np.ndarray, n_classes: int) -> Dataset:
    return Dataset("labels", x, y, x[:1], y[:1], n_classes)


def _check(settings: RunSettings, n_samples: int, n_classes: int) -> None:
    check_cross_entropy(settings)
    check_batch_size(settings, n_samples)
    if n_classes < 2:
        raise UsageError("all labels are the same: give samples of two classes at least.")
