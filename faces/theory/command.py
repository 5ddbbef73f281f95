"""`sgdphases theory`: predictions drawn without a run. Arguments in, a picture and a few numbers out."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from sgdphases.estimators.errors import InputError, UsageError
from sgdphases.faces.terminal import console

app = typer.Typer(help="Draw predictions, without a fitted number.", no_args_is_help=True, rich_markup_mode="rich")

NoiseFraction = Annotated[float, typer.Option(help="Share of wrong targets, 0 to 1.")]
Time = Annotated[float, typer.Option(help="Until when.")]
Seed = Annotated[int, typer.Option(min=0, help="Of what is drawn at random.")]


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
        lambda: committee_figure(students, teachers, learning_rate, output_noise, time, simulate, seed),
    )


@app.command("clean-priority")
def clean_priority(
    classes: Annotated[int, typer.Option(min=2, help="Classes K.")] = 10,
    noise_fraction: Annotated[str, typer.Option(help="Shares of wrong labels, with commas between.")] = "0.2,0.5,0.8",
    out: Annotated[Path | None, _out("clean-priority")] = None,
) -> None:
    """How hard wrong labels pull beside clean ones before anything is memorised."""
    from sgdphases.faces.theory.figures import clean_priority_figure

    try:
        fractions = tuple(float(part) for part in noise_fraction.split(","))
    except ValueError:
        raise UsageError(f"--noise-fraction {noise_fraction!r}: give numbers with commas between.") from None
    _show("clean-priority", out, lambda: clean_priority_figure(classes, fractions))


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
