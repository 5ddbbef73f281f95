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
on the field at the kink; what is left is of the order of h^2.
"""

import numpy as np

from sgdphases.theory.dmft.settings import Student
from sgdphases.theory.dmft.units import LOSSES, pull

NEAR = 0.05


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

    def advance(
        self,
        t: int,
        fields: np.ndarray,
        slope: np.ndarray,
        outputs: np.ndarray,
        coupling: np.ndarray,
        covariance: np.ndarray,
        weights: np.ndarray,
        strength: float,
        chosen: np.ndarray,
        responses: np.ndarray,
    ) -> np.ndarray:
        """What kinks up to time t add to the average responses at time t, shape (P, K, (t+1) K).

        Parameters
        ----------
        t : int
        fields, slope : ndarray, shape (S, K)
            Of the samples themselves.
        outputs : ndarray
            Output weights.
        coupling : ndarray, shape (K, t K)
            What the fields get from the slopes at each earlier time.
        covariance : ndarray, shape (K, (t+1) K)
            Of the weights with those at each time.
        weights : ndarray, shape (P, S)
        strength : float
            1/b, with which a sample of a minibatch counts.
        chosen : ndarray, shape (K, n)
            Of `nearest`.
        responses : ndarray, shape (K, n, (t+1) K)
            Of their fields at the kink, to each push.
        """
        k = fields.shape[1]
        sums = np.zeros((len(weights), k, (t + 1) * k))
        self._follow(t, fields, slope, outputs, coupling, covariance, weights, strength, sums)
        for unit in range(k):
            self._begin(
                t, unit, fields, slope, outputs, covariance[:, t * k :], weights, strength, chosen[unit],
                responses[unit], sums,
            )  # fmt: skip
        return sums

    def _follow(self, t, fields, slope, outputs, coupling, covariance, weights, strength, sums) -> None:  # type: ignore[no-untyped-def]
        """Both copies of each pair at time t, and what the difference between them adds."""
        n, k = self._count, fields.shape[1]
        if not n:
            return
        sample, past, now = self._sample[:n], slice(0, t * k), slice(t * k, (t + 1) * k)
        moved = fields[sample] - self._shift[:n, None] * covariance[:, self._column[:n]].T
        drawn, step = self._taken[t][sample][:, None], coupling.astype(np.float32).T
        slopes = []
        for taught in (self._open, self._closed):
            own = moved + taught[:n, past] @ step
            slopes.append(
                pull(own, self._labels[sample], outputs, self._student.activation, self._student.loss).slope
            )
            taught[:n, now] = np.where(drawn, strength * (slopes[-1] - slope[sample]), 0.0)
        jump = ((slopes[0] - slopes[1]) * self._density[:n, None]).astype(np.float32)
        for p, weight in enumerate(weights):
            sums[p, :, past] += (jump * weight[sample, None].astype(np.float32)).T @ self._response[:n, past]

    def _begin(  # type: ignore[no-untyped-def]
        self, t, unit, fields, slope, outputs, covariance, weights, strength, chosen, responses, sums
    ) -> None:
        """Move samples onto the kink; what the jump there adds at once, and pairs of those that are being drawn."""
        k = fields.shape[1]
        distance = fields[chosen, unit]
        density = 1 / (2 * np.abs(distance).max())
        spread = covariance[unit, unit]
        at = fields[chosen] - distance[:, None] * covariance[:, unit] / spread
        at[:, unit] = 0.0
        found = pull(at, self._labels[chosen], outputs, self._student.activation, self._student.loss)
        jump = LOSSES[self._student.loss](found.output, self._labels[chosen])[1] * outputs[unit]
        for p, weight in enumerate(weights):
            sums[p, unit] += (weight[chosen] * density * jump) @ responses
        keep = self._taken[t][chosen]
        first, n = self._count, int(keep.sum())
        place, now = slice(first, first + n), slice(t * k, (t + 1) * k)
        self._count += n
        self._sample[place], self._column[place] = chosen[keep], t * k + unit
        self._density[place], self._shift[place] = density, distance[keep] / spread
        self._response[place, : (t + 1) * k] = responses[keep]
        beyond = strength * (found.slope[keep] - slope[chosen[keep]])
        self._closed[place, now] = beyond
        beyond[:, unit] += strength * jump[keep]
        self._open[place, now] = beyond


def n_copies(n_steps: int, n_units: int, size: int) -> int:
    """Pairs of copies that a population of S comes to in T steps, at most."""
    return max(2, round(NEAR * size)) * n_units * n_steps
