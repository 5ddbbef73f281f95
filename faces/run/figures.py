"""Pictures of a run: order parameters against epochs, phases shaded. What is drawn is the tables below."""

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, NullLocator

from sgdphases.estimators.phases.records import MEMORISING, Phases

# Okabe & Ito's palette, distinguished by any colour vision; one colour a role, throughout all figures.
ALL, CLEAN, WRONG, TEST, OTHER = "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
SHARP, FLOOR = "#E69F00", "#56B4E9"
WIDTH, HEIGHT, BETWEEN = 7.0, 2.25, 0.45  # inches: of a figure, of a panel with the space below it, of that space
ABOVE, BELOW, LEFT, BESIDE = 0.52, 0.5, 0.78, 0.12  # the margins, the last on both sides of the legends together
MANY_DECADES = 3  # of an axis, beyond which only the decades have ticks
SHADES = ("#FFFFFF", "#E8EEF4")
BY_HEART = "#FBE9DC"  # the shade of memorising without anything general
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
}


@dataclass(frozen=True)
class Panel:
    """Curves that share one pair of axes.

    ``curves``: name of the variable, label, colour, line style; their unit, if any, is written behind ``label``.
    ``line``: the level of a horizontal line, and its name in the legend if it deserves one.
    """

    title: str
    label: str
    curves: tuple[tuple[str, str, str, str], ...]
    logarithmic: bool = False
    limits: tuple[float, float] | None = None
    line: Callable[[xr.Dataset], float] | None = None
    line_name: str = ""


@dataclass(frozen=True)
class Picture:
    """A figure: its heading, a sentence to go with it, and panels under one another.

    Of each group of panels the first that has anything to show is drawn; none without the variable it ``needs``.
    ``first``: whether it is drawn as soon as a run ends, or only when its report is asked for.
    """

    title: str
    note: str
    groups: tuple[tuple[Panel, ...], ...]
    needs: str = "loss"
    first: bool = True


def _zero(trajectory: xr.Dataset) -> float:
    return 0.0


def _edge_of_stability(trajectory: xr.Dataset) -> float:
    return 2 / tomllib.loads(trajectory.attrs["settings"])["learning_rate"]


LOSSES = Panel(
    "Loss",
    "loss",
    (
        ("loss", "$L$, all", ALL, "-"),
        ("loss_c", "$L_c$, clean", CLEAN, "-"),
        ("loss_w", "$L_w$, wrong", WRONG, "-"),
        ("test_loss", "$L_{te}$, test", TEST, "--"),
    ),
    logarithmic=True,
)
ERRORS = Panel(
    "Error",
    "fraction misclassified",
    (
        ("train_error", "$\\epsilon_{tr}$, all", ALL, "-"),
        ("error_c", "$\\epsilon_c$, clean", CLEAN, "-"),
        ("error_w", "$\\epsilon_w$, wrong", WRONG, "-"),
        ("test_error", "$\\epsilon_{te}$, test", TEST, "--"),
    ),
    limits=(-0.02, 1.02),
)
ACTIVITIES = Panel(
    "Activity",
    "squared gradient norm",
    (
        ("activity", "$A$, all", ALL, "-"),
        ("activity_c", "$A_c$, clean", CLEAN, "-"),
        ("activity_w", "$A_w$, wrong", WRONG, "-"),
        ("directed_activity", "$A_0$, directed", OTHER, "--"),
    ),
    logarithmic=True,
)
DIRECTED = Panel(
    "Directed activity",
    "squared gradient norm",
    (
        ("directed_activity", "$A_0$, all", ALL, "-"),
        ("directed_activity_c", "$A_{0c}$, clean", CLEAN, "-"),
        ("directed_activity_w", "$A_{0w}$, wrong", WRONG, "-"),
    ),
    logarithmic=True,
)
ALIGNMENTS_CW = Panel(
    "Alignment of mean gradients",
    "cosine",
    (
        ("alignment_cw", "$R_{cw}$, clean and wrong", ALL, "-"),
        ("alignment_ac", "$R_{ac}$, all and clean", CLEAN, "-"),
        ("alignment_aw", "$R_{aw}$, all and wrong", WRONG, "-"),
    ),
    limits=(-1.05, 1.05),
    line=_zero,
)
ALIGNMENTS = Panel(
    "Alignment of minibatch gradients (band: one standard error)",
    "cosine",
    (
        ("alignment", "$R$, all", ALL, "-"),
        ("alignment_c", "$R_c$, clean", CLEAN, "-"),
        ("alignment_w", "$R_w$, wrong", WRONG, "-"),
        ("aligned_fraction", "$A_0/A$", OTHER, "--"),
    ),
    line=_zero,
)
PROJECTION_VARIANCES = Panel(
    "Projection variance",
    "variance of $\\lambda$",
    (
        ("projection_variance", "$\\sigma_\\lambda^2$, all", ALL, "-"),
        ("projection_variance_c", "$\\sigma_{\\lambda c}^2$, clean", CLEAN, "-"),
        ("projection_variance_w", "$\\sigma_{\\lambda w}^2$, wrong", WRONG, "-"),
    ),
    logarithmic=True,
)
SHARPNESS = Panel(
    "Sharpness",
    "largest Hessian eigenvalue",
    (("sharpness", "$h_{max}$", ALL, "-"),),
    logarithmic=True,
    line=_edge_of_stability,
    line_name="$2/\\alpha$, edge of stability",
)
DIRECTED_PARTS = Panel(
    "Directed activity: along the sharp directions, and on the floor",
    "squared gradient norm",
    (
        ("directed_activity", "$A_0$, whole", ALL, "-"),
        ("directed_activity_sharp", "sharp", SHARP, "-"),
        ("directed_activity_floor", "floor", FLOOR, "-"),
    ),
    logarithmic=True,
)
ALIGNMENT_PARTS = Panel(
    "Alignment of clean and wrong: along the sharp directions, and on the floor",
    "cosine",
    (
        ("alignment_cw", "$R_{cw}$, whole", ALL, "-"),
        ("alignment_cw_sharp", "sharp", SHARP, "-"),
        ("alignment_cw_floor", "floor", FLOOR, "-"),
    ),
    limits=(-1.05, 1.05),
    line=_zero,
)

