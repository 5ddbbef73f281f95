"""What Feng & Tu 2021 say of noise spectra, in their figures 2 and 5, judged on runs of ours."""

from collections.abc import Sequence
from functools import partial
from itertools import combinations

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.phase_time import phase_number, phase_time
from sgdphases.paper.claims import Claim, over_seeds

PAPER_DIMENSION = 110  # D_s in both phases of figure 2
PAPER_DIMENSIONS = {"I": 43, "II": 58, "III": 140, "IV": 95}  # D_s by phase, figure 5


def spectrum_claims(runs: Sequence[xr.Dataset], n_parameters: int) -> list[Claim]:
    """Figure 2: the noise spectra of the two phases, of P measured parameters."""
    names = ("fast learning", "exploration")
    pairs = [tuple(phase_spectrum(run, name) for name in names) for run in runs]
    found = []
    for place, name in enumerate(names):
        values = [_dimension(pair[place]) for pair in pairs]
        found.append(
            over_seeds(
                "fig2", f"D_s is about {PAPER_DIMENSION} in {name} (within 40 %)", values, lambda v: 66 <= v <= 154
            )
        )
    ratios = [_dimension(late) / _dimension(early) for early, late in pairs]
    gaps = [largest_gap(*pair) for pair in pairs]
    shares = [float(np.max([_dimension(each) for each in pair])) / n_parameters for pair in pairs]
    falls = [_total(early) / _total(late) for early, late in pairs]
    return [
        *found,
        over_seeds("fig2", "D_s is the same in both phases (ratio within 1.5)", ratios, lambda v: 1 / 1.5 <= v <= 1.5),
        over_seeds(
            "fig2", f"D_s is much smaller than N_p = {n_parameters} (under a quarter)", shares, lambda v: v < 0.25
        ),
        over_seeds("fig2", "both normalised spectra are alike (accumulated, within 0.1)", gaps, lambda v: v < 0.1),
        over_seeds("fig2", "D is much higher in fast learning (at least twice)", falls, lambda v: v >= 2),
    ]


def phase_spectrum_claims(runs: Sequence[xr.Dataset], n_parameters: int) -> list[Claim]:
    """Figure 5: the noise spectra of the four phases, of P measured parameters."""
    spectra = [{name: phase_spectrum(run, name) for name in PAPER_DIMENSIONS} for run in runs]
    dimensions = [{name: _dimension(found) for name, found in each.items()} for each in spectra]
    claims = []
    for name, paper in PAPER_DIMENSIONS.items():
        near = partial(_within_twofold, paper)
        text = f"D_s is about {paper} in phase {name} (within a factor of 2)"
        claims.append(over_seeds("fig5", text, [each[name] for each in dimensions], near))
    gaps = [float(np.max([largest_gap(*pair) for pair in combinations(each.values(), 2)])) for each in spectra]
    shares = [float(np.max(list(each.values()))) / n_parameters for each in dimensions]
    rises = [
        float(np.min([each["II"] / each["I"], each["III"] / each["II"], each["III"] / each["IV"]]))
        for each in dimensions
    ]
    return [
        *claims,
        over_seeds("fig5", "D_s rises from I to III and is lower again in IV", rises, lambda v: v > 1),
        over_seeds(
            "fig5", f"D_s is much smaller than N_p = {n_parameters} (under a quarter)", shares, lambda v: v < 0.25
        ),
        over_seeds(
            "fig5", "normalised spectra are roughly the same in all phases (accumulated, within 0.25)", gaps,
            lambda v: v < 0.25,
        ),
    ]  # fmt: skip


def _within_twofold(paper: float, ours: float) -> bool:
    return paper / 2 <= ours <= 2 * paper


def phase_spectrum(run: xr.Dataset, phase: str) -> xr.Dataset | None:
    """Of the checkpoints with a spectrum in a phase the one nearest to its middle; None where there is none.

    The middle is that of `phase_time`: half the epochs of the first phase, half the decades of a later one. What lies
    before the first step is no part of any phase here.
    """
    phases = find_phases(run)
    if "noise_spectrum" not in run or phase not in (each.name for each in phases.found):
        return None
    epoch, total = run["epoch"].to_numpy(), run["spectrum_total_variance"].to_numpy()
    distance = np.abs(phase_time(epoch, phases) - phase_number(phase) - 0.5)
    distance[~np.isfinite(total) | (epoch <= 0)] = np.nan
    if not (distance <= 0.5).any():
        return None
    return run.isel(step=int(np.nanargmin(distance)))


def accumulated(one: xr.Dataset) -> np.ndarray:
    """Share of the variance in the leading directions, one after the other; shape (k,)."""
    values = one["noise_spectrum"].to_numpy()
    return np.cumsum(values[np.isfinite(values)]) / float(one["spectrum_total_variance"])


def largest_gap(one: xr.Dataset | None, other: xr.Dataset | None) -> float:
    """Largest distance of two accumulated normalised spectra; NaN where one is missing."""
    if one is None or other is None:
        return float("nan")
    first, second = accumulated(one), accumulated(other)
    n = min(len(first), len(second))
    return float(np.abs(first[:n] - second[:n]).max())


def _dimension(one: xr.Dataset | None) -> float:
    return float("nan") if one is None else float(one["effective_dimension"])


def _total(one: xr.Dataset | None) -> float:
    return float("nan") if one is None else float(one["spectrum_total_variance"])
