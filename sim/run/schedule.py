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


class Orders:
    """The samples of a run's steps, epoch after epoch: `sample_order` over more than one, each permutation drawn once.

    Parameters
    ----------
    seed : int
        The run's.
    n_samples, batch_size : int
    """

    def __init__(self, seed: int, n_samples: int, batch_size: int):
        self._seed, self._n, self._batch_size = seed, n_samples, batch_size
        self._per_epoch = steps_per_epoch(n_samples, batch_size)
        self._epoch, self._drawn = -1, np.empty(0, dtype=np.int64)

    def epochs_at_once(self, most: int) -> int:
        """Epochs that may follow one another in one order: where their last minibatch is a whole one."""
        return most if self._n % self._batch_size == 0 else 1

    def of(self, start: int, stop: int) -> np.ndarray:
        """Samples of the steps ``start`` to ``stop``, which begin and end anywhere in their epochs."""
        pieces = []
        while start < stop:
            epoch, first = divmod(start, self._per_epoch)
            last = min(self._per_epoch, first + stop - start)
            if epoch != self._epoch:
                self._epoch, self._drawn = epoch, stream(self._seed, "order", epoch).permutation(self._n)
            pieces.append(self._drawn[first * self._batch_size : last * self._batch_size])
            start += last - first
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
