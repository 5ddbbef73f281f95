"""Phases of learning with no run behind them: predicted trajectories, and what is read from them over a grid."""

from dataclasses import replace

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.find import find_phases
from sgdphases.sim.run.trajectory import trajectory_dataset
from sgdphases.sim.solvable.finite_data import simulate
from sgdphases.theory.dmft.population import TEST_SAMPLES
from sgdphases.theory.dmft.predict import predict
from sgdphases.theory.dmft.settings import Descent, Student, Task

CHECKPOINTS = 60
FOUR = ("I", "II", "III", "IV")
SHOWN = ("loss", "loss_c", "loss_w", "directed_activity", "alignment_cw", "alignment_ac", "alignment_aw")
"""Of these the standard error is recorded."""
MARKS = ("t_min", "t_fit", "error_min", "error_fit")
"""What a phase diagram shows of each trajectory, by the names of `Phases`."""


def checkpoints(descent: Descent) -> np.ndarray:
    """Steps at which a trajectory is recorded: 0, then evenly in their logarithm."""
    return np.unique(np.concatenate([[0], np.rint(np.geomspace(1, descent.steps, CHECKPOINTS))]).astype(np.int64))


def predicted_trajectory(
    task: Task, student: Student, descent: Descent, *, population: int = 1000, repeats: int = 4, seed: int = 0
) -> xr.Dataset:
    """The trajectory of an infinitely large run, as dynamical mean-field theory has it.

    Parameters
    ----------
    task, student, descent : Task, Student, Descent
    population, repeats, seed : int
        As for `predict`.

    Returns
    -------
    xarray.Dataset
        As of a run, with ``NAME_standard_error`` for the theory's random error. The numbers of samples in its
        attributes are those of the theory, so that phases are held against its random error. Where responses were
        cut, the attributes ``cut_responses`` and ``cut_from`` say for which share of samples, and from which epoch.

    Raises
    ------
    ValueError, RuntimeError
        As `predict`.
    """
    path = predict(task, student, descent, population=population, repeats=repeats, seed=seed)
    steps = checkpoints(descent)
    rows = {name: values[steps] for name, values in path.values.items() if name != "cut_responses"}
    if repeats > 1:
        rows |= {f"{name}_standard_error": values[steps] for name, values in path.errors.items() if name in SHOWN}
    trajectory = _trajectory(rows, steps, task, student, descent, population * repeats, TEST_SAMPLES * repeats)
    cut = path.values["cut_responses"]
    if not cut.any():
        return trajectory
    return trajectory.assign_attrs(
        cut_responses=float(cut.max()), cut_from=float(np.flatnonzero(cut)[0] / descent.batches)
    )


def simulated_trajectory(
    task: Task,
    student: Student,
    descent: Descent,
    dimension: int,
    *,
    seeds: int = 1,
    seed: int = 0,
    test_samples: int = 10_000,
) -> xr.Dataset:
    """The same from SGD in d dimensions: the mean over data sets, with its standard error."""
    steps = checkpoints(descent)
    streams = np.random.SeedSequence(seed).spawn(seeds)
    runs = [
        simulate(task, student, descent, dimension, steps, np.random.default_rng(each), test_samples=test_samples)
        for each in streams
    ]
    rows = {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}
    if seeds > 1:
        spread = {name: np.std([run[name] for run in runs], axis=0, ddof=1) for name in SHOWN if name in runs[0]}
        rows |= {f"{name}_standard_error": values / np.sqrt(seeds) for name, values in spread.items()}
    n_samples = round(task.samples_per_dimension * dimension) * seeds
    return _trajectory(rows, steps, task, student, descent, n_samples, test_samples * seeds)


def _trajectory(
    rows: dict[str, np.ndarray],
    steps: np.ndarray,
    task: Task,
    student: Student,
    descent: Descent,
    n_samples: int,
    n_test: int,
) -> xr.Dataset:
    rows = {("aligned_fraction" if name == "alignment" else name): values for name, values in rows.items()}
    rows |= {"step": steps, "noise_fraction": np.full(len(steps), task.noise_fraction)}
    if task.noise_fraction == 0:
        rows |= {"error_c": rows["train_error"], "loss_c": rows["loss"]}
        rows |= {name: np.full(len(steps), np.nan) for name in ("error_w", "loss_w")}
    loss = {"logistic": "cross-entropy", "squared": "squared"}[student.loss]
    settings = f'loss = "{loss}"\nlearning_rate = {descent.learning_rate!r}\n'
    trajectory = trajectory_dataset(rows, descent.batches, settings)
    chance = dict(n_classes=2, chance_error=0.5, chance_error_train=0.5)
    return trajectory.assign_attrs(n_samples=n_samples, n_test=n_test, **chance)


def phase_diagram(
    task: Task,
    student: Student,
    descent: Descent,
    noise_fractions: np.ndarray,
    ratios: np.ndarray,
    *,
    population: int = 500,
    repeats: int = 2,
    seed: int = 0,
    dimension: int = 0,
) -> xr.Dataset:
    """Marks of the phases over shares of wrong labels and samples per dimension.

    Parameters
    ----------
    task, student, descent : Task, Student, Descent
        All that does not vary.
    noise_fractions, ratios : ndarray, shapes (r,) and (n,)
    population, repeats, seed : int
    dimension : int
        Above 0: read from one simulation in so many dimensions instead of theory.

    Returns
    -------
    xarray.Dataset
        `MARKS` and ``last_phase`` (1 to 4; 0 for none), dimensions "noise_fraction" and "samples_per_dimension".
    """
    shape = (len(noise_fractions), len(ratios))
    found = {name: np.full(shape, np.nan) for name in (*MARKS, "last_phase")}
    for place in np.ndindex(shape):
        here = replace(
            task, noise_fraction=float(noise_fractions[place[0]]), samples_per_dimension=float(ratios[place[1]])
        )
        if dimension:
            trajectory = simulated_trajectory(here, student, descent, dimension, seed=seed)
        else:
            trajectory = predicted_trajectory(here, student, descent, population=population, repeats=repeats, seed=seed)
        phases = find_phases(trajectory)
        for name in MARKS:
            found[name][place] = getattr(phases, name)
        numbers = [FOUR.index(phase.name) + 1 for phase in phases.found if phase.name in FOUR]
        found["last_phase"][place] = max(numbers, default=0)
    axes = ("noise_fraction", "samples_per_dimension")
    coordinates = dict(zip(axes, (noise_fractions, ratios), strict=True))
    return xr.Dataset({name: (axes, values) for name, values in found.items()}, coordinates)
