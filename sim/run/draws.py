"""What numpy's generators draw, for many of them at once: permutations of samples, and minibatches.

`numpy.random.Generator` draws from a PCG64 (O'Neill 2014), shuffles from the end (Durstenfeld 1964), and draws few of
many without repeats by Floyd's algorithm (Bentley & Floyd 1987), its numbers bounded without division (Lemire 2019).
Compiled here, a permutation of 200 samples takes 2 instead of 10 microseconds, and comes out the same. numpy may change
its ways; `are_as_known` tries them once, and whoever draws asks numpy itself where they differ.
"""

from functools import cache

import numpy as np
from numba import njit

MOST = 10_000  # samples: of more, numpy draws minibatches in another way
_MULTIPLIER_HIGH, _MULTIPLIER_LOW = np.uint64(0x2360ED051FC65DA4), np.uint64(0x4385DF649FCCF645)
_LOW = np.uint64(0xFFFFFFFF)
_ONE, _HALF, _ROTATION, _WORD = np.uint64(1), np.uint64(32), np.uint64(58), np.uint64(64)
_HIGH, _STATE_LOW, _STEP_HIGH, _STEP_LOW, _KEPT, _KEEPS = range(6)  # of a generator, an array of six numbers


@njit(cache=True)
def _product_high(a, b):
    """The upper 64 bits of a product."""
    a_low, a_high, b_low, b_high = a & _LOW, a >> _HALF, b & _LOW, b >> _HALF
    middle = a_high * b_low + ((a_low * b_low) >> _HALF)
    return a_high * b_high + (middle >> _HALF) + (((middle & _LOW) + a_low * b_high) >> _HALF)


@njit(cache=True)
def _advance(g):
    """state = state * multiplier + step, in 128 bits."""
    high, low = g[_HIGH], g[_STATE_LOW]
    upper = _product_high(low, _MULTIPLIER_LOW) + high * _MULTIPLIER_LOW + low * _MULTIPLIER_HIGH
    lower = low * _MULTIPLIER_LOW
    total = lower + g[_STEP_LOW]
    carry = _ONE if total < lower else np.uint64(0)
    g[_HIGH], g[_STATE_LOW] = upper + g[_STEP_HIGH] + carry, total


@njit(cache=True)
def _seed(g, words):
    """Start a generator from the four words that a `numpy.random.SeedSequence` generates for it."""
    g[:] = np.uint64(0)
    g[_STEP_HIGH], g[_STEP_LOW] = (words[2] << _ONE) | (words[3] >> np.uint64(63)), (words[3] << _ONE) | _ONE
    _advance(g)
    total = g[_STATE_LOW] + words[1]
    carry = _ONE if total < words[1] else np.uint64(0)
    g[_HIGH], g[_STATE_LOW] = g[_HIGH] + words[0] + carry, total
    _advance(g)


@njit(cache=True)
def _bits(g):
    """The next 32 random bits: the lower half of a word first."""
    if g[_KEEPS]:
        g[_KEEPS] = np.uint64(0)
        return g[_KEPT]
    _advance(g)
    turn = g[_HIGH] >> _ROTATION
    word = g[_HIGH] ^ g[_STATE_LOW]
    word = (word >> turn) | (word << ((_WORD - turn) & np.uint64(63)))
    g[_KEPT], g[_KEEPS] = word >> _HALF, _ONE
    return word & _LOW


@njit(cache=True)
def _up_to(g, most):
    """A whole number from 0 to ``most``, below 2^32 - 1."""
    if most == 0:
        return 0
    count = np.uint64(most) + _ONE
    product = _bits(g) * count
    if (product & _LOW) < count:
        least = (_LOW - np.uint64(most)) % count
        while (product & _LOW) < least:
            product = _bits(g) * count
    return np.int64(product >> _HALF)


@njit(cache=True)
def _by_rejection(g, most, mask):
    """The same by rejection of what lies above it, with ``mask`` the least 2^k - 1 that does not."""
    found = _bits(g) & mask
    while found > most:
        found = _bits(g) & mask
    return np.int64(found)


@njit(cache=True)
def permutations(words, n):
    """What generators would give as ``permutation(n)``, each from its start.

    Parameters
    ----------
    words : ndarray of uint64, shape (k, 4)
        ``generate_state(4, uint64)`` of the seed sequence of each.
    n : int
        At least 1.

    Returns
    -------
    ndarray of int64, shape (k, n)
    """
    found, g = np.empty((len(words), n), np.int64), np.empty(6, np.uint64)
    for k in range(len(words)):
        for i in range(n):
            found[k, i] = i
        _seed(g, words[k])
        mask = _ONE
        while mask < np.uint64(n - 1):
            mask = (mask << _ONE) | _ONE
        for i in range(n - 1, 0, -1):
            while np.uint64(i) <= (mask >> _ONE):
                mask >>= _ONE
            j = _by_rejection(g, np.uint64(i), mask)
            found[k, i], found[k, j] = found[k, j], found[k, i]
    return found


@njit(cache=True)
def minibatches(words, n, size, count):
    """What a generator gives as ``choice(n, size, replace=False)``, ``count`` times from its start on.

    Parameters
    ----------
    words : ndarray of uint64, shape (4,)
    n : int
        At most `MOST`.
    size : int
        At most n.
    count : int

    Returns
    -------
    ndarray of int64, shape (count, size)
    """
    found, g, taken_in = np.empty((count, size), np.int64), np.empty(6, np.uint64), np.full(n, -1)
    _seed(g, words)
    for m in range(count):
        for j in range(n - size, n):
            drawn = _up_to(g, j)
            if taken_in[drawn] == m:
                drawn = j
            taken_in[drawn] = m
            found[m, j - n + size] = drawn
        for i in range(size - 1, 0, -1):
            j = _up_to(g, i)
            found[m, i], found[m, j] = found[m, j], found[m, i]
    return found


@cache
def are_as_known() -> bool:
    """Whether numpy draws as `permutations` and `minibatches` do."""
    seed = np.random.SeedSequence(1, spawn_key=(3, 7))
    words = seed.generate_state(4, np.uint64)
    rng = np.random.default_rng(seed)
    drawn = np.array([rng.choice(77, size=30, replace=False) for _ in range(20)])
    order = np.random.default_rng(seed).permutation(500)
    return np.array_equal(permutations(words[None], 500)[0], order) and np.array_equal(
        minibatches(words, 77, 30, 20), drawn
    )
