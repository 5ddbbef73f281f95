"""What a network answers that has not seen a sample: two halves, each asked of the network trained on the other."""

from collections.abc import Callable

import numpy as np

from sgdphases.sim.cleansing.sample_losses import class_probabilities, train_to, trainer
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.streams import stream

PROBES = 3  # over which answers are averaged
LATEST = 2.0  # times t_c: as many steps on half of the samples as t_c on all


def cross_fitted_answers(
    settings: RunSettings,
    x: np.ndarray,
    y: np.ndarray,
    n_classes: int,
    t_clean: float,
    show: Callable[[str, int, int], None] | None = None,
) -> np.ndarray:
    """The class that each sample is given by the network trained on the other half of the samples, around t_c.

    Parameters
    ----------
    settings : RunSettings
        As in the training on all samples.
    x : ndarray, shape (N, ...)
    y : ndarray of int, shape (N,)
    n_classes : int
    t_clean : float
        t_c, in epochs; answers are averaged between once and twice that.
    show : callable, optional
        Called with what is done, and the steps done of all.

    Returns
    -------
    ndarray of int, shape (N,)
    """
    half = halves(y, settings.seed)
    answers = np.empty(len(y), dtype=int)
    for k in (0, 1):
        trained, asked = np.flatnonzero(half != k), np.flatnonzero(half == k)
        if not len(trained) or not len(asked):
            return y.copy()  # a single sample: nobody else to ask
        made = settings.model_copy(update={"batch_size": min(settings.batch_size, len(trained))})
        backend = trainer(made, x[trained], y[trained], n_classes)
        per_epoch = steps_per_epoch(len(trained), made.batch_size)
        epochs = np.clip(np.geomspace(t_clean, LATEST * t_clean, PROBES), 1, max(settings.epochs, 1))
        stops, step = np.unique(np.rint(epochs * per_epoch).astype(int)), 0
        total = np.zeros((len(asked), n_classes))
        for stop in stops:
            start = step
            for step in train_to(backend, made, start, int(stop)):
                if show is not None:
                    show("asking networks that have not seen a label", k * int(stops[-1]) + step, 2 * int(stops[-1]))
            total += class_probabilities(backend, x[asked], n_classes)
        answers[asked] = total.argmax(axis=1)
    return answers


def halves(y: np.ndarray, seed: int) -> np.ndarray:
    """0 or 1 for each sample, shape (N,), at random; the samples of a label take turns."""
    half = np.empty(len(y), dtype=int)
    half[np.lexsort((stream(seed, "data").random(len(y)), y))] = np.arange(len(y)) % 2
    return half
