"""Pictures of predictions alone, with a simulation of the same model where one is asked for."""

from dataclasses import dataclass

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.figure import Figure

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.run.figures import ALL, CLEAN, OTHER, STYLE, TEST, WRONG
from sgdphases.sim.data.datasets.covariance import covariance_spectrum
from sgdphases.sim.solvable.online_committee import random_committee, simulate_committee
from sgdphases.theory.clean_priority import balance, end_of_priority, finite_balance
from sgdphases.theory.committee.flow import committee_flow
from sgdphases.theory.committee.order_parameters import committee_order_parameters
from sgdphases.theory.committee.state import CommitteePath, CommitteeState
from sgdphases.theory.linear.flow import flow
from sgdphases.theory.linear.limit import flow_limit
from sgdphases.theory.linear.predictions import predictions

ACTIVITY_NAMES = {
    "total_variance": ("$D$, variance", OTHER),
    "directed_activity": ("$A_0$, all", ALL),
    "directed_activity_c": ("$A_{0c}$, clean", CLEAN),
    "directed_activity_w": ("$A_{0w}$, wrong", WRONG),
}
COSINE_NAMES = {
    "alignment_cw": ("$R_{cw}$, clean and wrong", ALL),
    "alignment_ac": ("$R_{ac}$, all and clean", CLEAN),
    "alignment_aw": ("$R_{aw}$, all and wrong", WRONG),
}
COLOURS = (ALL, CLEAN, WRONG, TEST, OTHER, "#E69F00", "#56B4E9")


@dataclass(frozen=True, eq=False)
class Prediction:
    """A figure, lines of what it says in numbers, and what it assumes."""

    figure: Figure
    findings: tuple[str, ...]
    assumes: str


def linear_figure(
    samples: int, dimension: int, noise_fraction: float, exponent: float, time: float, simulate: bool, seed: int
) -> Prediction:
    """Losses along gradient flow of a linear student whose teacher's targets have their sign flipped in a share rho.

    Raises
    ------
    UsageError, ValueError
        If a number is out of range.
    """
    _positive("--time", time)
    times = np.geomspace(1e-2, time, 80) if time > 1e-2 else np.array([time])
    spectrum = covariance_spectrum(dimension, "power-law", exponent) if exponent else np.ones(dimension)
    found = flow_limit(times, spectrum, np.full(dimension, 1.0 / dimension), samples, noise_fraction)
    names = {
        "loss": ("$L$, all", ALL),
        "loss_c": ("$L_c$, clean", CLEAN),
        "loss_w": ("$L_w$, wrong", WRONG),
        "test_loss": ("$L_{te}$, test", TEST),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.subplots()
        for name, (label, colour) in names.items():
            if np.isfinite(found[name]).any():
                axes.plot(times, found[name], color=colour, label=label)
        if simulate:
            drawn = _linear_task(samples, spectrum, noise_fraction, times[::8], seed)
            for name, (_, colour) in names.items():
                axes.plot(times[::8], drawn[name], "o", color=colour, markersize=3.5)
            axes.plot([], [], "o", color="0.4", markersize=3.5, label=f"one data set of {samples}")
        axes.set(xscale="log", yscale="log", xlabel="time (learning rate × steps)", ylabel="loss")
        axes.set_title(f"Linear model: N/d = {samples / dimension:.3g}, {noise_fraction:.0%} of targets flipped")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    best = int(np.argmin(found["test_loss"]))
    findings = (
        f"lowest test loss {found['test_loss'][best]:.3g} at time {times[best]:.3g}",
        f"test loss at the end {found['test_loss'][-1]:.3g}",
    )
    return Prediction(
        figure,
        findings,
        "Gaussian inputs, random teacher, many samples and dimensions at this ratio; gradient flow from zero weights.",
    )


def committee_figure(
    students: int,
    teachers: int,
    learning_rate: float,
    output_noise: float,
    noise_fraction: float,
    time: float,
    simulate: int,
    seed: int,
) -> Prediction:
    """Generalisation error, overlaps and gradient order parameters of a soft committee machine under online SGD.

    Raises
    ------
    UsageError, ValueError, RuntimeError
        If a number is out of range, or the learning rate makes the student run away.
    """
    _positive("--time", time)
    dimension = simulate or 1000
    rng = np.random.default_rng(seed)
    start, aim = random_committee(students, teachers, dimension, rng)
    state = CommitteeState(start @ start.T, start @ aim.T, aim @ aim.T)
    times = np.linspace(0, time, 200)
    path = committee_flow(state, learning_rate, output_noise, times, noise_fraction=noise_fraction)
    drawn = None
    if simulate:
        drawn = simulate_committee(
            start, aim, learning_rate, output_noise, times[::10], rng, noise_fraction=noise_fraction
        )
    predicted = _gradients(path, dimension, noise_fraction, output_noise)
    measured = {} if drawn is None else _gradients(drawn, dimension, noise_fraction, output_noise)
    figure = _committee_picture(path, drawn, predicted, measured, simulate)
    errors = path.generalisation_errors
    findings: tuple[str, ...] = (
        f"generalisation error {errors[0]:.3g} at the start, {errors[-1]:.3g} at time {time:g}",
    )
    if "alignment_cw" in predicted:
        first, last = predicted["alignment_cw"][[0, -1]]
        findings += (f"R_cw {first:.3g} at the start, {last:.3g} at time {time:g}",)
    return Prediction(
        figure,
        findings,
        "every example new, input dimension to infinity: no finite training set, so no memorising; gradients at "
        f"d = {dimension} and B = 1; circles are gradients at the simulated weights' overlaps.",
    )


def _committee_picture(
    path: CommitteePath,
    drawn: CommitteePath | None,
    predicted: dict[str, np.ndarray],
    measured: dict[str, np.ndarray],
    simulate: int,
) -> Figure:
    """Errors, overlaps, activities and cosines under one another: lines of theory, circles of a simulation."""
    times, (students, teachers) = path.times, path.overlap.shape[1:]
    with matplotlib.rc_context(STYLE):
        panels = 4 if "alignment_cw" in predicted else 3  # one population has no cosines
        figure = Figure(figsize=(7.0, 2.4 * panels), layout="constrained")
        top, middle, activities, *cosines = figure.subplots(panels, 1, sharex=True)
        top.plot(times, path.generalisation_errors, color=ALL, label="theory")
        for i in range(students):
            for n in range(teachers):
                colour = COLOURS[(i * teachers + n) % len(COLOURS)]
                middle.plot(times, path.overlap[:, i, n], color=colour, label=f"$R_{{{i + 1}{n + 1}}}$")
                if drawn is not None:
                    middle.plot(drawn.times, drawn.overlap[:, i, n], "o", color=colour, markersize=3.5)
        if drawn is not None:
            top.plot(drawn.times, drawn.generalisation_errors, "o", color=ALL, markersize=3.5, label=f"d = {simulate}")
        for axes, names in ((activities, ACTIVITY_NAMES), *((each, COSINE_NAMES) for each in cosines)):
            for name, (label, colour) in names.items():
                if name in predicted:
                    axes.plot(times, predicted[name], color=colour, label=label)
                if drawn is not None and name in measured:
                    axes.plot(drawn.times, measured[name], "o", color=colour, markersize=3.5)
        top.set(yscale="log", ylabel="generalisation error", title=f"{students} students, {teachers} teachers")
        middle.set_ylabel("overlap with the teachers")
        activities.set(yscale="log", ylabel="squared gradient norm")
        for axes in cosines:
            axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
            axes.set(ylim=(-1.05, 1.05), ylabel="cosine")
        (cosines or [activities])[-1].set_xlabel("time (steps / input dimension)")
        for axes in (top, middle, activities, *cosines):
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), ncols=1 + students * teachers // 10)
    return figure


