"""Pictures of a sweep: curves against one axis, maps over two; medians over seeds."""

from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator

from sgdphases.estimators.phases.phase_time import combine_phases
from sgdphases.faces.run.figures import ALL, OTHER, PICTURES, STYLE, TEST, WRONG, draw
from sgdphases.sim.sweep.dataset import finished_trajectories

SYMBOLS = {
    "noise_fraction": ("ρ", "noise fraction"),
    "learning_rate": ("α", "learning rate"),
    "batch_size": ("B", "batch size"),
    "train_size": ("N", "training samples"),
    "dimension": ("d", "dimension"),
    "hidden": ("", "hidden layers"),
}
"""Axis -> symbol and name; any other axis goes by its own name."""
MAPS = ("t_min", "t_fit", "error_min", "error_fit", "max_alignment_cw", "length_ii")
MOST_WRITTEN = 120  # cells up to which a map has its values written into it


@dataclass(frozen=True)
class Curve:
    """One number of a run's summary against an axis: its name, label, colour and marker."""

    name: str
    label: str
    colour: str
    marker: str


PANELS: tuple[tuple[str, str, tuple[Curve, ...], bool], ...] = (
    (
        "Times",
        "epoch",
        (
            Curve("t_min", "$t_m$, lowest test error", TEST, "o"),
            Curve("t_fit", "$t_f$, training labels fitted", WRONG, "s"),
        ),
        True,
    ),
    (
        "Test errors",
        "fraction misclassified",
        (
            Curve("error_min", "$\\epsilon_m$, lowest", TEST, "o"),
            Curve("error_fit", "$\\epsilon_f$, at $t_f$", WRONG, "s"),
        ),
        False,
    ),
    (
        "Alignment of clean and wrong",
        "cosine",
        (Curve("max_alignment_cw", "largest $R_{cw}$ in III", ALL, "o"),),
        False,
    ),
    ("Length of phase II", "decades of the epoch", (Curve("length_ii", "phase II", OTHER, "o"),), False),
)
"""Title, axis label, curves and whether logarithmic, of each panel against one axis."""


def axes_of(sweep: xr.Dataset) -> list[str]:
    """Names of the axes but for the seed, the noise fraction first; those of one value are none."""
    names = [str(name) for name in sweep["finished"].dims if name != "seed" and sweep.sizes[name] > 1]
    return sorted(names, key=lambda name: name != "noise_fraction")


def axis_name(axis: str) -> str:
    """An axis in words, its symbol behind."""
    symbol, text = SYMBOLS.get(axis, ("", axis.replace("_", " ")))
    return f"{text} {symbol}".strip()


def over_seeds(sweep: xr.Dataset, phases: xr.DataArray) -> Figure:
    """The phases at a glance of a sweep over seeds alone: medians over them, and the phases that they have in common.

    Parameters
    ----------
    sweep : xarray.Dataset
        With no axis but the seed.
    phases : xarray.DataArray of Phases
        Those of its members, as `sgdphases.sim.sweep.dataset.gathered` gives them.
    """
    runs = finished_trajectories(sweep)
    middle = xr.concat(runs, "seed", join="inner", combine_attrs="override").median("seed", keep_attrs=True)
    middle = middle.assign_coords(epoch=runs[0]["epoch"])
    return draw(
        PICTURES["phases"], middle, combine_phases([each for each in phases.to_numpy().ravel() if each is not None])
    )


