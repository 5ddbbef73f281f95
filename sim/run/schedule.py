"""When to measure, and which samples each step sees."""

import numpy as np

from sgdphases.sim.run.streams import stream


def checkpoint_steps(n_steps: int, n_checkpoints: int) -> np.ndarray:
    """Steps at which to measure: 0, then log-spaced up to the last, without repeats.

    Parameters
    ----------
    n_steps : int
        Steps of the whole run, at least 1.
    n_checkpoints : int
        At least 2. Fewer steps come back where log-spaced ones fall together at the start.

    Returns
    -------
    ndarray of int64, increasing, from 0 to ``n_steps``
    """
    spaced = np.geomspace(1, n_steps, n_checkpoints - 1) if n_checkpoints > 2 else np.array([n_steps])
    return np.unique(np.concatenate([[0], np.rint(spaced).astype(np.int64), [n_steps]]))


def steps_per_epoch(n_samples: int, batch_size: int) -> int:
    """Minibatches that one pass over the samples is cut into; the last may be smaller."""
    return -(-n_samples // batch_size)


def sample_order(seed: int, start: int, stop: int, n_samples: int, batch_size: int) -> np.ndarray:
    """Samples of the steps ``start`` to ``stop``, which must lie in one epoch.

    Every epoch goes through a new permutation of all samples, fixed by the seed and the epoch's number.
    """
    epoch, first = divmod(start, steps_per_epoch(n_samples, batch_size))
    last = first + stop - start
    return stream(seed, "order", epoch).permutation(n_samples)[first * batch_size : last * batch_size]
