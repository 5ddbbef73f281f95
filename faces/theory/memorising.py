"""Pictures of a finite data set that is learnt and memorised: dynamical mean-field theory, simulations on top."""

import matplotlib

matplotlib.use("Agg")

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import LogFormatter

from sgdphases.estimators.errors import UsageError
from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.records import Phases
from sgdphases.faces.run.figures import ALIGNMENTS_CW, DIRECTED, ERRORS, LOSSES, STYLE, Panel, Picture, draw
from sgdphases.faces.theory.figures import Prediction
from sgdphases.sim.solvable.predicted_phases import phase_diagram, predicted_trajectory, simulated_trajectory
from sgdphases.theory.dmft.settings import Descent, Student, Task

PANELS: tuple[Panel, ...] = (LOSSES, ERRORS, DIRECTED, ALIGNMENTS_CW)
ASSUMES = (
    "input dimension to infinity at this N/d, weights in random directions at the start; "
    "deviations of single runs fall as d^(-1/2)."
)
MAPS = {
    "error_min": ("Lowest test error $\\epsilon_m$", "cividis"),
    "error_fit": ("Test error $\\epsilon_f$ once fitted", "cividis"),
    "t_min": ("Epoch $t_m$ of $\\epsilon_m$", "viridis"),
    "t_fit": ("Epoch $t_f$: wrong labels fitted", "viridis"),
}


def memorising_figure(
    task: Task,
    student: Student,
    descent: Descent,
    *,
    population: int,
    repeats: int,
    seed: int,
    simulate: int,
    seeds: int,
) -> Prediction:
    """Losses, errors, directed activities and alignments against epochs, with the phases read from the theory.

    Raises
    ------
    ValueError, RuntimeError
        If a setting is out of range, or the learning rate makes the weights run away.
    """
    trajectory = predicted_trajectory(task, student, descent, population=population, repeats=repeats, seed=seed)
    phases = find_phases(trajectory)
    figure = draw(Picture("", "", tuple((panel,) for panel in PANELS)), trajectory, phases)
    findings = _said("theory", phases)
    if "cut_responses" in trajectory.attrs:
        share, epoch = trajectory.attrs["cut_responses"], trajectory.attrs["cut_from"]
        findings += (
            f"doubt: responses of up to {share:.2g} of the samples are too large to be averaged, from epoch {epoch:.3g}"
            " on; from there A_0 and the cosines may be further off than their bands, losses and errors are not",
        )
    lost = np.isnan(trajectory["directed_activity"].to_numpy())
    if lost.any():
        epoch = float(trajectory["epoch"].to_numpy()[lost][0])
        findings += (f"A_0 and the cosines of ReLU units are left out from epoch {epoch:.3g} on, as A_0 has faded",)
    if simulate:
        measured = simulated_trajectory(task, student, descent, simulate, seeds=seeds, seed=seed)
        label = f"SGD, d = {simulate:,}" + (f",\nmean of {seeds} data sets" if seeds > 1 else "")
        _overlay(figure, measured, label)
        findings += (*_said("simulation", find_phases(measured)), _apart(trajectory, measured))
    units = "linear unit" if student.activation == "linear" else f"{student.activation} units"
    figure.suptitle(
        f"{student.units} {units}, N/d = {task.samples_per_dimension:g}, $\\rho$ = {task.noise_fraction:g}", fontsize=10
    )
    return Prediction(figure, findings, ASSUMES)


def _overlay(figure: Figure, measured: xr.Dataset, label: str) -> None:
    """Circles of the simulation at every third checkpoint, in the colours of the curves."""
    shown = measured.isel(step=slice(1, None, 3))
    for axes, panel in zip(figure.axes, PANELS, strict=True):
        limits = axes.get_xlim()
        for name, _, colour, _ in panel.curves:
            if name in shown and np.isfinite(shown[name]).any():
                axes.plot(shown["epoch"], shown[name], "o", color=colour, markersize=3.5, markerfacecolor="none")
        axes.set_xlim(limits)
    axes = figure.axes[0]
    axes.plot([], [], "o", color="0.3", markersize=3.5, markerfacecolor="none", label=label)
    with matplotlib.rc_context(STYLE):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def _said(source: str, phases: Phases) -> tuple[str, ...]:
    if not phases.found:
        return (f"{source}: no phases ({'; '.join(phases.not_reached.values())})",)
    spans = ", ".join(f"{phase.name} to {phase.end:.3g}" for phase in phases.found)
    values = [
        ("t_m", phases.t_min),
        ("epsilon_m", phases.error_min),
        ("t_f", phases.t_fit),
        ("epsilon_f", phases.error_fit),
    ]
    marks = ", ".join(f"{name} = {value:.3g}" for name, value in values if np.isfinite(value))
    return (f"{source}: phases {spans} (epochs); {marks}",)


