"""How often the bounds of the share of wrong labels hold, over kinds of noise, shares, data sets and seeds.

    python benchmarks/share.py --out shares.csv                          # Gaussian mixture, teacher and digits
    python benchmarks/share.py --out shares.csv --data-dir path/to/data  # with mnist/ and cifar10/ in it: these, too

keeps a row a run, goes on from the file, and prints how often the truth lies within, by data set and by noise.
"""

import timing  # noqa: F401  # first: it sets the number of threads

import time
from pathlib import Path

import numpy as np

from grid import measured_grid
from sgdphases.sim.cleansing.cleanse import cleanse
from sgdphases.sim.cleansing.sample_losses import enough_epochs
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import noisy_data

DATA = {
    "gaussian-mixture": dict(train_size=2000),
    "gaussian-mixture, overlapping": dict(
        dataset="gaussian-mixture", train_size=2000, dataset_options={"separation": 3.5}
    ),
    "two classes, overlapping": dict(
        dataset="gaussian-mixture", train_size=2000, dataset_options={"separation": 1.5, "classes": 2, "dimension": 2}
    ),
    "teacher-student": dict(train_size=1000, dataset_options={"classes": 4, "dimension": 20}),
    "digits": {},
    "mnist": dict(train_size=2000),
    "cifar10": dict(train_size=2000, network="cnn", learning_rate=0.05, epochs=40, backend="torch"),
}  # fmt: skip
NOISE = [
    ("uniform", 0.0), ("uniform", 0.1), ("uniform", 0.2), ("uniform", 0.4), ("uniform", 0.8), ("uniform-other", 0.4),
    ("pair-flip", 0.2), ("pair-flip", 0.4),
    ("input-dependent", 0.1), ("input-dependent", 0.2), ("input-dependent", 0.4),
]  # fmt: skip
COLUMNS = (
    "data", "noise", "fraction", "seed", "wrong", "fitted", "estimate", "low", "high", "flagged", "held", "seconds",
)  # fmt: skip


def measured(name: str, kind: str, fraction: float, seed: int, data_dir: Path | None) -> dict[str, object]:
    noise = {"noise_kind": kind, "noise_fraction": fraction}
    values = {"dataset": name, "seed": seed, "checkpoints": 40, **noise, **DATA[name]}
    if values["dataset"] in ("mnist", "cifar10"):
        values["data_dir"] = str(data_dir / str(values["dataset"])) if data_dir else None
    settings = make_settings(values)
    data = noisy_data(settings)
    if "epochs" not in DATA[name]:
        settings = settings.model_copy(update={"epochs": enough_epochs(data.n_samples, settings.batch_size)})
    wrong = 0.0 if data.wrong is None else float(data.wrong.mean())
    begun = time.process_time()
    found = cleanse(settings, data.x_train, data.y_train, data.n_outputs)
    share = found.share
    return {
        "data": name, "noise": kind, "fraction": fraction, "seed": seed, "wrong": wrong,
        "fitted": found.found.noise_fraction, "estimate": share.fraction, "low": share.low, "high": share.high,
        "flagged": float((~found.keep).mean()), "held": int(share.low <= wrong <= share.high),
        "seconds": time.process_time() - begun,
    }  # fmt: skip


def main() -> None:
    table(measured_grid(__doc__, DATA, ("mnist", "cifar10"), NOISE, COLUMNS, measured))


def table(rows: list[dict[str, str]]) -> None:
    """How often the bounds held, and how wide they are, by data set and by noise."""
    for by in ("data", "noise"):
        print(f"\n| {by} | runs | held | median width | no number |\n| --- | ---: | ---: | ---: | ---: |")
        for value in [*dict.fromkeys(row[by] for row in rows), None]:
            chosen = [row for row in rows if value is None or row[by] == value]
            held = np.mean([int(row["held"]) for row in chosen])
            width = np.median([float(row["high"]) - float(row["low"]) for row in chosen])
            unknown = np.mean([np.isnan(float(row["estimate"])) for row in chosen])
            print(f"| {value or '**all**'} | {len(chosen)} | {held:.0%} | {width:.3f} | {unknown:.0%} |")


if __name__ == "__main__":
    main()
