"""Pictures of the experiments on finite learning rates and minibatches."""

import matplotlib

matplotlib.use("Agg")

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.run.figures import ALL, CLEAN, OTHER, STYLE, WRONG
from sgdphases.faces.theory.figures import Prediction
from sgdphases.sim.solvable.finite_rate import (
    Experiment,
    alignment_experiment,
    losses_experiment,
    reshuffling_experiment,
)
from sgdphases.sim.solvable.network_flatness import network_flatness_experiment
from sgdphases.sim.solvable.sampler_flatness import flatness_experiment

EXPERIMENTS = ("alignment", "losses", "reshuffling", "flatness")
NETWORK = "a tanh network of one hidden layer on a mixture of five classes, 40 % of 300 labels wrong; float64."
VALLEY = "least squares at its minimum: 400 samples in 20 dimensions, targets without a rule, minibatches of 40."

TRAINED = "a tanh network with two hidden layers of 50 on {}, {:,} samples, alpha = 0.1, B = 50, after 400 epochs."
SAMPLES = 1000


def finite_rate_figure(
    name: str,
    checkpoints: int,
    seed: int,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    train_size: int | None = None,
) -> Prediction:
    """One of the experiments: what is predicted, what is measured, and the verdict.

    Raises
    ------
    UsageError, InputError
        For a name that is none of `EXPERIMENTS`, or a data set with any but "flatness" or that cannot be had.
    """
    if name not in EXPERIMENTS:
        raise UsageError(f"{name!r}: choose among {', '.join(EXPERIMENTS)}.")
    if name != "flatness" and dataset is not None:
        raise UsageError(f"--dataset {dataset}: {name} is tried on a small mixture of its own; leave it out.")
    if dataset is None and (data_dir is not None or train_size is not None):
        raise UsageError("--data-dir and --train-size belong to a data set: name it with --dataset, or leave them out.")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.subplots()
        assumes = NETWORK
        if name == "alignment":
            found = alignment_experiment(checkpoints, seed)
            _alignment(axes, found)
        elif name == "losses":
            found = losses_experiment(checkpoints, seed)
            _losses(axes, found)
        elif name == "reshuffling":
            found = reshuffling_experiment(seed)
            _reshuffling(axes, found)
        elif dataset is None:
            found, assumes = flatness_experiment(seed), VALLEY
            _flatness(axes, found)
        else:
            size = train_size or SAMPLES
            found = network_flatness_experiment(dataset, data_dir, size, seed)
            assumes = TRAINED.format(dataset, size)
            _network_flatness(axes, found, dataset)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    verdict = "the statement holds" if found.holds else "the statement FAILS"
    return Prediction(figure, (found.finding, f"verdict: {verdict}"), assumes)


def _alignment(axes: Axes, found: Experiment) -> None:
    rows, steps = found.rows, found.rows["step"] + 1
    axes.plot(steps, rows["first"], color=CLEAN, label="$A_0/A$")
    axes.plot(steps, rows["second"], "--", color=WRONG, label="second order, normal noise")
    axes.plot(steps, rows["moments"], ":", color=OTHER, linewidth=2.2, label="second order, measured scatter")
    axes.errorbar(steps, rows["measured"], 2 * rows["error"], fmt="o", color=ALL, markersize=3.5,
                  label="measured $R$\n(bars: two standard errors)")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="step + 1", ylabel="alignment $R$",
             title="Alignment of minibatch gradients")  # fmt: skip


def _losses(axes: Axes, found: Experiment) -> None:
    rows, steps = found.rows, found.rows["step"] + 1
    for part, colour, text in (("c", CLEAN, "clean"), ("w", WRONG, "wrong")):
        axes.plot(steps, rows[f"margin_{part}"], "-", color=colour, label=f"{text}: $R_{{cw}}$ above its threshold")
        falls = rows[f"change_{part}"] < 0
        axes.plot(steps[falls], rows[f"margin_{part}"][falls], "v", color=colour, label=f"{text}: loss falls")
        axes.plot(steps[~falls], rows[f"margin_{part}"][~falls], "^", color=colour, markerfacecolor="none",
                  label=f"{text}: loss rises")  # fmt: skip
    axes.axhline(0, color="0.6", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", xlabel="step + 1", ylabel="margin of $R_{cw}$", title="Which losses one small step lowers")


def _reshuffling(axes: Axes, found: Experiment) -> None:
    rates = found.rows["learning_rate"]
    for name, colour, text, power in (
        ("flow", WRONG, "from the flow on $L$", 2),
        ("corrected", CLEAN, "from the flow on $L + (\\alpha/4)A$", 3),
    ):
        values = found.rows[name]
        axes.plot(rates, values, "o", color=colour, label=text)
        line = values[-1] * (rates / rates[-1]) ** power
        axes.plot(rates, line, ":", color=colour, label=f"$\\propto \\alpha^{power}$")
    axes.set(xscale="log", yscale="log", xlabel="learning rate $\\alpha$", ylabel="distance of the weights",
             title="The mean epoch of reshuffled SGD")  # fmt: skip
    axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axes.minorticks_off()


def _flatness(axes: Axes, found: Experiment) -> None:
    rows, h = found.rows, found.rows["curvature"]
    for name, colour, marker, text in (
        ("independent", CLEAN, "o", "independent"),
        ("step", WRONG, "o", "reshuffled, every step"),
        ("epoch", ALL, "o", "reshuffled, once an epoch"),
        ("epoch_own", OTHER, "^", "the same, each minibatch\nwith its own Hessian"),
    ):
        axes.plot(h, rows[name], marker, color=colour, markersize=4, label=text)
    for name, colour in (("independent_theory", CLEAN), ("step_theory", WRONG)):
        axes.plot(h, rows[name], ":", color=colour)
    axes.plot([], [], ":", color="0.4", label="dotted: theory")
    axes.set(xscale="log", yscale="log", xlabel="curvature $h$ (flatness $F \\propto h^{-1/2}$)",
             ylabel="variance of the weights", title="Spread around a minimum, by sampler")  # fmt: skip


def _network_flatness(axes: Axes, found: Experiment, dataset: str) -> None:
    for name, colour, marker, text in (
        ("independent_epoch", CLEAN, "s", "independent, once an epoch"),
        ("independent_step", CLEAN, "o", "independent, every step"),
        ("epoch", ALL, "s", "reshuffled, once an epoch"),
        ("step", WRONG, "o", "reshuffled, every step"),
    ):
        flatness, variances = found.rows[f"{name}_flatness"], found.rows[name]
        axes.plot(flatness, variances, marker, color=colour, markersize=4, label=text,
                  markerfacecolor="none" if name.startswith("independent") else colour)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="flatness $F$", ylabel="variance of the weights",
             title=f"Spread in a trained network, by sampler: {dataset}")  # fmt: skip
