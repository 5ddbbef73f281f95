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
from scipy.stats import binom

from sgdphases.estimators.phases.records import Phases

FACTOR = 2.0  # ratio from which one activity counts as much larger than another; below it they count as about equal
COVERAGE = 0.95
BLOCKS = 6  # of checkpoints, at least: the range of six covers their median with 97 %
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
    two_populations = "noise_fraction" not in trajectory or (trajectory["noise_fraction"] > 0).any()
    found = []
    for phase in phases.found:
        inside = np.flatnonzero((epoch >= phase.start) & (epoch <= phase.end))
        if phase.name in ("I", "II", "III", "IV") and not two_populations:  # then the clean population is all samples
            inside = inside[:0]
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

    Neighbouring checkpoints resemble one another, so those of a phase are cut into blocks of about the square root of
    their number, `BLOCKS` at least, and the interval lies between order statistics of the blocks' medians. Below
    twice as many checkpoints it is the range of the single ones. A trend counts as scatter: where a phase begins and
    ends is not sharp either. What is sampled scatters by its standard error from checkpoint to checkpoint already;
    below `BLOCKS` checkpoints that may not show, and twice the standard error widens the range. A single checkpoint
    shows nothing of its scatter: NaN.

    Independent checkpoints miss their median in at most 5 % from six on (four: 13 %); with a correlation of 0.5 between
    neighbours 15 in 5 %, nine in 7 %, six in 14 %.

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
    """
    n, errors = len(next(iter(values.values()))), errors or {}
    if n < 2:
        return float("nan"), float("nan")
    length = max(1, min(round(np.sqrt(n)), n // BLOCKS))
    count, rank = n // length, 1
    if length > 1:
        rank = max(1, int(binom.ppf((1 - COVERAGE) / 2, count, 0.5)))
        rank -= rank > 1 and binom.cdf(rank - 1, count, 0.5) > (1 - COVERAGE) / 2
        blocks = {name: np.array_split(each, count) for name, each in values.items()}
        known = {name: np.array([np.median(block) for block in each]) for name, each in blocks.items()}
    elif n >= BLOCKS:
        known = values
    else:
        known = {name: _widened(values[name], errors.get(name)).ravel() for name in values}
    ordered = np.sort(number(known))
    return float(ordered[rank - 1]), float(ordered[-rank])


def claim_limits(phase: str, claim: str) -> tuple[float, float]:
    """The open interval in which a signature's number is to lie; KeyError for one that is unknown."""
    return {rule.claim: (rule.low, rule.high) for rule in _RULES[phase]}[claim]


def _widened(values: np.ndarray, errors: np.ndarray | None) -> np.ndarray:
    """Two standard errors below and above each value, where there are any."""
    return np.array([values, values]) if errors is None else np.array([values - 2 * errors, values + 2 * errors])
