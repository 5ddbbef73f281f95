"""The phases of one trajectory.

Phases are defined by what is learnt (errors), never by the sign of an alignment: that is a signature, which may be
absent although the wrong labels are memorised. If the wrong labels are known, their own error shows when they are
memorised; otherwise the second fall of the training error does, provided the test error rises with it.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

FAST = 0.1  # share of the fall of an error that is left when its fast phase counts as over
ONSET = 0.1  # share of the wrong labels' error that is gone when they count as being learnt
DONE = 0.05  # share of it that is left when they count as learnt
APART = 0.25  # how much later than the clean ones wrong labels are learnt: largest gap of the two errors, at least
EARLY = 0.75  # share of the wrong labels' highest error that is left when phase I ends, unless they are learnt in it
RISE = 0.05  # share of its fall by which the test error rises again, at least, if wrong labels are memorised
DECADES = 0.04  # half the width of the running median over checkpoints, in decades of the epoch


@dataclass(frozen=True)
class Phase:
    """One phase: its name and the epochs it spans; ``earliest`` and ``latest`` bound its start.

    The bounds span the checkpoints between which the unsmoothed errors cross the threshold back and forth.
    """

    name: str
    start: float
    end: float
    earliest: float
    latest: float


@dataclass(frozen=True)
class Phases:
    """The phases found, in order, and those the run never reached, each with the reason.

    Attributes
    ----------
    found : tuple of Phase
    not_reached : dict of str
    t_min, error_min : float
        Epoch and value of the lowest test error; NaN where unknown.
    t_fit, error_fit : float
        Epoch at which the training labels are fitted (phase IV begins), and the test error there; NaN if never.
    """

    found: tuple[Phase, ...]
    not_reached: dict[str, str]
    t_min: float = float("nan")
    error_min: float = float("nan")
    t_fit: float = float("nan")
    error_fit: float = float("nan")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; None for what is unknown."""
        return {name: None if value != value else value for name, value in asdict(self).items()}


@dataclass(frozen=True)
class _Boundary:
    epoch: float
    earliest: float
    latest: float


def find_phases(trajectory: xr.Dataset, *, use_wrong: bool = True) -> Phases:
    """Phases of a run, from its errors (Feng & Tu 2021, sections 3 and 4).

    With wrong labels known and present: I until 90 % of the fall of the test error to its minimum is done, II until the
    error on wrong labels has fallen 10 % below its plateau, III until 5 % of the plateau are left, IV after. If they
    are unknown, the training error stands in for theirs once phase I is over, with its value at the lowest test error
    for the plateau, and there are wrong labels only if the test error rises again while it falls. Without wrong labels:
    fast learning until 5 % of the first training error are left, and exploration after.

    Single noisy checkpoints are smoothed by a running median; boundaries are interpolated in the logarithm of the
    epoch. Neither the scale of time nor that of the errors matters.

    Parameters
    ----------
    trajectory : xarray.Dataset
        With coordinate "epoch" and the variables of a run.
    use_wrong : bool
        False ignores which labels are wrong, as if that were unknown.

    Returns
    -------
    Phases
        Empty for regression, which has no errors.
    """
    epoch = trajectory["epoch"].to_numpy()
    train_error, test_error = (trajectory[name].to_numpy() for name in ("train_error", "test_error"))
    if len(epoch) < 3 or np.isnan(train_error).any():
        return Phases((), {"any phase": "no errors are recorded: regression, or fewer than three checkpoints"})
    error_c, error_w = (trajectory[name].to_numpy() for name in ("error_c", "error_w"))
    known = use_wrong and not (np.isnan(error_w).any() or np.isnan(error_c).any())
    if np.isnan(test_error).any():
        if known:
            return Phases((), {"any phase": "no test error is recorded, which parts I from II"})
        return _two_phases(epoch, train_error, test_error)
    if known:
        gap = float((smoothed(epoch, error_w) - smoothed(epoch, error_c)).max())
        if gap < APART * float(error_w[0]):
            reason = "the labels marked as wrong are learnt along with the others"
            return _with_reasons(_two_phases(epoch, train_error, test_error), dict.fromkeys(("II", "III"), reason))
        return _four_phases(epoch, test_error, error_w, known=True)
    smooth = smoothed(epoch, test_error)
    lowest = int(smooth.argmin())
    rise = smooth[lowest:].max() - smooth[lowest]
    if smoothed(epoch, train_error)[lowest] <= DONE * train_error[0] or rise < RISE * (smooth[0] - smooth[lowest]):
        return _two_phases(epoch, train_error, test_error)
    return _four_phases(epoch, test_error, train_error, known=False)


