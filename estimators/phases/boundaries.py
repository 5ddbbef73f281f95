"""Where an error curve crosses a level: single noisy checkpoints smoothed, moments in the logarithm of the epoch."""

from dataclasses import dataclass

import numpy as np

from sgdphases.estimators.phases.records import Phase

DECADES = 0.04  # half the width of the running median over checkpoints, in decades of the epoch


@dataclass(frozen=True)
class Boundary:
    """An epoch, and the checkpoints between which it may lie."""

    epoch: float
    earliest: float
    latest: float


def smoothed(epoch: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Running median over neighbours and all that lie within `DECADES` of the epoch; ends and epoch 0 stay."""
    reaches = _reaches(epoch)
    out = np.array(values, dtype=np.float64)
    for reach in set(reaches[reaches > 0].tolist()):
        centres = np.flatnonzero(reaches == reach)
        windows = np.lib.stride_tricks.sliding_window_view(values, 2 * reach + 1)[centres - reach]
        out[centres] = np.partition(windows, reach, axis=1)[:, reach]  # the median of an odd number
    return out


def _reaches(epoch: np.ndarray) -> np.ndarray:
    """How many neighbours on either side each checkpoint is smoothed over; 0 where it stays as it is.

    As many before as after: a slope is left as it is.
    """
    with np.errstate(divide="ignore"):
        place = np.log10(np.maximum(epoch, 0.0)).tolist()
    out, first, last = np.zeros(len(place), dtype=int), 0, 0
    for k in range(1, len(place) - 1):
        if not np.isfinite(place[k - 1]):
            continue
        while place[k] - place[first] > DECADES:
            first += 1
        last = max(last, k)
        while last + 1 < len(place) and place[last + 1] - place[k] <= DECADES:
            last += 1
        out[k] = max(1, min(k - first, last - k))
    return out


def crossing(epoch: np.ndarray, values: np.ndarray, level: float) -> Boundary | None:
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
        return Boundary(float(epoch[later]), earliest, latest)
    share = (smooth[later - 1] - level) / (smooth[later - 1] - smooth[later])
    moment = float(np.exp((1 - share) * np.log(epoch[later - 1]) + share * np.log(epoch[later])))
    return Boundary(moment, earliest, latest)


def start_of(epoch: np.ndarray) -> Boundary:
    """The beginning of the record."""
    return Boundary(*[float(epoch[0])] * 3)


def lowest(epoch: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """Epoch and value of the lowest smoothed value; NaN where any is unknown."""
    if np.isnan(values).any():
        return float("nan"), float("nan")
    smooth = smoothed(epoch, values)
    least = int(smooth.argmin())
    return float(epoch[least]), float(smooth[least])


def value_at(epoch: np.ndarray, values: np.ndarray, moment: float) -> float:
    """The smoothed values at a moment between checkpoints."""
    return float(np.interp(moment, epoch, smoothed(epoch, values)))


@dataclass(frozen=True)
class Start:
    """Where a phase begins, and the evidence for it."""

    boundary: Boundary
    p_value: float
    null: str


def sequence(starts: dict[str, Start], end: float) -> tuple[Phase, ...]:
    ends = [*(start.boundary.epoch for start in list(starts.values())[1:]), end]
    return tuple(
        Phase(name, each.boundary.epoch, stop, each.boundary.earliest, each.boundary.latest, each.p_value, each.null)
        for (name, each), stop in zip(starts.items(), ends, strict=True)
    )
