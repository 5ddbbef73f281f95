"""Figure 6 of Feng & Tu 2021, cleansing, in the paper's panels, from records of studies of ours."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import norm

from sgdphases.estimators.phases.find import find_phases
from sgdphases.estimators.phases.phase_time import FOUR, combine_phases
from sgdphases.faces.run.figures import ALL, CLEAN, FLOOR, OTHER, SHARP, TEST, WRONG
from sgdphases.paper.cleansing_claims import HALF, LEAST_GAINS, gap_epoch
from sgdphases.paper.figures import PAPER, median_and_range, shade_phases

Records = Sequence[xr.Dataset]
MOST_LOSS = 6.5  # nats, the end of the axis of losses


def cleansing(by_fraction: Mapping[float, Records]) -> Figure:
    """Figure 6: A losses in four phases, B their mixture at t_c, C means along the run, D accuracies, E Q.

    A to C are of the noise fraction nearest to one half, A and B of its first seed. Lines are medians over seeds, bands
    and points all of them.

    Parameters
    ----------
    by_fraction : mapping of float to sequence of xarray.Dataset
        Noise fraction, and records that differ in their seed; at least one with wrong labels, or C to E stay empty.
    """
    noisy = [rho for rho in sorted(by_fraction) if rho > 0]
    with matplotlib.rc_context(PAPER):
        figure = Figure(figsize=(8.2, 7.6), layout="constrained")
        grid = figure.add_gridspec(3, 4, height_ratios=(0.8, 1.1, 1.1))
        first = [figure.add_subplot(grid[0, k]) for k in range(4)]
        b, c, d, e = (figure.add_subplot(grid[row, part]) for row in (1, 2) for part in (slice(0, 2), slice(2, 4)))
        if noisy:
            half = min(noisy, key=lambda rho: abs(rho - HALF))
            _populations(first, by_fraction[half][0], half)
            _mixture(b, by_fraction[half][0])
            _means(c, by_fraction[half])
        _accuracies(d, by_fraction)
        _gains(e, {rho: by_fraction[rho] for rho in noisy})
        return figure


def _populations(panels: Sequence[Axes], record: xr.Dataset, rho: float) -> None:
    """Distributions of the losses of right and wrong labels, each normalised, at a probe of each phase."""
    for number, (axes, (name, place)) in enumerate(zip(panels, _moments(record), strict=True)):
        for part, colour, label in (("c", CLEAN, "$P_c$, right"), ("w", WRONG, "$P_w$, wrong")):
            counts = record[f"count_{part}"].to_numpy()[place]
            _filled(axes, record, counts / max(counts.sum(), 1), colour, label)
        axes.set(xlim=(0, MOST_LOSS), ylim=(0, None), xlabel="loss $l$ (nats)", xticks=range(0, int(MOST_LOSS) + 1, 2))
        axes.set_title(f"{name}, epoch {float(record['epoch'][place]):.3g}")
        if number == 0:
            axes.set_ylabel("density (1/nat)")
            axes.set_title(f"A  {axes.get_title()}")
            axes.legend(loc="upper right", title=f"$\\rho$ = {rho:g}", title_fontsize=7, handlelength=1.2)


def _moments(record: xr.Dataset) -> list[tuple[str, int]]:
    """Four probes to look at: near the middle of phases I, III and IV, and t_c; or spread out, if phases lack."""
    epoch = record["epoch"].to_numpy()
    found = {phase.name: phase for phase in find_phases(record).found}
    centre = int(abs(epoch - float(record["t_clean"])).argmin())

    def middle(name: str) -> int:
        span = np.sqrt(max(found[name].start, epoch[1]) * found[name].end)
        return int(abs(np.log(epoch[1:] / span)).argmin()) + 1

    if tuple(found) != FOUR:
        late = centre + (len(epoch) - 1 - centre) // 2
        return [("start", 1), ("$t_c$", centre), ("later", late), ("end", len(epoch) - 1)]
    centre_name = "phase II ($t_c$)" if found["II"].start <= epoch[centre] <= found["II"].end else "$t_c$"
    return [
        ("phase I", middle("I")), (centre_name, centre), ("phase III", middle("III")), ("phase IV", len(epoch) - 1),
    ]  # fmt: skip


def _filled(axes: Axes, record: xr.Dataset, share: np.ndarray, colour: str, label: str) -> None:
    """A histogram from the share of losses in each bin."""
    centres = record["loss"].to_numpy()
    width = centres[1] - centres[0]
    axes.stairs(share / width, np.append(centres - width / 2, centres[-1] + width / 2), fill=True, color=colour,
                alpha=0.3, linewidth=0)  # fmt: skip
    axes.stairs(share / width, np.append(centres - width / 2, centres[-1] + width / 2), color=colour, label=label)


def _mixture(axes: Axes, record: xr.Dataset) -> None:
    """All losses at t_c, and the two weighted Gaussians fitted to them."""
    place = int(abs(record["epoch"].to_numpy() - float(record["t_clean"])).argmin())
    now = {name: float(value) for name, value in record.isel(step=place).data_vars.items() if value.ndim == 0}
    counts = (record["count_c"] + record["count_w"]).to_numpy()[place]
    _filled(axes, record, counts / max(counts.sum(), 1), "0.6", "all samples")
    losses = np.linspace(0, MOST_LOSS, 500)
    lower = (1 - now["fitted_share"]) * norm.pdf(losses, now["mean_c"], now["deviation_c"])
    upper = now["fitted_share"] * norm.pdf(losses, now["mean_w"], now["deviation_w"])
    name = f"fit (distance {now['fit_distance']:.3f})"  # broad and pale, so that the components are seen on it
    axes.plot(losses, lower + upper, color=ALL, linewidth=4.5, alpha=0.3, solid_capstyle="butt", label=name)
    axes.plot(losses, lower, "--", color=CLEAN, label="$(1-r)\\,N(m_c, s_c^2)$")
    axes.plot(losses, upper, "--", color=WRONG, label=f"$r\\,N(m_w, s_w^2)$, r = {now['fitted_share']:.2f}")
    axes.set(xlim=(0, MOST_LOSS), ylim=(0, None), xlabel="loss $l$ (nats)", ylabel="density $P(l)$ (1/nat)")
    axes.set_title(f"B  all losses at $t_c$ (epoch {float(record['t_clean']):.3g})")
    axes.legend(loc="upper right")


def _means(axes: Axes, records: Records) -> None:
    """Mean losses, fitted means, and both t_c, against the epoch; the paper's is where the fitted gap is largest."""
    for name, colour, label in (("loss_c", CLEAN, "$L_c$, right"), ("loss_w", WRONG, "$L_w$, wrong")):
        median_and_range(axes, records, name, colour, label)
    epoch = records[0]["epoch"].to_numpy()[1:]
    for name, colour, label in (("mean_c", FLOOR, "$m_c$, fitted"), ("mean_w", SHARP, "$m_w$, fitted")):
        values = np.array([record[name].to_numpy()[1:] for record in records])
        axes.plot(epoch, np.median(values, axis=0), "o", color=colour, markersize=2.5, label=label)
    ours = float(np.median([float(record["t_clean"]) for record in records]))
    paper = float(np.nanmedian([gap_epoch(record) for record in records]))
    below: Any = dict(ymax=0.68)  # the legend
    axes.axvline(ours, color=ALL, linestyle=":", label=f"$t_c$, ours: {ours:.3g}", **below)
    axes.axvline(paper, color=OTHER, linestyle="-.", label=f"$t_c$, widest $m_w - m_c$: {paper:.3g}", **below)
    axes.set(ylim=(0, None), xlabel="epoch", ylabel="mean loss (nats)")
    shade_phases([axes], records, combine_phases([find_phases(record) for record in records]), "C  both populations")
    low, high = axes.get_ylim()
    axes.set_ylim(low, 1.5 * high)  # room for the legend
    axes.legend(loc="upper center", ncols=3, columnspacing=0.8, handlelength=1.5, handletextpad=0.5,
                frameon=True, facecolor="white", edgecolor="none", framealpha=1)  # fmt: skip


