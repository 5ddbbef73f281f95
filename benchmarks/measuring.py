"""Time and memory of a measurement beside one forward and backward pass, and beside what else there is.

    python benchmarks/measuring.py                 # CPU, two threads: BENCH_THREADS=2
    python benchmarks/measuring.py --device cuda
    python benchmarks/measuring.py --only Transformer

Time: all contestants in one process, taking turns. Memory (Linux): every row a process of its own. BackPACK and Opacus
are timed where they are installed (``pip install '.[bench]'``).
"""

import timing  # first: it sets the number of threads

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from sgdphases.estimators.backends.registry import backend_class
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.ensemble.moments import sum_gradients
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.models import module_from_mlp
from sgdphases.estimators.backends.torch.rules.layers import RULES

BATCH_SIZE, SLOW_SHARE = 50, 10  # slow contestants get a tenth of the samples, and their time is scaled


class Block(nn.Module):
    """Two convolutions and a way around them, with GroupNorm."""

    def __init__(self, n_in: int, n_out: int, stride: int):
        super().__init__()
        self.first, self.norm_1 = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False), nn.GroupNorm(8, n_out)
        self.second, self.norm_2 = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False), nn.GroupNorm(8, n_out)
        same = n_in == n_out and stride == 1
        self.around = nn.Identity() if same else nn.Conv2d(n_in, n_out, 1, stride, bias=False)

    def forward(self, x):
        out = self.norm_2(self.second(torch.relu(self.norm_1(self.first(x)))))
        return torch.relu(out + self.around(x))


def resnet18() -> nn.Module:
    """ResNet-18 for 32x32 images, GroupNorm for BatchNorm: 11.2 million weights."""
    widths = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks = [Block(*width) for width in [*widths, (512, 512, 1)]]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10)]
    return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.GroupNorm(8, 64), nn.ReLU(), *blocks, *head)


def lenet() -> nn.Module:
    """A LeNet-like network for 28x28 images."""
    pool = nn.MaxPool2d(2)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), pool, nn.Conv2d(6, 16, 5), nn.ReLU(), pool, nn.Flatten(),
        nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def perceptron() -> nn.Module:
    return module_from_mlp(initial_mlp((784, 100, 100, 10), "relu", np.random.default_rng(0))).float()


def transformer() -> nn.Module:
    """Two encoder layers of width 64, four heads, on sequences of 32 vectors."""
    layers = [nn.TransformerEncoderLayer(64, 4, 128, dropout=0.0, batch_first=True) for _ in range(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 64, 10))


# How to build it, the shape of a sample, the number of samples and of repeats.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "784-100-100-10": (perceptron, (784,), 10_000, 7),
    "LeNet-like, 28x28": (lenet, (1, 28, 28), 2_000, 7),
    "ResNet-18 with GroupNorm, 32x32": (resnet18, (3, 32, 32), 256, 3),
    "Transformer, 2 layers of width 64, 32 positions": (transformer, (32, 64), 500, 5),
}


def problem(shape: tuple[int, ...], n_samples: int):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_samples, *shape)).astype(np.float32)
    return x, rng.integers(0, 10, n_samples), rng.random(n_samples) < 0.5


