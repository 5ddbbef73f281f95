"""What ReLU units add to the responses: samples at a kink, whose slope jumps.

The slope of a ReLU unit is a step, so no second derivative exists. Its expectation has one all the same: a small push
at t' on the field of unit k moves those samples across the kink whose field lies within the push's effect, and each of
them then lives another life, for good. To first order in the push,

    d E[a(t)] / d push(t') = E[smooth part] + sum_tau sum_k E[delta(r_k(tau)) D_k(tau, t') (a(t; open) - a(t; closed))],

with D the response of the field while all slopes stay as they are, and a(t; open), a(t; closed) the slopes at time t of
two copies of the sample that stand at the kink at tau, and of which one has its unit's slope 1 there, the other 0. The
copies follow the sample's own noise and feel what they have taught the weights differently from then on: a finite jump,
not a derivative, so products of several deltas do not occur.

The delta is an average over the `NEAR` share of samples that is nearest to the kink: with h the distance of the
furthest, each counts 1 / 2h. They are moved onto the kink, and their later fields with them, by the regression of these
on the field at the kink; what is left is of the order of h^2 while fields still move by more than h, and more later,
when few samples cross the kink and many stand near it. The random error is that of a density from `NEAR` S samples at
each step.
"""

from typing import NamedTuple

import numpy as np

from sgdphases.theory.dmft.settings import Student
from sgdphases.theory.dmft.units import LOSSES, Pull, pull

NEAR = 0.05


class Moment(NamedTuple):
    """What a population of S samples is like at time t.

    Attributes
    ----------
    t : int
    fields, slope : ndarray, shape (S, K)
    outputs : ndarray
        Output weights.
    coupling : ndarray, shape (K, t K)
        What the fields get from the slopes at each earlier time.
    covariance : ndarray, shape (K, (t+1) K)
        Of the weights with those at each time.
    weights : ndarray, shape (P, S)
        What each sample counts in each of P averages.
    strength : float
        1/b, with which a sample of a minibatch counts.
    """

    t: int
    fields: np.ndarray
    slope: np.ndarray
    outputs: np.ndarray
    coupling: np.ndarray
    covariance: np.ndarray
    weights: np.ndarray
    strength: float


class Kinks:
    """All pairs of copies of a population, from the time at which each began.

    Parameters
    ----------
    labels : ndarray, shape (S,)
    taken : ndarray of bool, shape (T, S)
    student : Student
    """

    def __init__(self, labels: np.ndarray, taken: np.ndarray, student: Student) -> None:
        n_steps, size = taken.shape
        self._labels, self._taken, self._student = labels, taken, student
        self._near = max(2, round(NEAR * size))
        most, length = n_copies(n_steps, student.units, size), n_steps * student.units
        self._count = 0
        self._sample = np.zeros(most, dtype=np.int64)
        self._column = np.zeros(most, dtype=np.int64)  # of the field that stood at the kink
        self._density, self._shift = np.zeros(most), np.zeros(most)
        self._response = np.zeros((most, length), dtype=np.float32)
        self._open = np.zeros((most, length), dtype=np.float32)  # what it taught beyond the sample, at each time
        self._closed = np.zeros((most, length), dtype=np.float32)

    def nearest(self, fields: np.ndarray) -> np.ndarray:
        """The samples nearest to the kink of each unit, shape (K, NEAR S), from fields of shape (S, K)."""
        return np.argpartition(np.abs(fields), self._near - 1, axis=0)[: self._near].T

    def advance(self, now: Moment, chosen: np.ndarray, responses: np.ndarray) -> np.ndarray:
        """What kinks up to the present time add to the average responses, shape (P, K, (t+1) K).

        Parameters
        ----------
        now : Moment
            Times come one after the other, from 0 on.
        chosen : ndarray, shape (K, n)
            Of `nearest`.
        responses : ndarray, shape (K, n, (t+1) K)
            Of their fields at the kink, to each push.
        """
        k = now.fields.shape[1]
        sums = np.zeros((len(now.weights), k, (now.t + 1) * k))
        self._follow(now, sums)
        for unit in range(k):
            self._begin(now, unit, chosen[unit], responses[unit], sums)
        return sums

    def _follow(self, now: Moment, sums: np.ndarray) -> None:
        """Both copies of each pair, and what the difference between them adds."""
        n, k, t = self._count, now.fields.shape[1], now.t
        if not n:
            return
        sample, past, present = self._sample[:n], slice(0, t * k), slice(t * k, (t + 1) * k)
        moved = now.fields[sample] - self._shift[:n, None] * now.covariance[:, self._column[:n]].T
        drawn, step = self._taken[t][sample][:, None], now.coupling.astype(np.float32).T
        slopes = []
        for taught in (self._open, self._closed):
            fields = moved + taught[:n, past] @ step
            slopes.append(self._pull(fields, sample, now.outputs).slope)
            taught[:n, present] = np.where(drawn, now.strength * (slopes[-1] - now.slope[sample]), 0.0)
        jump = ((slopes[0] - slopes[1]) * self._density[:n, None]).astype(np.float32)
        for p, weight in enumerate(now.weights):
            sums[p, :, past] += (jump * weight[sample, None].astype(np.float32)).T @ self._response[:n, past]

    def _begin(self, now: Moment, unit: int, chosen: np.ndarray, responses: np.ndarray, sums: np.ndarray) -> None:
        """Move samples onto the kink; what the jump there adds at once, and pairs of those that are being drawn."""
        k, t = now.fields.shape[1], now.t
        distance = now.fields[chosen, unit]
        density = 1 / (2 * np.abs(distance).max())
        itself = now.covariance[:, t * k :]
        fields = now.fields[chosen] - distance[:, None] * itself[:, unit] / itself[unit, unit]
        fields[:, unit] = 0.0
        found = self._pull(fields, chosen, now.outputs)
        jump = LOSSES[self._student.loss](found.output, self._labels[chosen])[1] * now.outputs[unit]
        for p, weight in enumerate(now.weights):
            sums[p, unit] += (weight[chosen] * density * jump) @ responses
        keep = self._taken[t][chosen]
        first, n = self._count, int(keep.sum())
        place, present = slice(first, first + n), slice(t * k, (t + 1) * k)
        self._count += n
        self._sample[place], self._column[place] = chosen[keep], t * k + unit
        self._density[place], self._shift[place] = density, distance[keep] / itself[unit, unit]
        self._response[place, : (t + 1) * k] = responses[keep]
        beyond = now.strength * (found.slope[keep] - now.slope[chosen[keep]])
        self._closed[place, present] = beyond
        beyond[:, unit] += now.strength * jump[keep]
        self._open[place, present] = beyond

    def _pull(self, fields: np.ndarray, sample: np.ndarray, outputs: np.ndarray) -> Pull:
        return pull(fields, self._labels[sample], outputs, self._student.activation, self._student.loss)


def n_copies(n_steps: int, n_units: int, size: int) -> int:
    """Pairs of copies that a population of S comes to in T steps, at most."""
    return max(2, round(NEAR * size)) * n_units * n_steps


def copies_memory(n_steps: int, n_units: int, size: int) -> float:
    """Bytes that they take with full batches."""
    return 12.0 * n_copies(n_steps, n_units, size) * n_steps * n_units
