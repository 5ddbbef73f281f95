"""How many members a second a sweep of toy networks makes on one core, and how near that is to training alone.

Seconds are those of the processor, on one thread: other programs on the machine then matter less.

python benchmarks/sweeping.py            # both networks, beside run folders, numpy, PyTorch, and JAX if it is there
python benchmarks/sweeping.py --diagram  # a phase diagram of 10 x 10 x 5 members, by stages, on one core
"""

import timing  # first: it sets the number of threads

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.schedule import Orders
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.sweep.folder import SweepFolder, start_sweep
from sgdphases.sim.sweep.member import measured
from sgdphases.sim.sweep.plan import plan_sweep
from sgdphases.sim.sweep.run import run_sweep

REPEATS = 5
SMALL = dict(
    dataset="teacher-student", dataset_options={"dimension": 20}, train_size=200, test_size=500, hidden=[10],
    batch_size=10, epochs=300, noise_fraction=0.3, alignment_batches=0,
)  # fmt: skip
TASKS = {
    "20-10-2, N = 200, no sampled alignments": (SMALL, 12),
    "20-10-2, N = 200, 32 minibatches for sampled alignments": ({**SMALL, "alignment_batches": 32}, 12),
    "50-50-50-10, N = 1,000, no sampled alignments": (
        dict(dataset="gaussian-mixture", hidden=[50, 50], epochs=300, noise_fraction=0.5, alignment_batches=0), 2,
    ),
    "50-50-50-10, N = 1,000, 32 minibatches for sampled alignments": (
        dict(dataset="gaussian-mixture", hidden=[50, 50], epochs=300, noise_fraction=0.5), 2,
    ),
}  # fmt: skip
"""Settings, and how many members a measurement takes; all with 60 checkpoints."""


def swept(base: dict, members: int) -> None:
    """Members of a sweep, in a folder of their own."""
    with tempfile.TemporaryDirectory() as place:
        folder, plan = SweepFolder(Path(place) / "sweep"), plan_sweep(base, {"seed": list(range(members))})
        start_sweep(folder, plan)
        assert all(outcome.failure is None for outcome in run_sweep(folder, plan, workers=1))


def in_folders(base: dict, members: int) -> None:
    """The same members, each in a run folder with its settings, its checkpoint and its trajectory as netCDF."""
    with tempfile.TemporaryDirectory() as place:
        for member in plan_sweep(base, {"seed": list(range(members))}).members():
            folder, experiment = RunFolder(Path(place) / member.name), prepare(member.settings)
            start_folder(folder, experiment.settings)
            for _ in advance(experiment, folder):
                pass


def bare_training(base: dict, members: int) -> Callable[[], None]:
    """Nothing but the compiled steps of all members: what a sweep cannot be faster than."""
    ready = [_ready(member.settings) for member in plan_sweep(base, {"seed": list(range(members))}).members()]

    def train() -> None:
        for backend, start, order, settings in ready:
            backend.load_weights(start)
            backend.train(order, settings.batch_size, settings.learning_rate)

    return train


def _ready(settings: RunSettings) -> tuple[object, np.ndarray, np.ndarray, RunSettings]:
    experiment = prepare(settings)
    order = Orders(settings.seed, experiment.data.n_samples, settings.batch_size).of(0, experiment.n_steps)
    return experiment.train, experiment.train.weights, order, settings


def compare(console: Console, title: str, base: dict, members: int) -> None:
    """Members a second of each way, and their share of what bare training would make."""
    contestants = {
        "training alone, compiled": bare_training(base, members),
        "sweep": lambda: swept(base, members),
        "a run folder for each": lambda: in_folders(base, members),
        **_by_jax(console, base, members),
    }
    times = timing.seconds_each(contestants, REPEATS, time.process_time)
    slow = {
        f"sweep, {name}": lambda backend=backend: swept({**base, "backend": backend}, 1)
        for name, backend in (("plain numpy", "numpy"), ("eager PyTorch", "torch"))
    }
    each = {name: taken / members for name, taken in times.items()}
    each |= timing.seconds_each(slow, 1, time.process_time)
    bare = each["training alone, compiled"]
    table = Table(title=f"{title}: 300 epochs, 60 checkpoints", title_justify="left", box=None)
    table.add_column("")
    for heading in ("members a second", "time / bare training", "share of that limit", "× slower than the sweep"):
        table.add_column(heading, justify="right")
    for name, taken in each.items():
        ratio, slower = np.median(taken / bare), np.median(taken / each["sweep"])
        table.add_row(name, f"{1 / np.median(taken):.3g}", f"{ratio:.2f}", f"{1 / ratio:.0%}", f"{slower:.2f}")
    console.print(table)


def _by_jax(console: Console, base: dict, members: int) -> dict[str, Callable[[], object]]:
    """The same members by JAX, all at once; nothing where it is not installed."""
    try:
        from sweeping_jax import rivals
    except ImportError as error:
        console.print(f"without JAX ({error}): pip install .[bench] brings it")
        return {}
    plan = plan_sweep(base, {"seed": list(range(members))})
    with tempfile.TemporaryDirectory() as place:
        folder = SweepFolder(Path(place) / "sweep")
        start_sweep(folder, plan)
        for _ in run_sweep(folder, plan, workers=1):
            pass
        losses = [measured(folder.member(member)).checkpoint.rows["loss"] for member in plan.members()]
    return rivals([prepare(member.settings) for member in plan.members()], losses)


def diagram(console: Console) -> None:
    """Seconds of a whole phase diagram of the small network, by stages."""
    from sgdphases.faces.sweep.page import write_sweep_report

    axes = {
        "noise_fraction": np.linspace(0, 0.9, 10).tolist(),
        "learning_rate": np.geomspace(0.03, 1, 10).tolist(),
        "seed": list(range(5)),
    }
    with tempfile.TemporaryDirectory() as place:
        swept(SMALL, 1)
        folder, plan = SweepFolder(Path(place) / "sweep"), plan_sweep(SMALL, axes)
        start_sweep(folder, plan)
        begin = time.process_time()
        ended = sum(outcome.failure is None for outcome in run_sweep(folder, plan, workers=1))
        middle = time.process_time()
        write_sweep_report(folder, plan)
        end = time.process_time()
        size = folder.results.stat().st_size / 1e6
        console.print(
            f"{ended} members on one core: {middle - begin:.1f} s ({ended / (middle - begin):.1f} a second), "
            f"{end - middle:.1f} s for data set, phases, maps and page; results.bin {size:.1f} MB"
        )


def main() -> None:
    console = Console(width=140)
    if "--diagram" in sys.argv[1:]:
        diagram(console)
        return
    for title, (base, members) in TASKS.items():
        compare(console, title, base, members)


if __name__ == "__main__":
    main()
