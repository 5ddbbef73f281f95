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

from sgdphases import add_label_noise
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.cleansing.cleanse import cleanse, train_cleansed
from sgdphases.sim.cleansing.cleanse_images import part_epochs, train_on
from sgdphases.sim.cleansing.network_mistakes import network_mistakes
from sgdphases.sim.recipe.choose import recipe_settings, takes_recipe
from sgdphases.sim.recipe.learner import ImageLearner
from sgdphases.sim.run.schedule import steps_per_epoch
from sgdphases.sim.run.settings import IMAGE, RunSettings, make_settings
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
    "cifar10": dict(train_size=5000, test_size=5000),
}
ON_DISK = ("mnist", "cifar10")
NETWORK = "network"  # the kind of noise drawn from a network's own confusions: for images
MISREAD = {  # digits read as others: as usual in the literature (Patrini et al. 2017), and both ways
    "turned": {2: 7, 3: 8, 7: 1, 5: 6, 6: 5},
    "exchanged": {4: 9, 9: 4, 3: 5, 5: 3, 7: 1, 1: 7},
}
OF_DIGITS = ("digits", "mnist")
PEOPLE = "given"  # labels of CIFAR-10N (Wei et al. 2022), three people an image; README says where they come from
PEOPLE_FOLDER = "cifar10n"
NOISE = {
    "none": ("uniform", 0.0),
    "uniform 0.2": ("uniform", 0.2),
    "uniform 0.4": ("uniform", 0.4),
    "uniform 0.8": ("uniform", 0.8),
    "uniform-other 0.4": ("uniform-other", 0.4),
    "pair-flip 0.2": ("pair-flip", 0.2),
    "pair-flip 0.4": ("pair-flip", 0.4),
    "input-dependent 0.1": ("input-dependent", 0.1),
    "input-dependent 0.2": ("input-dependent", 0.2),
    "input-dependent 0.4": ("input-dependent", 0.4),
    "turned 0.2": ("turned", 0.2),
    "turned 0.4": ("turned", 0.4),
    "exchanged 0.35": ("exchanged", 0.35),
    "network 0.2": (NETWORK, 0.2),
    "network 0.4": (NETWORK, 0.4),
    "people, majority": (PEOPLE, "aggre_label"),
    "people, one": (PEOPLE, "random_label1"),
    "people, worst": (PEOPLE, "worse_label"),
}
SHORT = 10  # epochs after which a perceptron has learnt the right labels and not yet the wrong ones
FOLDS = 5
VALIDATION = 0.1  # clean samples for early stopping, as a share of the training samples
FALSE_SHARE = 0.99  # of the samples of the additional class that the area under the margin flags (Pleiss et al. 2020)
KEYS = ("dataset", "noise", "seed", "method")
NUMBERS = ("wrong", "flagged", "precision", "recall", "f1", "auc", "share", "low", "high", "accuracy", "seconds")


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


Probabilities = Callable[[np.ndarray], np.ndarray]  # of the classes of samples, by a network as it stands


@dataclass(frozen=True, eq=False)
class Found:
    """What a method flags, its score of every sample (high for wrong), the ways to train with it, which give a test
    accuracy each, and the share of wrong labels with its bounds, for methods that say one."""

    flagged: np.ndarray | None
    score: np.ndarray | None
    ways: dict[str, Callable[[], float]]
    share: tuple[float, float, float] | None = None


