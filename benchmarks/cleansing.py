"""How the finder of wrong labels fares beside the field: the same network, the same SGD, the same samples.

    python benchmarks/cleansing.py                              # Gaussian mixture and digits
    python benchmarks/cleansing.py --data-dir path/to/folder    # which holds mnist/ and cifar10/: these, too

writes a row for each data set, noise, seed and method as it goes, continues where it stopped, and prints medians over
seeds. Seconds are processor time of one thread, for finding and training together.
"""

import timing  # noqa: F401  # first: it sets the number of threads

import argparse
import csv
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold

from sgdphases.estimators.backend import Backend
from sgdphases.estimators.ensemble.scores import all_scores, mean_scores
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.cleansing.cleanse import cleanse, train_cleansed
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import RunSettings, make_settings
from sgdphases.sim.run.training import noisy_data
from sgdphases.sim.cleansing.sample_losses import class_probabilities, enough_epochs, train_to, trainer

try:
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores
except ImportError:
    find_label_issues = None

DATASETS = {
    "gaussian-mixture": dict(train_size=2000),
    "digits": {},
    "mnist": dict(train_size=5000),
    "cifar10": dict(train_size=2000),
}
ON_DISK = ("mnist", "cifar10")
NOISE = {
    "none": ("uniform", 0.0),
    "uniform 0.4": ("uniform", 0.4),
    "uniform-other 0.4": ("uniform-other", 0.4),
    "pair-flip 0.2": ("pair-flip", 0.2),
    "input-dependent 0.2": ("input-dependent", 0.2),
}
SHORT = 10  # epochs after which a network has learnt the right labels and not yet the wrong ones
FOLDS = 5
VALIDATION = 0.1  # clean samples for early stopping, as a share of the training samples
KEYS = ("dataset", "noise", "seed", "method")
NUMBERS = ("wrong", "flagged", "precision", "recall", "auc", "accuracy", "seconds")


@dataclass(frozen=True, eq=False)
class Problem:
    """A noisy training set. ``wrong`` is for the judge, the ceiling and small loss only. The clean validation samples
    are drawn from the data set's test samples, and every method is tested on the rest of these."""

    settings: RunSettings
    x: np.ndarray
    y: np.ndarray
    n_classes: int
    wrong: np.ndarray
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class Found:
    """What a method flags, its score of every sample (high for wrong), and the ways to train with it."""

    flagged: np.ndarray | None
    score: np.ndarray | None
    ways: dict[str, Callable[[], Backend]]


def make_problem(dataset: str, noise: str, seed: int, data_dir: Path | None) -> Problem:
    kind, fraction = NOISE[noise]
    folder = {"data_dir": str(data_dir / dataset)} if dataset in ON_DISK and data_dir else {}
    values = dict(dataset=dataset, noise_kind=kind, noise_fraction=fraction, seed=seed, checkpoints=40, **folder)
    settings = make_settings({**values, **DATASETS[dataset]})
    data = noisy_data(settings)
    settings = settings.model_copy(update={"epochs": enough_epochs(data.n_samples, settings.batch_size)})
    order = np.random.default_rng(seed).permutation(len(data.x_test))
    held, rest = np.split(order, [round(VALIDATION * data.n_samples)])
    return Problem(
        settings, data.x_train, data.y_train, data.n_outputs, data.y_train != data.y_clean,
        (data.x_test[held], data.y_test[held]), (data.x_test[rest], data.y_test[rest]),
    )  # fmt: skip


def train(problem: Problem, chosen: np.ndarray, epochs: int | None = None) -> Backend:
    """The network trained from its start on the chosen samples."""
    settings = problem.settings
    backend = trainer(settings, problem.x[chosen], problem.y[chosen], problem.n_classes)
    steps = (epochs or settings.epochs) * steps_per_epoch(backend.n_samples, settings.batch_size)
    for _ in train_to(backend, settings, 0, steps):
        pass
    return backend