def smoothed(epoch: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Running median over neighbours and all that lie within `DECADES` of the epoch; ends and epoch 0 stay."""
    with np.errstate(divide="ignore"):
        place = np.log10(np.maximum(epoch, 0.0))
    out = np.array(values, dtype=np.float64)
    for k in range(1, len(values) - 1):
        if np.isfinite(place[k - 1]):
            near = np.flatnonzero(np.abs(place - place[k]) <= DECADES)
            reach = max(1, min(k - near[0], near[-1] - k))  # as many before as after: a slope is left as it is
            out[k] = np.partition(values[k - reach : k + reach + 1], reach)[reach]  # the median of an odd number
    return out


def _with_reasons(phases: Phases, reasons: dict[str, str]) -> Phases:
    return Phases(**{**vars(phases), "not_reached": {**phases.not_reached, **reasons}})


def _two_phases(epoch: np.ndarray, train_error: np.ndarray, test_error: np.ndarray) -> Phases:
    end = float(epoch[-1])
    boundary = _crossing(epoch, train_error, DONE * train_error[0])
    lowest = _lowest(epoch, test_error)
    start = _start(epoch)
    if boundary is None:
        return Phases(
            (Phase("fast learning", start.epoch, end, start.earliest, start.latest),),
            {"exploration": f"the training error stays above {DONE:.0%} of its first value"},
            *lowest,
        )
    found = _sequence({"fast learning": start, "exploration": boundary}, end)
    return Phases(found, {}, *lowest, boundary.epoch, _value_at(epoch, test_error, boundary.epoch))


def _four_phases(epoch: np.ndarray, test_error: np.ndarray, unlearnt: np.ndarray, *, known: bool) -> Phases:
    """``unlearnt``: the error on wrong labels, if ``known``, else that on all, which is theirs once phase I is over."""
    smooth, end = smoothed(epoch, test_error), float(epoch[-1])
    least = int(smooth.argmin())
    first = _crossing(epoch[: least + 1], test_error[: least + 1], smooth[least] + FAST * (smooth[0] - smooth[least]))
    if first is None or smooth[least] >= smooth[0]:
        return Phases((), dict.fromkeys(("I", "II", "III", "IV"), "the test error never falls"))
    resting = int(np.searchsorted(epoch, first.epoch))  # the first checkpoint of phase II
    if known:  # labels drawn from all classes are right by chance in part, and that part is learnt in phase I
        top = resting + int(smoothed(epoch, unlearnt)[resting:].argmax())
        plateau = smoothed(epoch, unlearnt)[top]
    else:
        top = resting
        plateau = smoothed(epoch, unlearnt)[least]
    onset = _crossing(epoch[top:], unlearnt[top:], (1 - ONSET) * plateau)
    done = _crossing(epoch[top:], unlearnt[top:], DONE * plateau)
    not_reached, starts = {}, {"I": _start(epoch), "II": first}
    whose = "on wrong labels" if known else "on training labels"
    if onset is None:
        not_reached["III"] = f"the error {whose} stays above {1 - ONSET:.0%} of its plateau"
    elif known and plateau < EARLY * smoothed(epoch, unlearnt)[: top + 1].max():
        not_reached["II"] = "wrong labels are being learnt before the fast fall of the test error is over"
        del starts["II"]
        starts["III"] = first
    else:
        starts["III"] = onset
    if done is None:
        not_reached["IV"] = f"the error {whose} stays above {DONE:.0%} of its plateau"
    else:
        starts["IV"] = done
    fit = (float("nan"), float("nan")) if done is None else (done.epoch, _value_at(epoch, test_error, done.epoch))
    return Phases(_sequence(starts, end), not_reached, *_lowest(epoch, test_error), *fit)


def _sequence(starts: dict[str, _Boundary], end: float) -> tuple[Phase, ...]:
    ends = [*(start.epoch for start in list(starts.values())[1:]), end]
    return tuple(
        Phase(name, start.epoch, stop, start.earliest, start.latest)
        for (name, start), stop in zip(starts.items(), ends, strict=True)
    )


def _start(epoch: np.ndarray) -> _Boundary:
    return _Boundary(*[float(epoch[0])] * 3)


def _lowest(epoch: np.ndarray, test_error: np.ndarray) -> tuple[float, float]:
    if np.isnan(test_error).any():
        return float("nan"), float("nan")
    smooth = smoothed(epoch, test_error)
    least = int(smooth.argmin())
    return float(epoch[least]), float(smooth[least])


def _value_at(epoch: np.ndarray, values: np.ndarray, moment: float) -> float:
    return float(np.interp(moment, epoch, smoothed(epoch, values)))


def _crossing(epoch: np.ndarray, values: np.ndarray, level: float) -> _Boundary | None:
    """Where the smoothed values first reach ``level`` from above; None if they never do.

    Its bounds are the last checkpoint before the unsmoothed values first reach the level, and the first after which
    they stay below.
    """
    smooth = smoothed(epoch, values)
    below = np.flatnonzero(smooth <= level)
    if not len(below):
        return None
    later = int(below[0])
    raw_below, raw_above = np.flatnonzero(values <= level), np.flatnonzero(values > level)
    earliest = float(epoch[max(0, min([later, *raw_below[:1]]) - 1)])
    latest = float(epoch[min(len(epoch) - 1, max([later, *(raw_above[-1:] + 1)]))])
    if later == 0 or epoch[later - 1] <= 0:
        return _Boundary(float(epoch[later]), earliest, latest)
    share = (smooth[later - 1] - level) / (smooth[later - 1] - smooth[later])
    moment = float(np.exp((1 - share) * np.log(epoch[later - 1]) + share * np.log(epoch[later])))
    return _Boundary(moment, earliest, latest)


def phase_medians(trajectory: xr.Dataset, phases: Phases, names: tuple[str, ...]) -> list[dict[str, float]]:
    """Median of some variables over the checkpoints of each phase, by name; NaN where it holds none."""
    epoch = trajectory["epoch"].to_numpy()
    table = []
    for phase in phases.found:
        inside = (epoch >= phase.start) & (epoch <= phase.end)
        values = {name: trajectory[name].to_numpy()[inside] for name in names}
        table.append({name: float(np.median(v)) if len(v) else float("nan") for name, v in values.items()})
    return table
