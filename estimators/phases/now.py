"""In which phase a run is now, in one sentence."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.records import Phases

LEARNT = {
    "fast learning": "a common rule is being learnt",
    "exploration": "the training labels are fitted, and the network wanders",
    "memorising only": "labels are memorised one by one, and nothing general is learnt",
    "I": "what most labels have in common is being learnt",
    "II": "the common rule is learnt, and the samples it does not explain are not yet: the best time to look for them",
    "III": "the samples that the common rule does not explain are being memorised",
    "IV": "the training labels are fitted, wrong ones and all",
}


@dataclass(frozen=True)
class PhaseNow:
    """The phase at the last checkpoint.

    Attributes
    ----------
    name : str
        As in `Phases`; empty where no phase can be identified from the errors so far.
    since_epoch, since_step : float
        When it began; NaN without one.
    p_value : float
        Its evidence: see `Phase`.
    doubt : str
        What the errors so far leave open; empty where there is no such thing.
    """

    name: str
    since_epoch: float
    since_step: float
    p_value: float
    doubt: str

    def __str__(self) -> str:
        if not self.name:
            return f"No phase yet: {self.doubt}."
        sure = "significance unknown" if np.isnan(self.p_value) else f"p = {self.p_value:.1g}"
        doubt = f" But: {self.doubt}." if self.doubt else ""
        begun = f"since step {self.since_step:.0f}, epoch {self.since_epoch:.3g}"
        return f"{self.name} {begun} ({sure}): {LEARNT[self.name]}.{doubt}"


def phase_now(trajectory: xr.Dataset, *, use_wrong: bool = True) -> PhaseNow:
    """The phase that a run is in at its last checkpoint, from the errors so far (Feng & Tu 2021, sections 3 and 4).

    Parameters
    ----------
    trajectory, use_wrong : as for `find_phases`
        Later checkpoints may move boundaries: that the test error is at its lowest shows only once it has risen.
    """
    found = find_phases(trajectory, use_wrong=use_wrong)
    return last_phase(found, trajectory["epoch"].to_numpy(), trajectory["step"].to_numpy())


def last_phase(phases: Phases, epoch: np.ndarray, step: np.ndarray) -> PhaseNow:
    """The last of some phases, with the step at which it began.

    Parameters
    ----------
    phases : Phases
    epoch, step : ndarray, shape (T,)
        Of the checkpoints.
    """
    if not phases.found:
        reason = next(iter(phases.not_reached.values()), "")
        return PhaseNow("", float("nan"), float("nan"), float("nan"), phases.doubt or reason)
    last = phases.found[-1]
    return PhaseNow(last.name, last.start, float(np.interp(last.start, epoch, step)), last.p_value, phases.doubt)
