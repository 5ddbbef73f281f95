"""Losses, errors and order parameters against time, averaged over independent populations, with their own error."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sgdphases.theory.dmft.kinks import copies_memory
from sgdphases.theory.dmft.population import evolve
from sgdphases.theory.dmft.response import memory_needed
from sgdphases.theory.dmft.settings import Descent, Student, Task, check_populations, check_settings

MEMORY = 4e9  # bytes
FADED = 0.05
"""Share of its largest A_0 below which that of ReLU units is left out: a small difference of uncertain averages."""


@dataclass(frozen=True, eq=False)
class PredictedPath:
    """What is expected at each step, and how far the theory's own random draws leave it open.

    Attributes
    ----------
    values, errors : dict of ndarray, shape (steps + 1,)
        By the project's names; ``errors`` are standard errors over the populations, NaN for a single one.
    """

    values: dict[str, np.ndarray]
    errors: dict[str, np.ndarray]


def predict(
    task: Task,
    student: Student,
    descent: Descent,
    *,
    population: int = 1000,
    repeats: int = 4,
    seed: int = 0,
) -> PredictedPath:
    """Expected course of SGD on a finite data set, by dynamical mean-field theory.

    Parameters
    ----------
    task, student, descent : Task, Student, Descent
    population : int
        S, effective samples in one population. Errors fall as ``1 / sqrt(S repeats)``, a bias as ``1 / S``.
    repeats : int
        Independent populations.
    seed : int

    Returns
    -------
    PredictedPath
        ``loss``, ``loss_c``, ``loss_w``, ``train_error``, ``error_c``, ``error_w``, ``test_loss``, ``test_error``,
        ``directed_activity`` and those of the populations, ``total_variance`` and ``activity`` (minibatches of
        ``batch_fraction``), ``alignment`` (A_0/A, exact in the limit), ``alignment_cw``, ``alignment_ac``,
        ``alignment_aw``. Without wrong samples those of the populations are missing, errors for a regression.
        ``cut_responses``: the share of samples whose responses were too large to be averaged; from where it is above 0,
        squared gradients and cosines may be further off than their standard errors, losses and errors are not. For
        ReLU units those are NaN from where ``directed_activity`` has fallen to `FADED` of its largest value.

    Raises
    ------
    ValueError
        If a setting is out of range, or the population needs more than 4 GB or holds no sample of a kind.
    RuntimeError
        If the weights run away: the learning rate is too large.
    """
    check_settings(task, student, descent)
    if population < 50 or repeats < 1:
        raise ValueError(f"population = {population}, repeats = {repeats}: take at least 50 samples, once.")
    if population * descent.batch_fraction < 10:
        raise ValueError(
            f"batch_fraction = {descent.batch_fraction}: a minibatch of a population of {population} holds fewer than "
            f"10 samples; take a population of at least {int(np.ceil(10 / descent.batch_fraction))}."
        )
    needed = memory_needed(descent.steps + 1, student.units, population, descent.batch_fraction)
    if student.activation == "relu":
        needed += descent.batch_fraction * copies_memory(descent.steps + 1, student.units, population)
    if needed > MEMORY:
        raise ValueError(
            f"a population of {population} over {descent.steps} steps needs {needed / 1e9:.3g} GB, more than "
            f"{MEMORY / 1e9:g}: take a smaller one, and more repeats, or fewer steps."
        )
    check_populations(task, population)
    raw = []
    for stream in np.random.SeedSequence(seed).spawn(repeats):
        with np.errstate(over="ignore", invalid="ignore"):
            found = evolve(task, student, descent, population, np.random.default_rng(stream))
        if not all(np.isfinite(values).all() for values in found.values()):
            raise RuntimeError(f"learning_rate = {descent.learning_rate}: the weights run away; choose a smaller one.")
        raw.append(found)
    rho = round(task.noise_fraction * population) / population
    path = _averaged(raw, rho, task.samples_per_dimension, descent.batch_fraction)
    return _without_faded(path, descent) if student.activation == "relu" else path


def _without_faded(path: PredictedPath, descent: Descent) -> PredictedPath:
    """The same, NaN for order parameters of mean gradients from where these have nearly vanished."""
    directed = path.values["directed_activity"]
    faded = np.maximum.accumulate(directed < FADED * directed.max())
    lost = [name for name in path.values if name.startswith(("directed_activity", "alignment"))]
    if descent.batch_fraction == 1:  # otherwise most of A is variance
        lost.append("activity")
    for found in (path.values, path.errors):
        found.update({name: np.where(faded, np.nan, found[name]) for name in lost})
    return path


def _averaged(raw: Sequence[dict[str, np.ndarray]], rho: float, n: float, b: float) -> PredictedPath:
    """Order parameters of the mean over populations, with jackknife errors."""
    total = {name: np.mean([each[name] for each in raw], axis=0) for name in raw[0]}
    values, count = order_parameters(total, rho, n, b), len(raw)
    if count == 1:
        return PredictedPath(values, {name: np.full_like(found, np.nan) for name, found in values.items()})
    without = [
        order_parameters({name: (count * total[name] - each[name]) / (count - 1) for name in total}, rho, n, b)
        for each in raw
    ]
    errors = {name: np.sqrt((count - 1) * np.var([each[name] for each in without], axis=0, ddof=0)) for name in values}
    return PredictedPath(values, errors)


def order_parameters(raw: dict[str, np.ndarray], rho: float, n: float, b: float) -> dict[str, np.ndarray]:
    """The project's names from averages of populations, for a share rho of wrong samples, n = N/d and b = B/N."""
    share = {"c": 1 - rho, "w": rho}
    parts = [name for name in share if f"loss_{name}" in raw]
    found: dict[str, np.ndarray] = {}
    found |= {name: raw[name] for name in ("test_loss", "test_error", "cut_responses") if name in raw}

    def mixed(name: str) -> np.ndarray:
        return np.sum([share[part] * raw[f"{name}_{part}"] for part in parts], axis=0)

    found["loss"], errors = mixed("loss"), f"error_{parts[0]}" in raw  # a regression has none
    if errors:
        found["train_error"] = mixed("error")
    found["directed_activity"] = np.maximum(
        np.sum([share[p] * share[q] * raw[f"inner_{min(p, q)}{max(p, q)}"] for p in parts for q in parts], axis=0), 0.0
    )
    found["total_variance"] = (1 - b) / (b * n) * mixed("squares")
    found["activity"] = found["directed_activity"] + found["total_variance"]
    found["alignment"] = _ratio(found["directed_activity"], found["activity"])
    if len(parts) == 2:
        cc, cw, ww = raw["inner_cc"], raw["inner_cw"], raw["inner_ww"]
        to_c, to_w = share["c"] * cc + share["w"] * cw, share["c"] * cw + share["w"] * ww
        found |= {f"{name}_{part}": raw[f"{name}_{part}"] for name in ("loss", "error")[: 1 + errors] for part in parts}
        found["directed_activity_c"], found["directed_activity_w"] = share["c"] ** 2 * cc, share["w"] ** 2 * ww
        found["alignment_cw"] = _cosine(cw, cc, ww)
        found["alignment_ac"] = _cosine(to_c, found["directed_activity"], cc)
        found["alignment_aw"] = _cosine(to_w, found["directed_activity"], ww)
    return found


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _cosine(inner: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """NaN where a gradient vanishes; at most 1 in size, whatever the random error of its parts."""
    return np.clip(_ratio(inner, np.sqrt(np.maximum(one, 0) * np.maximum(other, 0))), -1, 1)
