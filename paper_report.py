"""What a reproduction shows a person: the paper's figures, its claims judged, and one self-contained page."""

import base64
import html
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from sgdphases import paper_figures
from sgdphases.estimators.paper_claims import Claim, activity_claims, fraction_claims, two_phase_claims
from sgdphases.estimators.paper_spectra import phase_spectrum_claims, spectrum_claims
from sgdphases.report import PAGE_STYLE
from sgdphases.sim.atomic import write_whole
from sgdphases.sim.paper import CLEAN_HIDDEN, NOISY_HIDDEN, Runs

Sweeps = dict[str, Runs]
NETWORKS = {"clean": "MNIST, 784-30-30-10", "cnn": "CIFAR-10, small CNN", "resnet": "CIFAR-10, small ResNet"}
VERDICTS = {True: "holds", False: "does not", None: "cannot be told"}
_DOTS_PER_INCH = 110
_WRAP = "td, th { white-space: normal !important; vertical-align: top; text-align: left !important; }"


@dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper: its title, how it is drawn from the runs there are, and how its claims are judged."""

    title: str
    draw: Callable[[Sweeps], Figure]
    judge: Callable[[Sweeps], list[Claim]]


def _runs(sweeps: Sweeps, name: str) -> list[xr.Dataset]:
    return [run for _, run in sweeps.get(name, [])]


def _by_fraction(sweeps: Sweeps) -> dict[float, list[xr.Dataset]]:
    found: dict[float, list[xr.Dataset]] = {}
    for place, run in sweeps.get("fractions", []):
        found.setdefault(place["noise_fraction"], []).append(run)
    return found


def _networks(sweeps: Sweeps) -> dict[str, list[xr.Dataset]]:
    return {heading: runs for name, heading in NETWORKS.items() if (runs := _runs(sweeps, name))}


def _two_phase_claims(sweeps: Sweeps) -> list[Claim]:
    return [
        claim for name, heading in NETWORKS.items() for claim in two_phase_claims(heading, _runs(sweeps, name))
    ]  # fmt: skip


FIGURES = {
    "fig1": PaperFigure(
        "Two phases of learning without wrong labels",
        lambda sweeps: paper_figures.two_phases(_networks(sweeps)),
        _two_phase_claims,
    ),
    "fig2": PaperFigure(
        "Noise spectra of the two phases",
        lambda sweeps: paper_figures.two_spectra(_runs(sweeps, "clean")),
        lambda sweeps: spectrum_claims(_runs(sweeps, "clean"), CLEAN_HIDDEN[0] * CLEAN_HIDDEN[1]),
    ),
    "fig3": PaperFigure(
        "Four phases with wrong labels",
        lambda sweeps: paper_figures.fractions(_by_fraction(sweeps)),
        lambda sweeps: fraction_claims(_by_fraction(sweeps)),
    ),
    "fig4": PaperFigure(
        "Activities and alignments with half of the labels wrong",
        lambda sweeps: paper_figures.activities(_runs(sweeps, "half")),
        lambda sweeps: activity_claims(_runs(sweeps, "half")),
    ),
    "fig5": PaperFigure(
        "Noise spectra of the four phases",
        lambda sweeps: paper_figures.four_spectra(_runs(sweeps, "half")),
        lambda sweeps: phase_spectrum_claims(_runs(sweeps, "half"), NOISY_HIDDEN[0] * NOISY_HIDDEN[1]),
    ),
}
"""The figures that can be reproduced, by name; each has its sweeps in `sgdphases.sim.paper.SWEEPS`."""


def write_reproduction(out: Path, figures: dict[str, tuple[str, ...]], sweeps: Sweeps, about: str) -> list[Claim]:
    """Draw the figures, judge the claims, and write ``figures/``, ``claims.json`` and ``reproduction.html``.

    Parameters
    ----------
    out : Path
    figures : dict of tuple of str
        Figures wanted, each with the sweeps it is drawn from; one without any finished run is left out.
    sweeps : dict
        Finished runs of each sweep.
    about : str
        A sentence on how they were made, for the page.

    Returns
    -------
    list of Claim
    """
    claims = [claim for name in figures for claim in FIGURES[name].judge(sweeps)]
    table = {"about": about, "claims": [claim.to_dict() for claim in claims]}
    text = json.dumps(table, indent=2, ensure_ascii=False, allow_nan=False)
    write_whole(out / "claims.json", lambda part: part.write_text(text + "\n", encoding="utf-8"))
    (out / "figures").mkdir(exist_ok=True)
    pictures = []
    for name, needed in figures.items():
        if not any(sweeps.get(each) for each in needed):
            continue
        path = out / "figures" / f"figure-{name.removeprefix('fig')}.png"
        write_whole(path, partial(FIGURES[name].draw(sweeps).savefig, dpi=_DOTS_PER_INCH))
        pictures.append((name, base64.b64encode(path.read_bytes()).decode()))
    page = _page(pictures, claims, about)
    write_whole(out / "reproduction.html", lambda part: part.write_text(page, encoding="utf-8"))
    return claims


def _page(pictures: list[tuple[str, str]], claims: list[Claim], about: str) -> str:
    drawn = "".join(
        f"<h2>Figure {name.removeprefix('fig')}: {html.escape(FIGURES[name].title)}</h2>"
        f'<img alt="{html.escape(FIGURES[name].title)}" src="data:image/png;base64,{data}">'
        f"{_table([claim for claim in claims if claim.figure == name])}"
        for name, data in pictures
    )
    counts = ", ".join(
        f"{sum(claim.holds is verdict for claim in claims)} {text}" for verdict, text in VERDICTS.items()
    )
    title = "Phases of learning: the figures of Feng &amp; Tu 2021"
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f"<title>{title}</title><style>{PAGE_STYLE}{_WRAP}</style></head><body>"
        f"<h1>{title}</h1><p>{html.escape(about)}</p><p>Of {len(claims)} claims: {counts}.</p>{drawn}</body></html>\n"
    )


def _table(claims: list[Claim]) -> str:
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in claim_row(claim)[1:]) + "</tr>" for claim in claims
    )
    return f"<table><tr><th>the paper</th><th>ours: median (range over seeds)</th><th>verdict</th></tr>{rows}</table>"


def claim_row(claim: Claim) -> tuple[str, str, str, str]:
    """Figure, the paper's claim, ours, and the verdict, as text."""
    return claim.figure, claim.claim, claim.ours or "–", VERDICTS[claim.holds]