def over_one_axis(sweep: xr.Dataset) -> Figure:
    """The phases' numbers against the one axis of a sweep: median over seeds, and the range of all of them.

    Parameters
    ----------
    sweep : xarray.Dataset
        Of `sgdphases.sim.sweep.dataset.sweep_dataset`, with one axis beside the seed.
    """
    (axis,) = axes_of(sweep)
    panels = [panel for panel in PANELS if any(_known(sweep, curve.name) for curve in panel[2])]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 0.9 + 2.1 * max(1, len(panels))), layout="constrained")
        columns = figure.subplots(max(1, len(panels)), 1, sharex=True, squeeze=False)[:, 0]
        place, ticks = _places(sweep, axis)
        for each, (title, label, curves, logarithmic) in zip(columns, panels, strict=False):
            for curve in curves:
                _curve(each, sweep, axis, place, curve)
            if logarithmic:
                each.set_yscale("log")
            if title.startswith("Alignment"):
                each.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
            each.set_title(title)
            each.set_ylabel(label)
            each.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        if ticks is not None:
            columns[-1].set_xticks(place, ticks)
        elif _is_geometric(place):
            columns[-1].set_xscale("log")
        if _samples_by_dimension(sweep, axis) is not None:
            columns[-1].set_xticks(place, _tick_names(sweep, axis))
            columns[-1].xaxis.set_minor_locator(NullLocator())
        columns[-1].set_xlabel(_axis_label(sweep, axis))
        return figure


def over_two_axes(sweep: xr.Dataset, chosen: dict[str, object]) -> Figure:
    """Maps of the phases' numbers over the first two axes of a sweep: medians over seeds.

    Parameters
    ----------
    sweep : xarray.Dataset
        With at least two axes beside the seed.
    chosen : dict
        Values of the further axes, if any.
    """
    across, up = axes_of(sweep)[:2]
    here = sweep.sel(chosen)
    names = [name for name in MAPS if _known(here, name)]
    with matplotlib.rc_context(STYLE):
        rows = max(1, -(-len(names) // 2))
        width = max(3.6, 0.42 * sweep.sizes[across] + 1.6)
        figure = Figure(figsize=(2 * width, 0.5 + max(2.7, 0.3 * sweep.sizes[up] + 1.3) * rows), layout="constrained")
        grid = figure.subplots(rows, 2, squeeze=False).ravel()
        for axes, name in zip(grid, names, strict=False):
            _map(figure, axes, here, name, across, up)
        for axes in grid[len(names) :]:
            axes.set_axis_off()
        title = ", ".join(f"{axis_name(name)} = {value}" for name, value in chosen.items())
        if title:
            figure.suptitle(title, fontsize=10)
        return figure


def _curve(axes: Axes, sweep: xr.Dataset, axis: str, place: np.ndarray, curve: Curve) -> None:
    values = _by_seed(sweep, curve.name).transpose(axis, "seed").to_numpy()
    known = np.isfinite(values).any(axis=1)
    if not known.any():
        return
    middle = np.nanmedian(values[known], axis=1)
    axes.plot(place[known], middle, marker=curve.marker, markersize=4, color=curve.colour, label=curve.label)
    if values.shape[1] > 1:
        low, high = np.nanmin(values[known], axis=1), np.nanmax(values[known], axis=1)
        axes.fill_between(place[known], low, high, color=curve.colour, alpha=0.18, linewidth=0)


def _map(figure: Figure, axes: Axes, sweep: xr.Dataset, name: str, across: str, up: str) -> None:
    table = _by_seed(sweep, name).transpose(up, across, "seed").to_numpy()
    unknown = ~np.isfinite(table).any(axis=2)
    middle = np.full(unknown.shape, np.nan)
    middle[~unknown] = np.nanmedian(table[~unknown], axis=1)
    colours, norm = _scale(name, middle)
    axes.set_facecolor("0.88")
    image = axes.pcolormesh(np.ma.masked_invalid(middle), cmap=colours, norm=norm, edgecolors="white", linewidth=0.5)
    bar = figure.colorbar(image, ax=axes)
    unit = sweep[name].attrs.get("units", "1")
    if isinstance(norm, LogNorm):
        places = log_ticks(float(norm.vmin or 1), float(norm.vmax or 1))
        bar.set_ticks(places, labels=[f"{place:g}" for place in places])
        bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.set_label(sweep[name].attrs["symbol"] + ("" if unit == "1" else f" ({unit}s)"))
    axes.set_title(sweep[name].attrs["long_name"].split(" from ")[0])
    for axis, which, set_label, set_ticks in (
        (across, axes.xaxis, axes.set_xlabel, axes.set_xticks),
        (up, axes.yaxis, axes.set_ylabel, axes.set_yticks),
    ):
        set_label(_axis_label(sweep, axis))
        names = _tick_names(sweep, axis)
        slanted: Any = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 6 else {}
        set_ticks(np.arange(sweep.sizes[axis]) + 0.5, names, **(slanted if axis == across else {}))
        which.set_minor_locator(NullLocator())
    axes.tick_params(length=0)
    if middle.size <= MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(middle):
            if np.isfinite(value):
                shade = image.cmap(image.norm(value))
                dark = 0.3 * shade[0] + 0.59 * shade[1] + 0.11 * shade[2] < 0.5
                axes.text(
                    column + 0.5, row + 0.5, f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}",
                    ha="center", va="center", fontsize=6.5, color="white" if dark else "black",
                )  # fmt: skip


def _scale(name: str, values: np.ndarray) -> tuple[str, Normalize]:
    finite = values[np.isfinite(values)]
    low, high = float(finite.min()), float(finite.max())
    if name == "max_alignment_cw":
        return "PuOr_r", TwoSlopeNorm(0, -1, 1)
    if name.startswith("t_") and low > 0:
        return "cividis", LogNorm(low, high if high > low else low * 1.01)
    return "cividis", Normalize(low, high if high > low else low + 1e-9)


def log_ticks(low: float, high: float) -> list[float]:
    """Three to seven round numbers between two, spread over a logarithmic axis; one or two where there is no room."""
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    for step in range(1, last - first + 1):
        for parts in ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)) if step == 1 else ((1,),):
            places = [part * 10.0**power for power in range(first, last + 1, step) for part in parts]
            inside = [float(f"{place:.6g}") for place in places if low <= place <= high]
            if 3 <= len(inside) <= 7:
                return inside
    between = [float(place) for place in MaxNLocator(5).tick_values(low, high) if low <= place <= high]
    return between or [float(f"{low:.3g}")]


