"""Pictures of a run: order parameters against epochs, phases shaded."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdphases.estimators.phases import Phases

# Okabe & Ito's palette, told apart with any colour vision; one colour a role, throughout all figures.
ALL, CLEAN, WRONG, TEST, OTHER = "#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7"
_SHADES = ("#FFFFFF", "#E8EEF4")
_STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.5,
    "svg.fonttype": "none",
}
Curve = tuple[str, str, str, str]  # variable, label, colour, line style


def overview(trajectory: xr.Dataset, phases: Phases) -> Figure:
    """Errors, activities and alignments under one another: the phases at a glance."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 7.6), layout="constrained")
        top, middle, bottom = figure.subplots(3, 1, sharex=True)
        _errors(top, trajectory)
        _activities(middle, trajectory)
        if worth_showing(trajectory, "alignment_cw"):
            _alignments(bottom, trajectory)
        else:
            _alignment(bottom, trajectory)
        _finish([top, middle, bottom], trajectory, phases)
        return figure


def losses_and_errors(trajectory: xr.Dataset, phases: Phases) -> Figure:
    """Losses and errors of all, clean, wrong and test samples."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 5.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        _losses(top, trajectory)
        _errors(bottom, trajectory)
        _finish([top, bottom], trajectory, phases)
        return figure


def activities(trajectory: xr.Dataset, phases: Phases) -> Figure:
    """Activities A, A_c, A_w, and A_0, the part that is directed."""
    return _single(trajectory, phases, _activities)


def directed_activities(trajectory: xr.Dataset, phases: Phases) -> Figure:
    """Directed activities A_0, A_0c, A_0w."""
    return _single(trajectory, phases, _directed)


def alignments(trajectory: xr.Dataset, phases: Phases) -> Figure:
    """Alignments of the mean gradients (R_cw, R_ac, R_aw) and of minibatches (R, R_c, R_w)."""
    if not worth_showing(trajectory, "alignment_cw"):
        return _single(trajectory, phases, _alignment)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 5.4), layout="constrained")
        top, bottom = figure.subplots(2, 1, sharex=True)
        _alignments(top, trajectory)
        _alignment(bottom, trajectory)
        _finish([top, bottom], trajectory, phases)
        return figure


def projection_variances(trajectory: xr.Dataset, phases: Phases) -> Figure:
    """Variance of the projection on the mean gradient: of all, clean and wrong minibatches."""
    return _single(trajectory, phases, _projection_variances)


FIGURES: dict[str, tuple[str, Callable[[xr.Dataset, Phases], Figure]]] = {
    "phases": ("The phases at a glance", overview),
    "losses": ("Losses and errors", losses_and_errors),
    "activities": ("Activities", activities),
    "directed_activities": ("Directed activities", directed_activities),
    "alignments": ("Alignments", alignments),
    "projection_variance": ("Projection variance", projection_variances),
}


def _losses(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("loss", "$L$, all", ALL, "-"),
        ("loss_c", "$L_c$, clean", CLEAN, "-"),
        ("loss_w", "$L_w$, wrong", WRONG, "-"),
        ("test_loss", "$L_{te}$, test", TEST, "--"),
    ]
    _curves(axes, trajectory, curves)
    _log_values(axes)
    axes.set_ylabel("loss (nats)" if trajectory["loss"].attrs["units"] == "nat" else "loss")
    axes.set_title("Loss")


def _errors(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("train_error", "$\\epsilon_{tr}$, all", ALL, "-"),
        ("error_c", "$\\epsilon_c$, clean", CLEAN, "-"),
        ("error_w", "$\\epsilon_w$, wrong", WRONG, "-"),
        ("test_error", "$\\epsilon_{te}$, test", TEST, "--"),
    ]
    if not _curves(axes, trajectory, curves):
        _losses(axes, trajectory)
        return
    axes.set_ylim(-0.02, 1.02)
    axes.set_ylabel("fraction misclassified")
    axes.set_title("Error")


def _activities(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("activity", "$A$, all", ALL, "-"),
        ("activity_c", "$A_c$, clean", CLEAN, "-"),
        ("activity_w", "$A_w$, wrong", WRONG, "-"),
        ("directed_activity", "$A_0$, directed", OTHER, "--"),
    ]
    _curves(axes, trajectory, curves)
    _log_values(axes)
    axes.set_ylabel("squared gradient norm")
    axes.set_title("Activity")


def _directed(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("directed_activity", "$A_0$, all", ALL, "-"),
        ("directed_activity_c", "$A_{0c}$, clean", CLEAN, "-"),
        ("directed_activity_w", "$A_{0w}$, wrong", WRONG, "-"),
    ]
    _curves(axes, trajectory, curves)
    _log_values(axes)
    axes.set_ylabel("squared gradient norm")
    axes.set_title("Directed activity")


def _alignments(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("alignment_cw", "$R_{cw}$, clean and wrong", ALL, "-"),
        ("alignment_ac", "$R_{ac}$, all and clean", CLEAN, "-"),
        ("alignment_aw", "$R_{aw}$, all and wrong", WRONG, "-"),
    ]
    _curves(axes, trajectory, curves)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_ylim(-1.05, 1.05)
    axes.set_ylabel("cosine")
    axes.set_title("Alignment of mean gradients")


def _alignment(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("alignment", "$R$, all", ALL, "-"),
        ("alignment_c", "$R_c$, clean", CLEAN, "-"),
        ("alignment_w", "$R_w$, wrong", WRONG, "-"),
        ("aligned_fraction", "$A_0/A$", OTHER, "--"),
    ]
    _curves(axes, trajectory, curves)
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set_ylabel("cosine")
    axes.set_title("Alignment of minibatch gradients (band: one standard error)")


def _projection_variances(axes: Axes, trajectory: xr.Dataset) -> None:
    curves = [
        ("projection_variance", "$\\sigma_\\lambda^2$, all", ALL, "-"),
        ("projection_variance_c", "$\\sigma_{\\lambda c}^2$, clean", CLEAN, "-"),
        ("projection_variance_w", "$\\sigma_{\\lambda w}^2$, wrong", WRONG, "-"),
    ]
    _curves(axes, trajectory, curves)
    _log_values(axes)
    axes.set_ylabel("variance of $\\lambda$ (1)")
    axes.set_title("Projection variance")


def _single(trajectory: xr.Dataset, phases: Phases, draw: Callable[[Axes, xr.Dataset], None]) -> Figure:
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.0, 3.2), layout="constrained")
        axes = figure.subplots()
        draw(axes, trajectory)
        _finish([axes], trajectory, phases)
        return figure


def _curves(axes: Axes, trajectory: xr.Dataset, curves: Sequence[Curve]) -> bool:
    """Draw those curves that are known anywhere, and their legend; False if there are none."""
    known = [curve for curve in curves if worth_showing(trajectory, curve[0])]
    later = trajectory.isel(step=slice(1, None))  # step 0 has no place on a logarithmic axis
    for name, label, colour, line in known:
        axes.plot(later["epoch"], later[name], line, color=colour, label=label)
        error = f"{name}_standard_error"
        if error in later:
            low, high = later[name] - later[error], later[name] + later[error]
            axes.fill_between(later["epoch"], low, high, color=colour, alpha=0.2, linewidth=0)
    if known:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return bool(known)


def worth_showing(trajectory: xr.Dataset, name: str) -> bool:
    """Whether a curve is known anywhere, and, if it is the clean population's, not that of all samples again."""
    one_population = name.endswith("_c") and not (trajectory["noise_fraction"] > 0).any()
    return name in trajectory and not one_population and bool(np.isfinite(trajectory[name]).any())