def make_problem(dataset: str, noise: str, seed: int, data_dir: Path | None) -> Problem:
    kind, fraction = NOISE[noise]
    folder = {"data_dir": str(data_dir / dataset)} if dataset in ON_DISK and data_dir else {}
    if kind == PEOPLE:
        by_settings = dict(noise_kind=kind, noisy_labels=str(people_file(noise, data_dir)))
    else:
        by_settings = {} if kind in (NETWORK, *MISREAD) else dict(noise_kind=kind, noise_fraction=fraction)
    settings = make_settings({**by_settings, "dataset": dataset, "seed": seed, **folder, **DATASETS[dataset]})
    data = noisy_data(settings)
    if not by_settings:
        if kind == NETWORK:
            images = data.x_train, data.y_train, data.n_outputs
            labels = network_mistakes(*images, fraction, seed=seed, device=settings.device)
        else:
            labels = misread(data.y_train, MISREAD[kind], fraction, seed)
        data = add_label_noise(data, kind="given", fraction=None, labels=labels, rng=np.random.default_rng(seed))
    shape = data.x_train.shape[1:]
    if takes_recipe(settings, shape):
        settings = recipe_settings(settings, shape, data.n_samples)
    else:
        epochs = enough_epochs(data.n_samples, settings.batch_size)
        settings = settings.model_copy(update={"epochs": epochs, "checkpoints": 40})
    order = np.random.default_rng(seed).permutation(len(data.x_test))
    held, rest = np.split(order, [round(VALIDATION * data.n_samples)])
    clean = data.y_train if data.y_clean is None else data.y_clean
    return Problem(
        settings, data.x_train, data.y_train, data.n_outputs, data.y_train != clean,
        (data.x_test[held], data.y_test[held]), (data.x_test[rest], data.y_test[rest]),
    )  # fmt: skip


def people_file(noise: str, data_dir: Path | None) -> Path:
    """Labels that people gave all 50,000 images."""
    return (data_dir or Path()) / PEOPLE_FOLDER / f"{NOISE[noise][1]}.npy"


def is_there(dataset: str, noise: str, data_dir: Path | None) -> bool:
    """Whether a data set can have this kind of wrong labels."""
    kind = NOISE[noise][0]
    if kind == PEOPLE:
        return dataset == "cifar10" and people_file(noise, data_dir).exists()
    return dataset == "cifar10" if kind == NETWORK else dataset in OF_DIGITS or kind not in MISREAD


def misread(y: np.ndarray, turned: dict[int, int], fraction: float, seed: int) -> np.ndarray:
    """Labels of some classes turned into those of others, each with the same probability."""
    chosen = np.random.default_rng(seed).random(len(y)) < fraction
    return np.where(chosen, [turned.get(label, label) for label in y.tolist()], y)


def train(
    problem: Problem,
    chosen: np.ndarray,
    epochs: int | None = None,
    *,
    y: np.ndarray | None = None,
    watch: Callable[[Probabilities], None] | None = None,
) -> Probabilities:
    """The network trained from its start on the chosen samples, with other labels if given; watched once an epoch."""
    x, labels = problem.x[chosen], (problem.y if y is None else y)[chosen]
    n_classes = max(problem.n_classes, int(labels.max()) + 1)
    size = min(problem.settings.batch_size, len(labels))
    settings = problem.settings.model_copy(update={"batch_size": size})
    if settings.network == IMAGE and epochs is None:
        epochs = part_epochs(problem.settings, len(problem.y), len(labels))
    if epochs is not None:
        settings = settings.model_copy(update={"epochs": epochs})
    per_epoch = steps_per_epoch(len(labels), size)
    stops = [per_epoch * (epoch + 1) for epoch in range(settings.epochs)]
    if settings.network == IMAGE:
        learner = ImageLearner(settings, x, labels, n_classes)
        for stop in stops:
            train_on(learner, stop, "", None)
            if watch is not None:
                watch(lambda asked: np.exp(learner.log_probabilities(asked)))
        return lambda asked: np.exp(learner.log_probabilities(asked))
    backend = trainer(settings, x, labels, n_classes)
    for stop in stops:
        for _ in train_to(backend, settings, stop - per_epoch, stop):
            pass
        if watch is not None:
            watch(lambda asked: class_probabilities(backend, asked, n_classes))
    return lambda asked: class_probabilities(backend, asked, n_classes)


def accuracy(problem: Problem, probabilities: Probabilities) -> float:
    x, y = problem.test
    return float((probabilities(x).argmax(axis=1) == y).mean())


def trained_on(problem: Problem, chosen: np.ndarray) -> Callable[[], float]:
    """Test accuracy after training on the chosen samples."""
    return lambda: accuracy(problem, train(problem, chosen))


