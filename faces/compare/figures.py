"""What is shown of a comparison of runs: curves over one another against their phases, and one page."""

import html
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdphases.estimators.phases.comparison import Comparison
from sgdphases.faces.page import note, page, saved_picture, table
from sgdphases.faces.run.figures import (
    ALL,
    CLEAN,
    FLOOR,
    OTHER,
    SHARP,
    STYLE,
    TEST,
    WRONG,
    name_above,
    shade_bands,
    worth_showing,
)
from sgdphases.faces.run.page import COLUMNS, number, p_value
from sgdphases.faces.run.page import reading_lines as lines_of_run
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.folders import created
from sgdphases.sim.storage.text import write_json

RUN_COLOURS = (CLEAN, WRONG, TEST, ALL, OTHER, SHARP, FLOOR)
RUN_LINES = ("-", "--", "-.", ":")  # their number and that of the colours share no factor: 28 runs look different
MARKS = {True: "yes", False: "no", None: "–"}
AGREEMENT = {True: "all agree", False: "differ", None: "open"}
_RELATIVE = "relative to $A$ at $\\tau = 1$"
_MISSED = "fraction misclassified"


@dataclass(frozen=True)
class Overlay:
    """One variable of all runs in one pair of axes; ``zero``: with a line at 0."""

    name: str
    title: str
    label: str
    logarithmic: bool = False
    limits: tuple[float, float] | None = None
    zero: bool = False


@dataclass(frozen=True)
class OverlayPicture:
    """A figure: its heading, a sentence to go with it, and its panels.

    Of each group of panels the first that any run knows something for is drawn.
    """

    title: str
    note: str
    groups: tuple[tuple[Overlay, ...], ...]


TEST_ERROR = Overlay("test_error", "Test error $\\epsilon_{te}$", _MISSED, limits=(-0.02, 1.02))
WRONG_ERROR = Overlay("error_w", "Error on wrong labels $\\epsilon_w$", _MISSED, limits=(-0.02, 1.02))
TRAIN_ERROR = Overlay("train_error", "Training error $\\epsilon_{tr}$", _MISSED, limits=(-0.02, 1.02))
ACTIVITY = Overlay("activity", "Activity $A$", _RELATIVE, logarithmic=True)
DIRECTED = Overlay("directed_activity", "Directed activity $A_0$", _RELATIVE, logarithmic=True)
DIRECTED_C = Overlay("directed_activity_c", "Directed activity, clean: $A_{0c}$", _RELATIVE, logarithmic=True)
DIRECTED_W = Overlay("directed_activity_w", "Directed activity, wrong: $A_{0w}$", _RELATIVE, logarithmic=True)
ALIGNMENT_CW = Overlay("alignment_cw", "Clean and wrong gradients: $R_{cw}$", "cosine", limits=(-1.05, 1.05), zero=True)
ALIGNMENT = Overlay("alignment", "Minibatch gradients: $R$", "cosine", zero=True)
PROJECTION = Overlay(
    "projection_variance", "Projection variance $\\sigma_\\lambda^2$", "variance of $\\lambda$", logarithmic=True
)

_UNITS = "Activities are divided by each run's own activity A at the end of its first phase, τ = 1."
OVERLAYS: dict[str, OverlayPicture] = {
    "overview": OverlayPicture(
        "The phases side by side",
        "Time is stretched so that every phase of every run takes one unit of τ (within it, τ follows the logarithm of "
        f"the epoch; in the first phase, the epoch). Dots are checkpoints. {_UNITS}",
        (
            (TEST_ERROR,),
            (WRONG_ERROR, TRAIN_ERROR),
            (ACTIVITY,),
            (ALIGNMENT_CW,),
            (DIRECTED_C, DIRECTED),
            (DIRECTED_W,),
            (ALIGNMENT,),
            (PROJECTION,),
        ),
    ),
    "errors": OverlayPicture("Errors", "Of test, training and wrongly labelled samples.", (
        (TEST_ERROR,), (TRAIN_ERROR,), (WRONG_ERROR,),
    )),
    "activities": OverlayPicture("Activities", _UNITS, ((ACTIVITY,), (DIRECTED,), (DIRECTED_C,), (DIRECTED_W,))),
    "alignments": OverlayPicture(
        "Alignments and projection variance",
        "Cosines between the mean gradients of clean and wrong samples and among minibatches, and the noise of "
        "minibatches along their mean.",
        ((ALIGNMENT_CW,), (ALIGNMENT,), (PROJECTION,)),
    ),
}  # fmt: skip


