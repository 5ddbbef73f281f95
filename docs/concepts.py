"""Draw the picture of docs/concepts.md: gradients of minibatches and their mean, and two populations that turn.

    python docs/concepts.py
"""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc

BLUE, ORANGE, GREY, BLACK = "#0072B2", "#D55E00", "0.72", "0.1"


def arrow(axes: Axes, x: float, y: float, colour: str, label: str = "", **style: float) -> None:
    options = {"width": 0.012, "zorder": 3.0, **style}
    axes.quiver(0, 0, x, y, angles="xy", scale_units="xy", scale=1, color=colour, label=label or None, **options)


def blank(axes: Axes, title: str, width: float = 1.35) -> None:
    axes.set(xlim=(-width, width), ylim=(-0.75 * width, 0.75 * width), aspect="equal", xticks=[], yticks=[])
    axes.set_title(title, fontsize=9)
    axes.plot(0, 0, "o", color=BLACK, markersize=3)


def cloud(axes: Axes, mean: float, spread: float, title: str) -> None:
    blank(axes, title)
    points = np.random.default_rng(3).normal([mean, 0], spread, (60, 2))
    for x, y in points:
        arrow(axes, x, y, GREY, width=0.004, zorder=1.0)
    arrow(axes, mean, 0, BLUE)
    axes.annotate("g", (mean, 0), xytext=(5, 4), textcoords="offset points", color=BLUE)


def pair(axes: Axes, clean: complex, wrong: complex, title: str) -> None:
    blank(axes, title, 1.6)
    for each, colour, name in ((clean, BLUE, "clean"), (wrong, ORANGE, "wrong")):
        arrow(axes, each.real, each.imag, colour)
        place = each * (1 + 0.24 / max(abs(each), 1e-9))
        axes.text(place.real, place.imag, name, color=colour, ha="center", va="center", fontsize=8)
    total = clean + wrong
    arrow(axes, total.real, total.imag, BLACK, width=0.008, zorder=4.0)
    first, second = sorted(np.degrees(np.angle([clean, wrong])))
    axes.add_patch(Arc((0, 0), 0.5, 0.5, theta1=first, theta2=second, color=BLACK, linestyle=":"))


def main() -> None:
    figure = Figure(figsize=(9.0, 4.9), layout="constrained")
    axes = figure.subplots(2, 3)
    cloud(axes[0, 0], 0.9, 0.15, "Fast learning: $A_0$ nearly $A$, R near 1")
    cloud(axes[0, 1], 0.3, 0.3, "In between: $D$ as large as $A_0$")
    cloud(axes[0, 2], 0.06, 0.4, r"Exploration: $D \gg A_0$, R near 0")
    pair(axes[1, 0], 0.95 + 0j, -0.2 + 0.12j, "Phase I: the clean labels lead")
    pair(axes[1, 1], 0.62 + 0.1j, -0.6 - 0.02j, "Phase II: they cancel, $R_{cw}$ near -1")
    pair(axes[1, 2], 0.35 + 0.2j, 0.7 - 0.25j, "Phase III: wrong labels lead, $R_{cw}$ > 0")
    axes[1, 0].text(-1.5, -1.05, r"black: their sum, g", fontsize=8)
    figure.savefig(Path(__file__).with_name("concepts.png"), dpi=140)


if __name__ == "__main__":
    main()
