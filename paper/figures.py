"""The figures 1 to 5 of Feng & Tu 2021, in the paper's panels, from runs of ours; noise spectra are drawn here only."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.phase_time import combine_phases
from sgdphases.estimators.phases.records import Phases
from sgdphases.faces.run.figures import ALL, CLEAN, OTHER, SHARP, STYLE, TEST, WRONG, name_phases, shade_bands
from sgdphases.paper.phase_claims import line, solved_from
from sgdphases.paper.spectrum_claims import PAPER_DIMENSIONS, accumulated, phase_spectrum

Runs = Sequence[xr.Dataset]
PHASE_COLOURS = {"fast learning": ALL, "exploration": WRONG, "I": ALL, "II": CLEAN, "III": WRONG, "IV": TEST}
PAPER: Any = {**STYLE, "font.size": 8, "axes.titlesize": 9, "lines.linewidth": 1.2, "legend.fontsize": 7}


def two_phases(networks: Mapping[str, Runs]) -> Figure:
    """Figure 1: loss, training error, A, R and the projection variance, one column a network.

    Lines are medians over seeds, bands their whole range. Phases are shaded; green, as in the paper, is the transition:
    from the end of fast learning to the first checkpoint after which the training error stays (nearly) zero.

    Parameters
    ----------
    networks : mapping of str to sequence of xarray.Dataset
        Heading of each column, and trajectories that differ in their seed.
    """
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(2.75 * len(networks) + 0.8, 7.0), layout="constrained")
        grid = figure.subplots(4, len(networks), sharex="col", squeeze=False)
        for column, (heading, runs) in zip(grid.T, networks.items(), strict=True):
            median_and_range(column[0], runs, "loss", ALL, "$L$")
            median_and_range(column[0], runs, "train_error", SHARP, "$\\epsilon_{tr}$")
            column[0].set_yscale("log")
            column[0].set_ylim(bottom=max(1e-6, column[0].get_ylim()[0]))
            median_and_range(column[1], runs, "activity", ALL)
            column[1].set_yscale("log")
            median_and_range(column[2], runs, "alignment", ALL)
            column[2].axhline(0, color="0.5", linewidth=0.8, linestyle=":")
            median_and_range(column[3], runs, "projection_variance", ALL)
            column[3].axhline(1, color="0.5", linewidth=0.8, linestyle=":")
            column[3].set_yscale("log")
            phases = combine_phases([find_phases(run) for run in runs])
            shade_phases(list(column), runs, phases, heading)
            _transition(list(column), runs, phases)
            column[0].legend(loc="lower left")
        labels = ("loss $L$ (nats), error $\\epsilon_{tr}$", "activity $A$", "alignment $R$", "$\\sigma_\\lambda^2$")
        for axes, label in zip(grid[:, 0], labels, strict=True):
            axes.set_ylabel(label)
        for axes in grid[-1]:
            axes.set_xlabel("epoch")
        return figure


def two_spectra(runs: Runs) -> Figure:
    """Figure 2: the noise spectra of fast learning and exploration, the normalised accumulated variance inset."""
    return _spectra(runs, ("fast learning", "exploration"), normalised=False)


def four_spectra(runs: Runs) -> Figure:
    """Figure 5: the normalised noise spectra of the four phases, their accumulated variance inset."""
    return _spectra(runs, tuple(PAPER_DIMENSIONS), normalised=True)


def fractions(by_fraction: Mapping[float, Runs]) -> Figure:
    """Figure 3: A errors at half wrong labels, B test errors, C time scales, D test errors against the noise fraction.

    Parameters
    ----------
    by_fraction : mapping of float to sequence of xarray.Dataset
        Noise fraction, and trajectories that differ in their seed.
    """
    rhos = sorted(by_fraction)
    half = min(rhos, key=lambda rho: abs(rho - 0.5))
    found = {rho: [find_phases(run) for run in by_fraction[rho]] for rho in rhos}
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(8.2, 5.9), layout="constrained")
        ((a, b), (c, d)) = figure.subplots(2, 2)
        runs = by_fraction[half]
        for name, colour, label in (
            ("train_error", ALL, "$\\epsilon_{tr}$, train"),
            ("error_c", CLEAN, "$\\epsilon_c$, clean"),
            ("error_w", WRONG, "$\\epsilon_w$, wrong"),
            ("test_error", TEST, "$\\epsilon_{te}$, test"),
        ):
            median_and_range(a, runs, name, colour, label)
        shade_phases([a], runs, combine_phases(found[half]), f"A  errors at $\\rho$ = {half:g}")
        a.set(ylim=(-0.02, 1.02), xlabel="epoch", ylabel="fraction misclassified")
        a.legend(loc="lower left")
        colours, norm = matplotlib.colormaps["cividis"], Normalize(min(rhos), max(max(rhos), min(rhos) + 0.1))
        for rho in rhos:
            median_and_range(b, by_fraction[rho], "test_error", colours(norm(rho)), band=False)
        b.set(xscale="log", xlabel="epoch", ylabel="test error $\\epsilon_{te}$", ylim=(0, 1.02))
        b.set_title("B  test error")
        figure.colorbar(ScalarMappable(norm, colours), ax=b, label="noise fraction $\\rho$")
        noisy = [rho for rho in rhos if rho > 0]
        for name, colour, marker, label in (
            ("t_min", TEST, "o", "$t_m$, lowest test error"),
            ("t_fit", WRONG, "s", "$t_f$, labels fitted"),
        ):
            _against(c, noisy, found, name, colour, marker, label)
        c.set(yscale="log", xlabel="noise fraction $\\rho$", ylabel="epoch")
        _plain_ticks(c.yaxis, (1, 2, 5))
        c.set_title("C  time scales")
        for name, colour, marker, label in (
            ("error_min", TEST, "o", "$\\epsilon_m$, lowest"),
            ("error_fit", WRONG, "s", "$\\epsilon_f$, when fitted"),
        ):
            _against(d, rhos, found, name, colour, marker, label)
        middle = np.array([np.median([each.error_fit for each in found[rho]]) for rho in rhos])
        slope, intercept, _ = line(np.array(rhos), middle)
        if np.isfinite(slope):
            ends = np.array([rhos[0], rhos[-1]])
            d.plot(ends, slope * ends + intercept, ":", color="0.35", label=f"line, slope {slope:.2f}")
        d.set(xlabel="noise fraction $\\rho$", ylabel="test error")
        d.set_title("D  test errors")
        c.legend(loc="best")
        d.legend(loc="upper left")
        return figure


def activities(runs: Runs) -> Figure:
    """Figure 4: A activities, B directed activities over their ratio, C alignments, D both gradients by phase."""
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(8.5, 6.8), layout="constrained")
        places = figure.subplot_mosaic([["a", "b"], ["a", "ratio"], ["c", "d"]], height_ratios=(2.2, 1, 3))
        a, b, ratio, c, d = (places[name] for name in ("a", "b", "ratio", "c", "d"))
        phases = combine_phases([find_phases(run) for run in runs])
        for axes, curves in (
            (a, (("activity", ALL, "$A$"), ("activity_c", CLEAN, "$A_c$"), ("activity_w", WRONG, "$A_w$"))),
            (
                b,
                (
                    ("directed_activity", ALL, "$A_0$"),
                    ("directed_activity_c", CLEAN, "$A_{0,c}$"),
                    ("directed_activity_w", WRONG, "$A_{0,w}$"),
                ),
            ),
            (
                c,
                (
                    ("alignment_cw", ALL, "$R_{cw}$"),
                    ("alignment_ac", CLEAN, "$R_{ac}$"),
                    ("alignment_aw", WRONG, "$R_{aw}$"),
                ),
            ),
        ):
            for name, colour, label in curves:
                median_and_range(axes, runs, name, colour, label)
            axes.set_xlabel("epoch")
        a.set(yscale="log", ylabel="mean squared gradient norm")
        b.set(yscale="log", ylabel="mean gradient, squared norm")
        c.set(ylim=(-1.05, 1.05), ylabel="cosine")
        c.axhline(0, color="0.5", linewidth=0.8, linestyle=":")
        median_and_range(ratio, runs, _balance, OTHER)
        ratio.axhline(1, color="0.5", linewidth=0.8, linestyle=":")
        ratio.set(yscale="log", xlabel="epoch", ylabel="$A_{0,w} / A_{0,c}$")
        for panels, heading in (([a], "A  activities"), ([b, ratio], "B  directed activities"), ([c], "C  alignments")):
            shade_phases(panels, runs, phases, heading)
        b.tick_params(labelbottom=False)
        b.set_xlabel("")
        _plain_ticks(ratio.yaxis, (1, 3))
        a.legend(loc="upper left")
        b.legend(loc="upper left")
        c.legend(loc="lower left")
        _gradients(d, runs)
        return figure


def _balance(run: xr.Dataset) -> xr.DataArray:
    return run["directed_activity_w"] / run["directed_activity_c"]


def _spectra(runs: Runs, names: tuple[str, ...], *, normalised: bool) -> Figure:
    """Spectra by phase: those of the first seed bold, of the others thin."""
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(6.2, 4.4), layout="constrained")
        axes = figure.subplots()
        inset = axes.inset_axes((0.13, 0.12, 0.42, 0.42))
        reach = 300.0  # of the inset
        for name in names:
            spectra = [one for run in runs if (one := phase_spectrum(run, name)) is not None]
            reach = max([reach, *(1.2 * float(one["effective_dimension"]) for one in spectra)])
            for number, one in enumerate(spectra):
                values = one["noise_spectrum"].to_numpy()
                values = values[np.isfinite(values) & (values > 0)]
                scale = float(one["spectrum_total_variance"]) if normalised else 1.0
                style: Any = dict(color=PHASE_COLOURS[name], linewidth=1.6 if number == 0 else 0.5)
                label = _spectrum_label(name, spectra) if number == 0 else None
                rank = np.arange(1, len(values) + 1)
                axes.plot(rank, values / scale, label=label, **style)
                inset.plot(np.arange(len(accumulated(one)) + 1), [0, *accumulated(one)], **style)
        axes.set(xscale="log", yscale="log", xlabel="rank $l$")
        axes.set_ylabel("$e_l / D$" if normalised else "eigenvalue $e_l$ of the noise matrix")
        low, high = axes.get_ylim()
        axes.set_ylim(max(low, high * 1e-9), high)
        axes.legend(loc="upper right")
        inset.axhline(0.9, color="0.5", linewidth=0.8, linestyle=":")
        inset.set(xlim=(0, reach), ylim=(0, 1.02))
        inset.set_title("share of $D$ in the leading $l$", fontsize=7.5, pad=3)
        inset.set_xlabel("$l$", fontsize=7.5, labelpad=1)
        inset.tick_params(labelsize=6.5)
        return figure


def _spectrum_label(name: str, spectra: Sequence[xr.Dataset]) -> str:
    dimensions = [float(one["effective_dimension"]) for one in spectra if np.isfinite(one["effective_dimension"])]
    epoch = float(np.median([float(one["epoch"]) for one in spectra]))
    text = f"{name} (epoch {epoch:.3g})"
    if not dimensions:
        return text
    low, high = min(dimensions), max(dimensions)
    spread = f" ({low:.0f} to {high:.0f})" if low < high else ""
    return f"{text}: $D_s$ = {np.median(dimensions):.0f}{spread}"


def _gradients(axes: Axes, runs: Runs) -> None:
    """Both mean gradients in each phase, with the lengths and the angle that were measured there."""
    axes.set_axis_off()
    axes.set_title("D  mean gradients by phase")
    axes.set(xlim=(-1.8, 5.6), ylim=(-4.0, 1.5))
    axes.set_aspect("equal")
    table = _gradient_table(runs)
    for place, (name, (a_c, a_w, cosine)) in enumerate(table.items()):
        x, y = (0.0, 3.6)[place % 2], (0.0, -2.5)[place // 2]
        long_c, long_w = np.sqrt([a_c, a_w]) / np.sqrt(max(a_c, a_w))
        angle = np.arccos(np.clip(cosine, -1, 1))
        clean = long_c * np.array([1.0, 0.0])
        wrong = long_w * np.array([np.cos(angle), np.sin(angle)])
        arrows = ((clean, CLEAN), (wrong, WRONG), (clean + wrong, ALL))
        for vector, colour in arrows:
            axes.annotate(
                "", (x + vector[0], y + vector[1]), (x, y),
                arrowprops=dict(arrowstyle="-|>", color=colour, linewidth=1.8, shrinkA=0, shrinkB=0),
            )  # fmt: skip
        axes.text(x, y + 1.15, f"phase {name}", ha="center", fontsize=8.5)
        axes.text(
            x, y - 0.2,
            f"$A_{{0,w}}/A_{{0,c}}$ = {a_w / a_c:.2g}, angle {np.degrees(angle):.0f}°\n$A_{{0,c}}$ = {a_c:.2g}",
            ha="center", va="top", fontsize=7,
        )  # fmt: skip
    handles = [
        Line2D([], [], color=colour, linewidth=1.8, label=label)
        for colour, label in ((CLEAN, "$(1-\\rho)\\,g_c$"), (WRONG, "$\\rho\\,g_w$"), (ALL, "$g$, their sum"))
    ]
    axes.legend(handles=handles, loc="lower center", ncols=3, bbox_to_anchor=(0.5, -0.06))


def _gradient_table(runs: Runs) -> dict[str, tuple[float, float, float]]:
    """A_0c, A_0w and R_cw of each phase: medians over its checkpoints, then over seeds."""
    names = ("directed_activity_c", "directed_activity_w", "alignment_cw")
    found: dict[str, list[list[float]]] = {}
    for run in runs:
        phases = find_phases(run)
        for phase, medians in zip(phases.found, phase_medians(run, phases, names), strict=True):
            found.setdefault(phase.name, []).append([medians[name] for name in names])
    middle = {name: np.median(np.array(rows), axis=0) for name, rows in found.items()}
    ordered = [name for name in PAPER_DIMENSIONS if name in middle and np.isfinite(middle[name]).all()]
    return {name: (float(middle[name][0]), float(middle[name][1]), float(middle[name][2])) for name in ordered}


def median_and_range(
    axes: Axes, runs: Runs, what: str | Callable[[xr.Dataset], xr.DataArray], colour: Any, label: str | None = None,
    *, band: bool = True,
) -> None:  # fmt: skip
    """One curve against the epoch: the median over runs, and all of them in between; runs share their checkpoints."""
    rows = np.array([(run[what] if isinstance(what, str) else what(run)).to_numpy()[1:] for run in runs])
    epoch = runs[0]["epoch"].to_numpy()[1:]
    known = np.isfinite(rows).any(axis=0)
    if not known.any():
        return
    axes.plot(epoch[known], np.nanmedian(rows[:, known], axis=0), color=colour, label=label)
    if band and len(runs) > 1:
        low, high = np.nanmin(rows[:, known], axis=0), np.nanmax(rows[:, known], axis=0)
        axes.fill_between(epoch[known], low, high, color=colour, alpha=0.18, linewidth=0)


def _against(
    axes: Axes, rhos: Sequence[float], found: Mapping[float, Sequence[Phases]], name: str, colour: str, marker: str,
    label: str,
) -> None:  # fmt: skip
    """A number of each run against the noise fraction: medians joined, seeds as points."""
    values = [[getattr(phases, name) for phases in found[rho]] for rho in rhos]
    points = [(rho, value) for rho, several in zip(rhos, values, strict=True) for value in several if value == value]
    middles = [(rho, float(np.median([v for v in several if v == v])))
               for rho, several in zip(rhos, values, strict=True) if any(v == v for v in several)]  # fmt: skip
    if points:
        axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=2.5, alpha=0.45)
        axes.plot(*zip(*middles, strict=True), marker + "-", color=colour, markersize=4.5, label=label)


def shade_phases(panels: list[Axes], runs: Runs, phases: Phases, heading: str) -> None:
    """A logarithmic epoch axis, phases shaded on it and named above the first panel."""
    epoch = runs[0]["epoch"].to_numpy()
    left, right = float(epoch[1]), float(epoch[-1])
    for axes in panels:
        axes.set_xscale("log")
        axes.set_xlim(left, right)
        axes.xaxis.set_minor_formatter(NullFormatter())
        shade_bands(axes, [(max(phase.start, left), phase.end) for phase in phases.found])
    panels[0].set_title(heading, pad=16 if phases.found else None)
    name_phases(panels[0], phases, left, right)


def _plain_ticks(axis: Axis, steps: tuple[int, ...]) -> None:
    """Ticks of a logarithmic axis at a few steps of each decade, as plain numbers."""
    axis.set_major_locator(LogLocator(subs=steps, numticks=6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _transition(panels: list[Axes], runs: Runs, phases: Phases) -> None:
    """The paper's green bar: from the end of fast learning to the training error's (near) zero, if it comes to that."""
    places = [solved_from(run) for run in runs]
    ends = [float(run["epoch"][place]) for run, place in zip(runs, places, strict=True) if place is not None]
    if len(phases.found) < 2 or 2 * len(ends) <= len(runs):
        return
    for axes in panels:
        span = axes.axvspan(phases.found[1].start, float(np.median(ends)), facecolor=TEST, alpha=0.16, edgecolor="none")
        span.set_label("transition" if axes is panels[0] else None)
