"""Phase time: a clock on which all runs pass their phases at the same moments, and one segmentation of many runs."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.records import MEMORISING, Phase, Phases

ONE, TWO, FOUR = (MEMORISING,), ("fast learning", "exploration"), ("I", "II", "III", "IV")
KINDS = {
    ONE: "memorising only",
    TWO: f"the two phases {' and '.join(TWO)}",
    FOUR: f"the four phases {', '.join(FOUR)}",
}
"""Kind of phases -> what runs of it show, in words."""
SPREAD = (0.1, 0.9)  # quantiles over repeated runs between which a boundary is said to lie


def phase_number(name: str) -> int:
    """Place of a phase among its kind, from 0: "I" and "fast learning" are 0, "IV" is 3; KeyError for other names."""
    return {each: number for kind in (ONE, TWO, FOUR) for number, each in enumerate(kind)}[name]


def phase_kind(phases: Phases) -> tuple[str, ...]:
    """All names of the kind of phases found: `ONE`, `TWO`, `FOUR`, or none where none is found."""
    return next((kind for kind in (ONE, TWO, FOUR) if phases.found and phases.found[0].name in kind), ())


def phase_time(epoch: ArrayLike, phases: Phases) -> np.ndarray:
    """Dimensionless time tau, in which phase number k lasts from k to k+1.

    Within a phase tau is linear in the logarithm of the epoch, as phases of one run differ tenfold in length. The first
    phase begins at epoch 0, where the logarithm diverges; there tau is linear in the epoch, so that it does not
    depend on a choice of first epoch or on the checkpoints. A phase that was skipped keeps its number: tau jumps
    over it. The last phase found ends where the run does, finished or not.

    Parameters
    ----------
    epoch : array_like of float, any shape
        Any unit of time will do, if it is the unit of ``phases``: tau does not change with it.
    phases : Phases
        Of `find_phases` or `combine_phases`.

    Returns
    -------
    ndarray of float64, shape of ``epoch``
        Never decreasing in it; NaN before the first phase and after the last. On a boundary, the start of the later.
    """
    moment = np.asarray(epoch, dtype=np.float64)
    tau = np.full(moment.shape, np.nan)
    for phase in phases.found:  # a boundary is written twice, last by the phase that it begins
        number = phase_number(phase.name)
        inside = (moment >= phase.start) & (moment <= phase.end)
        tau[inside] = number + _share(moment[inside], phase, linear=number == 0)
    return tau


def epoch_at(tau: ArrayLike, phases: Phases) -> np.ndarray:
    """Epoch at a time tau: the inverse of `phase_time`.

    Parameters
    ----------
    tau : array_like of float, any shape
    phases : Phases

    Returns
    -------
    ndarray of float64, shape of ``tau``
        NaN before the first phase and after the last; the moment of the jump within phases that were skipped.
    """
    time = np.asarray(tau, dtype=np.float64)
    epoch = np.full(time.shape, np.nan)
    before: Phase | None = None
    for phase in phases.found:
        number = phase_number(phase.name)
        if before is not None:
            epoch[(time > phase_number(before.name) + 1) & (time < number)] = phase.start
        inside = (time >= number) & (time <= number + 1)
        share = time[inside] - number
        if number == 0 or phase.start <= 0:
            epoch[inside] = phase.start + share * (phase.end - phase.start)
        else:
            epoch[inside] = phase.start * (phase.end / phase.start) ** share
        before = phase
    return epoch


def combine_phases(found: Sequence[Phases]) -> Phases:
    """One segmentation for runs that differ in their seed only.

    A boundary is the median, in the logarithm of the epoch, over the runs that reached the phase, and never before the
    boundary that precedes it (the runs that reach a later phase may be the quicker ones). ``earliest`` and ``latest``
    span both the tenth to the ninetieth percentile over the runs and the median of the runs' own bounds.

    Parameters
    ----------
    found : sequence of Phases
        In any order: it does not matter.

    Returns
    -------
    Phases
        A phase that fewer than half of the runs reached is among ``not_reached``, with their number and the reasons
        that runs give. ``t_min``, ``error_min``, ``t_fit`` and ``error_fit`` are medians over the runs that know them,
        NaN if fewer than half do. The p-value of a phase is twice the median of its runs' (Vovk & Wang 2020: valid
        however they depend on one another), NaN if any is; readings and doubts are those of the runs, each once. A
        single run gives itself back.

    Raises
    ------
    UsageError
        For no runs, and for runs of different kinds of phases, such as two and four.
    """
    if not found:
        raise UsageError("there are no runs to combine: give the phases of one at least.")
    if len(found) == 1:
        return found[0]
    kinds = {phase_kind(each) for each in found} - {()}
    if len(kinds) > 1:
        some = [(sum(phase_kind(each) == kind for each in found), kind) for kind in (ONE, TWO, FOUR) if kind in kinds]
        listed = ", others ".join(f"{KINDS[kind]} ({count} of {len(found)} runs)" for count, kind in some)
        raise UsageError(f"some runs show {listed}: combine them apart.")
    names = next(iter(kinds), ())
    reached = {name: [p for each in found for p in each.found if p.name == name] for name in names}
    kept = [name for name in names if 2 * len(reached[name]) >= len(found)]
    starts: list[float] = []
    for name in kept:
        starts.append(max([_log_quantile((p.start for p in reached[name]), 0.5), *starts[-1:]]))
    last = [_log_quantile((each.found[-1].end for each in found if each.found), 0.5)] if kept else []
    ends = [*starts[1:], *(max(end, starts[-1]) for end in last)]
    segments = [_combined(reached[n], start, end) for n, start, end in zip(kept, starts, ends, strict=True)]
    missing = [*(n for n in names if n not in kept)]
    missing += sorted({n for each in found for n in each.not_reached} - set(names))
    return Phases(
        tuple(segments),
        {name: _why_missing(name, found) for name in missing},
        _median([each.t_min for each in found], logarithmic=True),
        _median([each.error_min for each in found]),
        _median([each.t_fit for each in found], logarithmic=True),
        _median([each.error_fit for each in found]),
        "; ".join(dict.fromkeys(each.reading for each in found if each.reading)),
        "; ".join(dict.fromkeys(each.doubt for each in found if each.doubt)),
    )


def _share(moment: np.ndarray, phase: Phase, *, linear: bool) -> np.ndarray:
    """Share of a phase that is over, from 0 to 1; 0 for a phase that takes no time."""
    if not phase.end > phase.start:
        return np.zeros(moment.shape)
    if linear or phase.start <= 0:
        return np.clip((moment - phase.start) / (phase.end - phase.start), 0, 1)
    return np.clip(np.log(moment / phase.start) / np.log(phase.end / phase.start), 0, 1)


def _combined(same: list[Phase], start: float, end: float) -> Phase:
    starts = [phase.start for phase in same]
    low, high = (_log_quantile(starts, level) for level in SPREAD)
    earliest = min(start, low, _log_quantile((phase.earliest for phase in same), 0.5))
    latest = max(start, high, _log_quantile((phase.latest for phase in same), 0.5))
    p_value = float(np.minimum(1.0, 2 * np.median([phase.p_value for phase in same])))  # NaN stays NaN
    return Phase(same[0].name, start, end, earliest, latest, p_value, same[0].null)


def _why_missing(name: str, found: Sequence[Phases]) -> str:
    number = sum(name in (phase.name for phase in each.found) for each in found)
    reasons = Counter(each.not_reached[name] for each in found if name in each.not_reached)
    listed = [reason for reason, _ in sorted(reasons.items(), key=lambda item: (-item[1], item[0]))]
    return "; ".join([f"reached in {number} of {len(found)} runs", *listed])


def _log_quantile(values: Iterable[float], level: float) -> float:
    """Quantile, with geometric interpolation between neighbours: a 0 among the values needs no exception."""
    ordered = sorted(values)
    below = int(level * (len(ordered) - 1))
    share = level * (len(ordered) - 1) - below
    if share == 0:
        return ordered[below]
    low, high = ordered[below], ordered[below + 1]
    return low if low == high else min(max(low ** (1 - share) * high**share, low), high)


def _median(values: list[float], *, logarithmic: bool = False) -> float:
    """Median of those that are known; NaN if fewer than half are."""
    known = [value for value in values if value == value]
    if not known or 2 * len(known) < len(values):
        return float("nan")
    return _log_quantile(known, 0.5) if logarithmic else float(np.median(known))
