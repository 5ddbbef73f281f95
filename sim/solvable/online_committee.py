"""Online SGD of a soft committee machine at finite input dimension, step by step.

The finite counterpart of `sgdphases.theory.committee.flow`, with the same machine, scaling and time.
"""

import math

import numpy as np
from numba import njit

from sgdphases.theory.committee.state import CommitteePath, check_online_settings

FAST = {"reassoc", "contract", "arcp", "nsz"}  # sums may be reordered, so that they vectorise


def simulate_committee(
    students: np.ndarray,
    teachers: np.ndarray,
    learning_rate: float,
    noise_variance: float,
    times: np.ndarray,
    rng: np.random.Generator,
    *,
    noise_fraction: float = 0.0,
) -> CommitteePath:
    """Train on examples that are new at each step, and record the order parameters.

    Parameters
    ----------
    students : ndarray, shape (K, d)
        Weights at the start, of norm of order one; left as they are.
    teachers : ndarray, shape (M, d)
    learning_rate, noise_variance, noise_fraction : float
        As for `sgdphases.theory.committee.flow.committee_flow`; the label noise is Gaussian.
    times : ndarray, shape (t,)
        tau, in steps per input dimension, increasing from 0 or later.
    rng : numpy.random.Generator
        Of inputs and noise. What is found at one time does not depend on which others are asked for.

    Returns
    -------
    CommitteePath
        Its times are those asked for, rounded to whole steps.

    Raises
    ------
    ValueError
        If the weights do not fit each other or are not finite, a number is out of range, or the times do not increase.
    """
    check_online_settings(learning_rate, noise_variance, times, noise_fraction=noise_fraction)
    shapes = np.shape(students), np.shape(teachers)
    if any(len(shape) != 2 or 0 in shape for shape in shapes) or shapes[0][1] != shapes[1][1]:
        raise ValueError(f"students {shapes[0]} and teachers {shapes[1]}: give the shapes (K, d) and (M, d).")
    weights, aim = np.array(students, dtype=np.float64, order="C"), np.array(teachers, dtype=np.float64, order="C")
    if not (np.isfinite(weights).all() and np.isfinite(aim).all()):
        raise ValueError("students or teachers hold NaN or infinity: give finite weights.")
    d = shapes[0][1]
    steps = np.rint(np.asarray(times, dtype=np.float64) * d).astype(np.int64)
    student, overlap = [], []
    for n_steps in np.diff(steps, prepend=0):
        _train(weights, aim, n_steps, learning_rate / d, math.sqrt(noise_variance), noise_fraction, rng)
        student.append(weights @ weights.T)
        overlap.append(weights @ aim.T)
    return CommitteePath(steps / d, np.array(student), np.array(overlap), aim @ aim.T)


def random_committee(
    n_students: int, n_teachers: int, d: int, rng: np.random.Generator, *, scale: float = 0.5
) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal teachers, and students in random directions.

    Parameters
    ----------
    n_students, n_teachers : int
        K and M.
    d : int
        Input dimension, at least M.
    rng : numpy.random.Generator
    scale : float
        Root mean square norm of a student.

    Returns
    -------
    tuple of ndarray, shapes (K, d) and (M, d)
        Students and teachers.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    if not (n_students >= 1 and 1 <= n_teachers <= d):
        raise ValueError(
            f"{n_students} students and {n_teachers} teachers in {d} dimensions: give at least one of each, "
            f"and no more teachers than dimensions."
        )
    if not 0 <= scale < math.inf:
        raise ValueError(f"scale = {scale}: choose a finite norm of at least 0.")
    teachers = np.linalg.qr(rng.standard_normal((d, n_teachers)))[0].T
    return scale / math.sqrt(d) * rng.standard_normal((n_students, d)), np.ascontiguousarray(teachers)


@njit(cache=True, fastmath=FAST)
def _train(students, teachers, n_steps, rate, noise, wrong, rng):
    """Take steps in place; each draws the d inputs of its example, then the noise of the label.

    A wrong label comes without noise from d inputs more, which are drawn first.
    """
    k, d = students.shape
    x, slopes = np.empty(d), np.empty(k)
    for _ in range(n_steps):
        is_wrong, error = wrong > 0.0 and rng.random() < wrong, 0.0
        if is_wrong:
            for a in range(d):
                x[a] = rng.standard_normal()
            error += _answer(teachers, x)
        for a in range(d):
            x[a] = rng.standard_normal()
        if not is_wrong:
            error += noise * rng.standard_normal() + _answer(teachers, x)
        for i in range(k):
            field = _dot(students[i], x)
            error -= math.erf(field / math.sqrt(2.0))
            slopes[i] = math.sqrt(2.0 / math.pi) * math.exp(-0.5 * field * field)
        for i in range(k):
            move = rate * slopes[i] * error
            for a in range(d):
                students[i, a] += move * x[a]


@njit(cache=True, fastmath=FAST)
def _answer(teachers, x):
    total = 0.0
    for n in range(len(teachers)):
        total += math.erf(_dot(teachers[n], x) / math.sqrt(2.0))
    return total


@njit(cache=True, fastmath=FAST)
def _dot(w, x):
    total = 0.0
    for a in range(len(w)):
        total += w[a] * x[a]
    return total
