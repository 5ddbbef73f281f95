"""Measures what docs/cleansing.md reports: wrong labels found in MNIST, and what cleansing wins back.

    python docs/cleansing.py --data-dir path/to/mnist --out studies/cleansing

keeps a file for each noise fraction and seed, continues where it stopped, and prints the medians. For N = 5,000 it is
what `sgdphases reproduce fig6` does; use it for other sizes.
"""

import argparse
import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np

from sgdphases.paper.experiments import finished
from sgdphases.sim.cleansing.study import CLEANSING, SCALARS
from sgdphases.sim.sweep.folder import SweepFolder, start_sweep
from sgdphases.sim.sweep.plan import plan_sweep
from sgdphases.sim.sweep.run import run_sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.0, 0.2, 0.5, 0.7, 0.8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("studies/cleansing"))
    chosen = parser.parse_args()
    base = dict(dataset=chosen.dataset, train_size=chosen.train_size, epochs=chosen.epochs, checkpoints=40)
    if chosen.data_dir is not None:
        base["data_dir"] = chosen.data_dir
    plan = plan_sweep(base, {"noise_fraction": chosen.fractions, "seed": chosen.seeds}, "cleansing")
    folder = SweepFolder(chosen.out)
    start_sweep(folder, plan)
    for outcome in run_sweep(folder, plan, workers=chosen.workers, job=CLEANSING):
        print(outcome.member.name, outcome.failure or "ended", flush=True)
    records = finished(folder, plan, CLEANSING)
    print(" ".join(f"{name:>10}" for name in ("fraction", *(name[-10:] for name in SCALARS))))
    for fraction in sorted({place["noise_fraction"] for place, _ in records}):
        own = [record for place, record in records if place["noise_fraction"] == fraction]
        medians = [np.median([float(record[name]) for record in own]) for name in SCALARS]
        print(" ".join(f"{value:10.4g}" for value in (fraction, *medians)))


if __name__ == "__main__":
    main()
