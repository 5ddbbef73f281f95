"""Where the alignment of phase III comes from: the measurements and pictures of docs/phase-three.md.

    python docs/phase_three.py measure --data-dir DIR   # adds what is missing to docs/phase_three.csv
    python docs/phase_three.py draw                     # docs/phase-three-*.png, from that file

Networks are trained at many learning rates and compared at equal progress: when a given share of the wrong labels is
still unlearnt. There R_cw is measured whole, along the ten sharpest directions, off them, and after a short descent. At
the smallest learning rate it is also predicted for all others, without a fitted number.
"""

import os

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import argparse
import csv
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import product
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sgdphases.estimators.curvature.alignment_reversal import floor_and_curvature
from sgdphases.estimators.curvature.hessian import leading_curvature
from sgdphases.estimators.curvature.sharp_floor import relaxed, sharp_and_floor
from sgdphases.estimators.ensemble.exact import exact
from sgdphases.faces.run.figures import ALL, FLOOR, SHARP, STYLE, TEST
from sgdphases.sim.run.schedule import sample_order
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import prepare
from sgdphases.theory.alignment_reversal import predicted_alignment, turning_rate

TABLE = Path(__file__).with_name("phase_three.csv")
N, N_SHARP, LEVELS, SNAPSHOTS = 1000, 10, (0.7, 0.5, 0.3), 5
RATES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
CALM, FEW = 0.005, (0.005, 0.02, 0.1)  # the floor is measured where steps are small enough to lie on it
FIELDS = (
    "task", "hidden", "activation", "scale", "batch_size", "learning_rate", "seed", "level", "epoch",
    "loss", "train_error",
    "whole", "sharp", "floor", "relaxed", "sharpness", "directed_activity", "directed_activity_floor",
    "turning_rate", *(f"predicted_{rate:g}" for rate in RATES),
)  # fmt: skip
SERIES = [  # task, hidden layers, activation, factor on the initial weights, batch size, learning rates, seeds
    ("mnist", "100,100", "relu", 1.0, 50, RATES, (0, 1, 2)),
    ("mnist", "100,100", "relu", 1.0, N, (0.05, 0.1), (0, 1)),
    ("mnist", "100", "relu", 1.0, 50, FEW, (0, 1)),
    ("mnist", "100,100", "tanh", 1.0, 50, (0.005, 0.01, 0.02, 0.05, 0.1), (0, 1)),
    ("mnist", "100,100", "relu", 2.0, 50, FEW, (0, 1)),
    ("mnist", "100,100", "relu", 0.5, 50, FEW, (0, 1)),
    ("gaussian-mixture", "100,100", "relu", 1.0, 50, FEW, (0, 1)),
    ("gaussian-mixture", "100", "relu", 1.0, 50, FEW, (0, 1)),
]


