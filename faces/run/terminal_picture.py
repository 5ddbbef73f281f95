"""A run in a few lines of text: its phases over the logarithm of the epoch, and the curves that show them."""

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.records import Phases
from sgdphases.faces.run.explorer import places

BARS = "▁▂▃▄▅▆▇█"
CURVES = {"ε_te": ("test_error", False), "A": ("activity", True), "R_cw": ("alignment_cw", False)}
"""Symbol -> variable, and whether its bars are on a logarithmic scale."""
NAME, RANGE = 7, 24  # characters to the left and to the right of the picture
LEAST, MOST = 20, 72  # characters of the picture itself


def picture_lines(trajectory: xr.Dataset, phases: Phases, width: int) -> list[str]:
    """Lines of text: the phases, and a row of bars for each of the test error, the activity and R_cw.

    Parameters
    ----------
    trajectory : xarray.Dataset
        Of a run or a monitor.
    phases : Phases
        Found in it.
    width : int
        Characters of a line.

    Returns
    -------
    list of str
        Empty where no phase was found, or a line is too short for a picture. Bars reach from the lowest to the highest
        value of the run, which stand behind; a column shows the last measurement before its end.
    """
    columns = min(MOST, width - NAME - RANGE)
    if columns < LEAST or not phases.found or trajectory.sizes["step"] < 2:
        return []
    x = np.log(places(trajectory))
    edges = np.linspace(x[0], x[-1], columns + 1)[1:]
    shown = np.searchsorted(x, edges + 1e-9, side="right") - 1
    epochs = trajectory["epoch"].to_numpy()[shown]
    lines = [f"{'phase':{NAME}}{_spans(phases, epochs)}  epochs 0 to {trajectory['epoch'].to_numpy()[-1]:.3g}, log"]
    for symbol, (name, is_log) in CURVES.items():
        values = trajectory[name].to_numpy().astype(float) if name in trajectory else np.array([np.nan])
        if np.isfinite(values).any():
            low, high = np.nanmin(values), np.nanmax(values)
            scale = np.log(np.where(values > 0, values, np.nan)) if is_log else values
            lines.append(f"{symbol:{NAME}}{_bars(scale[shown])}  {low:.2g} to {high:.2g}")
    return lines


def _spans(phases: Phases, epochs: np.ndarray) -> str:
    """A stroke where each phase begins, its name where there is room, and dots as far as it goes."""
    text = [" "] * len(epochs)
    for phase in phases.found:
        inside = np.flatnonzero((epochs >= phase.start) & (epochs <= phase.end))
        if len(inside):
            name = phase.name if len(phase.name) < len(inside) else ""
            text[inside[0] : inside[-1] + 1] = f"|{name}".ljust(len(inside), "·")
    return "".join(text)


def _bars(values: np.ndarray) -> str:
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    levels = (values - low) / (high - low or 1.0) * (len(BARS) - 1)
    return "".join(BARS[round(level)] if np.isfinite(level) else " " for level in levels)
