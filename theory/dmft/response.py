"""How the fields of a sample answer to a push on them at an earlier time: the compiled part of the theory."""

import numpy as np
from numba import njit

FAST = {"reassoc", "contract", "arcp", "nsz"}
LIMIT = 3.0
"""Largest response of a field to a push that is counted. A sample near the divide between two fates, being fitted or
given up, answers a small push by ever more; so few of a population are so near that their average would run away."""


class Responses:
    """For each of S samples and all pairs of times, the K x K response of its loss's slopes to a push on its fields.

    A sample answers through its own past only at the times when it was in a minibatch, so only these rows are kept:
    ``4 K^2 b T^2 / 2`` bytes a sample for T steps, in single precision.
    """

    def __init__(self, taken: np.ndarray, n_units: int) -> None:
        n_steps, size = taken.shape
        self.n_units = n_units
        lengths = np.where(taken, n_units**2 * np.arange(1, n_steps + 1)[:, None], 0)
        starts = np.cumsum(lengths.T.ravel()) - lengths.T.ravel()
        self._starts = np.ascontiguousarray(starts.reshape(size, n_steps))
        self._taken = np.ascontiguousarray(taken.T)
        self._rows = np.zeros(int(lengths.sum()), dtype=np.float32)
        self.cut = 0.0
        """Share of the samples whose responses were cut at the last time."""

    def advance(
        self,
        t: int,
        coupling: np.ndarray,
        curvature: np.ndarray,
        weights: np.ndarray,
        strength: float,
        chosen: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Average responses of the slopes at time t, one for each row of ``weights`` of shape (P, S).

        Parameters
        ----------
        t : int
        coupling : ndarray, shape (K, t K)
            What the fields at time t get from the slopes at each earlier time.
        curvature : ndarray, shape (S, K, K)
        weights : ndarray, shape (P, S)
        strength : float
            1/b, with which a sample of a minibatch counts.
        chosen : ndarray of int, shape (K, n), or None
            Samples of which the responses of unit k's field itself are wanted, too.

        Returns
        -------
        tuple of ndarray, shapes (P, K, (t+1) K) and (K, n, (t+1) K)
        """
        k = self.n_units
        sums = np.zeros((len(weights), k, (t + 1) * k))
        chosen = np.empty((k, 0), dtype=np.int64) if chosen is None else chosen
        wanted = np.full((len(curvature), k), -1, dtype=np.int64)
        for unit in range(k):
            wanted[chosen[unit], unit] = np.arange(chosen.shape[1])
        own = np.zeros((k, chosen.shape[1], (t + 1) * k), dtype=np.float32)
        cut = _advance(
            t, k, coupling.astype(np.float32), curvature.astype(np.float32), np.ascontiguousarray(weights.T),
            np.float32(strength), np.float32(LIMIT), self._taken, self._starts, self._rows, sums, wanted, own,
        )  # fmt: skip
        self.cut = cut / len(curvature)
        return sums, own


def memory_needed(n_steps: int, n_units: int, size: int, batch_fraction: float) -> float:
    """Bytes that a population takes: its responses, the random mixture of its noise, its paths, and the kernels."""
    length = n_units * n_steps
    return 2.0 * batch_fraction * length**2 * size + 8.0 * size**2 + 16.0 * length * size + 24.0 * length**2


@njit(cache=True, fastmath=FAST)
def _advance(t, k, coupling, curvature, weights, strength, limit, taken, starts, rows, sums, wanted, own):
    width = (t + 1) * k
    field, slope = np.empty((k, width), dtype=np.float32), np.empty((k, width), dtype=np.float32)
    n_cut = 0
    for s in range(len(curvature)):
        field[:] = 0.0
        for i in range(k):
            field[i, t * k + i] = 1.0
        for tau in range(t):
            if taken[s, tau]:
                length = (tau + 1) * k
                for m in range(k):
                    row = rows[starts[s, tau] + m * length : starts[s, tau] + (m + 1) * length]
                    for i in range(k):
                        _add(field[i], row, coupling[i, tau * k + m], length)
        largest = np.float32(0.0)
        for i in range(k):
            for a in range(width):
                largest = max(largest, abs(field[i, a]))
        if largest > limit:
            n_cut += 1
            for i in range(k):
                for a in range(width):
                    field[i, a] = min(max(field[i, a], -limit), limit)
        for i in range(k):
            if wanted[s, i] >= 0:
                own[i, wanted[s, i]] = field[i]
            slope[i] = 0.0
            for m in range(k):
                _add(slope[i], field[m], curvature[s, i, m], width)
        for p in range(sums.shape[0]):
            if weights[s, p] != 0.0:
                for i in range(k):
                    _add(sums[p, i], slope[i], weights[s, p], width)
        if taken[s, t]:
            for m in range(k):
                row = rows[starts[s, t] + m * width : starts[s, t] + (m + 1) * width]
                row[:] = 0.0
                _add(row, slope[m], strength, width)
    return n_cut


@njit(cache=True, fastmath=FAST)
def _add(target, source, factor, length):
    for a in range(length):
        target[a] += factor * source[a]
