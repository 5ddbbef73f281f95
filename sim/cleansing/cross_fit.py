"""What networks answer that have not seen a sample: three parts, a network for each, asked about the other two."""

from collections.abc import Callable

import numpy as np

from sgdphases.sim.cleansing.sample_losses import class_probabilities, train_to, trainer
from sgdphases.sim.data.parts import class_balanced_parts
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.streams import stream

PARTS = 3  # two networks that share no sample, and a third part that neither has seen
PROBES = 12  # at most, log-spaced from the first epoch to the last
ERRORS = 2.0  # standard errors below the best probe, within which an earlier one counts as good

Asked = Callable[[str, int, int], None]


def cross_fitted_probabilities(
    settings: RunSettings, x: np.ndarray, y: np.ndarray, n_classes: int, show: Asked | None = None
) -> np.ndarray:
    """How probable the two networks trained on the other parts of the samples find each class, at their best.

    Their best is where they give most samples the label that they have not seen: with wrong labels in phase II, without
    any near the end. The earliest of log-spaced probes is taken that is not worse than the best by more than two
    standard errors.

    Parameters
    ----------
    settings : RunSettings
        As in the training on all samples; each network has a seed of its own.
    x : ndarray, shape (N, ...)
    y : ndarray of int, shape (N,)
    n_classes : int
    show : callable, optional
        Called with what is done, and the steps done of all.

    Returns
    -------
    ndarray, shape (2, N, K)
        Of fewer than three samples: certain of each label, as nobody else can be asked.
    """
    if len(y) < PARTS:
        return np.repeat(np.eye(n_classes)[y][None], PARTS - 1, axis=0)
    part = parts(y, settings.seed)
    networks = []
    for k in range(PARTS):
        trained = np.flatnonzero(part == k)
        made = part_settings(settings, k, len(trained))
        per_epoch = steps_per_epoch(len(trained), made.batch_size)
        networks.append((trainer(made, x[trained], y[trained], n_classes), made, per_epoch, np.flatnonzero(part != k)))
    good: list[tuple[float, np.ndarray]] = []  # share of the labels given, and probabilities, of probes that may do
    epochs, before = np.unique(np.rint(np.geomspace(1, max(settings.epochs, 1), PROBES)).astype(int)), 0
    for epoch in epochs:
        found = np.empty((PARTS - 1, len(y), n_classes), np.float32)
        for k, (backend, made, per_epoch, asked) in enumerate(networks):
            for step in train_to(backend, made, before * per_epoch, int(epoch) * per_epoch):
                if show is not None:
                    done = (k * epoch + (PARTS - 1 - k) * before) * per_epoch + step
                    show("asking networks that have not seen a label", int(done), PARTS * int(epochs[-1]) * per_epoch)
            found[place(part[asked], k), asked] = class_probabilities(backend, x[asked], n_classes)
        before = epoch
        given = float((found.argmax(axis=2) == y).mean())
        best = max([given, *(each for each, _ in good)])
        error = np.sqrt(best * (1 - best) / len(y))
        good = [each for each in [*good, (given, found)] if each[0] >= best - ERRORS * error]
    return good[0][1].astype(float)


def parts(y: np.ndarray, seed: int) -> np.ndarray:
    """0, 1 or 2 for each sample, shape (N,), at random; the samples of a label take turns."""
    return class_balanced_parts(y, PARTS, stream(seed, "data"))


def part_settings(settings: RunSettings, k: int, n_samples: int) -> RunSettings:
    """Settings of the network trained on part k: a seed of its own, and no batches larger than the part."""
    return settings.model_copy(
        update={"seed": settings.seed + k + 1, "batch_size": min(settings.batch_size, n_samples)}
    )


def place(part: np.ndarray, k: int) -> np.ndarray:
    """Which of the two networks that are asked about samples of other parts the one of part k is: 0 or 1."""
    return (k - part) % PARTS - 1
