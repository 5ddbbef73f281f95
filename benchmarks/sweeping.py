"""How many runs a minute a sweep of toy networks makes, and where a run's time goes.

python benchmarks/sweeping.py
"""

import timing  # first: it sets the number of threads

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from joblib import cpu_count
from rich.console import Console
from rich.table import Table

from sgdphases.estimators.backends.numba_backend import NumbaBackend
from sgdphases.sim.run import training
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.sweep.run import run_sweep
from sgdphases.sim.sweep.folder import SweepFolder, start_sweep
from sgdphases.sim.sweep.plan import plan_sweep

MEMBERS, REPEATS = 12, 3
TASKS = {
    "20-10-2, N = 200": dict(
        dataset="teacher-student", dataset_options={"dimension": 20}, train_size=200, test_size=500, hidden=[10],
        batch_size=10, epochs=300, noise_fraction=0.3,
    ),
    "50-50-50-10, N = 1,000": dict(dataset="gaussian-mixture", hidden=[50, 50], epochs=300, noise_fraction=0.5),
}  # fmt: skip


def sweep(base: dict, workers: int) -> None:
    """All members, in a folder of their own."""
    with tempfile.TemporaryDirectory() as place:
        folder, plan = SweepFolder(Path(place) / "sweep"), plan_sweep(base, {"seed": list(range(MEMBERS))})
        start_sweep(folder, plan)
        assert all(outcome.failure is None for outcome in run_sweep(folder, plan, workers=workers))


def shell_loop(base: dict) -> None:
    """One command after another, without drawing."""
    with tempfile.TemporaryDirectory() as place:
        plan = plan_sweep(base, {"seed": list(range(MEMBERS))})
        for member in plan.members():
            code = (
                "from pathlib import Path\nfrom sgdphases.sim.run.folder import RunFolder, start_folder\n"
                "from sgdphases.sim.run.settings import make_settings\n"
                "from sgdphases.sim.run.training import advance, prepare\n"
                f"made = prepare(make_settings({member.settings.model_dump()!r}))\n"
                f"folder = RunFolder(Path({place!r}) / {member.name!r})\n"
                "start_folder(folder, made.settings)\n"
                "for _ in advance(made, folder): pass\n"
            )
            subprocess.run([sys.executable, "-c", code], check=True)


def shares(base: dict) -> dict[str, float]:
    """Seconds of one process in training steps, in measurements and in files, and of all members together."""
    spent = {"training": 0.0, "measuring": 0.0, "files": 0.0}

    def timed(name, function):
        def call(*arguments, **named):
            begin = time.perf_counter()
            try:
                return function(*arguments, **named)
            finally:
                spent[name] += time.perf_counter() - begin

        return call

    with (
        mock.patch.object(NumbaBackend, "train", timed("training", NumbaBackend.train)),
        mock.patch.object(training, "_row", timed("measuring", training._row)),
        mock.patch.object(RunFolder, "save", timed("files", RunFolder.save)),
        mock.patch.object(RunFolder, "publish", timed("files", RunFolder.publish)),
    ):
        begin = time.perf_counter()
        sweep(base, 1)
        return {**spent, "all": time.perf_counter() - begin}


def main() -> None:
    console, cores = Console(), cpu_count()
    for title, base in TASKS.items():
        contestants = {
            "a process for each run, one after another": lambda base=base: shell_loop(base),
            "sweep, one process": lambda base=base: sweep(base, 1),
            f"sweep, {cores} processes": lambda base=base: sweep(base, cores),
        }
        times = timing.seconds_each(contestants, REPEATS)
        table = Table(title=f"{title}: {MEMBERS} runs of 300 epochs", title_justify="left", box=None)
        table.add_column("")
        for heading in ("runs a minute", "× one process"):
            table.add_column(heading, justify="right")
        single = times["sweep, one process"]
        for name, taken in times.items():
            ratio = sorted(single / taken)[REPEATS // 2]
            table.add_row(name, f"{60 * MEMBERS / sorted(taken)[REPEATS // 2]:.0f}", f"{ratio:.2f}")
        console.print(table)
        spent = shares(base)
        parts = ", ".join(f"{name} {spent[name] / spent['all']:.0%}" for name in ("training", "measuring", "files"))
        most = spent["all"] / (spent["all"] - spent["training"])
        console.print(
            f"Of one process's time: {parts}. Training all members at once for nothing would give {most:.2f} ×.\n"
        )


if __name__ == "__main__":
    main()
