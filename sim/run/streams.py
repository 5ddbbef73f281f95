"""Independent random streams, each a pure function of the run's seed and of where it is used.

No generator is carried along a run, so nothing of one has to be saved: epoch 17 has the same order of samples
whether the run came there in one go or was resumed twice on the way.
"""

import numpy as np

_PURPOSES = ("data", "labels", "weights", "order", "alignment", "augment", "planted")


def stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Generator for one purpose at one position.

    Parameters
    ----------
    seed : int
        The run's seed.
    purpose : {"data", "labels", "weights", "order", "alignment", "augment", "planted"}
    *position : int
        The epoch for "order" and "augment", the step for "alignment".
    """
    key = (_PURPOSES.index(purpose), *position)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
