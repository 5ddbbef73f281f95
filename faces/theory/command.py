"""`sgdphases theory`: predictions drawn without a run. Arguments in, a picture and a few numbers out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.faces.terminal import console

if TYPE_CHECKING:  # the help does without it
    from sgdphases.theory.dmft.settings import Descent, Student

app = typer.Typer(help="Draw predictions; no number is fitted.", no_args_is_help=True, rich_markup_mode="rich")

NoiseFraction = Annotated[float, typer.Option(help="Share of wrong targets, 0 to 1.")]
Time = Annotated[float, typer.Option(help="Until when.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]

Units = Annotated[int, typer.Option(min=1, help="Hidden units K; one linear unit is a linear classifier.")]
Activation = Annotated[str, typer.Option(help="Of the units: linear, erf, tanh or relu.")]
OutputWeight = Annotated[float, typer.Option(help="Weight of each unit in the output, at the start.")]
TrainOutput = Annotated[bool, typer.Option("--train-output", help="Train the output weights, too.")]
Loss = Annotated[str, typer.Option(help="logistic or squared.")]
Inputs = Annotated[str, typer.Option(help="Two clusters, or a teacher's labels: clusters or teacher.")]
Separation = Annotated[float, typer.Option(help="Distance of the clusters, in standard deviations.")]
NoiseKind = Annotated[str, typer.Option(help="Wrong labels: uniform-other (flipped) or uniform-all (any class).")]
LearningRate = Annotated[float, typer.Option(help="alpha, on inputs of unit variance.")]
Steps = Annotated[int, typer.Option(min=1, help="Of SGD.")]
BatchFraction = Annotated[float, typer.Option(help="B/N; 1: full batches.")]
Sampler = Annotated[str, typer.Option(help="Of minibatches: reshuffled each epoch, or independent.")]
Ridge = Annotated[float, typer.Option(help="Weight decay of the hidden weights.")]
Population = Annotated[int, typer.Option(help="Effective samples of the theory.")]
Repeats = Annotated[int, typer.Option(min=1, help="Populations it averages; their spread is its error.")]


def _out(name: str) -> Any:
    return typer.Option(help=rf"New picture (.png, .pdf, .svg). \[default: theory-{name}.png]", show_default=False)


@app.command()
def linear(
    samples: Annotated[int, typer.Option(min=1, help="Training samples N.")] = 400,
    dimension: Annotated[int, typer.Option(min=1, help="Input dimension d.")] = 200,
    noise_fraction: NoiseFraction = 0.3,
    exponent: Annotated[float, typer.Option(help="Input variances fall as k^-EXPONENT; 0: all equal.")] = 0.0,
    time: Time = 100.0,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Add one data set of this size, solved exactly.")
    ] = False,
    seed: Seed = 0,
    out: Annotated[Path | None, _out("linear")] = None,
) -> None:
    """Losses of a linear student of a noisy teacher, along gradient flow."""
    from sgdphases.faces.theory.figures import linear_figure

    _show("linear", out, lambda: linear_figure(samples, dimension, noise_fraction, exponent, time, simulate, seed))


@app.command()
def committee(
    students: Annotated[int, typer.Option(min=1, help="Units of the student.")] = 2,
    teachers: Annotated[int, typer.Option(min=1, help="Units of the teacher.")] = 2,
    learning_rate: Annotated[float, typer.Option(help="eta of Saad & Solla.")] = 0.5,
    output_noise: Annotated[float, typer.Option(help="Variance of the noise on labels.")] = 0.0,
    noise_fraction: Annotated[
        float, typer.Option(help="Share of wrong labels, which have nothing to do with their inputs, 0 to 1.")
    ] = 0.0,
    time: Time = 200.0,
    simulate: Annotated[int, typer.Option(min=0, help="Add a simulation in this many dimensions; 0: none.")] = 0,
    seed: Seed = 0,
    out: Annotated[Path | None, _out("committee")] = None,
) -> None:
    """Online learning of a soft committee machine, by the Saad-Solla equations."""
    from sgdphases.faces.theory.figures import committee_figure

    _show(
        "committee",
        out,
        lambda: committee_figure(students, teachers, learning_rate, output_noise, noise_fraction, time, simulate, seed),
    )


@app.command("clean-priority")
def clean_priority(
    classes: Annotated[int, typer.Option(min=2, help="Classes K.")] = 10,
    noise_fraction: Annotated[str, typer.Option(help="Shares of wrong labels, with commas between.")] = "0.2,0.5,0.8",
    samples: Annotated[int, typer.Option(min=0, help="Also print what N samples show at the start; 0: nothing.")] = 0,
    noise_scale: Annotated[
        float, typer.Option(help="With --samples: Tr Sigma_c / |g_c|^2 of the clean samples.")
    ] = 150.0,
    out: Annotated[Path | None, _out("clean-priority")] = None,
) -> None:
    """How strongly wrong labels act on the weights, relative to clean ones, before anything is memorised."""
    from sgdphases.faces.theory.figures import clean_priority_figure

    fractions = _numbers("--noise-fraction", noise_fraction)
    _show("clean-priority", out, lambda: clean_priority_figure(classes, fractions, samples, noise_scale))


@app.command()
def dmft(
    units: Units = 1,
    activation: Activation = "linear",
    output_weight: OutputWeight = 1.0,
    train_output: TrainOutput = False,
    loss: Loss = "logistic",
    inputs: Inputs = "clusters",
    separation: Separation = 4.0,
    samples_per_dimension: Annotated[float, typer.Option(help="N/d.")] = 1.0,
    noise_fraction: NoiseFraction = 0.2,
    noise_kind: NoiseKind = "uniform-other",
    learning_rate: LearningRate = 0.1,
    steps: Steps = 300,
    batch_fraction: BatchFraction = 1.0,
    sampler: Sampler = "reshuffled",
    ridge: Ridge = 0.0,
    population: Population = 1000,
    repeats: Repeats = 4,
    simulate: Annotated[int, typer.Option(min=0, help="Add SGD in this many dimensions; 0: none.")] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Data sets that the simulation averages.")] = 6,
    seed: Seed = 0,
    out: Annotated[Path | None, _out("dmft")] = None,
) -> None:
    """Learning and memorising a finite data set, all four phases, by dynamical mean-field theory."""
    from sgdphases.faces.theory.memorising import memorising_figure
    from sgdphases.theory.dmft.settings import Task

    task = Task(samples_per_dimension, noise_fraction, noise_kind, inputs, separation)
    student, descent = _learner(
        units, activation, loss, output_weight, train_output, learning_rate, steps, batch_fraction, sampler, ridge
    )
    _show(
        "dmft",
        out,
        lambda: memorising_figure(
            task, student, descent, population=population, repeats=repeats, seed=seed, simulate=simulate, seeds=seeds
        ),
    )


@app.command("phase-diagram")
def phase_diagram(
    noise_fractions: Annotated[
        str, typer.Option(help="Shares of wrong labels, with commas between.")
    ] = "0.1,0.2,0.3,0.4",
    ratios: Annotated[str, typer.Option(help="N/d, with commas between.")] = "0.5,1,1.5,2,3",
    units: Units = 1,
    activation: Activation = "linear",
    output_weight: OutputWeight = 1.0,
    train_output: TrainOutput = False,
    loss: Loss = "logistic",
    inputs: Inputs = "clusters",
    separation: Separation = 4.0,
    noise_kind: NoiseKind = "uniform-other",
    learning_rate: LearningRate = 0.3,
    steps: Steps = 300,
    batch_fraction: BatchFraction = 1.0,
    sampler: Sampler = "reshuffled",
    ridge: Ridge = 0.0,
    population: Population = 500,
    repeats: Repeats = 2,
    simulate: Annotated[int, typer.Option(min=0, help="Add SGD in this many dimensions below; 0: none.")] = 0,
    seed: Seed = 0,
    out: Annotated[Path | None, _out("phase-diagram")] = None,
) -> None:
    """When and how well a finite data set is learnt and memorised, over the share of wrong labels and N/d."""
    import numpy as np

    from sgdphases.faces.theory.memorising import phase_diagram_figure
    from sgdphases.theory.dmft.settings import Task

    task = Task(noise_kind=noise_kind, inputs=inputs, separation=separation)
    student, descent = _learner(
        units, activation, loss, output_weight, train_output, learning_rate, steps, batch_fraction, sampler, ridge
    )
    shares, sizes = (
        np.array(_numbers(name, text)) for name, text in (("--noise-fractions", noise_fractions), ("--ratios", ratios))
    )
    _show(
        "phase-diagram",
        out,
        lambda: phase_diagram_figure(
            task, student, descent, shares, sizes, population=population, repeats=repeats, seed=seed, simulate=simulate
        ),
    )


@app.command("finite-rate")
def finite_rate(
    statement: Annotated[str, typer.Argument(help="alignment, losses, reshuffling or flatness.")],
    checkpoints: Annotated[int, typer.Option(min=3, max=200, help="Along the run.")] = 12,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="For flatness: a network trained on this data set instead of least squares.", show_default=False
        ),
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option(help="Where the files of mnist or cifar10 are.", show_default=False)
    ] = None,
    train_size: Annotated[
        int | None, typer.Option(help=r"With --dataset: training samples. \[default: 1000]", show_default=False)
    ] = None,
    seed: Seed = 0,
    out: Annotated[Path | None, _out("finite-rate")] = None,
) -> None:
    """What finite learning rates and minibatches change, tried on a small network, with a verdict."""
    from sgdphases.faces.theory.finite_rate import finite_rate_figure

    _show(
        "finite-rate",
        out,
        lambda: finite_rate_figure(
            statement, checkpoints, seed, dataset=dataset, data_dir=data_dir, train_size=train_size
        ),
    )


def _learner(
    units: int,
    activation: str,
    loss: str,
    output_weight: float,
    train_output: bool,
    learning_rate: float,
    steps: int,
    batch_fraction: float,
    sampler: str,
    ridge: float,
) -> "tuple[Student, Descent]":
    """Who learns and how, from the options that two commands share."""
    from sgdphases.theory.dmft.settings import Descent, Student

    student = Student(units, activation, loss, (output_weight,) * units, train_output=train_output)
    return student, Descent(learning_rate, steps, batch_fraction, sampler, ridge)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{name} {text!r}: give numbers with commas between.") from None


def _show(name: str, out: Path | None, make: Callable[[], Any]) -> None:
    """Save the picture whole, and print what it says and assumes."""
    from sgdphases.sim.storage.atomic import write_whole

    path = Path(f"theory-{name}.png") if out is None else out
    if path.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise UsageError(f"--out {path}: end it in .png, .pdf or .svg.")
    if path.exists():
        raise UsageError(f"{path} exists already: name another picture with --out.")
    if not path.parent.is_dir():
        raise InputError(f"{path.parent} is no folder: make it first.")
    try:
        with console.status("predicting"):
            found = make()
    except (ValueError, RuntimeError) as error:
        raise UsageError(str(error)) from None
    write_whole(path, partial(found.figure.savefig, dpi=140, format=path.suffix[1:].lower()))
    for line in found.findings:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"assumes: {found.assumes}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"picture: {path}", markup=False, highlight=False, soft_wrap=True)