def _log_values(axes: Axes) -> None:
    if any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        axes.set_yscale("log")


def _finish(panels: list[Axes], trajectory: xr.Dataset, phases: Phases) -> None:
    """One logarithmic epoch axis under all panels, phases shaded in each and named above the first."""
    panels[-1].set_xlabel("epoch")
    epoch = trajectory["epoch"].to_numpy()
    for axes in panels:
        axes.set_xscale("log")
        if len(epoch) > 2:
            axes.set_xlim(epoch[1], epoch[-1])
    left, right = panels[0].get_xlim()
    for axes in panels:
        for number, phase in enumerate(phases.found):
            start = max(phase.start, left)
            axes.axvspan(start, phase.end, facecolor=_SHADES[number % 2], edgecolor="none", zorder=-2)
            if number:
                axes.axvline(start, color="0.5", linewidth=0.8, linestyle="--", zorder=-1)
        axes.set_xlim(left, right)
    if phases.found:
        panels[0].set_title(panels[0].get_title(), pad=18)
    for phase in phases.found:
        _name(panels[0], phase.name, max(phase.start, left), min(phase.end, right))


def _name(axes: Axes, name: str, start: float, end: float) -> None:
    """Write a phase's name above the middle of its span on the logarithmic axis."""
    if start < end:
        middle = float(np.sqrt(start * end))
        axes.annotate(name, (middle, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4),
                      textcoords="offset points", ha="center", fontsize=9, color="0.25")  # fmt: skip
