"""Random samples of a task: their part along the informative directions, their labels, and when they are drawn.

Averages over few samples are made more exact than independent draws would: clusters and labels come in equal numbers,
and every normal variable is stratified within a cluster of a population (Latin hypercubes).
"""

from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import erf, ndtri

from sgdphases.theory.dmft.settings import Descent, Task


class Samples(NamedTuple):
    """S samples, clean ones first, sorted by cluster within each population.

    Attributes
    ----------
    informative : ndarray, shape (S, J)
        Coordinates along the informative directions, centre and noise.
    truth, labels : ndarray, shape (S,)
        The right label, and the one given: -1 or 1, or values.
    n_clean : int
    strata : tuple of slice
        Samples of one population, cluster and label.
    """

    informative: np.ndarray
    truth: np.ndarray
    labels: np.ndarray
    n_clean: int
    strata: tuple[slice, ...]

    @property
    def parts(self) -> dict[str, slice]:
        """The populations that exist, by their names "c" and "w"."""
        slices = {"c": slice(0, self.n_clean), "w": slice(self.n_clean, len(self.labels))}
        return {name: part for name, part in slices.items() if part.start < part.stop}

    def with_constant(self) -> "Samples":
        """The same with one coordinate more, which is 1 everywhere: what biases are weights of."""
        return self._replace(informative=np.column_stack([self.informative, np.ones(len(self.labels))]))


def draw_samples(task: Task, size: int, rng: np.random.Generator) -> Samples:
    """Samples of a task with exactly ``round(rho size)`` wrong ones, classes and clusters alike in each population."""
    n_wrong = round(task.noise_fraction * size)
    n_clean = size - n_wrong
    n_clusters = 1 if task.inputs == "teacher" else 2
    redrawn = 1 + (task.noise_kind == "uniform-all" and task.target == "sign")
    kinds = [(n_clean, n_clusters), (n_wrong, n_clusters * redrawn)]
    kind = np.concatenate([np.sort(rng.permutation(many)[np.arange(n) % many]) for n, many in kinds])
    kind[n_clean:] += n_clusters
    edges = np.flatnonzero(np.diff(kind, prepend=-1, append=-1))
    strata = tuple(slice(a, b) for a, b in pairwise(edges))
    cluster, flipped = kind % n_clusters, kind >= n_clusters * redrawn

    x = stratified_normals(strata, task.informative, rng)
    if task.target == "value":
        truth = _answers(task, x)
        labels = truth + task.output_noise * rng.standard_normal(size) if task.output_noise else truth.copy()
        labels[n_clean:] *= -1
        if task.noise_kind == "uniform-all" and n_wrong:
            labels[n_clean:] = _answers(task, stratified_normals((slice(0, n_wrong),), task.informative, rng))
            labels[n_clean:] += task.output_noise * rng.standard_normal(n_wrong)
        return Samples(x, truth, labels, n_clean, strata)
    if task.inputs == "teacher":
        truth = np.where(_answers(task, x) > 0, 1.0, -1.0)
    else:
        truth = np.where(cluster == 1, 1.0, -1.0)
        x[:, 0] += 0.5 * task.separation * truth
    return Samples(x, truth, np.where(flipped, -truth, truth), n_clean, strata)


def _answers(task: Task, x: np.ndarray) -> np.ndarray:
    """Of the teacher, shape (S,)."""
    return np.asarray((x if task.teacher == "linear" else erf(x / np.sqrt(2))).sum(axis=1))


def stratified_normals(strata: tuple[slice, ...], columns: int, rng: np.random.Generator) -> np.ndarray:
    """Standard normal, shape (S, columns): each column of each stratum has one value in each of its quantiles."""
    parts = []
    for part in strata:
        n = part.stop - part.start
        ranks = rng.permuted(np.broadcast_to(np.arange(n)[:, None], (n, columns)), axis=0)
        parts.append(ndtri((ranks + rng.uniform(1e-12, 1, (n, columns))) / n))
    return np.concatenate(parts)


def draw_batches(
    descent: Descent, samples: Samples, n_steps: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """When each of S samples is drawn: taken, and the probability of that given the past; shapes (n_steps, S)."""
    b, size = descent.batch_fraction, len(samples.labels)
    if b == 1:
        return np.ones((n_steps, size), dtype=bool), np.ones((n_steps, size))
    if descent.sampler == "independent":
        turns = np.array([_evenly(samples, rng) for _ in range(n_steps)])
        return turns < b, np.full((n_steps, size), b)
    batches = descent.batches
    taken, chance = np.zeros((n_steps, size), dtype=bool), np.zeros((n_steps, size))
    for start in range(0, n_steps, batches):
        turn = np.floor(_evenly(samples, rng) * batches)
        for slot in range(min(batches, n_steps - start)):
            taken[start + slot] = turn == slot
            chance[start + slot] = np.where(turn >= slot, 1 / (batches - slot), 0.0)
    return taken, chance


def _evenly(samples: Samples, rng: np.random.Generator) -> np.ndarray:
    """Uniform between 0 and 1, spread evenly within each stratum; shape (S,)."""
    sizes = [part.stop - part.start for part in samples.strata]
    return np.concatenate([(rng.permutation(n) + rng.random()) / n for n in sizes])