def _apart(theory: xr.Dataset, measured: xr.Dataset) -> str:
    worst = float(np.abs(measured["loss"] / theory["loss"] - 1).max())
    said = f"largest deviation of the loss {worst:.1%}"
    if "alignment_cw" in theory:
        said += f", of R_cw {float(np.abs(measured['alignment_cw'] - theory['alignment_cw']).max()):.3f}"
    return said


def phase_diagram_figure(
    task: Task,
    student: Student,
    descent: Descent,
    noise_fractions: np.ndarray,
    ratios: np.ndarray,
    *,
    population: int,
    repeats: int,
    seed: int,
    simulate: int,
) -> Prediction:
    """Marks of the phases over rho and N/d: theory above, simulations of the same points below if asked for.

    Raises
    ------
    UsageError, ValueError, RuntimeError
        If a setting is out of range, or fewer than two values are given.
    """
    if min(len(noise_fractions), len(ratios)) < 2 or min(*np.diff(noise_fractions), *np.diff(ratios)) <= 0:
        raise UsageError("--noise-fractions and --ratios: give two or more rising values, with commas between.")
    if noise_fractions[0] <= 0:
        raise UsageError(
            f"--noise-fractions {noise_fractions[0]:g}: phases II to IV need wrong labels; choose above 0."
        )
    sizes = {"theory": 0} | ({f"simulation, d = {simulate:,}": simulate} if simulate else {})
    sources = {
        name: phase_diagram(
            task, student, descent, noise_fractions, ratios, population=population, repeats=repeats, seed=seed,
            dimension=size,
        )
        for name, size in sizes.items()
    }  # fmt: skip
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(11.0, 0.6 + 2.5 * len(sources)), layout="constrained")
        axes = figure.subplots(len(sources), len(MAPS), sharex=True, sharey=True, squeeze=False)
        for column, (name, (title, colours)) in enumerate(MAPS.items()):
            low, high = _span([found[name] for found in sources.values()], positive=name.startswith("t_"))
            for row, (source, found) in enumerate(sources.items()):
                image = _map(axes[row, column], found[name], low, high, colours, logarithmic=name.startswith("t_"))
                axes[row, column].set_title(title if row == 0 else "")
                if column == 0:
                    axes[row, 0].set_ylabel(f"{source}\nshare of wrong labels $\\rho$")
            axes[-1, column].set_xlabel("samples per dimension $N/d$")
            bar = figure.colorbar(image, ax=axes[:, column], shrink=0.8)
            if name.startswith("t_"):
                bar.ax.yaxis.set_major_formatter(LogFormatter())
                bar.ax.yaxis.set_minor_formatter(LogFormatter())
        figure.suptitle("Phases of learning; grey with a cross: not reached within the steps", fontsize=10)
    return Prediction(figure, _table(sources), ASSUMES)


def _span(maps: list[xr.DataArray], *, positive: bool) -> tuple[float, float]:
    """Lowest and highest value of all maps, apart from one another; for a logarithmic scale only those above 0."""
    known = np.concatenate([values.to_numpy().ravel() for values in maps])
    known = known[np.isfinite(known) & ((known > 0) | (not positive))]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1.0, 2.0)
    return low, max(high, 1.01 * low, low + 1e-6)


def _map(axes: Axes, values: xr.DataArray, low: float, high: float, colours: str, *, logarithmic: bool) -> AxesImage:
    """One map, a cell a point of the grid; cells without a value are grey and crossed."""
    norm = LogNorm(low, high) if logarithmic else Normalize(low, high)
    axes.set_facecolor("0.85")
    rows, columns = values.shape
    image = axes.imshow(np.maximum(values.to_numpy(), low), origin="lower", aspect="auto", cmap=colours, norm=norm)
    for row, column in np.argwhere(~np.isfinite(values.to_numpy())):
        axes.plot(column, row, "x", color="0.4", markersize=6)
    axes.set_xticks(range(columns), [f"{value:g}" for value in values["samples_per_dimension"].to_numpy()])
    axes.set_yticks(range(rows), [f"{value:g}" for value in values["noise_fraction"].to_numpy()])
    axes.set_xlim(-0.5, columns - 0.5)
    axes.set_ylim(-0.5, rows - 0.5)
    return image


def _table(sources: dict[str, xr.Dataset]) -> tuple[str, ...]:
    lines = []
    for source, found in sources.items():
        for rho in found["noise_fraction"].to_numpy():
            for n in found["samples_per_dimension"].to_numpy():
                here = found.sel(noise_fraction=rho, samples_per_dimension=n)
                last = ("none", "I", "II", "III", "IV")[int(here["last_phase"])]
                marks = " ".join(f"{name} {float(here[name]):.3g}" for name in MAPS)
                lines.append(f"{source}: rho {rho:g}, N/d {n:g}: last phase {last}; {marks}")
    return tuple(lines)