def draw_overlay(picture: OverlayPicture, comparison: Comparison) -> Figure:
    """One picture of a comparison: each variable of all runs against tau.

    Parameters
    ----------
    picture : OverlayPicture
        Of `OVERLAYS`.
    comparison : Comparison
    """
    chosen = [next((panel for panel in group if _known(panel, comparison)), None) for group in picture.groups]
    panels = [panel for panel in chosen if panel is not None]
    rows = -(-len(panels) // 2)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9.5, 0.9 + 0.2 * len(comparison.curves) / 2 + 2.1 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, sharex=True, squeeze=False)
        for place, panel in zip(axes.flat, panels, strict=False):
            _curves(place, panel, comparison)
            _bands(place, comparison.kind, named=place in axes[0])
        for place in axes.flat[len(panels) :]:
            place.remove()
        for column in (0, 1):
            lowest = [place for place in axes[:, column] if place.figure is not None]
            if lowest:
                lowest[-1].set_xlabel("phase time $\\tau$")
                lowest[-1].tick_params(labelbottom=True)
        lines, names = axes[0, 0].get_legend_handles_labels()
        figure.legend(lines, names, loc="outside upper center", ncols=1 if max(map(len, names)) > 40 else 2)
        return figure


def write_comparison(folder: Path, comparison: Comparison, paths: Mapping[str, Path]) -> Path:
    """Write ``comparison.json``, the figures and ``comparison.html``.

    Parameters
    ----------
    folder : Path
        Made if it is not there. Everything is drawn before anything is written.
    comparison : Comparison
    paths : mapping of Path
        Run folder by the run's name.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    figures = {name: draw_overlay(picture, comparison) for name, picture in OVERLAYS.items()}
    record = {"runs": {name: str(path) for name, path in paths.items()}, **comparison.to_dict()}
    with created(folder):
        write_json(folder / "comparison.json", record)
        pictures = []
        for name, figure in figures.items():
            title = OVERLAYS[name].title
            image = saved_picture(figure, folder / f"{name}.png", title)
            pictures.append(f"<h2>{html.escape(title)}</h2>{image}{note(OVERLAYS[name].note)}")
        place, content = folder / "comparison.html", _page(comparison, paths, pictures)
        write_whole(place, lambda part: part.write_text(content, encoding="utf-8"))
    return place


def signature_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of signatures: phase, claim, verdict of each run, and whether they agree."""
    rows = [
        [each.phase, each.claim, *(MARKS[shown] for shown in each.shown.values()), AGREEMENT[each.agreed]]
        for each in comparison.findings
    ]
    return ["phase", "signature", *comparison.phases, "verdict"], rows


def start_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of phases: the epochs each spans in each run, and its p-value there."""
    spans = {
        run: {phase.name: f"{phase.start:.3g}–{phase.end:.3g} (p {p_value(phase.p_value)})" for phase in phases.found}
        for run, phases in comparison.phases.items()
    }
    rows = [[name, *(spans[run].get(name, "not reached") for run in spans)] for name in comparison.kind]
    return ["phase", *(f"{run} (epochs)" for run in spans)], rows


def median_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of medians: phase by phase, run beside run; what is known of no run is left out."""
    every = [values for table in comparison.medians.values() for values in table.values()]
    known = {name: title for name, title in COLUMNS.items() if any(np.isfinite(v.get(name, np.nan)) for v in every)}
    rows = [
        [phase, run, *(number(table[phase].get(name, np.nan)) for name in known)]
        for phase in comparison.kind
        for run, table in comparison.medians.items()
        if phase in table
    ]
    return ["phase", "run", *known.values()], rows


def reading_lines(comparison: Comparison) -> list[str]:
    """What each run's phases say is learnt, what is in doubt, and what it did not reach, a line each."""
    return [
        f"{run}: {line[0].lower()}{line[1:]}"
        for run, phases in comparison.phases.items()
        for line in lines_of_run(phases)
    ]


def agreement(comparison: Comparison) -> str:
    """One sentence: how many signatures all runs agree on, how many they differ in, and how many are open."""
    verdicts = [each.agreed for each in comparison.findings]
    return (
        f"Of {len(verdicts)} signatures the runs agree on {verdicts.count(True)}, differ in {verdicts.count(False)}; "
        f"{verdicts.count(None)} are undecided in at least one run."
    )


def _known(panel: Overlay, comparison: Comparison) -> list[str]:
    return [run for run, curves in comparison.curves.items() if worth_showing(curves, panel.name)]


def _curves(axes: Axes, panel: Overlay, comparison: Comparison) -> None:
    known = _known(panel, comparison)
    for index, (run, curves) in enumerate(comparison.curves.items()):
        colour, line = RUN_COLOURS[index % len(RUN_COLOURS)], RUN_LINES[index % len(RUN_LINES)]
        tau, values = _line(curves, panel.name) if run in known else (np.empty(0), np.empty(0))
        axes.plot(tau, values, line, marker=".", markersize=3, linewidth=1.3, color=colour, label=run)
    if panel.logarithmic and any((np.asarray(line.get_ydata()) > 0).any() for line in axes.lines):
        axes.set_yscale("log")
    if panel.zero:
        axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    if panel.limits is not None:
        axes.set_ylim(panel.limits)
    axes.set(title=panel.title, ylabel=panel.label)


def _line(curves: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Tau and values, torn apart where a phase was skipped: nothing was measured there."""
    tau, values = curves["tau"].to_numpy(), curves[name].to_numpy()
    torn = np.flatnonzero(np.diff(np.floor(tau)) > 1) + 1
    return np.insert(tau, torn, np.nan), np.insert(values, torn, np.nan)


def _bands(axes: Axes, kind: tuple[str, ...], *, named: bool) -> None:
    """Phases as equal bands, named above the panels of the first row."""
    axes.set_xlim(0, len(kind))
    axes.set_xticks(range(len(kind) + 1))
    shade_bands(axes, [(place, place + 1) for place in range(len(kind))])
    if named:
        axes.set_title(axes.get_title(), pad=18)
        for place, name in enumerate(kind):
            name_above(axes, name, place + 0.5)


def _page(comparison: Comparison, paths: Mapping[str, Path], pictures: list[str]) -> str:
    runs = "".join(f"<li>{html.escape(f'{name}: {path}')}</li>" for name, path in paths.items())
    read = "".join(map(note, reading_lines(comparison)))
    judged = note(
        "What Feng & Tu (2021) find in each phase, judged by medians over its checkpoints; a dash where a run is too "
        "uncertain, or did not get there."
    )
    return page(
        "Runs compared by their phases",
        f"<ul>{runs}</ul>{pictures[0]}<h2>Signatures</h2><p>{agreement(comparison)}</p>"
        f"{table(*signature_rows(comparison))}{judged}<h2>Epochs</h2>{table(*start_rows(comparison))}{read}"
        f"<h2>Medians</h2>{table(*median_rows(comparison))}"
        + note("Over the checkpoints of a phase, in the runs' own units.")
        + "".join(pictures[1:]),
    )