PICTURES: dict[str, Picture] = {
    "phases": Picture(
        "The phases at a glance",
        "Errors, activities and alignments under one another.",
        ((ERRORS, LOSSES), (ACTIVITIES,), (ALIGNMENTS_CW, ALIGNMENTS)),
    ),
    "losses": Picture(
        "Losses and errors", "Losses and errors of all, clean, wrong and test samples.", ((LOSSES,), (ERRORS,))
    ),
    "activities": Picture(
        "Activities", "Activities A, A_c, A_w, and A_0, the part that is directed.", ((ACTIVITIES,),), first=False
    ),
    "directed_activities": Picture(
        "Directed activities", "Directed activities A_0, A_0c, A_0w.", ((DIRECTED,),), first=False
    ),
    "alignments": Picture(
        "Alignments",
        "Alignments of the mean gradients (R_cw, R_ac, R_aw) and of minibatches (R, R_c, R_w).",
        ((ALIGNMENTS_CW,), (ALIGNMENTS,)),
        first=False,
    ),
    "projection_variance": Picture(
        "Projection variance",
        "Variance of the projection on the mean gradient: of all, clean and wrong minibatches.",
        ((PROJECTION_VARIANCES,),),
        first=False,
    ),
    "sharp_and_floor": Picture(
        "Sharp directions and valley floor",
        "Sharpness, and gradients split into their part along the leading Hessian eigenvectors and the rest.",
        ((SHARPNESS,), (DIRECTED_PARTS,), (ALIGNMENT_PARTS,)),
        needs="sharpness",
    ),
}


def pictures_of(trajectory: xr.Dataset) -> dict[str, Picture]:
    """The pictures a trajectory has something new for, by name."""
    return {
        name: picture
        for name, picture in PICTURES.items()
        if _panels(picture, trajectory) and worth_showing(trajectory, picture.needs)
    }


def draw(picture: Picture, trajectory: xr.Dataset, phases: Phases) -> Figure:
    """One picture of a trajectory.

    Parameters
    ----------
    picture : Picture
        Of `pictures_of`.
    trajectory : xarray.Dataset
    phases : Phases
        To be shaded and named.
    """
    panels = _panels(picture, trajectory)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, ABOVE + HEIGHT * len(panels) - BETWEEN + BELOW))
        axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
        for each, panel in zip(axes, panels, strict=True):
            _curves(each, panel, trajectory)
        _finish(list(axes), trajectory, phases)
        _lay_out(figure, list(axes))
        return figure


def _panels(picture: Picture, trajectory: xr.Dataset) -> list[Panel]:
    chosen = [next((panel for panel in group if _known(panel, trajectory)), None) for group in picture.groups]
    return [panel for panel in chosen if panel is not None]


def _known(panel: Panel, trajectory: xr.Dataset) -> list[tuple[str, str, str, str]]:
    return [curve for curve in panel.curves if worth_showing(trajectory, curve[0])]