def early_stopping(problem: Problem) -> Found:
    """The weights at the end of the epoch with the fewest errors on clean samples, the first of equals."""

    def best() -> Backend:
        settings = problem.settings
        backend = trainer(settings, problem.x, problem.y, problem.n_classes)
        least, weights = np.inf, backend.weights
        for _ in train_to(backend, settings, 0, settings.epochs * steps_per_epoch(len(problem.y), settings.batch_size)):
            error = mean_scores(backend.on(*problem.validation))[1]
            if error < least:
                least, weights = error, backend.weights
        backend.load_weights(weights)
        return backend

    return Found(None, None, {"best epoch": best})


def ours(problem: Problem, *, given: bool = False) -> Found | None:
    samples = (problem.settings, problem.x, problem.y, problem.n_classes)
    share = float(problem.wrong.mean())
    if given and share == 0:
        return None
    found = cleanse(*samples, known_fraction=share if given else None)
    ways = {how: lambda how=how: train_cleansed(*samples, found, how) for how in ("restart", "continue")}
    return Found(~found.keep, found.consensus.loss, ways)


def confident_learning(problem: Problem, epochs: int | None = None) -> Found:
    """cleanlab with its defaults, on cross-validated probabilities of the network (Northcutt et al. 2021)."""
    predicted = np.empty((len(problem.y), problem.n_classes))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=problem.settings.seed)
    for known, asked in folds.split(problem.x, problem.y):
        backend = train(problem, known, epochs)
        predicted[asked] = class_probabilities(backend, problem.x[asked], problem.n_classes)
    flagged = find_label_issues(problem.y, predicted, n_jobs=1)
    score = 1 - get_label_quality_scores(problem.y, predicted, method="self_confidence")
    return Found(flagged, score, {"restart": lambda: train(problem, ~flagged)})


def small_loss(problem: Problem) -> Found:
    """As many of the largest losses after a short training as there are wrong labels, a number that is given."""
    score = all_scores(train(problem, np.ones_like(problem.wrong), SHORT)).loss
    flagged = np.zeros_like(problem.wrong)
    flagged[np.argsort(-score, kind="stable")[: problem.wrong.sum()]] = True
    return Found(flagged, score, {"restart": lambda: train(problem, ~flagged)})


METHODS: dict[str, Callable[[Problem], Found | None]] = {
    "all labels": lambda problem: Found(None, None, {"end": lambda: train(problem, np.ones_like(problem.wrong))}),
    "right labels only": lambda problem: Found(None, None, {"end": lambda: train(problem, ~problem.wrong)}),
    "sgdphases": ours,
    "sgdphases, share given": lambda problem: ours(problem, given=True),
    "cleanlab, all epochs": confident_learning,
    f"cleanlab, {SHORT} epochs": lambda problem: confident_learning(problem, SHORT),
    "small loss, share given": small_loss,
    "early stopping, clean samples given": early_stopping,
}
if find_label_issues is None:
    METHODS = {name: method for name, method in METHODS.items() if not name.startswith("cleanlab")}


def measure(problem: Problem, method: Callable[[Problem], Found | None]) -> dict[str, dict[str, float]]:
    """The numbers of each way to train; none where there is nothing to find."""
    begin, rows = time.process_time(), {}
    found = method(problem)
    if found is None:
        return {}
    finding = time.process_time() - begin
    for way, build in found.ways.items():
        begin = time.process_time()
        backend = build()
        seconds = finding + time.process_time() - begin
        accuracy = 1 - mean_scores(backend.on(*problem.test))[1]
        rows[way] = {"accuracy": accuracy, "seconds": seconds, **judge(problem.wrong, found)}
    return rows


def judge(wrong: np.ndarray, found: Found) -> dict[str, float]:
    if found.flagged is None or found.score is None:
        return {"wrong": wrong.mean()}
    caught = (found.flagged & wrong).sum()
    return {
        "wrong": wrong.mean(),
        "flagged": found.flagged.mean(),
        "precision": caught / found.flagged.sum() if found.flagged.any() else np.nan,
        "recall": caught / wrong.sum() if wrong.any() else np.nan,
        "auc": roc_auc_score(wrong, found.score) if wrong.any() else np.nan,
    }