def member(task, hidden, activation, scale, batch_size, learning_rate, seed, data_dir):
    """Rows of one training run, one for each level of progress that it reached."""
    values = dict(
        dataset=task, train_size=N, test_size=100, noise_fraction=0.5, hidden=tuple(map(int, hidden.split(","))),
        activation=activation,
        batch_size=batch_size, learning_rate=learning_rate, seed=seed, data_dir=data_dir if task == "mnist" else None,
        dataset_options={} if task == "mnist" else {"dimension": 50, "classes": 10},
    )  # fmt: skip
    experiment = prepare(make_settings(values))
    backend, wrong = experiment.train, experiment.wrong
    backend.load_weights(scale * backend.weights)
    step, rows = 0, []
    common = dict(batch_size=batch_size, wrong=wrong)

    def advance(progress):
        nonlocal step
        stop = step + max(1, round(progress / learning_rate))
        for begin in range(step, stop, 10_000):
            order = sample_order(seed, begin, min(stop, begin + 10_000), N, batch_size)
            backend.train(order, batch_size, learning_rate)
        step = stop

    for level in LEVELS:
        found = exact(backend, **common)
        while found.error_w > level and learning_rate * step < 1000 and np.isfinite(found.loss):
            advance(0.5)
            found = exact(backend, **common)
        if not found.error_w <= level:
            break
        shots = []
        for _ in range(SNAPSHOTS):
            parts = sharp_and_floor(backend, leading_curvature(backend, N_SHARP, tolerance=1e-3), **common)
            quiet = relaxed(backend, **common)
            whole = parts.whole
            shots.append(
                [whole.loss, whole.train_error, whole.alignment_cw, parts.sharp.alignment_cw, parts.floor.alignment_cw,
                 quiet.alignment_cw, parts.curvature.eigenvalues[0], whole.directed_activity,
                 parts.floor.directed_activity]
            )  # fmt: skip
            advance(0.2)
        row = dict(
            zip(
                FIELDS,
                [task, hidden, activation, scale, batch_size, learning_rate, seed, level, step * batch_size / N],
                strict=False,
            )
        )
        row |= dict(zip(FIELDS[9:18], np.mean(shots, axis=0).round(5), strict=True))
        if learning_rate == CALM or batch_size == N:
            floor = floor_and_curvature(backend, leading_curvature(backend, N_SHARP), **common)
            row["turning_rate"] = round(turning_rate(floor, N // batch_size), 6)
            row |= {
                f"predicted_{rate:g}": round(predicted_alignment(floor, rate, N // batch_size), 5) for rate in RATES
            }
        rows.append(row)
    return rows


def measure(data_dir, processes):
    done = set()
    if TABLE.exists():
        with TABLE.open(newline="") as file:
            done = {tuple(row[name] for name in FIELDS[:7]) for row in csv.DictReader(file)}
    else:
        with TABLE.open("w", newline="") as file:
            csv.DictWriter(file, FIELDS, lineterminator="\n").writeheader()
    members = [
        (task, hidden, activation, scale, size, rate, seed)
        for task, hidden, activation, scale, size, rates, seeds in SERIES
        for seed, rate in product(seeds, rates)
    ]
    missing = [m for m in members if tuple(map(str, m)) not in done]
    with ProcessPoolExecutor(processes) as pool:
        waiting = {pool.submit(member, *m, data_dir): m for m in missing}
        for number, future in enumerate(as_completed(waiting), 1):
            with TABLE.open("a", newline="") as file:
                csv.DictWriter(file, FIELDS, lineterminator="\n").writerows(future.result())
            print(f"{number} of {len(missing)}: {waiting[future]}", flush=True)


def draw():
    with TABLE.open(newline="") as file:
        rows = [
            {name: value if name in FIELDS[:3] else float(value or "nan") for name, value in row.items()}
            for row in csv.DictReader(file)
        ]
    with matplotlib.rc_context(STYLE):
        by_learning_rate(rows).savefig(TABLE.with_name("phase-three-learning-rate.png"), dpi=140)
        by_network(rows).savefig(TABLE.with_name("phase-three-networks.png"), dpi=140)


def by_learning_rate(rows):
    """MNIST, two hidden layers: R_cw against alpha at three stages of memorising, measured and predicted."""
    figure = Figure(figsize=(9.5, 6.2), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    for line, size in enumerate((50.0, float(N))):
        for axes, level in zip(panels[line], LEVELS, strict=True):
            chosen = [r for r in rows if key(r) == ("mnist", "100,100", "relu", 1.0, size) and r["level"] == level]
            size_text = "B = 50" if size < N else "full batch"
            panel(axes, chosen, f"{size_text}: {level:.0%} unlearnt")
    return labelled(figure, panels)


def by_network(rows):
    """Half of the wrong labels unlearnt: other networks, another start, another task."""
    figure = Figure(figsize=(9.5, 6.0), layout="constrained")
    panels = figure.subplots(2, 3, sharex=True, sharey=True)
    series = [(t, h, a, f, float(b)) for t, h, a, f, b, _, _ in SERIES[2:]]
    for axes, which in zip(panels.flat, series, strict=True):
        chosen = [r for r in rows if key(r) == which and r["level"] == LEVELS[1]]
        task, hidden, activation, factor, _ = which
        start = "" if factor == 1 else f", start × {factor:g}"
        panel(axes, chosen, f"{'MNIST' if task == 'mnist' else 'mixture'}, {hidden}, {activation}{start}")
    return labelled(figure, panels)


MEASURED = (("whole", ALL, "o"), ("sharp", SHARP, "^"), ("floor", FLOOR, "v"), ("relaxed", TEST, "s"))


def panel(axes, rows, title):
    """All four measurements, and the prediction."""
    for name, colour, marker in MEASURED:
        curve(axes, rows, name, colour, marker)
    predicted(axes, rows)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", ylim=(-1.05, 1.05), title=title)


def labelled(figure, panels):
    """The figure, its outer axes named and one legend beside it."""
    for axes in panels[1]:
        axes.set_xlabel("learning rate $\\alpha$")
    for axes in panels[:, 0]:
        axes.set_ylabel("$R_{cw}$")
    panels[0, 2].legend(loc="center left", bbox_to_anchor=(1.0, 0.0))
    return figure


def curve(axes, rows, name, colour, marker):
    """Mean over seeds, bars from the lowest to the highest."""
    rates = sorted({r["learning_rate"] for r in rows})
    values = [np.array([r[name] for r in rows if r["learning_rate"] == rate]) for rate in rates]
    mean = np.array([each.mean() for each in values])
    reach = [mean - [each.min() for each in values], [each.max() for each in values] - mean]
    label = {"whole": "whole", "sharp": "sharp directions", "floor": "floor", "relaxed": "after short descent"}[name]
    axes.errorbar(rates, mean, reach, marker=marker, markersize=4, color=colour, label=label, capsize=2)


def predicted(axes, rows):
    """The dashed curve, mean over seeds, and the band in which the sign should turn, from the smallest steps."""
    calm = [r for r in rows if np.isfinite(r["turning_rate"])]
    calm = [r for r in calm if r["learning_rate"] == min(r["learning_rate"] for r in calm)]
    predicted = [np.mean([r[f"predicted_{rate:g}"] for r in calm]) for rate in RATES]
    axes.plot(RATES, predicted, "--", color=ALL, linewidth=1.2, label="predicted")
    turns = [r["turning_rate"] for r in calm]
    if min(turns) < RATES[-1]:
        axes.axvspan(min(turns), max(turns), color="0.85", zorder=-1, label="predicted turn")


def key(row):
    return tuple(row[name] for name in ("task", "hidden", "activation", "scale", "batch_size"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["measure", "draw"])
    parser.add_argument("--data-dir")
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    measure(options.data_dir, options.processes) if options.task == "measure" else draw()
