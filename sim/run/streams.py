"""Independent random streams, each a pure function of the run's seed and of where it is used.

No generator is carried along a run, so nothing of one has to be saved: epoch 17 has the same order of samples
whether the run came there in one go or was resumed twice on the way.
"""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

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
    return np.random.default_rng(seed_sequence(seed, purpose, *position))


def seed_sequence(seed: int, purpose: str, *position: int) -> np.random.SeedSequence:
    """What the generator of `stream` is seeded with."""
    return np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose), *position))


def streams(seed: int, purpose: str, positions: Sequence[int]) -> Iterator[np.random.Generator]:
    """The generators of `stream` at many positions, made in a third of the time.

    Parameters
    ----------
    seed, purpose
        As for `stream`.
    positions : sequence of int
        From 0 to 2^32 - 1.
    """
    if not _is_as_known():
        yield from (stream(seed, purpose, position) for position in positions)
        return
    for state in _states(seed, purpose, np.asarray(positions, dtype=np.uint32)):
        yield np.random.Generator(np.random.PCG64(_Ready(state)))  # type: ignore[arg-type]  # numpy takes any of these


def stream_words(seed: int, purpose: str, positions: Sequence[int]) -> np.ndarray:
    """What fixes the generators of `streams`: the four words that each begins from, shape (positions, 4), uint64."""
    if _is_as_known():
        return _states(seed, purpose, np.asarray(positions, dtype=np.uint32))
    return np.array([seed_sequence(seed, purpose, each).generate_state(4, np.uint64) for each in positions])


class _Ready(ISeedSequence):
    """A seed whose state is known already."""

    def __init__(self, state: np.ndarray):
        self._state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self._state


def _states(seed: int, purpose: str, positions: np.ndarray) -> np.ndarray:
    """What ``SeedSequence(seed, spawn_key=(purpose, position))`` generates as a state, shape (positions, 4), uint64.

    The pool before the position is mixed into it is the same for all of them; numpy keeps the way it is mixed for good.
    """
    before = np.random.SeedSequence(seed, spawn_key=(_PURPOSES.index(purpose),)).pool
    words = max(4, -(-seed.bit_length() // 32)) + 1
    mixed = 16 + 4 * (words - 4)  # words hashed until then
    constant = 0x43B0D7E5 * pow(0x931E8875, mixed, 2**32) % 2**32
    pool = np.empty((len(positions), 4), np.uint32)
    with np.errstate(over="ignore"):
        for place in range(4):
            value = positions ^ np.uint32(constant)
            constant = constant * 0x931E8875 % 2**32
            value = value * np.uint32(constant)
            value ^= value >> np.uint32(16)
            value = np.uint32(0xCA01F9DD) * before[place] - np.uint32(0x4973F715) * value
            pool[:, place] = value ^ (value >> np.uint32(16))
        constant, state = 0x8B51F9DD, np.empty((len(positions), 8), np.uint32)
        for word in range(8):
            value = pool[:, word % 4] ^ np.uint32(constant)
            constant = constant * 0x58F38DED % 2**32
            value = value * np.uint32(constant)
            state[:, word] = value ^ (value >> np.uint32(16))
    return state.astype("<u4").view("<u8").astype(np.uint64)


@cache
def _is_as_known() -> bool:
    """Whether numpy mixes seeds in the way that `_states` repeats."""
    expected = np.random.SeedSequence(1, spawn_key=(_PURPOSES.index("order"), 7)).generate_state(4, np.uint64)
    return bool(np.array_equal(_states(1, "order", np.array([7], np.uint32))[0], expected))
