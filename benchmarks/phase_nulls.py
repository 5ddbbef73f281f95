"""Phases that are not there, and those that are: false positives over null runs, power over the paper's settings.

python benchmarks/phase_nulls.py --out path/to/folder                             # the null runs
python benchmarks/phase_nulls.py --out path/to/folder --data-dir path/to/data     # and the paper's 40, on MNIST

Runs stay in the folder and are judged anew each time. Rules were developed on the seeds from 0; the table in
docs/phases.md is of those from 1000.
"""

import timing  # noqa: F401  # first: it sets the number of threads

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from scipy.stats import beta

from sgdphases.estimators.errors import TrainingDiverged
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.records import MEMORISING, READINGS, Phases
from sgdphases.paper.experiments import FULL, data_folder, paper_sweeps
from sgdphases.sim.run.folder import RunFolder, start_folder
from sgdphases.sim.run.settings import make_settings
from sgdphases.sim.run.training import advance, prepare
from sgdphases.sim.sweep.member import TRAINING

Rng = np.random.Generator
LATER = {"II", "III", "IV"}
FRACTIONS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


@dataclass(frozen=True)
class Null:
    """A kind of run without (some) phases.

    ``settings`` draws a run's; ``mask`` replaces the wrong labels, given the right mask; ``false`` says whether what is
    found in a trajectory is not there, given whether the mask was used; ``ways``: whether to use it, each judged;
    ``cut``: the phase, found in the whole run with its right mask, within which the record is made to end.
    """

    settings: Callable[[Rng, Path], dict[str, Any]]
    criterion: str
    false: Callable[[Phases, bool], bool]
    runs: int
    mask: Callable[[Rng, np.ndarray], np.ndarray] | None = None
    ways: tuple[bool, ...] = (False, True)
    cut: str = ""


def names(phases: Phases) -> set[str]:
    return {phase.name for phase in phases.found}


def network(rng: Rng) -> dict[str, Any]:
    """What varies from run to run in every kind."""
    width = int(rng.choice([30, 50, 100]))
    return dict(hidden=[width, width], learning_rate=float(rng.choice([0.05, 0.1, 0.2])), batch_size=50,
                checkpoints=int(rng.choice([30, 60])), alignment_batches=0, seed=int(rng.integers(2**31)))  # fmt: skip


def noise(rng: Rng, folder: Path, *, fraction: float = 0.0, dead: bool = False) -> dict[str, Any]:
    """Inputs and labels that have nothing to do with one another; ``dead``: all inputs are zero."""
    n, n_test = int(rng.choice([500, 1000, 2000])), int(rng.choice([30, 100, 500, 2000]))
    classes, dimension = int(rng.choice([2, 5, 10])), int(rng.choice([50, 784]))
    shares = rng.dirichlet(np.full(classes, 2.0)) if dead or rng.random() < 0.3 else np.full(classes, 1 / classes)
    arrays = {}
    for part, size in (("train", n), ("test", n_test)):
        arrays[f"x_{part}"] = (0.0 if dead else 1.0) * rng.standard_normal((size, dimension)).astype(np.float32)
        arrays[f"y_{part}"] = rng.choice(classes, size, p=shares)
    np.savez(folder / "data.npz", y_clean=arrays["y_train"], **arrays)
    return dict(network(rng), dataset=str(folder / "data.npz"), dataset_options={"classes": classes},
                noise_fraction=fraction, epochs=10 if dead else 60)  # fmt: skip


def clouds(rng: Rng, low: float, high: float, **more: Any) -> dict[str, Any]:
    """Gaussian clouds so many standard deviations apart."""
    options = dict(separation=float(rng.uniform(low, high)), classes=int(rng.choice([2, 5, 10])),
                   dimension=int(rng.choice([20, 50])))  # fmt: skip
    sizes = dict(train_size=int(rng.choice([500, 1000])), test_size=int(rng.choice([50, 200, 1000, 2000])))
    return dict(network(rng), dataset="gaussian-mixture", dataset_options=options, **sizes, **{"epochs": 100, **more})


def teachers(rng: Rng, **more: Any) -> dict[str, Any]:
    """Labels of a linear teacher: hard samples lie at its boundaries, all of them by rule."""
    options = dict(teacher="linear", classes=int(rng.choice([2, 6])), dimension=20)
    sizes = dict(train_size=1000, test_size=int(rng.choice([50, 200, 1000, 2000])))
    return dict(network(rng), dataset="teacher-student", dataset_options=options, **sizes, **{"epochs": 100, **more})


def at_random(rng: Rng, wrong: np.ndarray) -> np.ndarray:
    """A mask of its own, or the right one permuted."""
    return rng.permutation(wrong) if wrong.any() else rng.random(len(wrong)) < rng.uniform(0.1, 0.6)


def general(phases: Phases, masked: bool) -> bool:
    return bool(names(phases) - {MEMORISING})


