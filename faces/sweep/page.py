"""What is shown of a finished sweep: sweep.nc, the phase diagrams, and one self-contained page."""

import html
from itertools import islice, product
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from sgdphases.estimators.phases.phase_time import combine_phases, phase_kind
from sgdphases.faces.page import note, page, saved_picture, table
from sgdphases.faces.sweep.explorer import sweep_explorer
from sgdphases.faces.sweep.figures import SYMBOLS, axes_of, over_one_axis, over_seeds, over_two_axes
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.netcdf import write_netcdf
from sgdphases.sim.storage.text import write_json
from sgdphases.sim.sweep.dataset import gathered
from sgdphases.sim.sweep.folder import SweepFolder
from sgdphases.sim.sweep.plan import SweepPlan

COLUMNS = ("n_phases", "t_min", "t_fit", "error_min", "error_fit", "max_alignment_cw", "length_ii")
MOST_FIGURES = 12  # maps, one for each combination of the third and further axes


def write_sweep_report(folder: SweepFolder, plan: SweepPlan) -> xr.Dataset:
    """Gather the members of a sweep into one data set, draw its phase diagrams, and write its page.

    Parameters
    ----------
    folder : SweepFolder
    plan : SweepPlan
        The folder's own.

    Returns
    -------
    xarray.Dataset
        Of `sweep_dataset`; also written to ``sweep.nc``.
    """
    sweep, phases = gathered(folder, plan)
    write_netcdf(folder.dataset, sweep)
    write_json(folder.phases, phases_over_seeds(sweep, phases))
    folder.figures.mkdir(exist_ok=True)
    pictures = [
        saved_picture(figure, folder.figures / f"{name}.png", "phase diagram")
        for name, figure in _figures(sweep, phases).items()
    ]
    text = _page(folder, sweep, phases, pictures)
    write_whole(folder.report, lambda part: part.write_text(text, encoding="utf-8"))
    return sweep


def phases_over_seeds(sweep: xr.Dataset, phases: xr.DataArray) -> list[dict[str, Any]]:
    """For every combination of the axes but the seed: its values, and the phases that the runs have in common.

    Where some runs show two phases and others four, each kind is given by itself. ``runs`` counts them. ``phases`` are
    those of each run, as `gathered` gives them.
    """
    axes, found = axes_of(sweep), []
    for values in product(*(sweep[axis].to_numpy() for axis in axes)):
        chosen = dict(zip(axes, values, strict=True))
        each = [one for one in phases.sel(chosen).to_numpy().ravel() if one is not None]
        for kind in sorted({phase_kind(phases) for phases in each}, key=len):
            alike = [phases for phases in each if phase_kind(phases) == kind]
            where = {name: value.item() if hasattr(value, "item") else value for name, value in chosen.items()}
            found.append({**where, "runs": len(alike), **combine_phases(alike).to_dict()})
    return found


def sweep_rows(sweep: xr.Dataset, *, ranges: bool) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of a table: every combination of the axes but the seed, and medians over seeds.

    With ``ranges`` the lowest and highest values stand in brackets behind.
    """
    axes = axes_of(sweep)
    known = [name for name in COLUMNS if np.isfinite(sweep[name]).any()]
    heading = [
        *(SYMBOLS.get(axis, ("",))[0] or axis for axis in axes),
        "runs",
        *(str(sweep[name].attrs["symbol"]) for name in known),
    ]
    rows = []
    for values in product(*(sweep[axis].to_numpy() for axis in axes)):
        one = sweep.sel(dict(zip(axes, values, strict=True)))
        ended, of = int(one["finished"].sum()), int(one["finished"].size)
        cells = [_median(one[name].to_numpy().ravel(), ranges) for name in known]
        names = [_short(value) if isinstance(value, float) else str(value) for value in values]
        rows.append([*names, f"{ended}/{of}", *cells])
    return heading, rows


def legend(sweep: xr.Dataset) -> str:
    """What the columns of `sweep_rows` are, in words."""
    known = [sweep[name].attrs for name in COLUMNS if np.isfinite(sweep[name]).any()]
    axes = [(symbol, name) for symbol, name in (SYMBOLS.get(axis, ("", "")) for axis in axes_of(sweep)) if symbol]
    meaning = [*axes, *((each["symbol"], each["long_name"]) for each in known)]
    return "; ".join(f"{symbol}: {text}" for symbol, text in meaning)


def failed_members(sweep: xr.Dataset) -> dict[str, int]:
    """Why members failed -> how many did so."""
    reasons, counts = np.unique([text for text in sweep["failure"].to_numpy().ravel() if text], return_counts=True)
    return dict(zip(map(str, reasons), map(int, counts), strict=True))


def _median(values: np.ndarray, ranges: bool) -> str:
    finite = values[np.isfinite(values)]
    if not len(finite):
        return "–"
    middle, low, high = (_short(float(value)) for value in (np.median(finite), finite.min(), finite.max()))
    return f"{middle} ({low} to {high})" if ranges and low != high else middle


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def _figures(sweep: xr.Dataset, phases: xr.DataArray) -> dict[str, Figure]:
    axes = axes_of(sweep)
    if not sweep["finished"].any():
        return {}
    if not axes:
        return {"phases": over_seeds(sweep, phases)}
    if len(axes) == 1:
        return {f"over_{axes[0]}": over_one_axis(sweep)}
    others = [[(name, value) for value in sweep[name].to_numpy()] for name in axes[2:]]
    chosen = [dict(each) for each in islice(product(*others), MOST_FIGURES)]
    return {f"map_{number}" if number else "map": over_two_axes(sweep, each) for number, each in enumerate(chosen)}


def _page(folder: SweepFolder, sweep: xr.Dataset, phases: xr.DataArray, pictures: list[str]) -> str:
    ended, of = int(sweep["finished"].sum()), int(sweep["finished"].size)
    failures = "".join(note(f"{count} failed: {reason}") for reason, count in failed_members(sweep).items())
    return page(
        f"Sweep: {folder.path.name}",
        f"<p>{ended} of {of} runs ended.</p>{failures}{sweep_explorer(sweep, phases)}{''.join(pictures)}"
        + note("Medians over seeds; grey where no run shows such a thing. All of it is in sweep.nc.")
        + f"<h2>In numbers</h2>{table(*sweep_rows(sweep, ranges=True))}{note('Medians over seeds, and their range.')}"
        + note(legend(sweep))
        + f"<h2>Plan</h2><pre>{html.escape(folder.plan.read_text(encoding='utf-8'))}</pre>",
    )
