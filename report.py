"""What a finished run shows a person: phases.json, the figures, and one self-contained page."""

import base64
import html
import json
import math
from functools import partial

import xarray as xr

from sgdphases.estimators.phases import Phases, find_phases, phase_medians
from sgdphases.estimators.signatures import Signature, signatures
from sgdphases.figures import draw, pictures_of, worth_showing
from sgdphases.sim.atomic import write_whole
from sgdphases.sim.run_folder import RunFolder
from sgdphases.sim.settings import RunSettings

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
DOTS_PER_INCH = 140
PAGE_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.25rem 0.7rem; text-align: right; white-space: nowrap; }
th { border-bottom: 1px solid #888; font-weight: 600; } th:first-child, td:first-child { text-align: left; }
pre { background: #f4f6f8; padding: 1rem; overflow-x: auto; font-size: 0.85rem; }
p.note { color: #555; font-size: 0.9rem; }
"""


def write_report(folder: RunFolder) -> Phases:
    """Find the phases of a run, draw its figures, and write its page.

    Parameters
    ----------
    folder : RunFolder
        Of a run that has reached a checkpoint.

    Returns
    -------
    Phases

    Raises
    ------
    UsageError, InputError
        If the folder holds no run or its files are damaged.
    """
    settings, trajectory = folder.read_settings(), folder.read_trajectory()
    phases = find_phases(trajectory)
    shown = [vars(each) for each in signatures(trajectory, phases)]
    text = json.dumps({**phases.to_dict(), "signatures": shown}, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(folder.phases, lambda part: part.write_text(text + "\n", encoding="utf-8"))
    folder.figures.mkdir(exist_ok=True)
    pictures = []
    for name, picture in pictures_of(trajectory).items():
        path = folder.figures / f"{name}.png"
        write_whole(path, partial(draw(picture, trajectory, phases).savefig, dpi=DOTS_PER_INCH))
        pictures.append((picture.title, picture.note, base64.b64encode(path.read_bytes()).decode()))
    page = _page(settings, folder.config.read_text(encoding="utf-8"), trajectory, phases, pictures)
    write_whole(folder.report, lambda part: part.write_text(page, encoding="utf-8"))
    return phases


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
    settings: RunSettings, config: str, trajectory: xr.Dataset, phases: Phases, pictures: list[tuple[str, str, str]]
) -> str:
    figures = [
        f'<h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'
        f"<p class='note'>{html.escape(note)}</p>"
        for title, note, data in pictures
    ]
    name = html.escape(settings.dataset)
    epoch = float(trajectory["epoch"][-1])
    done = "" if epoch >= settings.epochs else f" (unfinished: {epoch:.4g} of {settings.epochs} epochs so far)"
    intro = (
        f"Network with hidden layers {', '.join(map(str, settings.hidden)) or 'none'} ({settings.activation}), "
        f"{settings.noise_fraction:.0%} label noise ({html.escape(settings.noise_kind)}), learning rate "
        f"{settings.learning_rate:g}, minibatches of {settings.batch_size}, {settings.epochs} epochs{done}."
    )
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>Phases of learning: {name}</title><style>{PAGE_STYLE}</style></head><body>"
        f"<h1>Phases of learning: {name}</h1><p>{intro}</p>{figures[0]}"
        f"<h2>Phase by phase</h2>{_table(trajectory, phases)}{''.join(figures[1:])}"
        f"<h2>Settings</h2><p class='note'>Repeat this run with <code>sgdphases run --config config.toml</code>.</p>"
        f"<pre>{html.escape(config)}</pre></body></html>\n"
    )


def _table(trajectory: xr.Dataset, phases: Phases) -> str:
    heading, rows = phase_rows(trajectory, phases)
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in heading)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    missing = "".join(
        f"<p class='note'>Not reached: {html.escape(name)} – {html.escape(reason)}.</p>"
        for name, reason in phases.not_reached.items()
    )
    table = f"<table><tr>{head}</tr>{body}</table><p class='note'>Medians over the checkpoints of a phase.</p>"
    return (
        (table if rows else "")
        + missing
        + "".join(
            f"<p class='note'>{html.escape(line)}</p>" for line in signature_lines(signatures(trajectory, phases))
        )
    )
