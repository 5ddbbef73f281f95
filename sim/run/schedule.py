"""When to measure, and which samples each step sees."""

import numpy as np

from sgdphases.sim.run.streams import seed_sequence, stream, stream_words, streams

AT_ONCE = 64  # epochs whose permutations are drawn together,
SEEDED = 512  # epochs whose generators are seeded together
DRAWN = 2**17  # as long as they hold no more samples than this


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


def drawn_minibatches(seed: int, step: int, n_samples: int, batch_size: int, count: int) -> np.ndarray:
    """Samples of the minibatches drawn for the alignments at a step, shape (count, batch_size), by compiled code.

    The same as `sgdphases.estimators.ensemble.alignment.sampled_alignment` draws from the stream of that step.
    """
    from sgdphases.sim.run.draws import MOST, are_as_known, minibatches  # only runs by numba wait for it

    if n_samples <= MOST and are_as_known():
        words = seed_sequence(seed, "alignment", step).generate_state(4, np.uint64)
        return minibatches(words, n_samples, batch_size, count)
    rng = stream(seed, "alignment", step)
    return np.array([rng.choice(n_samples, size=batch_size, replace=False) for _ in range(count)])


class Orders:
    """The samples of a run's steps, epoch after epoch: `sample_order` over more than one, each permutation drawn once.

    Parameters
    ----------
    seed : int
        The run's.
    n_samples, batch_size : int
    compiled : bool
        Whether to draw permutations by compiled code: the same, but sooner, once numba is there.
    """

    def __init__(self, seed: int, n_samples: int, batch_size: int, *, compiled: bool = False):
        self._seed, self._n, self._batch_size, self._compiled = seed, n_samples, batch_size, compiled
        self._per_epoch = steps_per_epoch(n_samples, batch_size)
        self._at_once = min(AT_ONCE, max(1, DRAWN // n_samples))
        self._words = range(0), np.empty((0, 4), np.uint64)
        self._first, self._drawn = 0, np.empty((0, n_samples), dtype=np.int64)

    def epochs_at_once(self, most: int) -> int:
        """Epochs that may follow one another in one order: where their last minibatch is a whole one."""
        return most if self._n % self._batch_size == 0 else 1

    def of(self, start: int, stop: int) -> np.ndarray:
        """Samples of the steps ``start`` to ``stop``, which begin and end anywhere in their epochs."""
        begin, end = (
            each // self._per_epoch * self._n + each % self._per_epoch * self._batch_size for each in (start, stop)
        )
        pieces = []
        while begin < end:
            epoch, skipped = divmod(begin, self._n)
            if not self._first <= epoch < self._first + len(self._drawn):
                self._draw(epoch)
            found = self._drawn[epoch - self._first :].reshape(-1)[skipped : skipped + end - begin]
            pieces.append(found)
            begin += len(found)
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)

    def _draw(self, epoch: int) -> None:
        """Permutations of some epochs from this one on."""
        epochs = range(epoch, epoch - epoch % self._at_once + self._at_once)
        self._first = epoch
        if self._compiled:
            from sgdphases.sim.run.draws import are_as_known, permutations  # only runs by numba wait for it

            if are_as_known():
                self._drawn = permutations(self._words_of(epochs), self._n)
                return
        self._drawn = np.array([each.permutation(self._n) for each in streams(self._seed, "order", epochs)])

    def _words_of(self, epochs: range) -> np.ndarray:
        known, words = self._words
        if epochs[0] not in known or epochs[-1] not in known:
            known = range(epochs[0], epochs[0] + SEEDED)
            words = stream_words(self._seed, "order", known)
            self._words = known, words
        return words[epochs[0] - known[0] : epochs[-1] - known[0] + 1]
