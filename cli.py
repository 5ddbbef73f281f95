"""The command line: arguments in, tables and paths out. No computation here."""

import os
import sys
import tomllib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sgdphases.cli_theory import app as theory_app
from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.sim.settings import RunSettings, make_settings, read_settings
from sgdphases.terminal import console, interrupts, progress, show_checks, show_report

app = typer.Typer(
    help="Measure, predict and use the phases of learning of stochastic gradient descent.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(theory_app, name="theory")
INTERRUPTED = 130  # what a shell reports for a program stopped by Ctrl-C


def _number(text: str) -> Any:
    """The number a text holds, or the text itself: the settings refuse what is no number, flags and file alike."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


def _option(flag: str, text: str, metavar: str = "TEXT") -> Any:
    """A flag that is None unless given, so that a settings file can fill it; the help tells the default."""
    default = RunSettings.model_fields[flag.replace("-", "_")].default
    if isinstance(default, tuple):
        default = ",".join(map(str, default))
    shown = "" if default is None else rf" \[default: {default}]"
    parser = None if metavar == "TEXT" else _number
    return typer.Option(f"--{flag}", help=text + shown, show_default=False, metavar=metavar, parser=parser)


@app.command()
def run(
    dataset: Annotated[
        str | None,
        typer.Argument(help="A name from `sgdphases datasets`, or a path that ends in .npz.", show_default=False),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Settings in TOML; flags win.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help=r"New folder for the run. \[default: runs/DATASET-001, …]", show_default=False)
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("-o", "--option", help="NAME=VALUE for the data set, as often as needed.", show_default=False),
    ] = None,
    data_dir: Annotated[str | None, _option("data-dir", "Where the files of mnist or cifar10 are.")] = None,
    train_size: Annotated[Any, _option("train-size", "Training samples.", "INTEGER")] = None,
    test_size: Annotated[Any, _option("test-size", "Test samples.", "INTEGER")] = None,
    noise_fraction: Annotated[
        Any, _option("noise-fraction", "Share of samples given noisy labels, 0 to 1.", "NUMBER")
    ] = None,
    noise_kind: Annotated[
        str | None,
        _option("noise-kind", "uniform, uniform-other, pair-flip, transition, given, redraw or sign-flip."),
    ] = None,
    transition_matrix: Annotated[
        str | None, _option("transition-matrix", "K x K matrix, for noise kind transition.")
    ] = None,
    noisy_labels: Annotated[str | None, _option("noisy-labels", "Training labels, for noise kind given.")] = None,
    wrong_labels: Annotated[
        str | None, _option("wrong-labels", "Wrong population: labels assigned at random, or actual wrong ones.")
    ] = None,
    hidden: Annotated[str | None, _option("hidden", "Units of each hidden layer, or none.")] = None,
    activation: Annotated[str | None, _option("activation", "relu, tanh or erf.")] = None,
    loss: Annotated[str | None, _option("loss", "auto, cross-entropy or squared.")] = None,
    learning_rate: Annotated[Any, _option("learning-rate", "Step size of SGD.", "NUMBER")] = None,
    batch_size: Annotated[Any, _option("batch-size", "Samples in a minibatch.", "INTEGER")] = None,
    epochs: Annotated[Any, _option("epochs", "Passes over the training set.", "INTEGER")] = None,
    seed: Annotated[Any, _option("seed", "Of every random draw.", "INTEGER")] = None,
    backend: Annotated[str | None, _option("backend", "numpy, numba, torch, or another that is registered.")] = None,
    device: Annotated[str | None, _option("device", "cpu, cuda, mps, … for the torch backend.")] = None,
    dtype: Annotated[str | None, _option("dtype", "float32 or float64.")] = None,
    checkpoints: Annotated[Any, _option("checkpoints", "Measurements, log-spaced along the run.", "INTEGER")] = None,
    alignment_batches: Annotated[
        Any, _option("alignment-batches", "Minibatches drawn for each sampled alignment, 0 for none.", "INTEGER")
    ] = None,
    sharp_directions: Annotated[
        Any, _option("sharp-directions", "Hessian eigenvectors to split gradients by, 0 for none.", "INTEGER")
    ] = None,
    with_theory: Annotated[
        bool | None,
        typer.Option("--with-theory", help="Record and draw what theory predicts, too.", show_default=False),
    ] = None,
) -> None:
    """Train a network, measure its order parameters, and draw its phases."""
    flags = {name: value for name, value in locals().items() if name in RunSettings.model_fields and value is not None}
    values = {**({} if config is None else read_settings(config)), **flags}
    if hidden is not None:
        values["hidden"] = _layers(hidden)
    if option:
        values["dataset_options"] = {**values.get("dataset_options", {}), **dict(map(_name_and_value, option))}
    if "dataset" not in values:
        raise UsageError("no data set is named: give one of those that `sgdphases datasets` lists, or --config.")
    settings = make_settings(_absolute_paths(values))

    from sgdphases.sim.run_folder import free_folder, start_folder
    from sgdphases.sim.training import prepare

    folder = free_folder(out, settings.dataset)
    with console.status("loading data"):
        experiment = prepare(settings)
    start_folder(folder, experiment.settings)
    _finish(experiment, folder, None)


@app.command()
def resume(
    run_folder: Annotated[Path, typer.Argument(help="Folder of an interrupted run.", show_default=False)],
) -> None:
    """Go on with an interrupted run from its last checkpoint."""
    from sgdphases.sim.run_folder import RunFolder
    from sgdphases.sim.training import prepare

    folder = RunFolder(run_folder)
    settings = folder.read_settings()
    start = folder.read_checkpoint() if folder.checkpoint.exists() else None
    with console.status("loading data"):
        experiment = prepare(settings)
    _finish(experiment, folder, start)


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(help="Folder of a run.", show_default=False)]) -> None:
    """Draw the figures and the page of a run again."""
    from sgdphases.sim.run_folder import RunFolder

    show_report(RunFolder(run_folder))


@app.command()
def verify(
    run_folder: Annotated[
        Path | None, typer.Argument(help="A run, to check at its last checkpoint.", show_default=False)
    ] = None,
    backend: Annotated[str | None, typer.Option(help="Check this backend only.", show_default=False)] = None,
    dataset: Annotated[
        str, typer.Option(help="Without a run: data with half of the labels wrong, a network trained a little.")
    ] = "gaussian-mixture",
    data_dir: Annotated[
        str | None, typer.Option(help="Where the files of mnist or cifar10 are.", show_default=False)
    ] = None,
    samples: Annotated[int, typer.Option(min=4, help="Samples to check on.")] = 300,
    seed: Annotated[int, typer.Option(min=0, help="Of random directions and minibatches.")] = 0,
) -> None:
    """Check every identity, and that the backends agree; exit code 1 if one does not hold."""
    from sgdphases.sim.verification import verify_backends

    with console.status("checking"):
        results = verify_backends(run_folder, backend, dataset, data_dir, samples, seed)
    broken = sum(not check.holds for checks in results.values() for check in checks)
    show_checks(results)
    console.print("all identities hold" if not broken else f"{broken} identities are violated")
    if broken:
        raise typer.Exit(1)


@app.command()
def datasets() -> None:
    """List the data sets and their options."""
    from sgdphases.sim.datasets import describe_datasets

    for entry in describe_datasets():
        console.print(f"[bold]{entry.name}[/bold]  {entry.summary}", highlight=False)
        if entry.takes_folder:
            console.print("    --data-dir FOLDER", highlight=False)
        for each in entry.options:
            choices = f"   one of {', '.join(each.choices)}" if each.choices else ""
            console.print(f"    -o {each}{choices}", highlight=False, markup=False)


@app.command()
def backends() -> None:
    """List the registered backends."""
    from sgdphases.estimators.backend import backend_names

    console.print("\n".join(backend_names()))


def _version(wanted: bool) -> None:
    if wanted:
        from sgdphases import __version__

        console.print(f"sgdphases {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Entry point: a user's mistake ends in one message, exit code 2 for usage and 1 for failure."""
    try:
        app()
    except UsageError as error:
        _complain(error)
        sys.exit(2)
    except (InputError, TrainingDiverged, OSError, MemoryError) as error:
        _complain(error)
        sys.exit(1)


def _complain(error: BaseException) -> None:
    Console(stderr=True).print(
        f"Error: {error}" if str(error) else f"Error: {type(error).__name__}", style="red", markup=False, soft_wrap=True
    )


def _finish(experiment: Any, folder: Any, start: Any) -> None:
    """Train to the end with a progress bar, then draw; Ctrl-C tells how to go on."""
    from sgdphases.sim.training import advance

    try:
        with interrupts() as pressed, progress(experiment.n_steps) as show:
            for state in advance(experiment, folder, start):
                show(state)
                if pressed:
                    raise KeyboardInterrupt
        show_report(folder)
    except KeyboardInterrupt:
        console.print(f"\nStopped. Go on with: sgdphases resume {folder.path}", markup=False, soft_wrap=True)
        sys.exit(INTERRUPTED)


def _absolute_paths(values: dict[str, Any]) -> dict[str, Any]:
    """Paths that still lead there when the run is resumed from another folder."""
    names = [name for name in ("data_dir", "transition_matrix", "noisy_labels") if isinstance(values.get(name), str)]
    if isinstance(values["dataset"], str) and values["dataset"].endswith(".npz"):
        names.append("dataset")
    return {**values, **{name: os.path.abspath(values[name]) for name in names}}


def _layers(text: str) -> tuple[int, ...]:
    """Units of each hidden layer from "100,100"; "none" and "" mean a linear model."""
    if text.strip().lower() in ("", "none"):
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--hidden {text!r}: give whole numbers with commas between, such as 100,100, or none."
        ) from None


def _name_and_value(text: str) -> tuple[str, Any]:
    """NAME=VALUE, the value read as TOML where it is such, and as plain text otherwise."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UsageError(f"--option {text!r}: write NAME=VALUE, such as separation=3.")
    try:
        return name, tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return name, value
