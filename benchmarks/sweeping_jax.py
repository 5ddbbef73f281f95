"""The members of a sweep by JAX, all at once under `vmap`: a rival for `sweeping.py`, and what it must agree with.

It trains members over the very minibatches of the sweep, in one compiled loop between checkpoints, and measures from
per-sample gradients, `vmap(grad)`, what closed forms need: losses, errors, squared norms, mean gradients, projections
on them, test loss and error, and the cosines of drawn minibatches. Left out is all else that a sweep does: data,
settings, the closed forms themselves, and writing anything down. Compiling is not counted either.
"""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from sgdphases.sim.run.schedule import Orders, drawn_minibatches
from sgdphases.sim.run.training import Experiment


class Members(NamedTuple):
    """What the members need, one a row: weights at the start, samples, wrong labels, test samples, orders of steps."""

    weights: Any
    x: Any
    y: Any
    wrong: Any
    x_test: Any
    y_test: Any
    order: Any  # (members, steps, B)
    drawn: Any  # (members, checkpoints, minibatches, B)


class Settings(NamedTuple):
    """What is alike for all members."""

    sizes: tuple[int, ...]
    learning_rate: float
    marks: tuple[int, ...]


def gathered(experiments: Sequence[Experiment]) -> tuple[Members, Settings]:
    """Members in JAX's form. Every minibatch must be a whole one, and the network a ReLU one with cross-entropy."""
    first = experiments[0]
    settings, n, n_steps = first.settings, first.data.n_samples, first.n_steps
    assert n % settings.batch_size == 0 and settings.activation == "relu" and settings.loss == "cross-entropy"
    data = [each.data for each in experiments]
    orders = [Orders(each.settings.seed, n, settings.batch_size).of(0, n_steps) for each in experiments]
    size, count = settings.batch_size, settings.alignment_batches
    drawn = [
        [drawn_minibatches(each.settings.seed, int(step), n, size, count) for step in first.marks] if count else []
        for each in experiments
    ]
    columns = (
        np.array([each.train.weights for each in experiments], np.float32),
        np.array([each.x_train for each in data], np.float32),
        np.array([each.y_train for each in data]),
        np.array([each.wrong for each in experiments]),
        np.array([each.x_test for each in data], np.float32),
        np.array([each.y_test for each in data]),
        np.array(orders).reshape(len(experiments), n_steps, size),
        np.array(drawn, dtype=np.int64),
    )
    sizes = (first.data.x_train.shape[1], *settings.hidden, first.data.n_outputs)
    return Members(*map(jnp.asarray, columns)), Settings(sizes, settings.learning_rate, tuple(first.marks.tolist()))


def outputs(sizes: tuple[int, ...], weights, x):
    """Of the network at flat weights, for inputs of shape (..., inputs)."""
    start = 0
    for layer, (fan_in, fan_out) in enumerate(pairwise(sizes)):
        middle = start + fan_in * fan_out
        x = x @ weights[start:middle].reshape(fan_out, fan_in).T + weights[middle : middle + fan_out]
        x = jax.nn.relu(x) if layer + 2 < len(sizes) else x
        start = middle + fan_out
    return x


def losses(sizes: tuple[int, ...], weights, x, y):
    """Cross-entropy of each sample."""
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs(sizes, weights, x)), y[..., None], -1)[..., 0]


@partial(jax.jit, static_argnums=0)
def train(settings: Settings, members: Members, weights, start, stop):
    """Steps ``start`` to ``stop`` of all members."""

    def step(number, weights):
        def of_one(own, x, y, order):
            batch = order[number]
            mean = jax.grad(lambda at: losses(settings.sizes, at, x[batch], y[batch]).mean())
            return own - settings.learning_rate * mean(own)

        return jax.vmap(of_one)(weights, members.x, members.y, members.order)

    return jax.lax.fori_loop(start, stop, step, weights)


@partial(jax.jit, static_argnums=0)
def measure(settings: Settings, members: Members, weights, checkpoint):
    """What closed forms need, and R, R_c and R_w where minibatches are drawn."""
    return jax.vmap(partial(_measured, settings.sizes, checkpoint))(weights, *members[1:6], members.drawn)


def _measured(sizes, checkpoint, weights, x, y, wrong, x_test, y_test, drawn):
    loss, gradients = jax.vmap(jax.value_and_grad(partial(losses, sizes)), (None, 0, 0))(weights, x, y)
    error = outputs(sizes, weights, x).argmax(-1) != y
    norms = (gradients**2).sum(1)
    parts = jnp.stack([~wrong, wrong]).astype(jnp.float32)
    counts = parts.sum(1)
    means = parts @ gradients / jnp.maximum(counts, 1)[:, None]
    mean = gradients.mean(0)
    on_mean = gradients @ mean
    on_own = jnp.where(wrong, gradients @ means[1], gradients @ means[0])
    table = jnp.stack([loss, error, norms, on_mean, on_mean**2, on_own, on_own**2])
    tested = outputs(sizes, weights, x_test)
    test = losses(sizes, weights, x_test, y_test).mean(), (tested.argmax(-1) != y_test).mean()
    found = table @ parts.T / counts, means @ means.T, *test
    if drawn.size == 0:
        return found
    batches = drawn[checkpoint]
    sums = jnp.einsum("kmb,mbp->kmp", parts[:, batches], gradients[batches])
    return *found, *map(_mean_cosine, (sums.sum(0), sums[0], sums[1]))


def _mean_cosine(vectors):
    norms = jnp.sqrt((vectors**2).sum(1))
    present = norms > 0
    units = jnp.where(present[:, None], vectors / jnp.where(present, norms, 1)[:, None], 0)
    n = present.sum()
    rows = units @ units.sum(0) - present
    left_out = (rows.sum() - 2 * rows) / ((n - 1) * (n - 2))
    spread = jnp.where(present, (left_out - jnp.where(present, left_out, 0).sum() / n) ** 2, 0)
    return rows.sum() / (n * (n - 1)), jnp.sqrt((n - 1) / n * spread.sum())


def swept(members: Members, settings: Settings) -> list[Any]:
    """Train all members to the end, and measure at every checkpoint."""
    weights, found = members.weights, []
    for number, (start, stop) in enumerate(pairwise((0, *settings.marks))):
        weights = train(settings, members, weights, start, stop)
        found.append(measure(settings, members, weights, number))
    return jax.block_until_ready(found)


def trained(members: Members, settings: Settings) -> Any:
    """Train all members to the end."""
    return train(settings, members, members.weights, 0, settings.marks[-1]).block_until_ready()


def rivals(experiments: Sequence[Experiment], expected: Sequence[np.ndarray]) -> dict[str, Callable[[], object]]:
    """Contestants by name; first they must find the training loss of the sweep, ``expected`` of each member, to 1 %.

    Of the first checkpoints, that is: rounding grows along a training.
    """
    members, settings = gathered(experiments)
    found = swept(members, settings)
    few = sum(mark <= 100 for mark in settings.marks)
    counts = np.stack([(~members.wrong).sum(1), members.wrong.sum(1)], 1)
    for own, row in zip(np.array(expected).T[:few], found[:few], strict=True):
        np.testing.assert_allclose((np.asarray(row[0])[:, 0] * counts).sum(1) / counts.sum(1), own, rtol=0.01)
    return {
        "JAX vmap over members, training alone": lambda: trained(members, settings),
        "JAX vmap over members, training and gradients": lambda: swept(members, settings),
    }