def _accuracies(axes: Axes, by_fraction: Mapping[float, Records]) -> None:
    for name, colour, marker, label in (
        ("accuracy_p", CLEAN, "^", "$a_p$, right labels only"),
        ("accuracy_continue", TEST, "o", "$a_c$, cleansed, going on from $t_c$"),
        ("accuracy_stop", FLOOR, "v", "$a_c$, stopped at $t_c$"),
        ("accuracy_n", WRONG, "s", "$a_n$, no cleansing"),
    ):
        _against(axes, by_fraction, name, colour, marker, label)
    axes.set(xlabel="noise fraction $\\rho$", ylabel="test accuracy", ylim=(0, 1.02))
    axes.set_title("D  test accuracy")
    axes.legend(loc="lower left")


def _gains(axes: Axes, by_fraction: Mapping[float, Records]) -> None:
    for name, colour, marker, label in (
        ("cleansing_gain_continue", TEST, "o", "going on from $t_c$"),
        ("cleansing_gain_restart", OTHER, "D", "beginning again"),
        ("cleansing_gain_stop", FLOOR, "v", "stopped at $t_c$"),
    ):
        _against(axes, by_fraction, name, colour, marker, label)
    axes.plot([0.0, 0.8], [0.5, 0.5], "--", color="0.4", linewidth=1, label="the paper's bound")
    places = [0.0, *LEAST_GAINS]
    axes.stairs(list(LEAST_GAINS.values()), places, baseline=None, color=ALL, linestyle=":", label="our bound")
    axes.set(xlabel="noise fraction $\\rho$", ylabel="$Q = (a_c - a_n) / (a_p - a_n)$", ylim=(0, 1.05))
    axes.set_title("E  share of the lost accuracy won back")
    axes.legend(loc="lower left")


def _against(axes: Axes, by_fraction: Mapping[float, Records], name: str, colour: str, marker: str, label: str) -> None:
    """A number of each record against the noise fraction: medians joined, seeds as points."""
    known: dict[float, list[float]] = {}
    for rho, records in sorted(by_fraction.items()):
        values = [value for record in records if np.isfinite(value := float(record[name]))]
        if values:
            known[rho] = values
    points = [(rho, value) for rho, values in known.items() for value in values]
    if points:
        style: Any = dict(color=colour, marker=marker)
        axes.plot(*zip(*points, strict=True), linestyle="none", markersize=2.5, alpha=0.45, **style)
        axes.plot(list(known), [float(np.median(values)) for values in known.values()], markersize=4.5, label=label,
                  **style)  # fmt: skip
