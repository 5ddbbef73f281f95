"""Time and memory of a measurement beside one forward and backward pass, and beside what else there is.

    python benchmarks/measuring.py                       # one thread; BENCH_THREADS=2 gives it two
    python benchmarks/measuring.py --device cuda
    python benchmarks/measuring.py --only Transformer

Time: all contestants of a network in one process, taking turns, by the clock of the processor (of the wall on a GPU).
The unit is one forward and backward pass over the same samples, taken the quickest way: all at once, or 250, 100 or 50
at a time. Memory (Linux): every contestant a process of its own. BackPACK and Opacus are timed where they are installed
(``pip install '.[bench]'``).
"""

import timing  # first: it sets the number of threads

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from by_vmap import VmapSource
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sgdphases.estimators.backends.mlp import initial_mlp
from sgdphases.estimators.backends.registry import backend_class
from sgdphases.estimators.backends.torch.backend import TorchBackend
from sgdphases.estimators.backends.torch.factors import Outer
from sgdphases.estimators.backends.torch.models import module_from_mlp
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.estimators.ensemble.moments import sum_gradients

BATCH_SIZE, SLOW_SHARE = 50, 10  # slow contestants get a tenth of the samples, and their time is scaled
AT_ONCE = (250, 100, 50)
PASS = "one forward and backward pass"


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
    """Four encoder layers of width 128, four heads, on sequences of 64 vectors."""
    layers = [nn.TransformerEncoderLayer(128, 4, 512, dropout=0.0, batch_first=True) for _ in range(4)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 128, 10))


# How to build it, the shape of a sample, the number of samples and of repeats.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int, int]] = {
    "784-100-100-10": (perceptron, (784,), 10_000, 7),
    "LeNet-like, 28x28": (lenet, (1, 28, 28), 2_000, 7),
    "ResNet-18 with GroupNorm, 32x32": (resnet18, (3, 32, 32), 256, 2),
    "Transformer, 4 layers of width 128, 64 positions": (transformer, (64, 128), 1_000, 3),
}


def problem(shape: tuple[int, ...], n_samples: int):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(n_samples, *shape)).astype(np.float32)
    return x, rng.integers(0, 10, n_samples), rng.random(n_samples) < 0.5


