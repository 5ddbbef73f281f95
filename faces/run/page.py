"""What is shown of a finished run: phases.json, the figures, and one self-contained page."""

import html
import math
from pathlib import Path

import numpy as np
import xarray as xr

from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.now import LEARNT
from sgdphases.estimators.phases.records import Phases
from sgdphases.estimators.phases.signatures import Signature, signatures
from sgdphases.faces.page import note, page, saved_picture, table
from sgdphases.faces.run.explorer import explorer, named
from sgdphases.faces.run.figures import draw, pictures_of, worth_showing
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.folders import created
from sgdphases.sim.storage.text import write_json

COLUMNS = {
    "train_error": "ε_tr",
    "test_error": "ε_te",
    "error_c": "ε_c",
    "error_w": "ε_w",
    "activity": "A",
    "directed_activity": "A₀",
    "alignment": "R",
    "alignment_cw": "R_cw",
    "projection_variance": "σ_λ²",
}
MEDIANS = (
    "p: how likely the errors differ as much by sampling noise alone, under the null hypothesis of the phase (below). "
    "The rest are medians over the checkpoints of a phase."
)
MEANINGS = {
    "train_error": "training error",
    "test_error": "test error",
    "error_c": "error on right labels",
    "error_w": "error on wrong labels",
    "activity": "mean squared minibatch gradient",
    "directed_activity": "the square of the mean gradient",
    "alignment": "cosine of two minibatch gradients",
    "alignment_cw": "cosine of the mean gradients of right and wrong labels",
    "projection_variance": "noise along the mean gradient",
}
"""What each of `COLUMNS` is, in a few words."""
WATCHED = "Phases of learning"  # heading of a page about the user's own training
NETWORKS = {"cnn": "Small convolutional network", "resnet": "Small residual network"}


def write_report(folder: RunFolder, *, first: bool = False) -> tuple[xr.Dataset, Phases, list[Signature]]:
    """Find the phases of a run, draw its figures, and write its page.

    Parameters
    ----------
    folder : RunFolder
        Of a run that has reached a checkpoint, or of a `PhaseMonitor`.
    first : bool
        Only the pictures that are drawn as soon as a run ends; the page says how to have the others.

    Returns
    -------
    trajectory : xarray.Dataset
    phases : Phases
    found : list of Signature

    Raises
    ------
    UsageError, InputError
        If the folder holds no run or its files are damaged.
    """
    if not folder.config.is_file() and folder.trajectory.is_file():  # of a monitor, which knows no settings
        watched = folder.read_trajectory()
        return watched, *_written(folder, watched, WATCHED, _about_watched(watched), "")
    settings, trajectory = folder.read_settings(), folder.read_trajectory()
    folder.check_trajectory(trajectory)
    config = folder.config.read_text(encoding="utf-8")
    again = (
        "<h2>Settings</h2><p class='note'>Repeat this run with <code>sgdphases run --config config.toml</code>.</p>"
        f"<pre>{html.escape(config)}</pre>"
    )
    title = f"Phases of learning: {settings.dataset}"
    return trajectory, *_written(folder, trajectory, title, _about_run(settings, trajectory), again, first)


def report(trajectory: xr.Dataset, folder: str | Path) -> Path:
    """Draw the figures and the page of a trajectory, such as that of a `PhaseMonitor`.

    Parameters
    ----------
    trajectory : xarray.Dataset
        Of a run or a monitor; three measurements show phases.
    folder : str or Path
        Where ``phases.json``, ``figures/`` and ``report.html`` are to stand, new or not.

    Returns
    -------
    Path
        Of the page.

    Raises
    ------
    InputError
        If the folder cannot be written.
    """
    place = RunFolder(Path(folder))
    with created(place.path):
        _written(place, trajectory, WATCHED, _about_watched(trajectory), "")
    return place.report


def _written(
    folder: RunFolder, trajectory: xr.Dataset, title: str, about: str, last: str, first: bool = False
) -> tuple[Phases, list[Signature]]:
    """Write ``phases.json``, the figures and the page."""
    phases = find_phases(trajectory)
    found = signatures(trajectory, phases)
    write_json(folder.phases, {**phases.to_dict(), "signatures": [each.to_dict() for each in found]})
    folder.figures.mkdir(exist_ok=True)
    chosen = pictures_of(trajectory)
    if first:
        later = [picture.title.lower() for picture in chosen.values() if not picture.first]
        chosen = {name: picture for name, picture in chosen.items() if picture.first}
        more = ", ".join(["an interactive one", *later])
        last = note(f"More pictures ({more}): sgdphases report {folder.path}") + last
    pictures = [
        f"<h2>{html.escape(picture.title)}</h2>"
        + saved_picture(draw(picture, trajectory, phases), folder.figures / f"{name}.png", picture.title)
        + note(picture.note)
        for name, picture in chosen.items()
    ]
    text = _page(title, about, trajectory, phases, found, pictures, last, "" if first else explorer(trajectory, phases))
    write_whole(folder.report, lambda part: part.write_text(text, encoding="utf-8"))
    return phases, found