def early_stopping(problem: Problem) -> Found:
    """The weights at the end of the epoch with the fewest errors on clean samples, the first of equals."""

    def best() -> float:
        x, y = problem.validation
        reached: list[tuple[float, float]] = []

        def watch(probabilities: Probabilities) -> None:
            held = float((probabilities(x).argmax(axis=1) == y).mean())
            is_best = not reached or held > max(each[0] for each in reached)
            reached.append((held, accuracy(problem, probabilities) if is_best else 0.0))

        train(problem, np.arange(len(problem.y)), watch=watch)
        return max(reached, key=lambda each: each[0])[1]

    return Found(None, None, {"best epoch": best})


def ours(problem: Problem, *, given: bool = False) -> Found | None:
    samples = (problem.settings, problem.x, problem.y, problem.n_classes)
    share = float(problem.wrong.mean())
    if given and share == 0:
        return None
    found = cleanse(*samples, known_fraction=share if given else None)

    def then(how: str) -> float:
        left = train_cleansed(*samples, found, how)
        if problem.settings.network == IMAGE:
            return accuracy(problem, lambda asked: np.exp(left.log_probabilities(asked)))
        return accuracy(problem, lambda asked: class_probabilities(left, asked, problem.n_classes))

    ways = ("restart",) if problem.settings.network == IMAGE else ("restart", "continue")
    said = (found.share.fraction, found.share.low, found.share.high)
    return Found(~found.keep, found.score, {how: lambda how=how: then(how) for how in ways}, said)


def confident_learning(problem: Problem, epochs: int | None = None) -> Found:
    """cleanlab with its defaults, on cross-validated probabilities of the network (Northcutt et al. 2021)."""
    predicted = np.empty((len(problem.y), problem.n_classes))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=problem.settings.seed)
    for known, asked in folds.split(problem.x, problem.y):
        predicted[asked] = train(problem, known, epochs)(problem.x[asked])[:, : problem.n_classes]
    predicted /= predicted.sum(axis=1, keepdims=True)
    flagged = find_label_issues(problem.y, predicted, n_jobs=1)
    score = 1 - get_label_quality_scores(problem.y, predicted, method="self_confidence")
    return Found(flagged, score, {"restart": trained_on(problem, ~flagged)})


def area_under_margin(problem: Problem, epochs: int | None = None) -> Found:
    """AUM: the margin of the given label, averaged over epochs (Pleiss, Zhang, Elenberg & Weinberger 2020).

    Twice, a share 1/(K+1) of the samples gets a class of its own; a label is flagged if its margin is below that which
    99 % of those have.
    """
    n, classes = len(problem.y), problem.n_classes
    order = np.random.default_rng(problem.settings.seed).permutation(n)
    size = round(n / (classes + 1))
    margin, flagged = np.zeros(n), np.zeros(n, dtype=bool)
    for k in (0, 1):
        false = order[k * size : (k + 1) * size]
        rest = np.setdiff1d(order, false)
        if k == 1:
            rest = np.intersect1d(rest, order[:size])  # those that the first run has not judged
        y = problem.y.copy()
        y[false] = classes
        total = np.zeros(n)

        def watch(probabilities: Probabilities, y: np.ndarray = y, total: np.ndarray = total) -> None:
            logits = np.log(np.maximum(probabilities(problem.x), 1e-30))
            own = logits[np.arange(n), y].copy()
            logits[np.arange(n), y] = -np.inf
            total += own - logits.max(axis=1)

        train(problem, np.arange(n), epochs, y=y, watch=watch)
        margin[rest] = total[rest]
        flagged[rest] = total[rest] < np.quantile(total[false], FALSE_SHARE)
    return Found(flagged, -margin, {"restart": trained_on(problem, ~flagged)})


def small_loss(problem: Problem) -> Found:
    """As many of the largest losses as there are wrong labels, a number that is given: of a perceptron after a short
    training, of the recipe at its end."""
    everybody = np.arange(len(problem.y))
    probabilities = train(problem, everybody, None if problem.settings.network == IMAGE else SHORT)(problem.x)
    score = -np.log(np.maximum(probabilities[everybody, problem.y], 1e-300))
    flagged = np.zeros_like(problem.wrong)
    flagged[np.argsort(-score, kind="stable")[: problem.wrong.sum()]] = True
    return Found(flagged, score, {"restart": trained_on(problem, ~flagged)})