def any_phase(phases: Phases, masked: bool) -> bool:
    return bool(phases.found)


def later(phases: Phases, masked: bool) -> bool:
    return bool(names(phases) & {*LATER, MEMORISING})


def memorised(phases: Phases, masked: bool) -> bool:
    return bool(names(phases) & {"III", "IV"})


def unexplained(phases: Phases, masked: bool) -> bool:
    return later(phases, masked) and (masked or phases.reading != READINGS["no mask"])  # memorising only is false, too


BEYOND = "II, III, IV, or memorising only"
UNSAID = "as above; without mask II, III and IV, unless it is said that hard samples explain them as well"
NULLS: dict[str, Null] = {
    "pure noise": Null(noise, "a phase but memorising only", general, 50, ways=(False,)),
    "pure noise, half of the labels drawn anew": Null(
        lambda rng, folder: noise(rng, folder, fraction=0.5), "a phase but memorising only", general, 30
    ),
    "separable, no label wrong; mask drawn at random": Null(
        lambda rng, _: clouds(rng, 6, 10), BEYOND, later, 40, at_random
    ),
    "one rule with a sharp boundary, no label wrong; mask drawn at random": Null(
        lambda rng, _: teachers(rng), UNSAID, unexplained, 20, at_random,
    ),
    "overlapping, no label wrong; mask drawn at random": Null(
        lambda rng, _: clouds(rng, 1.5, 3), UNSAID, unexplained, 40, at_random,
    ),
    "wrong labels, mask permuted": Null(
        lambda rng, _: clouds(rng, 5, 8, noise_fraction=float(rng.uniform(0.2, 0.6))), BEYOND, later, 40,
        at_random, ways=(True,),
    ),
    "constant network (inputs all zero)": Null(
        lambda rng, folder: noise(rng, folder, fraction=float(rng.choice([0.0, 0.5])), dead=True), "any phase",
        any_phase, 30,
    ),
    "tiny learning rate (1e-7)": Null(
        lambda rng, _: {**clouds(rng, 5, 8, noise_fraction=0.4, epochs=20), "learning_rate": 1e-7}, "any phase",
        any_phase, 30,
    ),
    "huge learning rate (3 to 30)": Null(
        lambda rng, _: {**clouds(rng, 5, 8, noise_fraction=0.4, epochs=40), "learning_rate": float(rng.uniform(3, 30))},
        "III or IV", memorised, 30,
    ),
    "large to huge learning rate (0.5 to 20), no label wrong; mask drawn at random": Null(
        lambda rng, _: {**clouds(rng, 6, 10, epochs=60), "learning_rate": float(np.exp(rng.uniform(-0.7, 3)))},
        BEYOND, later, 40, at_random,
    ),
    "early end, within phase I": Null(
        lambda rng, _: clouds(rng, 5, 8, noise_fraction=float(rng.uniform(0.2, 0.6))), BEYOND, later, 40,
        cut="I",
    ),
    "early end, within phase II": Null(
        lambda rng, _: clouds(rng, 5, 8, noise_fraction=float(rng.uniform(0.2, 0.6))), "III or IV", memorised, 40,
        cut="II",
    ),
}  # fmt: skip
"""What varies: N, test samples, classes, dimension, width, learning rate, checkpoints; all drawn by the run's seed."""


def trained(name: str, seed: int, out: Path) -> xr.Dataset | None:
    """The trajectory of a null run, trained unless it is there; None if training diverged at the start."""
    null = NULLS[name]
    folder = RunFolder(out / f"{re.sub('[^a-z]+', '-', name.lower())[:40]}-{seed}")
    rng = np.random.default_rng([seed, *name.encode()])
    if not (folder.path / "done").exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        experiment = prepare(make_settings(null.settings(rng, folder.path)))
        if null.mask is not None:
            wrong = np.zeros(experiment.data.n_samples, bool) if experiment.wrong is None else experiment.wrong
            experiment = replace(experiment, wrong=null.mask(rng, wrong))
        start_folder(folder, experiment.settings)
        try:
            for _ in advance(experiment, folder):
                pass
        except TrainingDiverged:
            rows = folder.read_checkpoint().rows if folder.checkpoint.exists() else {}
            if rows:
                folder.publish(rows, experiment.steps_per_epoch, experiment.sizes)
        (folder.path / "done").touch()
    return folder.read_trajectory() if folder.trajectory.exists() else None


def cut_short(trajectory: xr.Dataset, within: str, seed: int) -> xr.Dataset | None:
    """The record up to a moment within a phase: at least 0.1 decades of the epoch before its end, at most one."""
    phase = next((phase for phase in find_phases(trajectory).found if phase.name == within), None)
    if phase is None or phase.end == float(trajectory["epoch"][-1]):
        return None
    last = phase.end * 10 ** -np.random.default_rng(seed).uniform(0.1, 1.0)
    inside = trajectory["epoch"].to_numpy() <= max(last, phase.start)
    return trajectory.isel(step=inside) if inside.sum() >= 3 else None


