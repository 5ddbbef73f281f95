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
from scipy.special import ndtri, stdtrit

from sgdphases.estimators.phases.records import Phase, Phases

FACTOR = 2.0  # ratio from which one activity counts as much larger than another; below it they count as about equal
COVERAGE = 0.95
DRAWS = 400
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
    for number, phase in enumerate(phases.found):
        after = phases.found[number + 1] if number + 1 < len(phases.found) else None
        inside = drawn_spans(epoch, phase, after)
        if phase.name in ("I", "II", "III", "IV") and not two_populations:  # then the clean population is all samples
            inside[:] = False
        found += [_judged(phase.name, rule, trajectory, inside) for rule in _RULES[phase.name]]
    return found


def _judged(phase: str, rule: _Rule, trajectory: xr.Dataset, inside: np.ndarray) -> Signature:
    if any(name not in trajectory for name in rule.needs):
        return Signature(phase, rule.claim, None)
    values = {name: trajectory[name].to_numpy() for name in rule.needs}
    measured = trajectory["loss"].notnull().to_numpy()
    if "activity" in trajectory:  # a light measurement of a monitor has no gradients
        measured &= trajectory["activity"].notnull().to_numpy()
    values, inside = {name: each[measured] for name, each in values.items()}, inside[:, measured]
    if not inside[0].any():
        return Signature(phase, rule.claim, None)
    value = float(rule.number({name: np.median(each[inside[0]]) for name, each in values.items()}))
    low, high = interval(values, rule.number, inside)
    if np.isnan([value, low, high]).any():
        return Signature(phase, rule.claim, None, value, low, high)
    holds = True if rule.low < low and high < rule.high else None
    fails = high <= rule.low or low >= rule.high
    return Signature(phase, rule.claim, False if fails else holds, value, low, high)


def drawn_spans(epoch: np.ndarray, phase: Phase, after: Phase | None) -> np.ndarray:
    """Which checkpoints lie in a phase, shape (1 + `DRAWS`, checkpoints): as found, and with its ends drawn at random.

    The ends are drawn between the bounds of the phase's start and of that of the phase after it, evenly in the
    logarithm of the epoch; a draw that leaves no checkpoint is replaced by what was found.
    """
    rng = np.random.default_rng(0)

    def moments(at: float, earliest: float, latest: float) -> np.ndarray:
        if earliest <= 0 or latest <= earliest:
            return np.full(DRAWS, at)
        return np.exp(rng.uniform(np.log(earliest), np.log(latest), DRAWS))

    starts = moments(phase.start, phase.earliest, phase.latest)
    ends = np.full(DRAWS, phase.end) if after is None else moments(phase.end, after.earliest, after.latest)
    found = (epoch >= phase.start) & (epoch <= phase.end)
    drawn = (epoch >= starts[:, None]) & (epoch <= ends[:, None])
    return np.vstack([found, np.where(drawn.any(axis=1, keepdims=True), drawn, found)])


def interval(
    values: dict[str, np.ndarray], number: Callable[[Medians], np.ndarray], inside: np.ndarray
) -> tuple[float, float]:
    """Interval of a number made of the medians of some curves over the checkpoints of a phase, at 95 %.

    A curve is known at checkpoints only, and scatters: by SGD, and, where it is sampled, by its standard error. How
    much shows in the distances of the checkpoints from the middle between their neighbours, which a trend leaves
    alone. Medians are taken again of values to which as much scatter is added, with the ends of the phase drawn
    within their bounds; the scatter is widened as Student's t is for so few checkpoints. What changes slowly is taken
    for the curve itself: how the same phase looks with other seeds is not in it.

    Parameters
    ----------
    values : dict of ndarray, shape (checkpoints,)
        By name, over the whole run. Scatter is taken in the logarithm for those that are positive and no cosines.
    number : callable
        Takes medians by name, shape (k,), and returns numbers of that shape.
    inside : ndarray of bool, shape (1 + draws, checkpoints)
        Of `drawn_spans`.

    Returns
    -------
    low, high : float
        The same at each call: the draws have a fixed seed. NaN for a single checkpoint, and for unknown values.
    """
    rng = np.random.default_rng(1)
    amid = inside[0, 1:-1] & inside[0, :-2] & inside[0, 2:]  # curves turn where a phase ends: that is no scatter
    amid = amid if amid.sum() > 1 else inside[0, 1:-1]
    if inside[0].sum() < 2 or any(np.isnan(each[inside.any(axis=0)]).any() for each in values.values()):
        return float("nan"), float("nan")
    medians = {}
    for name, each in values.items():
        logarithmic = "alignment" not in name and bool((each[inside.any(axis=0)] > 0).all())
        with np.errstate(divide="ignore", invalid="ignore"):
            curve = np.log(each) if logarithmic else each
        rest = curve[1:-1] - (curve[:-2] + curve[2:]) / 2
        rest = rest[amid & np.isfinite(rest)]
        if not len(rest):
            return float("nan"), float("nan")
        freedom = max(1, len(rest) - 1)
        wider = stdtrit(freedom, (1 + COVERAGE) / 2) / ndtri((1 + COVERAGE) / 2)
        scatter = wider * np.sqrt(2 / 3 * np.mean(rest**2))  # the distance from the middle has 3/2 of the variance
        again = curve + scatter * rng.standard_normal((len(inside) - 1, len(curve)))
        middle = np.nanmedian(np.where(inside[1:], again, np.nan), axis=1)
        medians[name] = np.exp(middle) if logarithmic else middle
    low, high = np.quantile(number(medians), [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="nearest")
    return float(low), float(high)


def claim_limits(phase: str, claim: str) -> tuple[float, float]:
    """The open interval in which a signature's number is to lie; KeyError for one that is unknown."""
    return {rule.claim: (rule.low, rule.high) for rule in _RULES[phase]}[claim]
