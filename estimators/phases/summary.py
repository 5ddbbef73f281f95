"""What a phase diagram shows of one run: a few numbers that say where its phases lie."""

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.records import Phases

SUMMARY = {
    "t_min": ("t_m", "epoch of the lowest test error", "epoch"),
    "error_min": ("ε_m", "lowest test error", "1"),
    "t_fit": ("t_f", "epoch at which the training labels are fitted", "epoch"),
    "error_fit": ("ε_f", "test error where the training labels are fitted", "1"),
    "length_ii": ("l_II", "length of phase II", "decade"),
    "max_alignment_cw": ("max R_cw", "largest R_cw during phase III", "1"),
    "n_phases": ("phases", "number of phases found", "1"),
}
"""Name -> symbol, meaning and unit of what `summarize` gives."""


def summarize(trajectory: xr.Dataset, phases: Phases) -> dict[str, float]:
    """The numbers of `SUMMARY` for one run.

    Parameters
    ----------
    trajectory : xarray.Dataset
    phases : Phases
        Of `find_phases` on it.

    Returns
    -------
    dict of float
        NaN where there is no such thing: an early end, no phase III, no wrong labels. The length of phase II is counted
        in decades of the epoch, from its start to that of phase III; NaN where the run ends in it.
    """
    spans = {phase.name: phase for phase in phases.found}
    length, largest = float("nan"), float("nan")
    if "II" in spans and "III" in spans:
        length = float(np.log10(spans["II"].end / spans["II"].start))
    if "III" in spans:
        epoch, alignment = trajectory["epoch"].to_numpy(), trajectory["alignment_cw"].to_numpy()
        during = alignment[(epoch >= spans["III"].start) & (epoch <= spans["III"].end)]
        largest = float(np.max(during, initial=-np.inf, where=np.isfinite(during)))
    return {
        "t_min": phases.t_min,
        "error_min": phases.error_min,
        "t_fit": phases.t_fit,
        "error_fit": phases.error_fit,
        "length_ii": length,
        "max_alignment_cw": largest if np.isfinite(largest) else float("nan"),
        "n_phases": float(len(phases.found)),
    }
