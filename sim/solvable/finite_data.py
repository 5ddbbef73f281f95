"""SGD on a finite data set in d dimensions: the task and the network that `sgdphases.theory.dmft` solves."""

import numpy as np

from sgdphases.theory.dmft.predict import order_parameters
from sgdphases.theory.dmft.samples import Samples, draw_samples
from sgdphases.theory.dmft.settings import Descent, Student, Task, check_populations, check_settings
from sgdphases.theory.dmft.units import Pull, pull

MEMORY = 8e9  # bytes of the inputs


def simulate(
    task: Task,
    student: Student,
    descent: Descent,
    dimension: int,
    steps: np.ndarray,
    rng: np.random.Generator,
    *,
    test_samples: int = 10_000,
) -> dict[str, np.ndarray]:
    """Train one network on one data set, and measure it before the steps asked for.

    Parameters
    ----------
    task, student, descent : Task, Student, Descent
    dimension : int
        d, at least the task's informative directions. There are ``round(n d)`` samples.
    steps : ndarray of int, shape (T,)
        Rising, from 0 to ``descent.steps``.
    rng : numpy.random.Generator
        Of data, weights and minibatches (of ``round(b N)`` samples, without repeats).
    test_samples : int

    Returns
    -------
    dict of ndarray, shape (T,)
        As `sgdphases.theory.dmft.predict.predict`.

    Raises
    ------
    ValueError
        If a setting is out of range, or the data need more than 8 GB or hold no sample of a kind.
    """
    check_settings(task, student, descent)
    n_samples, steps = round(task.samples_per_dimension * dimension), np.asarray(steps, dtype=np.int64)
    _check(task, descent, dimension, n_samples, steps)
    samples, fresh = draw_samples(task, n_samples, rng), draw_samples(task, test_samples, rng)
    if student.biases:
        samples, fresh = samples.with_constant(), fresh.with_constant()
    inputs = _inputs(samples, dimension + student.biases, rng)
    weights, outputs = _start(task, student, dimension, rng), student.outputs
    decay = np.full((len(weights), 1), descent.ridge, dtype=np.float32)
    if student.biases:
        decay[task.informative] = 0.0
    batch = round(descent.batch_fraction * n_samples)
    rows, order = [], np.arange(n_samples)
    for t in range(int(steps[-1]) + 1):
        if t in steps:
            now = _pull(inputs, samples.labels, weights, outputs, student)
            rows.append(
                _measured(now, inputs, samples, student, task) | _tested(fresh, weights, outputs, student, task, rng)
            )
        if batch < n_samples:
            order = _minibatch(t, n_samples, batch, descent, rng, order)
        chosen = slice(None) if batch == n_samples else order[_place(t, n_samples, batch, descent)]
        now = _pull(inputs[chosen], samples.labels[chosen], weights, outputs, student)
        slope = inputs[chosen].T @ now.slope.astype(np.float32) / len(now.slope) + decay * weights
        if student.train_output:
            outputs = outputs - descent.learning_rate * student.logits * now.output_slope.mean(axis=0)
        weights = weights - np.float32(descent.learning_rate) * slope
    rho = (n_samples - samples.n_clean) / n_samples
    raw = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return order_parameters(raw, rho, n_samples / dimension, batch / n_samples)


def _check(task: Task, descent: Descent, dimension: int, n_samples: int, steps: np.ndarray) -> None:
    if dimension < task.informative or n_samples < 2:
        raise ValueError(f"dimension = {dimension}: too small for this task; choose a larger one.")
    if 4 * n_samples * dimension > MEMORY:
        raise ValueError(
            f"dimension = {dimension}: {n_samples} samples take {4e-9 * n_samples * dimension:.3g} GB, more than "
            f"{MEMORY / 1e9:g}; choose a smaller one."
        )
    check_populations(task, n_samples)
    if descent.batch_fraction * n_samples < 1 - 1e-9:
        raise ValueError(
            f"batch_fraction = {descent.batch_fraction}: of {n_samples} samples that is none; raise either."
        )
    if (np.diff(steps) <= 0).any() or steps[0] < 0 or steps[-1] > descent.steps:
        raise ValueError(f"steps = {steps}: give rising ones from 0 to {descent.steps}.")


