"""One run of the theory: a population of effective samples that learn in the field of one another.

In the limit of large dimension d, the fields of the K units at one sample of a data set of N = n d follow

    r(t) = m(t) c + R_i(t) w_0 - alpha sum_{t' < t} R(t, t') [xi(t') + a(t') / n],      a(t) = s(t) / b * slope(t),

where c is the sample's part along the informative directions, m the overlaps of the weights with them, ``s(t)`` says
whether the sample is in the minibatch, and ``slope`` is the derivative of its loss by its fields. The last term is what
the sample has taught the weights itself. xi is Gaussian with the covariance ``M(t, t') = E[a(t) a(t')] / n``, and the
weights orthogonal to the informative directions obey, coordinate by coordinate,

    w(t+1) = (1 - alpha lambda) w(t) - alpha [sum_{t' <= t} G(t, t') w(t') + xi(t)],
    m(t+1) = (1 - alpha lambda) m(t) - alpha E[a(t) c],

with ``G(t, t') = E[d a(t) / d push(t')]``, where a push adds to the fields. R(t, t') is the response of ``w(t)`` to a
force at t', C the covariance of the weights, and R_i the response to the start. Each expectation is an average over the
population; nothing else is approximated, but that responses of a field are cut at `response.LIMIT`, and that those of
ReLU units at their kink are taken from samples near it (`sgdphases.theory.dmft.kinks`). The noise of a
sample is drawn as a random combination of the slopes of all samples, ``xi(t) = sum_s g_s a_s(t) / sqrt(n S)`` with
normal ``g_s``, which has the covariance M whatever its rank; a factorisation of M, which is nearly singular for full
batches, makes the theory run away at late times. (Mignacco, Krzakala, Urbani & Zdeborova 2020; Gerbelot, Troiani,
Mignacco, Krzakala & Zdeborova 2022; here for discrete time, several units, either sampler and two populations.)

Kernels are matrices of blocks of K x K, with the index ``t K + k``.
"""

import numpy as np

from sgdphases.theory.dmft.kinks import Kinks, Moment
from sgdphases.theory.dmft.response import Responses
from sgdphases.theory.dmft.samples import Samples, draw_batches, draw_samples, stratified_normals
from sgdphases.theory.dmft.settings import Descent, Student, Task
from sgdphases.theory.dmft.units import Pull, pull

TEST_SAMPLES = 20_000


class Kernels:
    """Everything that the theory knows about the weights up to the present step."""

    def __init__(self, n_steps: int, task: Task, student: Student) -> None:
        k, size = student.units, n_steps * student.units
        self.k = k
        self.response = np.zeros((size + k, size))
        self.covariance = np.zeros((size + k, size + k))
        self.start = np.zeros((size + k, k))
        self.noise = np.zeros((size, size))
        self.overlap, root = student.start_in(task)
        self.outputs = student.outputs
        self.covariance[:k, :k] = root @ root.T
        self.start[:k] = np.eye(k)

    def at(self, t: int) -> slice:
        return slice(t * self.k, (t + 1) * self.k)


