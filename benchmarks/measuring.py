"""Time and memory of one exact measurement beside one forward and backward pass over all samples.

    python benchmarks/measuring.py

Every row is a process of its own, so that its peak memory is its own. Needs Linux.
"""

import timing  # first: it sets the number of threads

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

SIZES = (784, 100, 100, 10)
ROWS = [("numpy", 2_000), ("numba", 2_000), ("torch", 2_000), ("numba", 10_000), ("torch", 10_000), ("torch", 40_000)]
REPEATS = 5


def measured(backend: str, n_samples: int) -> dict[str, float]:
    """Median seconds of both, their ratio, and the memory the measurement adds at its peak, in MiB."""
    import torch

    from sgdphases.estimators.backend import backend_class
    from sgdphases.estimators.exact import exact
    from sgdphases.estimators.mlp import initial_mlp
    from sgdphases.estimators.torch_backend import module_from_mlp

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    model = initial_mlp(SIZES, "relu", rng)
    x = rng.normal(size=(n_samples, SIZES[0])).astype(np.float32)
    y, wrong = rng.integers(0, SIZES[-1], n_samples), rng.random(n_samples) < 0.5
    made = backend_class(backend)(model, x, y)
    few = backend_class(backend)(model, x[:100], y[:100])
    exact(few, batch_size=50, wrong=wrong[:100])
    before = _reset_peak()
    exact(made, batch_size=50, wrong=wrong)
    extra = _memory("VmHWM") - before
    module, inputs, labels = module_from_mlp(model).float(), torch.from_numpy(x), torch.from_numpy(y)

    def full_batch():
        loss = torch.nn.functional.cross_entropy(module(inputs), labels)
        torch.autograd.grad(loss, list(module.parameters()))

    calls = {"pass": full_batch, "exact": lambda: exact(made, batch_size=50, wrong=wrong)}
    times = timing.seconds_each(calls, REPEATS)
    ratio = np.median(times["exact"] / times["pass"])
    return {"pass": np.median(times["pass"]), "exact": np.median(times["exact"]), "ratio": ratio, "extra": extra}


def _reset_peak() -> float:
    """Forget the highest memory so far, and return the present one in MiB (Linux keeps both)."""
    Path("/proc/self/clear_refs").write_text("5")
    return _memory("VmRSS")


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 2**10


def main() -> None:
    table = Table(title=f"All exact scalars, clean and wrong populations too: {'-'.join(map(str, SIZES))}")
    for column in ("backend", "N", "forward + backward, ms", "measurement, ms", "ratio", "extra memory, MiB"):
        table.add_column(column, justify="left" if column == "backend" else "right")
    for backend, n_samples in ROWS:
        run = subprocess.run(
            [sys.executable, __file__, backend, str(n_samples)], capture_output=True, text=True, check=True
        )
        row = json.loads(run.stdout)
        table.add_row(
            backend,
            f"{n_samples:,}",
            f"{1e3 * row['pass']:.0f}",
            f"{1e3 * row['exact']:.0f}",
            f"{row['ratio']:.2f}",
            f"{row['extra']:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        print(json.dumps(measured(sys.argv[1], int(sys.argv[2]))))
    else:
        main()
