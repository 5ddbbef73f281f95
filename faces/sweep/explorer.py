"""A sweep as an interactive page: the phase diagram as a map, and the curves of the member that is clicked."""

from itertools import product
from typing import Any

import numpy as np
import xarray as xr

from sgdphases.faces.run.explorer import HEIGHT, PANELS, WIDTH, embedded, named, places
from sgdphases.faces.run.figures import worth_showing
from sgdphases.faces.sweep.figures import axes_of, axis_name
from sgdphases.sim.sweep.dataset import MEASURED, finished_trajectories

COLOURED = {
    "error_min": "lowest test error", "t_min": "epoch of the lowest test error", "error_fit": "test error at the end",
    "t_fit": "epoch at which all is fitted", "max_alignment_cw": "largest R_cw in phase III", "n_phases": "phases",
    "length_ii": "length of phase II, decades",
}  # fmt: skip
MOST_CELLS = 400
COSINES = 1.05  # half the height of their panel
DIGITS = 4  # of the numbers on the page
PALETTE = "Cividis256"  # for all eyes

COLOUR = """
cells.data = {...cells.data, shown: cells.data[choice.value]};
const known = cells.data.shown.filter((value) => isFinite(value));
[mapper.low, mapper.high] = known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
"""
PICK = """
const k = cells.selected.indices[0];
if (k === undefined || curves[k] === null) return;
curve.data = curves[k];
said.text = sentences[k];
both.start = Math.min(...curves[k].x);
both.end = Math.max(...curves[k].x);
"""


def sweep_explorer(sweep: xr.Dataset, phases: xr.DataArray) -> str:
    """HTML that draws itself without a network: a map over two axes, and the curves of one member under it.

    Parameters
    ----------
    sweep : xarray.Dataset
    phases : xarray.DataArray of Phases
        Both of `sgdphases.sim.sweep.dataset.gathered`.

    Returns
    -------
    str
        Cells hold medians over seeds, curves are those of the first seed that ended; of a third axis and further ones
        the first value is shown. Empty without an axis, where no member ended, and for more than 400 cells.
    """
    axes = axes_of(sweep)
    if not axes or not sweep["finished"].any():
        return ""
    across, up = axes[0], axes[1] if len(axes) > 1 else None
    shown = sweep.isel({name: 0 for name in axes[2:]})
    if shown.sizes[across] * (1 if up is None else shown.sizes[up]) > MOST_CELLS:
        return ""
    return embedded(_layout(shown, phases.isel({name: 0 for name in axes[2:]}), across, up))


def _layout(sweep: xr.Dataset, phases: xr.DataArray, across: str, up: str | None) -> Any:
    from bokeh.layouts import column, row
    from bokeh.models import CustomJS, Div, Range1d, Select

    values, curves, sentences = _members(sweep, phases, across, up)
    known = [name for name in COLOURED if name in values and np.isfinite(values[name]).any()]
    plot, cells, mapper = _map(sweep, across, up, values, known)
    ended = [k for k, curve in enumerate(curves) if curve is not None]
    begin = max(ended, key=lambda k: float(np.nan_to_num(values["n_phases"][k])) if "n_phases" in values else 0.0)
    first = curves[begin] or {}
    both = Range1d(min(first["x"]), max(first["x"]))
    panels, curve = _panels(sweep, first, both)
    said = Div(text=sentences[begin], width=WIDTH)
    choice = Select(title="colour", value=known[0], options=[(name, COLOURED[name]) for name in known], width=300)
    choice.js_on_change("value", CustomJS(args={"cells": cells, "choice": choice, "mapper": mapper}, code=COLOUR))
    given = {"cells": cells, "curves": curves, "curve": curve, "said": said, "sentences": sentences, "both": both}
    cells.selected.indices = [begin]
    cells.selected.js_on_change("indices", CustomJS(args=given, code=PICK))
    return column(row(plot, choice), said, *panels)


