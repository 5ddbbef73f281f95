"""Dynamical mean-field theory beside SGD on finite data sets: three shares of wrong labels, two N/d, two samplers.

python benchmarks/memorising.py --out memorising.csv                # 24 settings, d = 500 and 2,000, six seeds each
python benchmarks/memorising.py --out memorising.csv --dimensions 500 2000 4000 --only linear

Settings that the file holds already are not measured again. Each row gives, over all checked steps, the largest
deviation of the mean over seeds from the theory, the standard error of that mean at the same step (with the theory's
own), and the root mean square deviation of single runs, which falls as d^(-1/2) where the theory is right.
"""

import timing  # noqa: F401  # first: it sets the number of threads

import argparse
import csv
import time
from pathlib import Path

import numpy as np

from sgdphases.sim.solvable.finite_data import simulate
from sgdphases.theory.dmft.predict import PredictedPath, predict
from sgdphases.theory.dmft.settings import Descent, Student, Task

STUDENTS = {"linear": (Student(), 0.3), "two units": (Student(2, "erf", output_weights=(2.0, 2.0)), 0.15)}
BATCHES = {"full": (1.0, "independent"), "independent fifth": (0.2, "independent")}
NOISE = (0.1, 0.25, 0.4)
RATIOS = (1.0, 2.0)
STEPS = np.array([0, 1, 3, 5, 10, 18, 34, 61, 100])
RELATIVE = ("loss", "loss_c", "loss_w", "directed_activity")
ABSOLUTE = ("alignment_cw", "error_c", "error_w", "test_error")
KEYS = ("student", "batch", "noise_fraction", "samples_per_dimension", "dimension")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dimensions", type=int, nargs="*", default=[500, 2000])
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--population", type=int, default=4000)
    parser.add_argument("--repeats", type=int, default=8)
    parser.add_argument("--only", choices=list(STUDENTS), default=None)
    given = parser.parse_args()
    done = _done(given.out)
    for name, (student, rate) in STUDENTS.items():
        if given.only not in (None, name):
            continue
        for batch, (fraction, sampler) in BATCHES.items():
            for rho in NOISE:
                for n in RATIOS:
                    left = [d for d in given.dimensions if (name, batch, str(rho), str(n), str(d)) not in done]
                    if not left:
                        continue
                    task, descent = Task(n, rho), Descent(rate, int(STEPS[-1]), fraction, sampler)
                    start = time.perf_counter()
                    path = predict(task, student, descent, population=given.population, repeats=given.repeats)
                    took = time.perf_counter() - start
                    for d in left:
                        row = dict(zip(KEYS, (name, batch, rho, n, d), strict=True))
                        _write(given.out, row | _deviations(path, task, student, descent, d, given.seeds), took)


def _deviations(
    path: PredictedPath, task: Task, student: Student, descent: Descent, d: int, seeds: int
) -> dict[str, float]:
    runs = [simulate(task, student, descent, d, STEPS, np.random.default_rng([d, seed])) for seed in range(seeds)]
    found = {}
    for name in (*RELATIVE, *ABSOLUTE):
        expected, own = path.values[name][STEPS], path.errors[name][STEPS]
        measured = np.array([run[name] for run in runs])
        scale = expected if name in RELATIVE else 1.0
        off = (measured.mean(axis=0) - expected) / scale
        error = np.sqrt(measured.var(axis=0, ddof=1) / seeds + own**2) / scale
        worst = int(np.abs(off).argmax())
        found[name], found[f"{name}_error"] = float(off[worst]), float(error[worst])
        found[f"{name}_single"] = float(np.sqrt(np.mean(((measured - expected) / scale) ** 2)))
    return found


def _done(path: Path) -> set[tuple[str, ...]]:
    if not path.exists():
        return set()
    with open(path, newline="", encoding="utf-8") as file:
        return {tuple(row[key] for key in KEYS) for row in csv.DictReader(file)}


def _write(path: Path, row: dict[str, object], took: float) -> None:
    row = row | {"theory_seconds": round(took, 1)}
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(row))
        if new:
            writer.writeheader()
        writer.writerow(row)
    shown = {name: row[name] for name in (*KEYS, "loss", "loss_c", "loss_w", "alignment_cw", "alignment_cw_error")}
    print(*(f"{value:.4f}" if isinstance(value, float) else value for value in shown.values()), flush=True)


if __name__ == "__main__":
    main()