def _gradients(
    path: CommitteePath, dimension: int, noise_fraction: float, output_noise: float
) -> dict[str, np.ndarray]:
    """Order parameters along a path, for minibatches of one example."""
    found = [
        committee_order_parameters(
            path.state(k), dimension=dimension, batch_size=1, noise_fraction=noise_fraction, noise_variance=output_noise
        )
        for k in range(len(path.times))
    ]
    return {name: np.array([each[name] for each in found]) for name in found[0]}


def clean_priority_figure(
    classes: int, noise_fractions: tuple[float, ...], samples: int, noise_scale: float
) -> Prediction:
    """How hard wrong samples pull beside clean ones, against the network's confidence in the true class.

    Raises
    ------
    ValueError
        If a number is out of range.
    """
    kinds = {"from the other classes": (0.0, "-"), "from all classes": (1.0 / classes, "--")}
    findings = []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.subplots()
        for number, rho in enumerate(noise_fractions):
            colour = COLOURS[number % len(COLOURS)]
            for kind, (tau, line) in kinds.items():
                q = np.linspace(1 / classes, 0.995, 300)
                ratios = [balance(rho, classes, confidence=float(each), chance_right=tau).ratio for each in q]
                axes.plot(q, ratios, line, color=colour)
                end = end_of_priority(rho, classes, chance_right=tau)
                if end > 1 / classes:
                    axes.plot([end], [1.0], "o", color=colour, markersize=5)
                findings.append(f"ρ = {rho:g}, {kind}: starts at {ratios[0]:.3g}, reaches one at confidence {end:.3g}")
                if samples:
                    start = finite_balance(rho, classes, samples, noise_scale, chance_right=tau)
                    findings[-1] += (
                        f"; {samples:,} samples start at {start.ratio:.3g} with R_cw {start.alignment_cw:.3g}"
                    )
            axes.plot([], [], color=colour, label=f"$\\rho$ = {rho:g}")
        for kind, (_, line) in kinds.items():
            axes.plot([], [], line, color="0.4", label=f"wrong labels {kind}")
        axes.axhline(1.0, color="0.6", linewidth=0.8, linestyle=":")
        axes.set(
            yscale="log", ylim=(1e-2, 1e2), xlim=(1 / classes, 1), xlabel="mean probability given to the true class",
            ylabel="$\\rho|g_w| \\, / \\, (1-\\rho)|g_c|$", title=f"Clean priority ends at one: {classes} classes",
        )  # fmt: skip
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return Prediction(
        figure, tuple(findings), "classes on an equal footing, nothing memorised, no sampling noise of mean gradients."
    )


def _linear_task(samples: int, spectrum: np.ndarray, rho: float, times: np.ndarray, seed: int) -> dict[str, np.ndarray]:
    """The same quantities for one finite data set, exactly."""
    rng = np.random.default_rng(seed)
    d = len(spectrum)
    x = rng.normal(size=(samples, d)) * np.sqrt(spectrum)
    teacher = rng.normal(size=d)
    teacher /= np.linalg.norm(teacher)
    wrong = rng.permutation(samples) < round(rho * samples)
    clean = x @ teacher
    test = np.sqrt(d) * np.diag(np.sqrt(spectrum))  # its mean loss is that of fresh inputs
    y = np.where(wrong, -clean, clean)
    return predictions(x, y, flow(x, y, times), 1, wrong=wrong, test=(test, test @ teacher))


def _positive(name: str, value: float) -> None:
    if not 0 < value < np.inf:
        raise UsageError(f"{name} {value}: choose a positive number.")
