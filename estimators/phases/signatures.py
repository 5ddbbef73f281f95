"""The paper's findings in each phase, compared with a run (Feng & Tu 2021, figures 1 and 4).

Signatures describe phases, they do not define them: R_cw > 0 in phase III, for one, needs a large enough learning rate.
Each is a number, made of medians over the checkpoints of a phase, that lies within some limits or does not; where its
interval holds a limit, the run cannot tell.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.records import Phases

FACTOR = 2.0  # ratio from which one activity counts as much larger than another; below it they count as about equal
RESAMPLES = 1_000
COVERAGE = 0.95
FEWEST = 6  # checkpoints from which on they are resampled: the range of six covers their median with 97 %
Medians = dict[str, np.ndarray]


@dataclass(frozen=True)
class Signature:
    """One finding of the paper in one phase, and whether a run shows it.

    Attributes
    ----------
    phase, claim : str
    shown : bool or None
        None where the interval holds a limit of the claim, or nothing is known.
    value : float
        The number that the claim is about, such as A_0c / A_0w.
    low, high : float
        Its interval, at 95 %: see `interval`.
    """

    phase: str
    claim: str
    shown: bool | None
    value: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; None for what is unknown or infinite."""
        return {
            name: None if isinstance(value, float) and not np.isfinite(value) else value
            for name, value in asdict(self).items()
        }


@dataclass(frozen=True)
class _Rule:
    """A claim: the variables it needs, the number made of their medians, and the open interval it is to lie in."""

    claim: str
    needs: tuple[str, ...]
    low: float
    high: float

    def number(self, medians: Medians) -> np.ndarray:
        """The median itself, or the ratio of the first median to the second."""
        if len(self.needs) == 1:
            return medians[self.needs[0]]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.divide(medians[self.needs[0]], medians[self.needs[1]])


_INFINITE = float("inf")
_PULLS = ("directed_activity_c", "directed_activity_w")
_RULES: dict[str, tuple[_Rule, ...]] = {
    "fast learning": (
        _Rule("R > 0.1", ("alignment",), 0.1, _INFINITE),
        _Rule("σ_λ² < 1", ("projection_variance",), -_INFINITE, 1),
    ),
    "exploration": (
        _Rule("R < 0.1", ("alignment",), -_INFINITE, 0.1),
        _Rule("σ_λ² > 1", ("projection_variance",), 1, _INFINITE),
    ),
    "memorising only": (),
    "I": (_Rule("A_0c ≫ A_0w", _PULLS, FACTOR, _INFINITE), _Rule("R_cw < 0", ("alignment_cw",), -_INFINITE, 0)),
    "II": (
        _Rule("A_0c ≈ A_0w", _PULLS, 1 / FACTOR, FACTOR),
        _Rule("R_cw near -1", ("alignment_cw",), -_INFINITE, -0.5),
        _Rule("A_0 ≪ A_0c", ("directed_activity", "directed_activity_c"), -_INFINITE, 1 / FACTOR),
    ),
    "III": (_Rule("R_cw > 0", ("alignment_cw",), 0, _INFINITE),),
    "IV": (_Rule("R_cw < 0", ("alignment_cw",), -_INFINITE, 0),),
}


def signatures(trajectory: xr.Dataset, phases: Phases) -> list[Signature]:
    """The paper's signatures of the phases found, by medians over the checkpoints of each.

    Parameters
    ----------
    trajectory : xarray.Dataset
    phases : Phases
        Of `find_phases` on it.

    Returns
    -------
    list of Signature
        In the order of the phases.
    """
    epoch = trajectory["epoch"].to_numpy()
    found = []
    for phase in phases.found:
        inside = np.flatnonzero((epoch >= phase.start) & (epoch <= phase.end))
        found += [_judged(phase.name, rule, trajectory, inside) for rule in _RULES[phase.name]]
    return found


def _judged(phase: str, rule: _Rule, trajectory: xr.Dataset, inside: np.ndarray) -> Signature:
    if not len(inside) or any(name not in trajectory for name in rule.needs):
        return Signature(phase, rule.claim, None)
    values = {name: trajectory[name].to_numpy()[inside] for name in rule.needs}
    errors = {
        name: trajectory[f"{name}_standard_error"].to_numpy()[inside]
        for name in rule.needs
        if f"{name}_standard_error" in trajectory
    }
    value = float(rule.number({name: np.median(each) for name, each in values.items()}))
    low, high = interval(values, rule.number, errors)
    if np.isnan([value, low, high]).any():
        return Signature(phase, rule.claim, None, value, low, high)
    holds = True if rule.low < low and high < rule.high else None
    fails = high <= rule.low or low >= rule.high
    return Signature(phase, rule.claim, False if fails else holds, value, low, high)


def interval(
    values: dict[str, np.ndarray],
    number: Callable[[Medians], np.ndarray],
    errors: dict[str, np.ndarray] | None = None,
) -> tuple[float, float]:
    """Interval of a number made of the medians of some curves over the checkpoints of a phase, at 95 %.

    From `FEWEST` checkpoints on by a moving-block bootstrap (Künsch 1989): neighbouring checkpoints resemble one
    another, so blocks of about the square root of their number are drawn. With fewer, the range that the number has
    over the single checkpoints, and NaN for a single one, which shows nothing of its scatter. What is itself sampled
    carries its standard error in: normal deviates of that size are added.

    Parameters
    ----------
    values : dict of ndarray, shape (checkpoints,)
        By name.
    number : callable
        Takes medians by name, shape (k,), and returns numbers of that shape.
    errors : dict of ndarray, shape (checkpoints,), or None
        Standard errors of some of them.

    Returns
    -------
    low, high : float
        The same at each call: the draws have a fixed seed.
    """
    n, errors = len(next(iter(values.values()))), errors or {}
    rng = np.random.default_rng(0)
    if n < 2:
        return float("nan"), float("nan")
    if n < FEWEST:
        known = {name: _widened(values[name], errors.get(name)) for name in values}
        edges = number({name: each.ravel() for name, each in known.items()})
        return float(edges.min()), float(edges.max())
    length = round(np.sqrt(n))
    starts = rng.integers(0, n - length + 1, (RESAMPLES, -(-n // length)))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(RESAMPLES, -1)[:, :n]
    medians = {}
    for name, each in values.items():
        sample = each[drawn]
        if name in errors:
            sample = sample + errors[name][drawn] * rng.standard_normal(sample.shape)
        medians[name] = np.median(sample, axis=1)
    tails = np.array([(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
    low, high = np.quantile(number(medians), tails, method="nearest")
    return float(low), float(high)


def _widened(values: np.ndarray, errors: np.ndarray | None) -> np.ndarray:
    """Two standard errors below and above each value, where there are any."""
    return np.array([values, values]) if errors is None else np.array([values - 2 * errors, values + 2 * errors])
