"""What a finished run shows a person: phases.json, the figures, and one self-contained page."""

import html
import json
import math

import xarray as xr

from sgdphases.estimators.phases.find import find_phases, phase_medians
from sgdphases.estimators.phases.records import Phases
from sgdphases.estimators.phases.signatures import Signature, signatures
from sgdphases.faces.page import note, page, saved_picture, table
from sgdphases.faces.run.figures import draw, pictures_of, worth_showing
from sgdphases.sim.run.folder import RunFolder
from sgdphases.sim.run.settings import RunSettings
from sgdphases.sim.storage.atomic import write_whole

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
NETWORKS = {"cnn": "Small convolutional network", "resnet": "Small residual network"}


def write_report(folder: RunFolder) -> tuple[xr.Dataset, Phases, list[Signature]]:
    """Find the phases of a run, draw its figures, and write its page.

    Parameters
    ----------
    folder : RunFolder
        Of a run that has reached a checkpoint.

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
    settings, trajectory = folder.read_settings(), folder.read_trajectory()
    folder.check_trajectory(trajectory)
    phases = find_phases(trajectory)
    found = signatures(trajectory, phases)
    text = json.dumps(
        {**phases.to_dict(), "signatures": [vars(each) for each in found]},
        indent=2,
        ensure_ascii=False,
        allow_nan=False,
    )
    write_whole(folder.phases, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    folder.figures.mkdir(exist_ok=True)
    pictures = [
        f"<h2>{html.escape(picture.title)}</h2>"
        + saved_picture(draw(picture, trajectory, phases), folder.figures / f"{name}.png", picture.title)
        + note(picture.note)
        for name, picture in pictures_of(trajectory).items()
    ]
    text = _page(settings, folder.config.read_text(encoding="utf-8"), trajectory, phases, found, pictures)
    write_whole(folder.report, lambda part: part.write_text(text, encoding="utf-8"))
    return trajectory, phases, found


def phase_rows(trajectory: xr.Dataset, phases: Phases) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of phases: name, epochs, and medians of what is known."""
    known = {name: title for name, title in COLUMNS.items() if worth_showing(trajectory, name)}
    heading = ["phase", "epochs", *known.values()]
    rows = []
    for phase, medians in zip(phases.found, phase_medians(trajectory, phases, tuple(known)), strict=True):
        rows.append([phase.name, f"{phase.start:.3g}–{phase.end:.3g}", *(number(medians[name]) for name in known)])
    return heading, rows


def signature_lines(found: list[Signature]) -> list[str]:
    """One line a phase: what the paper finds there, and whether this run shows it."""
    marks = {True: "yes", False: "no", None: "unknown"}
    names = dict.fromkeys(each.phase for each in found)
    return [
        f"The paper's signatures of {name}: "
        + ", ".join(f"{each.claim}: {marks[each.shown]}" for each in found if each.phase == name)
        for name in names
    ]


def number(value: float) -> str:
    """A value to two digits; a dash where undefined."""
    return f"{value:.2g}" if math.isfinite(value) else "–"


def _page(
    settings: RunSettings,
    config: str,
    trajectory: xr.Dataset,
    phases: Phases,
    found: list[Signature],
    pictures: list[str],
) -> str:
    epoch = float(trajectory["epoch"][-1])
    done = "" if epoch >= settings.epochs else f" (unfinished: {epoch:.4g} of {settings.epochs} epochs so far)"
    layers = f"Network with hidden layers {', '.join(map(str, settings.hidden)) or 'none'} ({settings.activation})"
    intro = (
        f"{NETWORKS.get(settings.network, layers)}, {settings.noise_fraction:.0%} label noise ({settings.noise_kind}), "
        f"learning rate {settings.learning_rate:g}, minibatches of {settings.batch_size}, {settings.epochs} "
        f"epochs{done}."
    )
    heading, rows = phase_rows(trajectory, phases)
    medians = table(heading, rows) + note("Medians over the checkpoints of a phase.") if rows else ""
    missing = [f"Not reached: {name} – {reason}." for name, reason in phases.not_reached.items()]
    remarks = "".join(map(note, [*missing, *signature_lines(found)]))
    return page(
        f"Phases of learning: {settings.dataset}",
        f"<p>{html.escape(intro)}</p>{pictures[0]}<h2>Phase by phase</h2>{medians}{remarks}{''.join(pictures[1:])}"
        "<h2>Settings</h2><p class='note'>Repeat this run with <code>sgdphases run --config config.toml</code>.</p>"
        f"<pre>{html.escape(config)}</pre>",
    )