def short(method: Callable[[Problem, int], Found]) -> Callable[[Problem], Found | None]:
    """A method after a short training; none for the recipe, whose rates go through one cycle."""
    return lambda problem: None if problem.settings.network == IMAGE else method(problem, SHORT)


def all_labels(problem: Problem) -> Found:
    return Found(None, None, {"end": trained_on(problem, np.arange(len(problem.y)))})


def right_labels(problem: Problem) -> Found:
    return Found(None, None, {"end": trained_on(problem, np.flatnonzero(~problem.wrong))})


METHODS: dict[str, Callable[[Problem], Found | None]] = {
    "all labels": all_labels,
    "right labels only": right_labels,
    "sgdphases": ours,
    "sgdphases, share given": lambda problem: ours(problem, given=True),
    "cleanlab, all epochs": confident_learning,
    f"cleanlab, {SHORT} epochs": short(confident_learning),
    "area under the margin, all epochs": area_under_margin,
    f"area under the margin, {SHORT} epochs": short(area_under_margin),
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
    for way, reached in found.ways.items():
        begin = time.process_time()
        numbers = {"accuracy": reached()}
        rows[way] = {**numbers, "seconds": finding + time.process_time() - begin, **judge(problem.wrong, found)}
    return rows


def judge(wrong: np.ndarray, found: Found) -> dict[str, float]:
    said = {} if found.share is None else dict(zip(("share", "low", "high"), found.share, strict=True))
    if found.flagged is None or found.score is None:
        return {"wrong": wrong.mean(), **said}
    caught = (found.flagged & wrong).sum()
    return {
        "wrong": wrong.mean(),
        "flagged": found.flagged.mean(),
        "precision": caught / found.flagged.sum() if found.flagged.any() else np.nan,
        "recall": caught / wrong.sum() if wrong.any() else np.nan,
        "f1": 2 * caught / (found.flagged.sum() + wrong.sum()) if wrong.any() else np.nan,
        "auc": roc_auc_score(wrong, found.score) if wrong.any() else np.nan,
        **said,
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
        print(f"\n| precision / recall / F1 / area | {' | '.join(noises)} |\n|{' --- |' * (len(noises) + 1)}")
        for name, way in finders.items():
            print(f"| {name} | {' | '.join(finding(cells[name, way, noise]) for noise in noises)} |")
        for name in finders:
            if any(row["high"] for row in own if row["method"] == name) and "given" not in name:
                shares = [said(cells[name, finders[name], noise]) for noise in noises]
                print(f"| {name}: share said | {' | '.join(shares)} |")
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
        return " / ".join(median(rows, name, ".2f") for name in ("precision", "recall", "f1", "auc"))
    return f"{median(rows, 'flagged', '.1%')} flagged"


def said(rows: list[dict[str, str]]) -> str:
    """What each seed says of the share, and how many of the bounds hold it."""
    if not rows:
        return "–"
    numbers = [tuple(float(row[name]) for name in ("wrong", "share", "low", "high")) for row in rows]
    words = [f"{share:.2f} ({low:.2f}–{high:.2f})".replace("nan", "?") for _, share, low, high in numbers]
    held = sum(low <= wrong <= high for wrong, _, low, high in numbers)
    return f"{', '.join(words)}; {held} of {len(rows)} hold {numbers[0][0]:.2f}"


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
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--device", default="cpu", help="where the recipe for images is trained (default: cpu)")
    parser.add_argument("--out", type=Path, default=Path("cleansing-benchmark.csv"))
    arguments = parser.parse_args()
    DATASETS["cifar10"]["device"] = arguments.device
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
            if not is_there(dataset, noise, arguments.data_dir):
                continue
            missing = [name for name in arguments.methods if (dataset, noise, str(seed), name) not in done]
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