def evolve(
    task: Task, student: Student, descent: Descent, size: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """The raw averages of one population at each step from 0 to ``descent.steps``; see `sgdphases.theory.dmft.predict`.

    Parameters
    ----------
    task, student, descent : Task, Student, Descent
    size : int
        S, effective samples.
    rng : numpy.random.Generator

    Returns
    -------
    dict of ndarray, shape (steps + 1,)
        ``loss_c``, ``error_c`` (of signs), ``squares_c`` (mean squared slope), ``inner_cc``, ``inner_cw``, ... where
        the populations exist, ``test_loss``, ``test_error``, ``cut_responses`` (share of samples).
    """
    times, k = descent.steps + 1, student.units
    samples, fresh = draw_samples(task, size, rng), draw_samples(task, TEST_SAMPLES, rng)
    if student.biases:
        samples, fresh = samples.with_constant(), fresh.with_constant()
    taken, chance = draw_batches(descent, samples, times, rng)
    kernels, responses = Kernels(times, task, student), Responses(taken, k)
    kinks = Kinks(samples.labels, taken, student) if student.activation == "relu" else None
    start = stratified_normals(samples.strata, k, rng) @ student.start_in(task)[1].T
    mixing = stratified_normals(samples.strata, size, rng) / np.sqrt(size * task.samples_per_dimension)
    test_normals = stratified_normals(fresh.strata, k, rng)
    taught, slopes = np.zeros((size, times * k)), np.zeros((size, times * k))
    rows: list[dict[str, float]] = []
    for t in range(times):
        now, past = kernels.at(t), slice(0, t * k)
        fields = samples.informative @ kernels.overlap.T + start @ kernels.start[now].T
        fields -= descent.learning_rate * taught[:, past] @ kernels.response[now, past].T
        found = pull(fields, samples.labels, kernels.outputs, student.activation, student.loss)
        weights = _weights(samples, chance[t] / descent.batch_fraction)
        coupling = -descent.learning_rate / task.samples_per_dimension * kernels.response[now, past]
        strength = 1 / descent.batch_fraction
        counts = np.array(list(weights.values()))
        chosen = None if kinks is None else kinks.nearest(fields)
        means, own = responses.advance(t, coupling, found.curvature, counts, strength, chosen)
        if kinks is not None and chosen is not None:
            joint = kernels.covariance[now, : now.stop]
            moment = Moment(t, fields, found.slope, kernels.outputs, coupling, joint, counts, strength)
            means += kinks.advance(moment, chosen, own)
        feedback = dict(zip(weights, means, strict=True))
        row = (
            {"cut_responses": responses.cut}
            | _scores(task, samples, found)
            | _test_scores(task, kernels, student, fresh, test_normals, now)
        )
        rows.append(row | _inner_products(t, task, student, descent, kernels, samples, found, feedback, slopes))
        slopes[:, now] = taken[t][:, None] * strength * found.slope
        drive = weights["drive"][:, None]
        _advance_noise(t, task, descent, kernels, drive, found.slope, slopes)
        taught[:, now] = mixing @ slopes[:, now] + slopes[:, now] / task.samples_per_dimension
        _advance_weights(t, student, descent, kernels, samples, drive, found, feedback["drive"])
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def _weights(samples: Samples, drawn: np.ndarray) -> dict[str, np.ndarray]:
    """What each sample counts: in the mean of its population, and in the mean that drives the weights."""
    size = len(samples.labels)
    weights = {"drive": drawn / size}
    for name, part in samples.parts.items():
        weights[name] = np.zeros(size)
        weights[name][part] = 1 / (part.stop - part.start)
    return weights


def _scores(task: Task, samples: Samples, found: Pull) -> dict[str, float]:
    scores = {}
    for name, part in samples.parts.items():
        scores[f"loss_{name}"] = float(found.loss[part].mean())
        if task.target == "sign":
            scores[f"error_{name}"] = float((np.sign(found.output[part]) != samples.labels[part]).mean())
        scores[f"squares_{name}"] = float((found.slope[part] ** 2).sum(axis=1).mean())
    return scores


def _test_scores(
    task: Task, kernels: Kernels, student: Student, fresh: Samples, normals: np.ndarray, now: slice
) -> dict[str, float]:
    """Loss and error on samples that were never seen, by their right labels."""
    values, vectors = np.linalg.eigh(kernels.covariance[now, now])
    root = vectors * np.sqrt(np.maximum(values, 0))
    fields = fresh.informative @ kernels.overlap.T + normals @ root.T
    found = pull(fields, fresh.truth, kernels.outputs, student.activation, student.loss)
    scores = {"test_loss": float(found.loss.mean())}
    if task.target == "sign":
        scores["test_error"] = float((np.sign(found.output) != fresh.truth).mean())
    return scores


def _inner_products(
    t: int,
    task: Task,
    student: Student,
    descent: Descent,
    kernels: Kernels,
    samples: Samples,
    found: Pull,
    feedback: dict[str, np.ndarray],
    slopes: np.ndarray,
) -> dict[str, float]:
    """Products of the mean gradients of the populations, over all samples and not only those of a minibatch."""
    until, past = slice(0, (t + 1) * kernels.k), slice(0, t * kernels.k)
    parts, n = samples.parts, task.samples_per_dimension
    along, noise, out = {}, {}, {}
    for name, part in parts.items():
        slope = found.slope[part]
        along[name] = slope.T @ samples.informative[part] / len(slope)
        with_past = slope.T @ slopes[part, past] / len(slope) / n
        noise[name] = -descent.learning_rate * with_past @ kernels.response[until, past].T  # with the weights
        out[name] = found.output_slope[part].mean(axis=0)
    inner = {}
    for p, q in [pair for pair in ("cc", "cw", "ww") if set(pair) <= set(parts)]:
        one, other = feedback[p], feedback[q]
        total = np.sum(along[p] * along[q]) + np.sum((one @ kernels.covariance[until, until]) * other)
        total += np.sum(one * noise[q]) + np.sum(other * noise[p])
        if p == q:
            share = len(found.slope[parts[p]]) / len(found.slope)
            total += np.mean(np.sum(found.slope[parts[p]] ** 2, axis=1)) / (n * share)
        if student.train_output:
            total += student.logits * (out[p] @ out[q])
        inner[f"inner_{p}{q}"] = float(total)
    return inner


def _advance_noise(
    t: int, task: Task, descent: Descent, kernels: Kernels, drive: np.ndarray, slope: np.ndarray, slopes: np.ndarray
) -> None:
    """A row of M; ``drive``: how much each sample is expected to count in the minibatch, over S."""
    now, until, past = kernels.at(t), slice(0, (t + 1) * kernels.k), slice(0, t * kernels.k)
    driven = (drive * slope).T
    row = np.concatenate([driven @ slopes[:, past], driven @ slope / descent.batch_fraction], axis=1)
    kernels.noise[now, until] = row / task.samples_per_dimension
    kernels.noise[past, now] = kernels.noise[now, past].T


def _advance_weights(
    t: int,
    student: Student,
    descent: Descent,
    kernels: Kernels,
    samples: Samples,
    drive: np.ndarray,
    found: Pull,
    feedback: np.ndarray,
) -> None:
    """Overlaps, responses and covariances of the weights after the step from t to t + 1."""
    rate, keep = descent.learning_rate, 1 - descent.learning_rate * descent.ridge
    now, after, until = kernels.at(t), kernels.at(t + 1), slice(0, (t + 1) * kernels.k)
    if now.stop == len(kernels.noise):
        return
    kept = np.full(kernels.overlap.shape[1], keep)
    kept[kept.size - student.biases :] = 1.0  # biases do not decay
    kernels.overlap = kept * kernels.overlap - rate * (drive * found.slope).T @ samples.informative
    if student.train_output:
        kernels.outputs = kernels.outputs - student.logits * rate * (drive * found.output_slope).sum(axis=0)
    response, covariance, start = kernels.response, kernels.covariance, kernels.start
    response[after, until] = keep * response[now, until] - rate * feedback @ response[until, until]
    response[after, now] = np.eye(kernels.k)
    start[after] = keep * start[now] - rate * feedback @ start[until]
    noise = kernels.noise[now, until]
    pushed = -rate * noise @ response[until, until].T  # of xi(t) with the weights until t
    row = keep * covariance[now, until] - rate * (feedback @ covariance[until, until] + pushed)
    covariance[after, until], covariance[until, after] = row, row.T
    itself = keep * row[:, now] - rate * (row @ feedback.T - rate * response[after, until] @ noise.T)
    covariance[after, after] = (itself + itself.T) / 2