def print_tables(rows: list[dict[str, str]]) -> None:
    """Two markdown tables for each data set: what is found, and the test accuracy it leads to."""
    order = list(METHODS)
    rows = sorted(rows, key=lambda row: order.index(row["method"]) if row["method"] in order else len(order))
    for dataset in sorted({row["dataset"] for row in rows}, key=list(DATASETS).index):
        own = [row for row in rows if row["dataset"] == dataset]
        noises = [noise for noise in NOISE if any(row["noise"] == noise for row in own)]
        ways = list(dict.fromkeys((row["method"], row["way"]) for row in own))
        finders = {row["method"]: row["way"] for row in own if row["flagged"]}
        cells = {(*way, noise): select(own, *way, noise) for way in ways for noise in noises}
        print(f"\n{dataset}, medians of {len({row['seed'] for row in own})} seed(s)")
        print(f"\n| precision / recall / area | {' | '.join(noises)} |\n|{' --- |' * (len(noises) + 1)}")
        for name, way in finders.items():
            print(f"| {name} | {' | '.join(finding(cells[name, way, noise]) for noise in noises)} |")
        print(f"\n| test accuracy | {' | '.join(noises)} | seconds |\n| --- |{' ---: |' * (len(noises) + 1)}")
        for name, way in ways:
            reached = " | ".join(median(cells[name, way, noise], "accuracy", ".3f") for noise in noises)
            taken = median([row for noise in noises for row in cells[name, way, noise]], "seconds", ".1f")
            print(f"| {name}: {way} | {reached} | {taken} |")


def select(rows: list[dict[str, str]], *key: str) -> list[dict[str, str]]:
    return [row for row in rows if (row["method"], row["way"], row["noise"]) == key]


def finding(rows: list[dict[str, str]]) -> str:
    """Precision, recall and area; where no label is wrong, the share flagged."""
    if not rows or any(float(row["wrong"]) for row in rows):
        return " / ".join(median(rows, name, ".2f") for name in ("precision", "recall", "auc"))
    return f"{median(rows, 'flagged', '.1%')} flagged"


def median(rows: list[dict[str, str]], name: str, style: str) -> str:
    values = [float(row[name]) for row in rows if row[name] not in ("", "nan")]
    return format(np.median(values), style) if values else "–"


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*KEYS, "way", *NUMBERS])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, help="folder that holds mnist/ and cifar10/")
    parser.add_argument("--datasets", nargs="+", choices=DATASETS)
    parser.add_argument("--noise", nargs="+", choices=NOISE, default=list(NOISE))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("cleansing-benchmark.csv"))
    arguments = parser.parse_args()
    if find_label_issues is None:
        print("cleanlab is not installed and is left out: pip install '.[bench]' adds it")
    rows: list[dict[str, str]] = []
    if arguments.out.exists():
        with open(arguments.out, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    done = {tuple(row[key] for key in KEYS) for row in rows}
    train(make_problem("digits", "none", 0, None), np.arange(100), 1)  # so that no method's time includes compilation
    datasets = arguments.datasets or [name for name in DATASETS if arguments.data_dir or name not in ON_DISK]
    for dataset in datasets:
        for seed, noise in ((seed, noise) for seed in arguments.seeds for noise in arguments.noise):
            missing = [name for name in METHODS if (dataset, noise, str(seed), name) not in done]
            problem = make_problem(dataset, noise, seed, arguments.data_dir) if missing else None
            for name in missing:
                key = dict(zip(KEYS, (dataset, noise, str(seed), name), strict=True))
                for way, numbers in measure(problem, METHODS[name]).items():
                    texts = {column: f"{value:.4f}" for column, value in numbers.items()}
                    rows.append({**dict.fromkeys(NUMBERS, ""), **key, "way": way, **texts})
                write_whole(arguments.out, lambda path: write_rows(path, rows))
    print_tables(rows)


if __name__ == "__main__":
    main()
