"""What a reproduction shows a person: the paper's figures, its claims judged, and one self-contained page."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import xarray as xr
from matplotlib.figure import Figure

from sgdphases.faces.page import page, saved_picture, table
from sgdphases.paper import figures as paper_figures
from sgdphases.paper.claims import Claim
from sgdphases.paper.cleansing_claims import cleansing_claims
from sgdphases.paper.cleansing_figure import cleansing
from sgdphases.paper.experiments import CLEAN_HIDDEN, NOISY_HIDDEN, Runs
from sgdphases.paper.phase_claims import activity_claims, fraction_claims, two_phase_claims
from sgdphases.paper.spectrum_claims import phase_spectrum_claims, spectrum_claims
from sgdphases.sim.storage.atomic import write_whole
from sgdphases.sim.storage.text import write_json

Sweeps = dict[str, Runs]
NETWORKS = {"clean": "MNIST, 784-30-30-10", "cnn": "CIFAR-10, small CNN", "resnet": "CIFAR-10, small ResNet"}
VERDICTS = {True: "holds", False: "does not", None: "undecided"}


@dataclass(frozen=True)
class PaperFigure:
    """One figure of the paper: its title, how it is drawn from the runs there are, and how its claims are judged."""

    title: str
    draw: Callable[[Sweeps], Figure]
    judge: Callable[[Sweeps], list[Claim]]


def _runs(sweeps: Sweeps, name: str) -> list[xr.Dataset]:
    return [run for _, run in sweeps.get(name, [])]


def _by_fraction(sweeps: Sweeps, name: str = "fractions") -> dict[float, list[xr.Dataset]]:
    found: dict[float, list[xr.Dataset]] = {}
    for place, run in sweeps.get(name, []):
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
    "fig6": PaperFigure(
        "Finding and removing wrong labels",
        lambda sweeps: cleansing(_by_fraction(sweeps, "cleansing")),
        lambda sweeps: cleansing_claims(_by_fraction(sweeps, "cleansing")),
    ),
}
"""The figures that can be reproduced, by name; each has its sweeps in `sgdphases.paper.experiments.SWEEPS`."""


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
    stored = {"about": about, "claims": [claim.to_dict() for claim in claims]}
    write_json(out / "claims.json", stored)
    (out / "figures").mkdir(exist_ok=True)
    body = f"<p>{about}</p><p>{_counts(claims)}</p>"
    for name, needed in figures.items():
        if any(sweeps.get(each) for each in needed):
            number, title = name.removeprefix("fig"), FIGURES[name].title
            path = out / "figures" / f"figure-{number}.png"
            body += f"<h2>Figure {number}: {title}</h2>"
            body += saved_picture(FIGURES[name].draw(sweeps), path, title)
            rows = [list(claim_row(claim)[1:]) for claim in claims if claim.figure == name]
            body += table(["the paper", "ours: median (range over seeds)", "verdict"], rows, prose=True)
    text_page = page("Phases of learning: the figures of Feng & Tu 2021", body)
    write_whole(out / "reproduction.html", lambda part: part.write_text(text_page, encoding="utf-8"))
    return claims


def _counts(claims: list[Claim]) -> str:
    found = [f"{sum(claim.holds is verdict for claim in claims)} {text}" for verdict, text in VERDICTS.items()]
    return f"Of {len(claims)} claims: {', '.join(found)}."


def claim_row(claim: Claim) -> tuple[str, str, str, str]:
    """Figure, the paper's claim, ours, and the verdict, as text."""
    return claim.figure, claim.claim, claim.ours or "–", VERDICTS[claim.holds]
