"""The weights of phase II beside early stopping on clean samples: test accuracy, over data sets, noise and seeds.

    python benchmarks/stopping.py --out stopping.csv                          # Gaussian mixture and digits
    python benchmarks/stopping.py --out stopping.csv --data-dir path/to/data  # and on mnist/ and cifar10/ in it

trains on wrong labels with a `PhaseMonitor` that sees no clean sample, and gives the test accuracy of the weights that
`restore_best` gives back at the end, of those it gives back where `past_phase_two` first says stop (it is asked after
epochs that are log-spaced), of early stopping on clean validation samples (a tenth of N, once an epoch), and of the
last epoch.
A row a run; goes on from the file.
"""

import timing  # noqa: F401  # first: it sets the number of threads

import copy
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from grid import measured_grid
from sgdphases import PhaseMonitor, add_label_noise, load_dataset

NOISE = [
    ("uniform", 0.0), ("uniform", 0.2), ("uniform", 0.4), ("pair-flip", 0.2),
    ("input-dependent", 0.2), ("input-dependent", 0.4),
]  # fmt: skip
SETS = {
    "gaussian-mixture": ("perceptron", 200), "digits": ("perceptron", 300), "mnist": ("perceptron", 100),
    "cifar10": ("cnn", 40), "cifar10, BatchNorm": ("batchnorm", 25),
}  # fmt: skip
COLUMNS = (
    "data", "noise", "fraction", "seed", "restored", "epoch", "stopped", "stop", "early", "early_epoch", "last",
    "overhead",
)  # fmt: skip


def network(kind: str, inputs: int, classes: int) -> nn.Module:
    if kind == "perceptron":
        return nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, classes)
        )

    def block(i: int, o: int) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(o)] if kind == "batchnorm" else []
        return [nn.Conv2d(i, o, 3, padding=1), *norm, nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(3, 32), *block(32, 64), *block(64, 64), nn.Flatten(), nn.Linear(1024, classes))


def augmented(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror images of half of the samples, and all shifted by up to four pixels."""
    flip = torch.rand(len(x), generator=generator) < 0.5
    x = F.pad(torch.where(flip[:, None, None, None], x.flip(3), x), (4, 4, 4, 4), mode="reflect")
    down, right = torch.randint(0, 9, (2, len(x)), generator=generator).tolist()
    return torch.stack([image[:, i : i + 32, j : j + 32] for image, i, j in zip(x, down, right, strict=True)])


def measured(name: str, kind: str, fraction: float, seed: int, data_dir: Path | None) -> dict[str, object]:
    which, rng = name.split(",")[0], np.random.default_rng(seed)
    sizes = {"gaussian-mixture": dict(train_size=2000, test_size=3000), "digits": {}}.get(which)
    if sizes is None:
        sizes = dict(train_size=5000, test_size=4000, data_dir=data_dir / which if data_dir else None)
    data = load_dataset(which, rng=rng, **sizes)
    if fraction:
        data = add_label_noise(data, kind=kind, fraction=fraction, rng=rng)
    x, x_test = (torch.tensor(values, dtype=torch.float32) for values in (data.x_train, data.x_test))
    if which == "cifar10":
        mean, deviation = x.mean((0, 2, 3), keepdim=True), x.std((0, 2, 3), keepdim=True)
        x, x_test = (x - mean) / deviation, (x_test - mean) / deviation
    y, y_test = torch.tensor(data.y_train), torch.tensor(data.y_test)
    held = len(y) // 10
    how, epochs = SETS[name]
    torch.manual_seed(seed)
    model = network(how, x[0].numel(), data.n_outputs)
    loader = DataLoader(TensorDataset(x, y), batch_size=50, shuffle=True)
    rate = 0.1 if how == "perceptron" else 0.01
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0 if how == "perceptron" else 0.9)
    monitor = PhaseMonitor(
        model, nn.CrossEntropyLoss(), loader, n_samples=min(1000, len(y)), alignment_batches=0, log=False,
        budget=None if how == "perceptron" else 0.1,
    )  # fmt: skip
    other, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)

    def accuracy(net: nn.Module, part: slice) -> float:
        training = net.training
        with torch.no_grad():
            net.eval()
            found = torch.cat([net(chunk) for chunk in x_test[part].split(500)]).argmax(1)
            net.train(training)
        return float((found == y_test[part]).float().mean())

    validation, rest = slice(held), slice(held, None)
    best, early, early_epoch, stopped, stop = -1.0, 0.0, 0, float("nan"), float("nan")
    asked = set(np.unique(np.rint(np.geomspace(5, epochs, 14)).astype(int)).tolist())
    for epoch in range(1, epochs + 1):
        for inputs, targets in loader:
            if how != "perceptron":
                inputs = augmented(inputs, generator)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
            monitor.step()
        reached = accuracy(model, validation)
        if reached > best:
            best, early, early_epoch = reached, accuracy(model, rest), epoch
        if epoch in asked and np.isnan(stop) and monitor.past_phase_two:
            monitor.restore_best(other)
            stopped, stop = accuracy(other, rest), epoch
    monitor.measure_now()
    found = monitor.restore_best(other)
    return {
        "data": name, "noise": kind, "fraction": fraction, "seed": seed, "restored": accuracy(other, rest),
        "epoch": found.epoch, "stopped": stopped, "stop": stop, "early": early, "early_epoch": early_epoch,
        "last": accuracy(model, rest), "overhead": monitor.overhead,
    }  # fmt: skip


def main() -> None:
    on_disk = [name for name in SETS if name not in ("gaussian-mixture", "digits")]
    table(measured_grid(__doc__, SETS, on_disk, NOISE, COLUMNS, measured))


def table(rows: list[dict[str, str]]) -> None:
    """Medians over seeds: accuracies, and what each way gains over early stopping."""
    print("\n| data, noise | runs | early stopping, clean samples | restored | stopped, then restored | last |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    keys = [(row["data"], row["noise"], row["fraction"]) for row in rows]
    for key in dict.fromkeys(keys):
        own = [row for row, each in zip(rows, keys, strict=True) if each == key]
        cells = []
        for way in ("early", "restored", "stopped", "last"):
            known = [float(row[way]) for row in own if row[way] != "nan"]
            count = f" ({len(known)} of {len(own)})" if way == "stopped" and len(known) < len(own) else ""
            cells.append((f"{np.median(known):.3f}" if known else "–") + count)
        print(f"| {key[0]}, {key[1]} {float(key[2]):g} | {len(own)} | {' | '.join(cells)} |")
    for way in ("restored", "stopped", "last"):
        gains = [float(row[way]) - float(row["early"]) for row in rows if row[way] != "nan"]
        if gains:
            low, middle, high = np.quantile(gains, [0.1, 0.5, 0.9])
            span = f"10 to 90 %: {low:+.3f} to {high:+.3f}"
            print(f"{way} less early stopping: {middle:+.3f} ({span}), {len(gains)} runs")


if __name__ == "__main__":
    main()
