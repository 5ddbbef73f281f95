"""What networks answer that have not seen a sample: three parts, a network for each, asked about the other two."""

from collections.abc import Callable

import numpy as np

from sgdphases.sim.cleansing.sample_losses import class_probabilities, train_to, trainer
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.streams import stream

PARTS = 3  # two networks that share no sample, and a third part that neither has seen
PROBES = 3  # over which answers are averaged
LATEST = float(PARTS)  # times t_c: as many steps on a part of the samples as t_c on all


def cross_fitted_probabilities(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    t_clean: float,
    show: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """How probable the two networks trained on the other parts of the samples find each class, around t_c.

    Parameters
    ----------
    settings : RunSettings
        As in the training on all samples; each network has a seed of its own.
    x : ndarray, shape (N, ...)
    y : ndarray of int, shape (N,)
    n_classes : int
    t_clean : float
        t_c, in epochs; answers are averaged between once and three times that.
    show : callable, optional
        Called with what is done, and the steps done of all.

    Returns
    -------
    ndarray, shape (2, N, K)
        Of fewer than three samples: certain of each label, as nobody else can be asked.
    """
    if len(y) < PARTS:
        return certain(y, n_classes)
    part = parts(y, settings.seed)
    found = np.zeros((PARTS - 1, len(y), n_classes))
    for k in range(PARTS):
        trained, asked = np.flatnonzero(part == k), np.flatnonzero(part != k)
        made = part_settings(settings, k, len(trained))
        backend = trainer(made, x[trained], y[trained], n_classes)
        per_epoch = steps_per_epoch(len(trained), made.batch_size)
        epochs = np.clip(np.geomspace(t_clean, LATEST * t_clean, PROBES), 1, max(settings.epochs, 1))
        stops, step = np.unique(np.rint(epochs * per_epoch).astype(int)), 0
        for stop in stops:
            start = step
            for step in train_to(backend, made, start, int(stop)):
                if show is not None:
                    last = PARTS * int(stops[-1])
                    show("asking networks that have not seen a label", k * int(stops[-1]) + step, last)
            found[place(part[asked], k), asked] += class_probabilities(backend, x[asked], n_classes) / len(stops)
    return found


def parts(y: np.ndarray, seed: int) -> np.ndarray:
    """0, 1 or 2 for each sample, shape (N,), at random; the samples of a label take turns."""
    part = np.empty(len(y), dtype=int)
    part[np.lexsort((stream(seed, "data").random(len(y)), y))] = np.arange(len(y)) % PARTS
    return part


def part_settings(settings: RunSettings, k: int, n_samples: int) -> RunSettings:
    """Settings of the network trained on part k: a seed of its own, and no batches larger than the part."""
    return settings.model_copy(
        update={"seed": settings.seed + k + 1, "batch_size": min(settings.batch_size, n_samples)}
    )


def place(part: np.ndarray, k: int) -> np.ndarray:
    """Which of the two networks that are asked about samples of other parts the one of part k is: 0 or 1."""
    return (k - part) % PARTS - 1


def certain(y: np.ndarray, n_classes: int) -> np.ndarray:
    """Probability 1 of each label, twice, shape (2, N, K)."""
    return np.repeat(np.eye(n_classes)[y][None], PARTS - 1, axis=0)