def _start(task: Task, student: Student, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Shape (d, K), with a row more after the informative ones for biases; single precision."""
    rest = rng.standard_normal((dimension, student.units)) / np.sqrt(dimension)
    overlap, root = student.start_in(task)
    if student.start is not None:  # to have exactly these products
        rest = np.linalg.qr(rest[: dimension - task.informative])[0]
        return np.concatenate([overlap.T, rest @ root.T]).astype(np.float32)
    rest = student.initial_scale * rest
    return (np.insert(rest, task.informative, 0.0, axis=0) if student.biases else rest).astype(np.float32)


def _inputs(samples: Samples, dimension: int, rng: np.random.Generator) -> np.ndarray:
    """Shape (N, d), single precision; the informative directions are the first coordinates."""
    inputs = rng.standard_normal((len(samples.labels), dimension), dtype=np.float32)
    inputs[:, : samples.informative.shape[1]] = samples.informative
    return inputs


def _minibatch(
    t: int, n_samples: int, batch: int, descent: Descent, rng: np.random.Generator, order: np.ndarray
) -> np.ndarray:
    """Samples in the order in which they are drawn: new at each step, or at the start of each epoch."""
    if descent.sampler == "independent":
        return rng.choice(n_samples, batch, replace=False)
    return rng.permutation(n_samples) if t % descent.batches == 0 else order


def _place(t: int, n_samples: int, batch: int, descent: Descent) -> slice:
    """Of the minibatch within the order; reshuffled ones share out all samples, so their sizes may differ by one."""
    if descent.sampler == "independent":
        return slice(0, batch)
    slot = t % descent.batches
    return slice(slot * n_samples // descent.batches, (slot + 1) * n_samples // descent.batches)


def _pull(inputs: np.ndarray, labels: np.ndarray, weights: np.ndarray, outputs: np.ndarray, student: Student) -> Pull:
    return pull((inputs @ weights).astype(np.float64), labels, outputs, student.activation, student.loss)


def _measured(found: Pull, inputs: np.ndarray, samples: Samples, student: Student, task: Task) -> dict[str, float]:
    raw, gradients = {}, {}
    for name, part in samples.parts.items():
        gradient = inputs[part].T.astype(np.float64) @ found.slope[part] / (part.stop - part.start)
        out = found.output_slope[part].mean(axis=0)
        out *= np.sqrt(student.logits)  # one copy of the same for each
        gradients[name] = np.append(gradient.ravel(), out) if student.train_output else gradient.ravel()
        raw[f"loss_{name}"] = float(found.loss[part].mean())
        if task.target == "sign":
            raw[f"error_{name}"] = float((np.sign(found.output[part]) != samples.labels[part]).mean())
        lengths = np.einsum("nd,nd->n", inputs[part], inputs[part]) / inputs.shape[1]
        raw[f"squares_{name}"] = float((lengths * (found.slope[part] ** 2).sum(axis=1)).mean())
    for p, q in ("cc", "cw", "ww"):
        if p in gradients and q in gradients:
            raw[f"inner_{p}{q}"] = float(gradients[p] @ gradients[q])
    return raw


def _tested(
    fresh: Samples, weights: np.ndarray, outputs: np.ndarray, student: Student, task: Task, rng: np.random.Generator
) -> dict[str, float]:
    """On fresh inputs, of which only the fields are drawn."""
    informative = fresh.informative.shape[1]
    rest = weights[informative:].astype(np.float64)
    values, vectors = np.linalg.eigh(rest.T @ rest)
    root = vectors * np.sqrt(np.maximum(values, 0))
    fields = fresh.informative @ weights[:informative] + rng.standard_normal((len(fresh.truth), len(root))) @ root.T
    found = pull(fields, fresh.truth, outputs, student.activation, student.loss)
    scores = {"test_loss": float(found.loss.mean())}
    if task.target == "sign":
        scores["test_error"] = float((np.sign(found.output) != fresh.truth).mean())
    return scores