def summary_line(trajectory: xr.Dataset, phases: Phases) -> str:
    """What happened in the run, in a sentence or two, and what to do about it."""
    by_name = {phase.name: phase for phase in phases.found}
    if not by_name:
        reason = phases.doubt or next(iter(phases.not_reached.values()), "too few checkpoints")
        return f"No phase can be identified from the errors: {reason}."
    errors = trajectory["test_error"].to_numpy() if "test_error" in trajectory else np.full(1, np.nan)
    ends = f" The test error ends at {errors[-1]:.2g}." if math.isfinite(errors[-1]) else ""
    if "III" in by_name:
        begun = by_name["III"].start
        if "II" not in by_name:
            lowest = f" (lowest test error {phases.error_min:.2g})" if math.isfinite(phases.error_min) else ""
            return (
                f"From epoch {begun:.3g} on the network memorises what the common rule does not explain, while it "
                f"still learns that rule{lowest}.{ends} Stop near epoch {max(begun, phases.t_min):.3g}."
            )
        rest = by_name["II"]
        lowest = f" (test error {phases.error_min:.2g})" if math.isfinite(phases.error_min) else ""
        return (
            f"The network is at its best between epochs {rest.start:.3g} and {rest.end:.3g}{lowest}; from epoch "
            f"{begun:.3g} on it memorises what the common rule does not explain.{ends} Stop before epoch {begun:.3g}."
        )
    last = phases.found[-1]
    return f"{named(last.name)} since epoch {last.start:.3g}: {LEARNT[last.name]}.{ends}"


def phase_rows(trajectory: xr.Dataset, phases: Phases) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of phases: name, epochs, evidence, and medians of what is known."""
    known = {name: title for name, title in COLUMNS.items() if worth_showing(trajectory, name)}
    heading = ["phase", "epochs", "p", *known.values()]
    rows = []
    for phase, medians in zip(phases.found, phase_medians(trajectory, phases, tuple(known)), strict=True):
        span = f"{phase.start:.3g}–{phase.end:.3g}"
        rows.append([phase.name, span, p_value(phase.p_value), *(number(medians[name]) for name in known)])
    return heading, rows


def meanings_line(trajectory: xr.Dataset) -> str:
    """What the columns of `phase_rows` are, in words."""
    known = [f"{title} {MEANINGS[name]}" for name, title in COLUMNS.items() if worth_showing(trajectory, name)]
    return f"Medians: {', '.join(known)}."


def p_value(value: float) -> str:
    """A p-value to one digit; below a millionth its size says no more; a question mark where unknown."""
    return "?" if math.isnan(value) else "<1e-6" if value < 1e-6 else f"{value:.1g}"


def reading_lines(phases: Phases) -> list[str]:
    """What the phases say is learnt, what is in doubt, and what was not reached, a line each."""
    said = [f"{title}: {text}." for title, text in (("Reading", phases.reading), ("Doubt", phases.doubt)) if text]
    return [*said, *(f"Not reached: {name} – {reason}." for name, reason in phases.not_reached.items())]


def evidence_lines(phases: Phases) -> list[str]:
    """The null hypothesis of each phase, with its p-value."""
    return [
        f"{phase.name}: p {'unknown' if math.isnan(phase.p_value) else p_value(phase.p_value)} if {phase.null}."
        for phase in phases.found
        if phase.null
    ]


def signature_lines(found: list[Signature]) -> list[str]:
    """One line a phase: what the paper finds there, and whether this run shows it."""
    marks = {True: "yes", False: "no", None: "undecided"}
    names = dict.fromkeys(each.phase for each in found)
    return [
        f"The paper's signatures of {name}: "
        + ", ".join(f"{each.claim}: {marks[each.shown]}{_interval(each)}" for each in found if each.phase == name)
        for name in names
    ]


def _interval(signature: Signature) -> str:
    """The number a signature is about, and its interval, in brackets; empty where nothing is known."""
    if math.isnan(signature.value):
        return ""
    if math.isnan(signature.low):
        return f" ({signature.value:.2g}, of one checkpoint)"
    return f" ({signature.value:.2g}; {signature.low:.2g} to {signature.high:.2g})"


def number(value: float) -> str:
    """A value to two digits; a dash where undefined."""
    return f"{value:.2g}" if math.isfinite(value) else "–"


def _about_run(settings: RunSettings, trajectory: xr.Dataset) -> str:
    epoch = float(trajectory["epoch"][-1])
    done = "" if epoch >= settings.epochs else f" (unfinished: {epoch:.4g} of {settings.epochs} epochs so far)"
    layers = f"Network with hidden layers {', '.join(map(str, settings.hidden)) or 'none'} ({settings.activation})"
    return (
        f"{NETWORKS.get(settings.network, layers)}, {settings.noise_fraction:.0%} label noise ({settings.noise_kind}), "
        f"learning rate {settings.learning_rate:g}, minibatches of {settings.batch_size}, {settings.epochs} "
        f"epochs{done}."
    )


def _about_watched(trajectory: xr.Dataset) -> str:
    known, epoch = trajectory.attrs, float(trajectory["epoch"][-1])
    parts = [f"A {known['model']}" if "model" in known else "A network", f"after {epoch:.4g} epochs"]
    if "batch_size" in known:
        parts.append(f"in minibatches of {known['batch_size']}")
    if "n_training" in known:
        parts.append(f"measured on {known['n_samples']} of {known['n_training']} training samples")
    return ", ".join(parts) + "."


def _page(
    title: str,
    about: str,
    trajectory: xr.Dataset,
    phases: Phases,
    found: list[Signature],
    pictures: list[str],
    last: str,
    played: str,
) -> str:
    heading, rows = phase_rows(trajectory, phases)
    medians = table(heading, rows) + note(MEDIANS) + note(meanings_line(trajectory)) if rows else ""
    read = "".join(f"<p>{html.escape(line)}</p>" for line in reading_lines(phases))
    explained = ["Signatures with the number they are about and its interval at 95 %."] if found else []
    remarks = read + "".join(map(note, [*evidence_lines(phases), *signature_lines(found), *explained]))
    first, *others = pictures
    body = f"{played}{first}<h2>Phase by phase</h2>{medians}{remarks}{''.join(others)}{last}"
    happened = html.escape(summary_line(trajectory, phases))
    return page(title, f"<p>{html.escape(about)}</p><p><b>{happened}</b></p>{body}")