def _curves(axes: Axes, panel: Panel, trajectory: xr.Dataset) -> None:
    """Draw those curves of a panel that are known anywhere, and their legend."""
    known = _known(panel, trajectory)
    epoch = trajectory["epoch"].to_numpy()[1:]  # step 0 has no place on a logarithmic axis
    for name, label, colour, line in known:
        values = trajectory[name].to_numpy()[1:]
        measured = np.isfinite(values)  # not at light measurements of a monitor
        axes.plot(epoch[measured], values[measured], line, color=colour, label=label)
        if worth_showing(trajectory, f"{name}_theory"):
            theory = trajectory[f"{name}_theory"].to_numpy()[1:]
            axes.plot(epoch, theory, ":", color=colour, linewidth=2.2, zorder=3)
            if f"{name}_theory_standard_error" in trajectory:
                doubt = trajectory[f"{name}_theory_standard_error"].to_numpy()[1:]
                axes.fill_between(epoch, theory - doubt, theory + doubt, color="0.6", alpha=0.3, linewidth=0)
        if f"{name}_standard_error" in trajectory:
            error = trajectory[f"{name}_standard_error"].to_numpy()[1:]
            axes.fill_between(epoch, values - error, values + error, color=colour, alpha=0.2, linewidth=0)
    if any(worth_showing(trajectory, f"{name}_theory") for name, *_ in known):
        axes.plot([], [], ":", color="0.3", linewidth=2.2, label="dotted: theory")
    if panel.logarithmic and any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        axes.set_yscale("log")
    if panel.line is not None:
        axes.axhline(panel.line(trajectory), color="0.6", linewidth=0.8, linestyle=":", label=panel.line_name or None)
    if panel.limits is not None:
        axes.set_ylim(panel.limits)
    units = {trajectory[curve[0]].attrs.get("units", "1") for curve in known} - {"1"}
    axes.set_ylabel(" ".join([panel.label, *(f"({unit}s)" for unit in units)]))
    axes.set_title(panel.title)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def worth_showing(trajectory: xr.Dataset, name: str) -> bool:
    """Whether a curve is known anywhere, and, if it is the clean population's, not that of all samples again."""
    one_population = name.endswith("_c") and not (trajectory["noise_fraction"].to_numpy() > 0).any()
    return name in trajectory and not one_population and bool(np.isfinite(trajectory[name].to_numpy()).any())


def _lay_out(figure: Figure, panels: list[Axes]) -> None:
    """Panels under one another between fixed margins, and room on the right for the widest legend.

    Matplotlib's own layouts would draw every figure twice, which takes as long as all else about it.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    legends = [legend.get_window_extent(renderer).width for axes in panels if (legend := axes.get_legend())]
    width, height = figure.get_size_inches()
    right = 1 - (max(legends, default=0.0) / figure.dpi + BESIDE) / width
    gap = BETWEEN / (HEIGHT - BETWEEN)
    figure.subplots_adjust(LEFT / width, BELOW / height, right, 1 - ABOVE / height, hspace=gap)


def _finish(panels: list[Axes], trajectory: xr.Dataset, phases: Phases) -> None:
    """One logarithmic epoch axis under all panels, phases shaded in each and named above the first."""
    panels[-1].set_xlabel("epoch")
    epoch = trajectory["epoch"].to_numpy()
    for axes in panels:
        axes.set_xscale("log")
        if len(epoch) > 2:
            axes.set_xlim(epoch[1], epoch[-1])
    for axes in panels:
        _thin_out_ticks(axes)
    left, right = panels[0].get_xlim()
    by_heart = [phase.name for phase in phases.found] == [MEMORISING]
    for axes in panels:
        spans = [(max(phase.start, left), phase.end) for phase in phases.found]
        shade_bands(axes, spans, (BY_HEART,) if by_heart else SHADES)
        axes.set_xlim(left, right)
    if by_heart:
        handles = [*panels[0].get_legend_handles_labels()[0], Patch(color=BY_HEART, label="no test error below chance")]
        panels[0].legend(handles=handles, loc="center left", bbox_to_anchor=(1.0, 0.5))
    if phases.found:
        panels[0].set_title(panels[0].get_title(), pad=18)
    name_phases(panels[0], phases, left, right)


def shade_bands(axes: Axes, spans: list[tuple[float, float]], shades: tuple[str, ...] = SHADES) -> None:
    """Spans of the horizontal axis in alternating shades, with a dashed line between two."""
    for number, (start, end) in enumerate(spans):
        axes.axvspan(start, end, facecolor=shades[number % len(shades)], edgecolor="none", zorder=-2)
        if number:
            axes.axvline(start, color="0.5", linewidth=0.8, linestyle="--", zorder=-1)


def name_phases(axes: Axes, phases: Phases, left: float, right: float) -> None:
    """Write each phase's name above the middle of its span, as far as a logarithmic axis shows it."""
    for phase in phases.found:
        start, end = max(phase.start, left), min(phase.end, right)
        if start < end:
            name_above(axes, phase.name, float(np.sqrt(start * end)))


def name_above(axes: Axes, name: str, place: float) -> None:
    """A name above the panel, at a place of its horizontal axis."""
    axes.annotate(name, (place, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4),
                  textcoords="offset points", ha="center", fontsize=9, color="0.25")  # fmt: skip


def _thin_out_ticks(axes: Axes) -> None:
    """Between the decades no labels, and over many decades no ticks: they take longer to lay out than all curves."""
    for axis, limits in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if axis.get_scale() == "log":
            decades = np.log10(limits[1] / limits[0])
            if decades > 2:
                axis.set_minor_formatter(NullFormatter())
            if decades > MANY_DECADES:
                axis.set_minor_locator(NullLocator())