def null_rows(first: int, out: Path, only: list[str], share: float) -> list[list[str]]:
    rows, counts = [], {False: [0, 0], True: [0, 0]}
    for name, null in NULLS.items():
        if only and not any(part in name for part in only):
            continue
        runs, seed = [], first
        while len(runs) < max(1, round(share * null.runs)) and seed < first + 3 * null.runs:
            run = trained(name, seed, out)
            run = cut_short(run, null.cut, seed) if null.cut and run is not None else run
            runs += [] if run is None else [(seed, run)]
            seed += 1
        for masked in null.ways:
            found = {seed: find_phases(run, use_wrong=masked) for seed, run in runs}
            false = {seed: phases for seed, phases in found.items() if null.false(phases, masked)}
            for seed, phases in false.items():
                evidence = [f"{phase.name} {phase.p_value:.1g}" for phase in phases.found]
                print(f"  false: {name}, seed {seed}, mask {masked}: {', '.join(evidence)}; {phases.doubt}")
            kinds: dict[str, int] = {}
            for phases in found.values():
                kind = ", ".join(phase.name for phase in phases.found) or "none"
                kinds[kind] = kinds.get(kind, 0) + 1
            seen = "; ".join(f"{kind}: {count}" for kind, count in sorted(kinds.items(), key=lambda each: -each[1]))
            rows.append([name, "with" if masked else "without", str(len(runs)), str(len(false)), null.criterion, seen])
            counts[masked] = [counts[masked][0] + len(runs), counts[masked][1] + len(false)]
    for masked, (runs_, false_) in counts.items():
        if runs_:
            upper = beta.ppf(0.95, false_ + 1, runs_ - false_) if false_ < runs_ else 1.0
            text = f"{false_ / runs_:.1%} (at most {upper:.1%} at 95 %)"
            rows.append(["all", "with" if masked else "without", str(runs_), str(false_), text, ""])
    return rows


def power_rows(mnist: Path, out: Path, seeds: int) -> list[list[str]]:
    """How many of the paper's runs show all four phases, by noise fraction, with and without the mask."""
    scale = replace(FULL, fractions=(0.0, *FRACTIONS))
    plan = paper_sweeps(["fig3"], scale, mnist=mnist, cifar=None, seeds=seeds, device=None)["fractions"]
    found: dict[tuple[float, bool], list[Phases]] = {}
    for member in plan.members():
        settings = member.settings
        folder = RunFolder(out / f"rho{settings.noise_fraction:g}-seed{settings.seed}")
        if not TRAINING.is_finished(folder, settings) and (failure := TRAINING.complete(folder, settings)):
            raise SystemExit(f"{folder.path}: {failure}")
        for masked in (True, False):
            phases = find_phases(TRAINING.read(folder), use_wrong=masked)
            found.setdefault((settings.noise_fraction, masked), []).append(phases)
    rows = []
    for rho in (0.0, *FRACTIONS):
        wanted = {"I", "II", "III", "IV"} if rho else {"fast learning", "exploration"}
        cells = []
        for masked in (True, False):
            right = [phases for phases in found[rho, masked] if names(phases) == wanted]
            worst = max((phase.p_value for phases in right for phase in phases.found), default=np.nan)
            cells += [f"{len(right)} of {len(found[rho, masked])}", f"{worst:.1g}"]
        rows.append([f"{rho:g}", "four" if rho else "two", *cells])
    for masked in (True, False):
        four = [names(phases) == {"I", *LATER} for rho in FRACTIONS for phases in found[rho, masked]]
        print(f"four phases {'with' if masked else 'without'} the mask: {sum(four)} of {len(four)}")
    return rows


def show(heading: list[str], rows: list[list[str]]) -> None:
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--data-dir", type=Path, help="with mnist/ in it: the paper's runs, too")
    parser.add_argument("--first-seed", type=int, default=1000)
    parser.add_argument("--share", type=float, default=1.0, help="of the runs of each kind")
    parser.add_argument("--seeds", type=int, default=5, help="of the paper's runs")
    parser.add_argument("--only", nargs="*", default=[], help="kinds whose name holds one of these")
    given = parser.parse_args()
    nulls = null_rows(given.first_seed, given.out / "nulls", given.only, given.share)
    show(["runs", "mask", "number", "false", "what counts as false", "found"], nulls)
    if given.data_dir is not None and (mnist := data_folder(given.data_dir, "mnist")) is not None:
        print()
        power = power_rows(mnist, given.out / "power", given.seeds)
        show(["ρ", "phases", "with mask", "largest p", "without", "largest p"], power)


if __name__ == "__main__":
    main()
