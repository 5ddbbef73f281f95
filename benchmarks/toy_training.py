"""Steps per second of SGD on small networks: numba beside PyTorch and numpy, one thread, one run.

python benchmarks/toy_training.py
"""

import timing  # first: it sets the number of threads

from itertools import pairwise

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from sgdphases.estimators.backends.mlp import initial_mlp, layer_views
from sgdphases.estimators.backends.numba_backend import NumbaBackend
from sgdphases.estimators.backends.numpy_backend import NumpyBackend
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.models import module_from_mlp

NETWORKS = [((20, 10, 2), 10), ((50, 20, 2), 20), ((784, 100, 100, 10), 50)]
REQUIRED = {(20, 10, 2): 50, (50, 20, 2): 20}  # times eager PyTorch's steps per second
N_SAMPLES, LEARNING_RATE, REPEATS, SECONDS = 1000, 0.05, 9, 0.25


class EagerPyTorch:
    """The loop anyone writes first."""

    def __init__(self, model, x, y):
        self.module = module_from_mlp(model).float()
        self.x, self.y = torch.from_numpy(x), torch.from_numpy(y)
        self.optimizer = torch.optim.SGD(self.module.parameters(), LEARNING_RATE)

    @property
    def weights(self):
        return nn.utils.parameters_to_vector(self.module.parameters()).detach().numpy()

    def train(self, order, batch_size, learning_rate):
        for batch in torch.from_numpy(order).split(batch_size):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.module(self.x[batch]), self.y[batch]).backward()
            self.optimizer.step()


class PlainNumpy:
    """Vectorised over the minibatch, float32, ReLU and cross-entropy written out."""

    def __init__(self, model, x, y):
        self.weights = model.weights.astype(np.float32)
        self.layers = layer_views(model.layer_sizes, self.weights)
        self.x, self.targets = x, np.eye(model.layer_sizes[-1], dtype=np.float32)[y]

    def train(self, order, batch_size, learning_rate):
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            values = [self.x[batch]]
            for depth, (w, b) in enumerate(self.layers):
                z = values[-1] @ w.T + b
                values.append(np.maximum(z, 0) if depth + 1 < len(self.layers) else z)
            delta = np.exp(values[-1] - values[-1].max(axis=1, keepdims=True))
            delta = (delta / delta.sum(axis=1, keepdims=True) - self.targets[batch]) / np.float32(len(batch))
            for depth in reversed(range(len(self.layers))):
                w, b = self.layers[depth]
                step, step_b = delta.T @ values[depth], delta.sum(axis=0)
                if depth:
                    delta = (delta @ w) * (values[depth] > 0)
                w -= np.float32(learning_rate) * step
                b -= np.float32(learning_rate) * step_b


CONTESTANTS = {
    "numba backend": NumbaBackend,
    "torch backend": TorchBackend,
    "eager PyTorch": EagerPyTorch,
    "plain numpy": PlainNumpy,
    "numpy backend (reference)": NumpyBackend,
}


def flops_per_step(sizes: tuple[int, ...], batch_size: int) -> int:
    """Two a weight and sample forward, two for its gradient, two to go back through all layers but the first."""
    weights = [a * b for a, b in pairwise(sizes)]
    return batch_size * (6 * sum(weights) - 2 * weights[0])


def compare(sizes: tuple[int, ...], batch_size: int) -> dict[str, np.ndarray]:
    """Steps per second of each contestant, shape (REPEATS,), after they have all trained to the same weights."""
    rng = np.random.default_rng(0)
    model = initial_mlp(sizes, "relu", rng)
    x = rng.normal(size=(N_SAMPLES, sizes[0])).astype(np.float32)
    y = rng.integers(0, sizes[-1], N_SAMPLES)
    racers = {name: build(model, x, y) for name, build in CONTESTANTS.items()}
    order = rng.permutation(N_SAMPLES)[: 20 * batch_size]
    for racer in racers.values():
        racer.train(order, batch_size, LEARNING_RATE)
    for racer in racers.values():
        np.testing.assert_allclose(racer.weights, racers["numpy backend (reference)"].weights, atol=1e-5)
    orders = {}
    for name, racer in racers.items():
        once = timing.seconds_each({name: lambda racer=racer: racer.train(order, batch_size, 1e-6)}, 3)[name].min()
        rounds = max(1, round(SECONDS / once))
        orders[name] = np.tile(order, rounds)
    calls = {name: lambda name=name: racers[name].train(orders[name], batch_size, 1e-6) for name in racers}
    times = timing.seconds_each(calls, REPEATS)
    return {name: len(orders[name]) / batch_size / times[name] for name in racers}


def main() -> None:
    torch.set_num_threads(1)
    console = Console(width=120)
    peak = timing.sgemm_peak()
    console.print(f"Peak, measured as the best float32 matrix product on one thread: {peak:.0f} GFLOP/s")
    for sizes, batch_size in NETWORKS:
        rates = compare(sizes, batch_size)
        ratios = {name: np.median(rates[name] / rates["eager PyTorch"]) for name in rates}
        name = "-".join(map(str, sizes))
        table = Table(title=f"{name}, B = {batch_size}", title_justify="left")
        for column in ("", "steps/s", "lowest - highest", "x eager PyTorch", "GFLOP/s", "of the peak"):
            table.add_column(column, justify="right" if column else "left")
        for contestant, rate in rates.items():
            speed = flops_per_step(sizes, batch_size) * np.median(rate) / 1e9
            table.add_row(
                contestant,
                f"{np.median(rate):,.0f}",
                f"{rate.min():,.0f} - {rate.max():,.0f}",
                f"{ratios[contestant]:.2f}",
                f"{speed:.2f}",
                f"{speed / peak:.1%}",
            )
        console.print(table)
        if sizes in REQUIRED:
            reached = "reached" if ratios["numba backend"] >= REQUIRED[sizes] else "NOT reached"
            console.print(f"required of numba: {REQUIRED[sizes]} x eager PyTorch: {reached}")


if __name__ == "__main__":
    main()