def contestants(name: str, device: str) -> dict[str, tuple[Callable[[], object], float]]:
    """Calls, and the factor by which the time of those that get fewer samples is scaled."""
    build, shape, n, _ = NETWORKS[name]
    torch.manual_seed(0)
    module = build().to(device)
    x, y, wrong = problem(shape, n)
    inputs, labels = torch.from_numpy(x).to(device), torch.from_numpy(y).to(device)
    flat = TorchBackend(module, x, y)
    kept = TorchBackend(module, x, y, keep_activations=True)
    few = max(100, n // SLOW_SHARE)
    by_vmap = VmapSource(module, inputs[:few], labels[:few])

    def synchronised(call: Callable[[], object]) -> Callable[[], object]:
        def both():
            call()
            if device == "cuda":
                torch.cuda.synchronize()

        return both

    def gradients_by_vmap():
        for part in np.array_split(np.arange(few), -(-few // by_vmap.chunk_size)):
            by_vmap.gradients(part)

    calls: dict[str, tuple[Callable[[], object], float]] = {
        "all at once": (passes(module, inputs, labels, n), 1),
        **{f"{size} at a time": (passes(module, inputs, labels, size), 1) for size in AT_ONCE},
        "A, A0, D": (lambda: sum_gradients(flat, [np.arange(n)]), 1),
        "all exact scalars, flat memory": (lambda: exact(flat, batch_size=BATCH_SIZE, wrong=wrong), 1),
        "all exact scalars, activations kept": (lambda: exact(kept, batch_size=BATCH_SIZE, wrong=wrong), 1),
        "vmap(grad): gradients only": (gradients_by_vmap, n / few),
        "vmap(grad): all exact scalars": (lambda: exact(by_vmap, batch_size=10, wrong=wrong[:few]), n / few),
        **backpack_calls(build, inputs, labels, device),
        **opacus_calls(build, inputs[:few], labels[:few], device, n / few),
    }
    return {key: (synchronised(call), factor) for key, (call, factor) in calls.items()}


def passes(module: nn.Module, inputs: torch.Tensor, labels: torch.Tensor, at_once: int) -> Callable[[], None]:
    """Forward and backward passes over all samples, some at a time."""
    parameters = list(module.parameters())

    def call():
        for rows, targets in zip(inputs.split(at_once), labels.split(at_once), strict=True):
            torch.autograd.grad(F.cross_entropy(module(rows), targets), parameters)

    return call


def backpack_calls(build, inputs, labels, device) -> dict[str, tuple[Callable[[], object], float]]:
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


def opacus_calls(build, inputs, labels, device, factor) -> dict[str, tuple[Callable[[], object], float]]:
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


def limits(name: str) -> tuple[float, float]:
    """Floating point operations of all scalars beside those of one pass: activations recomputed, and kept.

    The first pass needs what a forward and backward pass does, for a weight's gradient costs T I O products a sample
    whether samples are added up at once or one by one; and the norms, I O, or T^2 (I + O) without gradients of single
    samples. The second needs forward and backward passes to activations, unless these were kept, and two projections
    for each weight: I O each with the gradient of a sample, which costs T I O, or T I O each without.
    """
    build, shape, _, _ = NETWORKS[name]
    x, y, _ = problem(shape, 4)
    torch.manual_seed(0)
    module = build()
    backend = TorchBackend(module, x, y)
    factors, _, _ = backend._factors(np.arange(4))
    weights = [f for f in factors.values() if isinstance(f, Outer)]
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        passes(module, torch.from_numpy(x), torch.from_numpy(y), 4)()
    one = counter.get_total_flops()
    gradients = norms = projections = again = 0
    for f in weights:
        each, size = 2 * f.n * f.groups, f.n_inputs * f.n_outputs
        gradient = each * f.positions * size
        gradients += gradient
        without = f.n_inputs + f.n_outputs if f.positions == 1 else f.positions**2 * (f.n_inputs + f.n_outputs)
        norms += each * min(without, size)
        with_gradient = gradient + 2 * each * size
        again += min(2 * gradient, with_gradient)
        projections += 2 * each * size if f.keeps_rows else min(2 * gradient, with_gradient)
    return (one + norms + (one - gradients) + again) / one, (one + norms + projections) / one


def peak(name: str, contestant: str) -> float:
    """MiB that a contestant adds to its process at its peak, beyond network and samples."""
    build, shape, n, _ = NETWORKS[name]
    torch.manual_seed(0)
    module = build()
    x, y, wrong = problem(shape, n)
    inputs, labels = torch.from_numpy(x), torch.from_numpy(y)
    few = slice(0, 20)

    def call(part: slice) -> None:
        if contestant == "vmap":
            exact(VmapSource(module, inputs[part], labels[part]), batch_size=10, wrong=wrong[part])
        elif contestant in ("flat", "kept"):
            keep = contestant == "kept"
            exact(TorchBackend(module, x[part], y[part], keep_activations=keep), batch_size=10, wrong=wrong[part])
        else:
            passes(module, inputs[part], labels[part], n if contestant == "whole" else BATCH_SIZE)()

    call(few)
    return added(lambda: call(slice(0, n)))


def peak_of(backend: str, n_samples: int) -> float:
    """MiB that one measurement of the perceptron adds at its peak."""
    model = initial_mlp((784, 100, 100, 10), "relu", np.random.default_rng(0))
    x, y, wrong = problem((784,), n_samples)
    made, few = backend_class(backend)(model, x, y), backend_class(backend)(model, x[:100], y[:100])
    exact(few, batch_size=50, wrong=wrong[:100])
    return added(lambda: exact(made, batch_size=50, wrong=wrong))


def added(call: Callable[[], object]) -> float:
    """MiB that a call adds at its peak."""
    Path("/proc/self/clear_refs").write_text("5")  # forget the highest memory so far
    before = _status("VmRSS")
    call()
    return _status("VmHWM") - before


def _status(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def in_its_own_process(*asked: str) -> float:
    command = [sys.executable, __file__, "--memory", *asked]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(found.stdout))


def times_of(name: str, device: str) -> dict[str, str]:
    """The entries of one network in the table of times, by contestant."""
    calls = contestants(name, device)
    clock = time.process_time if device == "cpu" else time.perf_counter
    seconds = timing.seconds_each({key: call for key, (call, _) in calls.items()}, NETWORKS[name][3], clock)
    ways = ["all at once", *(f"{size} at a time" for size in AT_ONCE)]
    quickest = min(ways, key=lambda way: float(np.median(seconds[way])))
    found = {
        f"{PASS} (ms)": f"{1e3 * np.median(seconds[quickest]):,.0f}, {quickest}",
        "all samples at once": f"{np.median(seconds['all at once'] / seconds[quickest]):.2f}",
    }
    for key, (_, factor) in calls.items():
        if key not in ways:
            found[key] = f"{np.median(factor * seconds[key] / seconds[quickest]):.2f}"
    flat, kept = limits(name)
    return found | {"limit by flops, flat memory": f"{flat:.2f}", "limit by flops, activations kept": f"{kept:.2f}"}


def show(console: Console, title: str, columns: dict[str, dict[str, str]]) -> None:
    table = Table("", *columns, title=title, title_justify="left")
    for key in dict.fromkeys(key for column in columns.values() for key in column):
        table.add_row(key, *(column.get(key, "–") for column in columns.values()))
    console.print(table)


def main(device: str, only: str = "") -> None:
    console = Console(width=150)
    names = [name for name in NETWORKS if only in name]
    if device == "cpu":
        timing.use_threads(torch)
    found = {f"{name}, N = {NETWORKS[name][2]:,}": times_of(name, device) for name in names}
    show(console, f"x one forward and backward pass, {device}", found)
    if device != "cpu":
        return
    shown = {"whole": "all samples at once", "minibatches": "50 at a time", "flat": "all exact scalars, flat memory"}
    shown |= {"kept": "all exact scalars, activations kept", "vmap": "vmap(grad): all exact scalars"}
    memory = {name: {row: f"{in_its_own_process(name, key):.0f}" for key, row in shown.items()} for name in names}
    show(console, "Extra memory at the peak, MiB", memory)
    if only:
        return
    sizes = (1_000, 10_000, 60_000)
    rows = {
        backend: {f"N = {n:,}": f"{in_its_own_process(backend, str(n)):.0f}" for n in sizes}
        for backend in ("numba", "torch")
    }
    show(console, "Extra memory of all exact scalars, 784-100-100-10, MiB", rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore", message=".*batching rule.*")
    if "--memory" in sys.argv:
        timing.use_threads(torch)
        network, asked = sys.argv[2], sys.argv[3]
        print(json.dumps(peak(network, asked) if network in NETWORKS else peak_of(network, int(asked))))
    else:
        given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
        main(given.get("--device", "cpu"), given.get("--only", ""))
