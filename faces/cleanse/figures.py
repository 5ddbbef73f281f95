"""Pictures of a cleansing: where the probes agree, the losses there, how far probabilities hold, the suspects."""

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdphases.estimators.cleansing.consensus import Consensus
from sgdphases.estimators.cleansing.mixture import SCALES
from sgdphases.estimators.cleansing.wrong_labels import WrongLabels, reliability
from sgdphases.faces.run.figures import ALL, CLEAN, OTHER, SHADES, STYLE, TEST, WRONG

SUSPECTS = 40
LONGEST = 14  # characters of a class's name above a picture
_BINS = 60
SCALE_NAMES = {
    "log-odds": "log-odds against the given label, $\\log\\,[(1-p)/p]$",
    "log-loss": "logarithm of the loss (nats)",
    "loss": "loss (nats)",
}


def agreement_figure(found: Consensus) -> Figure:
    """Rank correlations between all pairs of probes, and their mean, with t_c and its window."""
    with rc_context(STYLE):
        figure = Figure(figsize=(7.8, 3.9), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.1, 1))
        shown = left.imshow(found.agreement, origin="lower", vmin=0, vmax=1, cmap="cividis", interpolation="nearest")
        places = np.unique(np.rint(np.linspace(0, len(found.epochs) - 1, 6)).astype(int))
        names = [f"{found.epochs[place]:.2g}" if found.epochs[place] < 10 else f"{found.epochs[place]:.0f}"
                 for place in places]  # fmt: skip
        left.set_xticks(places, names)
        left.set_yticks(places, names)
        left.set(title="Agreement of two measurements", xlabel="epoch", ylabel="epoch")
        left.plot([found.medoid], [found.medoid], "x", color=WRONG, markersize=8, markeredgewidth=2)
        figure.colorbar(shown, ax=left, label="rank correlation of losses", shrink=0.85)
        right.axvspan(*found.window, facecolor=SHADES[1], edgecolor="none", label="window")
        right.plot(found.epochs, found.agreement.mean(axis=1), color=ALL, label="with all measurements, mean")
        right.plot(found.epochs, found.agreement[found.medoid], "--", color=CLEAN, label="with that at $t_c$")
        right.axvline(found.t_clean, color=WRONG, linestyle=":", label=f"$t_c$ = {found.t_clean:.3g} epochs")
        right.set_xscale("log")
        right.set(title="Agreement along the run", xlabel="epoch", ylabel="rank correlation", ylim=(0, 1.05))
        figure.legend(loc="outside lower right", ncols=4, columnspacing=1)
        return figure


def loss_figure(agreed: Consensus, found: WrongLabels, wrong: np.ndarray | None) -> Figure:
    """The losses around t_c with the two components fitted, and l_c; both populations where the truth is known.

    Where the share of wrong labels was given, l_c is not where the components cross, and they are left out.
    """
    mixture = found.mixture
    values = SCALES[mixture.kind](agreed.loss)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.2), layout="constrained")
        axes = figure.subplots()
        edges = np.linspace(values.min(), values.max(), _BINS + 1)
        axes.hist(values, edges.tolist(), density=True, color="0.85", label="all samples")
        if wrong is not None and wrong.any():
            for mask, colour, name in ((~wrong, CLEAN, "really right"), (wrong, WRONG, "really wrong")):
                weights = np.full(mask.sum(), 1 / len(values) / (edges[1] - edges[0]))
                axes.hist(values[mask], edges.tolist(), weights=weights, histtype="step", color=colour, label=name)
        line = np.linspace(edges[0], edges[-1], 600)
        lower, upper = mixture.densities(line)
        if found.is_fitted:  # broad and pale, so that the components are seen on it
            name = f"fit (distance {mixture.distance:.3f})"
            axes.plot(line, lower + upper, color=ALL, linewidth=5, alpha=0.3, solid_capstyle="butt", label=name)
        if found.has_noise and found.is_fitted:
            axes.plot(line, lower, "--", color=TEST, label="fitted, right")
            axes.plot(line, upper, "--", color=OTHER, label="fitted, wrong")
        if found.has_noise and np.isfinite(mixture.loss_threshold):
            place = float(SCALES[mixture.kind](np.array([mixture.loss_threshold]))[0])
            name = f"$l_c$ = {mixture.loss_threshold:.2f} nats"
            axes.axvline(place, color=ALL, linestyle=":", linewidth=1.2, label=name)
        title = "Losses around $t_c$" + ("" if found.has_noise else ": no label is flagged")
        axes.set(title=title, xlabel=SCALE_NAMES[mixture.kind], ylabel="density")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        return figure


def reliability_figure(probability: np.ndarray, wrong: np.ndarray) -> Figure:
    """How often a label is wrong, where it is said to be with a given probability."""
    counts, said, share = reliability(wrong, probability)
    some = counts > 0
    said, share = said[some], share[some]
    error = np.sqrt(np.maximum(share * (1 - share), 0.25 / counts[some]) / counts[some])
    with rc_context(STYLE):
        figure = Figure(figsize=(5.2, 3.6), layout="constrained")
        upper, lower = figure.subplots(2, 1, height_ratios=(3, 1), sharex=True)
        upper.plot([0, 1], [0, 1], ":", color="0.5", label="as said")
        upper.errorbar(said, share, error, fmt="o-", color=WRONG, label="found (one standard error)")
        upper.set(title="Reliability", ylabel="share really wrong", ylim=(-0.03, 1.03))
        upper.legend(loc="upper left")
        lower.bar(np.flatnonzero(some) / 10 + 0.05, counts[some], 0.09, color="0.7")
        lower.set(xlabel="probability of being wrong", ylabel="samples", yscale="log", xlim=(-0.02, 1.02))
        return figure


def suspects_figure(
    images: np.ndarray, order: np.ndarray, probability: np.ndarray, given: np.ndarray, suggested: np.ndarray
) -> Figure:
    """The most suspect images, each with its given label, the suggested one, and the probability of being wrong.

    Parameters
    ----------
    images : ndarray, shape (N, height, width), (N, 1, height, width) or (N, 3, height, width)
    order : ndarray of int
        Samples to show, the most suspect first; at most `SUSPECTS` of them are.
    probability, given, suggested : ndarray, shape (N,)
    """
    order = order[:SUSPECTS]
    across = 8
    down = -(-len(order) // across)
    with rc_context(STYLE):
        figure = Figure(figsize=(7.6, 0.5 + 1.42 * down), layout="constrained")
        figure.suptitle("Most suspect first: number, probability of being wrong, given label → suggested", fontsize=10)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for axes in panels:
            axes.axis("off")
        for axes, sample in zip(panels, order, strict=False):
            _picture(axes, images[sample])
            names = f"{_shortened(given[sample])}\n→ {_shortened(suggested[sample])}"
            axes.set_title(f"#{sample}  {probability[sample]:.2f}\n{names}", fontsize=7, parse_math=False)
        return figure


def _shortened(name: object) -> str:
    """The name of a class on one line, as much of it as fits above a picture."""
    text = " ".join(str(name).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def are_images(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape can be drawn."""
    return (len(shape) == 2 or (len(shape) == 3 and shape[0] in (1, 3))) and min(shape[-2:]) > 1


def _picture(axes: Axes, image: np.ndarray) -> None:
    low, high = float(image.min()), float(image.max())
    scaled = (np.asarray(image, dtype=float) - low) / (high - low or 1)
    if scaled.ndim == 3 and len(scaled) == 3:
        axes.imshow(scaled.transpose(1, 2, 0), interpolation="nearest")
    else:
        axes.imshow(scaled.reshape(scaled.shape[-2:]), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
