"""The phases of one trajectory, by its errors.

Phases are defined by what is learnt (errors), never by the sign of an alignment: that is a signature, which may be
absent while the wrong labels are memorised all the same.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

FAST = 0.1  # share of the fall of an error that is left when its fast phase counts as over
BEGUN = 0.1  # share of the wrong labels' error that is gone when they count as being learnt
DONE = 0.05  # share of it that is left when they count as learnt


@dataclass(frozen=True)
class Phase:
    """One phase: its name and the epochs it spans."""

    name: str
    start: float
    end: float


@dataclass(frozen=True)
class Phases:
    """The phases found, in order, and those the run never reached, each with the reason."""

    found: tuple[Phase, ...]
    not_reached: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)


def find_phases(trajectory: xr.Dataset) -> Phases:
    """Phases of a run, from its errors (Feng & Tu 2021, sections 3 and 4).

    With wrong labels known and present: I until 90 % of the fall of the test error to its minimum is done, II until the
    error on wrong labels has fallen 10 % below its plateau, III until 5 % of the plateau are left, IV after. Without:
    fast learning until 90 % of the fall of the training error is done and exploration from the moment 5 % of it are
    left. Boundaries are interpolated between checkpoints in the logarithm of the epoch.

    Parameters
    ----------
    trajectory : xarray.Dataset
        With coordinate "epoch" and the variables of a run.

    Returns
    -------
    Phases
        Empty for regression, which has no errors.
    """
    epoch = trajectory["epoch"].to_numpy()
    train_error = trajectory["train_error"].to_numpy()
    if len(epoch) < 3 or np.isnan(train_error).any():
        return Phases((), {"any phase": "no errors are recorded: regression, or fewer than three checkpoints"})
    error_w = trajectory["error_w"].to_numpy()
    if np.isnan(error_w).any() or np.isnan(trajectory["error_c"].to_numpy()).any():
        return _two_phases(epoch, train_error)
    test_error = trajectory["test_error"].to_numpy()
    if np.isnan(test_error).any():
        return Phases((), {"any phase": "no test error is recorded, which parts I from II"})
    return _four_phases(epoch, test_error, error_w)


def _two_phases(epoch: np.ndarray, train_error: np.ndarray) -> Phases:
    end = epoch[-1]
    boundary = _crossing(epoch, train_error, DONE * train_error[0])
    if boundary is None:
        return Phases(
            (Phase("fast learning", epoch[0], end),),
            {"exploration": f"the training error stays above {DONE:.0%} of its first value"},
        )
    return Phases((Phase("fast learning", epoch[0], boundary), Phase("exploration", boundary, end)), {})


def _four_phases(epoch: np.ndarray, test_error: np.ndarray, error_w: np.ndarray) -> Phases:
    end, lowest = epoch[-1], test_error.min()
    first = _crossing(epoch, test_error, lowest + FAST * (test_error[0] - lowest))
    if first is None or lowest >= test_error[0]:
        reason = "the test error never falls"
        return Phases((), dict.fromkeys(("I", "II", "III", "IV"), reason))
    top = int(error_w.argmax())
    begun = _crossing(epoch[top:], error_w[top:], (1 - BEGUN) * error_w[top])
    done = _crossing(epoch[top:], error_w[top:], DONE * error_w[top])
    not_reached = {}
    if begun is None:
        not_reached["III"] = f"the error on wrong labels stays above {1 - BEGUN:.0%} of its plateau"
    if done is None:
        not_reached["IV"] = f"the error on wrong labels stays above {DONE:.0%} of its plateau"
    if begun is not None and begun <= first:
        not_reached["II"] = "wrong labels are being learnt before the fast fall of the test error is over"
        begun = first
    names = [name for name in ("I", "II", "III", "IV") if name not in not_reached]
    starts = {"I": epoch[0], "II": first, "III": begun, "IV": done}
    edges = [*(float(starts[name]) for name in names), float(end)]
    found = tuple(Phase(name, a, b) for name, a, b in zip(names, edges, edges[1:], strict=False))
    return Phases(found, not_reached)


def _crossing(epoch: np.ndarray, values: np.ndarray, level: float) -> float | None:
    """Epoch at which the values first reach ``level`` from above; None if they never do."""
    below = np.flatnonzero(values <= level)
    if not len(below):
        return None
    later = int(below[0])
    if later == 0 or epoch[later - 1] <= 0:
        return float(epoch[later])
    share = (values[later - 1] - level) / (values[later - 1] - values[later])
    return float(np.exp((1 - share) * np.log(epoch[later - 1]) + share * np.log(epoch[later])))


def phase_medians(trajectory: xr.Dataset, phases: Phases, names: tuple[str, ...]) -> list[dict[str, float]]:
    """Median of some variables over the checkpoints of each phase, by name; NaN where it holds none."""
    epoch = trajectory["epoch"].to_numpy()
    table = []
    for phase in phases.found:
        inside = (epoch >= phase.start) & (epoch <= phase.end)
        values = {name: trajectory[name].to_numpy()[inside] for name in names}
        table.append({name: float(np.median(v)) if len(v) else float("nan") for name, v in values.items()})
    return table