def _by_seed(sweep: xr.Dataset, name: str) -> xr.DataArray:
    found = sweep[name]
    return found if "seed" in found.dims else found.expand_dims("seed")


def _known(sweep: xr.Dataset, name: str) -> bool:
    return bool(np.isfinite(sweep[name]).any())


def _places(sweep: xr.Dataset, axis: str) -> tuple[np.ndarray, list[str] | None]:
    """Where the values of an axis stand, and their names if they are no numbers."""
    values = sweep[axis].to_numpy()
    if np.issubdtype(values.dtype, np.number):
        return values.astype(np.float64), None
    return np.arange(len(values), dtype=np.float64), _tick_names(sweep, axis)


def _is_geometric(values: np.ndarray) -> bool:
    if len(values) < 3 or not (values > 0).all():
        return False
    ratios = np.diff(np.log(values))
    return bool(np.ptp(ratios) < np.ptp(np.diff(values)) / np.ptp(values) * np.ptp(np.log(values)))


def _samples_by_dimension(sweep: xr.Dataset, axis: str) -> np.ndarray | None:
    """N/d along an axis that changes it, or None where another one does, too."""
    if axis not in ("train_size", "dimension"):
        return None
    ratio = sweep["n_samples"] / sweep["n_inputs"]
    others = [dim for dim in ratio.dims if dim != axis]
    low, high = ratio.min(others).to_numpy(), ratio.max(others).to_numpy()
    return low if np.isfinite(low).all() and np.allclose(low, high) else None


def _axis_label(sweep: xr.Dataset, axis: str) -> str:
    return axis_name(axis) + (" (N/d)" if _samples_by_dimension(sweep, axis) is not None else "")


def _tick_names(sweep: xr.Dataset, axis: str) -> list[str]:
    values, ratio = sweep[axis].to_numpy(), _samples_by_dimension(sweep, axis)
    names = [f"{value:.3g}" if np.issubdtype(values.dtype, np.floating) else str(value) for value in values]
    return names if ratio is None else [f"{name} ({r:.3g})" for name, r in zip(names, ratio, strict=True)]
