"""Measures what docs/cleansing.md reports: wrong labels found in MNIST, and what cleansing wins back.

    python docs/cleansing.py --data-dir path/to/mnist --out cleansing.csv

writes a row for each noise fraction and seed as it goes, goes on where it stopped, and prints the medians.
"""

import argparse
import csv
import os
from pathlib import Path

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from sgdphases.sim.cleansing import WAYS, cleanse, measure_gain
from sgdphases.sim.settings import make_settings
from sgdphases.sim.training import noisy_data

COLUMNS = (
    *("wrong", "noise_fraction", "t_clean", "auc", "brier", "calibration", "flagged", "right_kept", "wrong_left"),
    *("accuracy_n", "accuracy_p", *(f"accuracy_{way}" for way in WAYS), *(f"Q_{way}" for way in WAYS)),
)


def one(arguments: argparse.Namespace, fraction: float, seed: int) -> dict[str, float]:
    settings = make_settings(
        dict(
            dataset=arguments.dataset, data_dir=arguments.data_dir, train_size=arguments.train_size, seed=seed,
            noise_fraction=fraction, epochs=arguments.epochs, checkpoints=40,
        )
    )  # fmt: skip
    data = noisy_data(settings)
    found = cleanse(settings, data.x_train, data.y_train, data.n_outputs)
    wrong = np.zeros(data.n_samples, bool) if data.wrong is None else data.wrong
    probability, keep = found.found.probability, found.keep
    row = {
        "wrong": wrong.mean(),
        "noise_fraction": found.found.noise_fraction,
        "t_clean": found.consensus.t_clean,
        "brier": brier_score_loss(wrong, probability),
        "calibration": calibration_error(wrong, probability),
        "flagged": 1 - keep.mean(),
        "right_kept": keep[~wrong].mean(),
    }
    if wrong.any():
        row |= {"auc": roc_auc_score(wrong, found.consensus.loss), "wrong_left": keep[wrong].mean()}
        gain = measure_gain(settings, data, found)
        row |= {name.replace("cleansing_gain", "Q"): value for name, value in gain.items()}
    return row


def calibration_error(wrong: np.ndarray, probability: np.ndarray) -> float:
    """Mean distance of the share of wrong labels from the probability given, over tenths, weighted by size."""
    place = np.minimum((probability * 10).astype(int), 9)
    counts = np.bincount(place, minlength=10)
    miss = np.abs(np.bincount(place, wrong, minlength=10) - np.bincount(place, probability, minlength=10))
    return float(miss.sum() / counts.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir")
    parser.add_argument("--train-size", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.0, 0.2, 0.5, 0.7, 0.8])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("cleansing.csv"))
    arguments = parser.parse_args()
    rows = []
    if arguments.out.exists():
        with open(arguments.out, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    done = {(float(row["fraction"]), int(row["seed"])) for row in rows}
    for seed in arguments.seeds:
        for fraction in arguments.fractions:
            if (fraction, seed) in done:
                continue
            found = {name: f"{value:.4f}" for name, value in one(arguments, fraction, seed).items()}
            rows.append({"fraction": str(fraction), "seed": str(seed), **found})
            with open(arguments.out, "w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, ["fraction", "seed", *COLUMNS], restval="nan")
                writer.writeheader()
                writer.writerows(rows)
            print(rows[-1], flush=True)
    print(" ".join(f"{name:>9}" for name in ("fraction", *(name[:9] for name in COLUMNS))))
    for fraction in sorted({float(row["fraction"]) for row in rows}):
        own = [row for row in rows if float(row["fraction"]) == fraction]
        medians = [np.median([float(row.get(name) or "nan") for row in own]) for name in COLUMNS]
        print(" ".join(f"{value:9.4g}" for value in (fraction, *medians)))


if __name__ == "__main__":
    main()