def contestants(name: str, device: str) -> dict[str, tuple[Callable[[], object], int]]:
    """Calls, and the factor by which the time of those that get fewer samples is scaled."""
    build, shape, n, _ = NETWORKS[name]
    torch.manual_seed(0)
    module = build().to(device)
    x, y, wrong = problem(shape, n)
    inputs, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    parameters = list(module.parameters())
    flat = TorchBackend(module, x, y)
    kept = TorchBackend(module, x, y, keep_activations=True)
    without_rule = backend_without(nn.MultiheadAttention, module, x, y)
    few = max(1, n // SLOW_SHARE)

    def synchronised(call: Callable[[], object]) -> Callable[[], object]:
        def both():
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return both

    def whole():
        torch.autograd.grad(F.cross_entropy(module(inputs), labels), parameters)

    def minibatches():
        for rows, targets in zip(inputs.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True):
            torch.autograd.grad(F.cross_entropy(module(rows), targets), parameters)

    named = {key: p.detach() for key, p in module.named_parameters()}
    per_sample = vmap(
        grad(lambda p, row, t: F.cross_entropy(functional_call(module, p, (row[None],)), t[None])), in_dims=(None, 0, 0)
    )

    def by_vmap():
        for start in range(0, few, 100):
            per_sample(named, inputs[start : min(start + 100, few)], labels[start : min(start + 100, few)])

    calls = {
        "one forward and backward pass": (whole, 1),
        "a loop over minibatches of 50": (minibatches, 1),
        "A, A0, D": (lambda: sum_gradients(flat, [np.arange(n)]), 1),
        "all exact scalars, flat memory": (lambda: exact(flat, batch_size=BATCH_SIZE, wrong=wrong), 1),
        "all exact scalars, activations kept": (lambda: exact(kept, batch_size=BATCH_SIZE, wrong=wrong), 1),
        "torch.func vmap(grad)": (by_vmap, n / few),
        **(
            {"A, A0, D, attention by torch.func": (lambda: sum_gradients(without_rule, [np.arange(n)]), 1)}
            if any(isinstance(m, nn.MultiheadAttention) for m in module.modules())
            else {}
        ),
        **backpack_calls(build, inputs, labels, device),
        **opacus_calls(build, inputs[:few], labels[:few], device, n / few),
    }
    return {key: (synchronised(call), factor) for key, (call, factor) in calls.items()}


def backend_without(kind: type, module: nn.Module, x, y) -> TorchBackend:
    """A backend that has no rule for one kind of layer."""
    rule = RULES.pop(kind)
    try:
        return TorchBackend(module, x, y)
    finally:
        RULES[kind] = rule


def backpack_calls(build, inputs, labels, device):
    """BackPACK's extensions, for networks it knows: plain sequences."""
    try:
        from backpack import backpack, extend
        from backpack.extensions import BatchL2Grad, SumGradSquared, Variance
    except ImportError:
        return {}
    module = build().to(device)
    if not isinstance(module, nn.Sequential):
        layers = [nn.Linear(a, b) for a, b in ((784, 100), (100, 100), (100, 10))]
        module = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2]).to(device)
    if any(isinstance(m, (Block, nn.GroupNorm, nn.MultiheadAttention)) for m in module.modules()):
        return {}
    for child in module.modules():
        if isinstance(child, nn.ReLU):
            child.inplace = False
    module, loss = extend(module), extend(nn.CrossEntropyLoss())

    def run(*extensions):
        def call():
            module.zero_grad()
            with backpack(*extensions):
                loss(module(inputs), labels).backward()

        return call

    return {
        "BackPACK BatchL2Grad (norms only)": (run(BatchL2Grad()), 1),
        "BackPACK Variance, SumGradSquared": (run(Variance(), SumGradSquared()), 1),
    }


def opacus_calls(build, inputs, labels, device, factor):
    """Opacus' explicit per-sample gradients."""
    try:
        from opacus.grad_sample import GradSampleModule
    except ImportError:
        return {}
    module = GradSampleModule(build().to(device))

    def call():
        for rows, targets in zip(inputs.split(100), labels.split(100), strict=True):
            module.zero_grad()
            F.cross_entropy(module(rows), targets).backward()

    return {"Opacus per-sample gradients": (call, factor)}


def memory(backend: str, n_samples: int) -> float:
    """MiB that one measurement adds at its peak."""
    model = initial_mlp((784, 100, 100, 10), "relu", np.random.default_rng(0))
    x, y, wrong = problem((784,), n_samples)
    made, few = backend_class(backend)(model, x, y), backend_class(backend)(model, x[:100], y[:100])
    exact(few, batch_size=50, wrong=wrong[:100])
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    before = _status("VmRSS")
    exact(made, batch_size=50, wrong=wrong)
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def main(device: str, only: str = "") -> None:
    console = Console(width=120)
    for name, (_, _, n_samples, repeats) in NETWORKS.items():
        if only not in name:
            continue
        if device == "cpu":
            timing.use_threads(torch)
        calls = contestants(name, device)
        times = timing.seconds_each({key: call for key, (call, _) in calls.items()}, repeats)
        base = times["one forward and backward pass"]
        table = Table("", "ms", "x one pass", title=f"{name}, N = {n_samples:,}, {device}", title_justify="left")
        for key, (_, factor) in calls.items():
            seconds = factor * times[key]
            table.add_row(key, f"{1e3 * np.median(seconds):,.0f}", f"{np.median(seconds / base):.2f}")
        console.print(table)
    if device != "cpu" or only:
        return
    table = Table(
        "backend", "N", "extra memory, MiB", title="Memory: all exact scalars, 784-100-100-10", title_justify="left"
    )
    for backend in ("numba", "torch"):
        for n_samples in (1_000, 10_000, 60_000):
            command = [sys.executable, __file__, "--memory", backend, str(n_samples)]
            found = subprocess.run(command, capture_output=True, text=True, check=True)
            table.add_row(backend, f"{n_samples:,}", f"{json.loads(found.stdout):.0f}")
    console.print(table)


if __name__ == "__main__":
    if "--memory" in sys.argv:
        print(json.dumps(memory(sys.argv[2], int(sys.argv[3]))))
    else:
        given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
        main(given.get("--device", "cpu"), given.get("--only", ""))