def _members(
    sweep: xr.Dataset, phases: xr.DataArray, across: str, up: str | None
) -> tuple[dict[str, np.ndarray], list[dict[str, list[float]] | None], list[str]]:
    """Medians over seeds, curves, and a line of text for every cell, the second axis varying fastest."""
    names = [name for panel in PANELS for name, *_ in panel.curves]
    values: dict[str, list[float]] = {name: [] for name in COLOURED if name in sweep}
    curves: list[dict[str, list[float]] | None] = []
    sentences = []
    needed = {*names, "finished"}
    read = [name for name in sweep.data_vars if str(name).removesuffix(MEASURED) in needed]
    for place in product(*(range(sweep.sizes[axis]) for axis in (across, up) if axis is not None)):
        where = dict(zip([axis for axis in (across, up) if axis is not None], place, strict=True))
        one = sweep.isel(where)
        for name, list_ in values.items():
            numbers = one[name].to_numpy().ravel()
            finite = numbers[np.isfinite(numbers)]
            list_.append(float(np.median(finite)) if len(finite) else np.nan)
        seeds = one[read].isel({name: 0 for name in one["finished"].dims if name != "seed"})
        runs = finished_trajectories(seeds, 1)
        title = ", ".join(f"{axis_name(axis)} = {_names(sweep, axis)[k]}" for axis, k in where.items())
        if not runs:
            curves.append(None)
            sentences.append(f"{title}: did not end.")
            continue
        run = runs[0]
        first = int(np.argmax(seeds["finished"].to_numpy().ravel()))
        each_seed = phases.isel(where).isel({name: 0 for name in phases.dims if name not in ("seed", *where)})
        found = each_seed.to_numpy().ravel()[first].found
        spans = "; ".join(f"{named(each.name)}: epochs {each.start:.3g} to {each.end:.3g}" for each in found)
        sentences.append(f"<b>{title}</b>. {spans or 'No phase can be identified'}.")
        columns = {name: run[name].to_numpy() for name in names if name in run}
        curves.append({name: _short(column) for name, column in {**columns, "x": places(run)}.items()})
    return {name: np.array(each) for name, each in values.items()}, _alike(curves), sentences


def _alike(curves: list[dict[str, list[float]] | None]) -> list[dict[str, list[float]] | None]:
    """Curves with the same columns: what a member did not measure is NaN."""
    names = sorted({name for each in curves if each is not None for name in each})
    return [
        None if each is None else {name: each.get(name, [np.nan] * len(each["x"])) for name in names} for each in curves
    ]  # fmt: skip


def _short(values: np.ndarray) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values]


def _map(
    sweep: xr.Dataset, across: str, up: str | None, values: dict[str, np.ndarray], known: list[str]
) -> tuple[Any, Any, Any]:
    from bokeh.models import ColorBar, ColumnDataSource, HoverTool, LinearColorMapper
    from bokeh.plotting import figure

    columns = [_names(sweep, across), [""] if up is None else _names(sweep, up)]
    pairs = list(product(*columns))
    shown = values[known[0]]
    finite = shown[np.isfinite(shown)]
    cells = ColumnDataSource(
        {"across": [x for x, _ in pairs], "up": [y for _, y in pairs], "shown": shown, **{n: values[n] for n in known}}
    )
    mapper = LinearColorMapper(palette=PALETTE, low=finite.min(), high=finite.max(), nan_color="#d0d0d0")
    plot = figure(
        x_range=columns[0], y_range=columns[1], width=520, height=180 if up is None else 420, tools="tap",
        toolbar_location=None, x_axis_label=axis_name(across), y_axis_label="" if up is None else axis_name(up),
        title="click a cell to see its curves",
    )  # fmt: skip
    plot.rect(
        "across", "up", width=1, height=1, source=cells, line_color="white", nonselection_fill_alpha=1,
        fill_color={"field": "shown", "transform": mapper}, selection_line_color="#D55E00", selection_line_width=3,
    )  # fmt: skip
    tips = [(axis_name(across), "@across"), *([] if up is None else [(axis_name(up), "@up")])]
    plot.add_tools(HoverTool(tooltips=[*tips, *((COLOURED[name], f"@{name}{{0.000}}") for name in known)]))
    plot.add_layout(ColorBar(color_mapper=mapper), "right")
    return plot, cells, mapper


def _names(sweep: xr.Dataset, axis: str) -> list[str]:
    found = sweep[axis].to_numpy()
    return [f"{value:.4g}" if np.issubdtype(found.dtype, np.floating) else str(value) for value in found]


def _panels(sweep: xr.Dataset, curve: dict[str, list[float]], both: Any) -> tuple[list[Any], Any]:
    from bokeh.models import ColumnDataSource, Range1d
    from bokeh.plotting import figure

    source, made = ColumnDataSource(curve), list[Any]()
    for panel in PANELS:
        lines = [each for each in panel.curves if each[0] in source.data and worth_showing(sweep, each[0])]
        if not lines:
            continue
        plot = figure(
            width=WIDTH, height=HEIGHT, x_axis_type="log", y_axis_type="log" if panel.is_log else "linear",
            x_range=both, y_axis_label=panel.title, toolbar_location=None, tools="", min_border_left=70,
        )  # fmt: skip
        if panel.title == "cosine":  # one scale for all members, also those that have none (without wrong labels, say)
            plot.y_range = Range1d(-COSINES, COSINES)
        for name, title, colour, dash in lines:
            plot.line("x", name, source=source, color=colour, line_dash=dash, width=2, legend_label=title)
        plot.add_layout(plot.legend[0], "right")
        made.append(plot)
    if made:
        made[-1].xaxis.axis_label = "epoch (the start stands at the left edge)"
    return made, source
