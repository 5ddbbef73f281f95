"""The command line: arguments in, tables and paths out. No computation here."""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from sgdphases.estimators.errors import InputError, TrainingDiverged, UsageError
from sgdphases.faces.cleanse.command import cleanse
from sgdphases.faces.compare.command import compare
from sgdphases.faces.encoding import write_any_text
from sgdphases.faces.options import (
    DataName,
    DataOptions,
    DropColumns,
    LabelColumn,
    PresetName,
    SettingsFile,
    absolute_paths,
    data_options,
    one_value,
    refuse_inside,
    several_values,
    takes_settings,
)  # fmt: skip
from sgdphases.faces.review.command import apply
from sgdphases.faces.terminal import (
    MOST_ROWS,
    console,
    interrupts,
    progress,
    show_checks,
    show_data_warnings,
    show_report,
    show_sweep,
    stoppable,
    sweep_progress,
)  # fmt: skip
from sgdphases.faces.theory.command import app as theory_app
from sgdphases.paper.command import reproduce

app = typer.Typer(
    help="Measure, predict and use the phases of learning of stochastic gradient descent.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(theory_app, name="theory")
takes_several_settings = partial(takes_settings, several=True)


@app.command()
@takes_settings
def run(
    dataset: DataName = None,
    config: SettingsFile = None,
    preset: PresetName = None,
    out: Annotated[
        Path | None, typer.Option(help=r"New folder for the run. \[default: runs/DATASET-001, …]", show_default=False)
    ] = None,
    label_column: LabelColumn = None,
    drop_columns: DropColumns = None,
    option: DataOptions = None,
    *,
    values: dict[str, Any],
) -> None:
    """Train a network, measure its order parameters, and draw its phases."""
    from sgdphases.sim.run.settings import make_settings  # pydantic takes as long to load as the rest of the help

    given = {name: one_value(name, text) for name, text in values.items()}
    given_options = data_options(option, label_column, drop_columns)
    options = {name: several[-1] for name, several in given_options.items()}
    settings = make_settings(_with_base(given, options, dataset, config, preset))
    refuse_inside(settings.dataset, out)

    from sgdphases.sim.run.run import begun

    with ExitStack() as stack:
        with console.status("loading data, predicting" if settings.with_theory else "loading data"):
            experiment, folder = stack.enter_context(begun(settings, out))
        if settings.standardize == "auto" and experiment.settings.standardize == "always":
            console.print("features are too large or too small to be learnt from, and are standardised", soft_wrap=True)
        _finish(experiment, folder, None)


@app.command()
@takes_several_settings
def sweep(
    dataset: DataName = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Repeat everything with so many seeds.", show_default=False)
    ] = None,
    config: SettingsFile = None,
    preset: PresetName = None,
    out: Annotated[
        Path | None,
        typer.Option(help=r"New folder for the sweep. \[default: sweeps/DATASET-001, …]", show_default=False),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help=r"Processes. \[default: one a core]", show_default=False)
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="Scheduler of a Dask cluster to run on instead.", metavar="ADDRESS")
    ] = None,
    keep_members: Annotated[
        bool, typer.Option("--keep-members", help="A run folder for every member, however short.")
    ] = False,
    label_column: LabelColumn = None,
    drop_columns: DropColumns = None,
    option: DataOptions = None,
    *,
    values: dict[str, Any],
) -> None:
    """Run every combination of settings, and draw phase diagrams.

    A flag given several times is an axis; numbers may be FIRST:LAST:COUNT (:log for even ratios) or have commas.
    """
    found = {name: several_values(name, texts) for name, texts in values.items()}
    options = data_options(option, label_column, drop_columns)
    if seeds is not None:
        first = found.pop("seed", (0,))
        if len(first) > 1:
            raise UsageError("--seeds and several --seed: give one or the other.")
        if isinstance(first[0], int):
            found["seed"] = tuple(range(first[0], first[0] + seeds))
    axes = {name: several for name, several in found.items() if len(several) > 1 or (name == "seed" and seeds)}
    axes = {name: axes[name] for name in sorted(axes, key=lambda name: name == "seed")}  # seeds vary fastest
    swept = {f"dataset_options.{name}": tuple(several) for name, several in options.items() if len(several) > 1}
    one = {name: several[0] for name, several in found.items() if name not in axes}
    fixed = {name: several[0] for name, several in options.items() if len(several) == 1}
    base = _with_base(one, fixed, dataset, config, preset)
    refuse_inside(str(base["dataset"]), out)

    from sgdphases.sim.sweep.folder import SweepFolder, claim_sweep, start_sweep
    from sgdphases.sim.sweep.plan import plan_sweep

    plan = plan_sweep(base, {**swept, **axes})
    with claim_sweep(out, base["dataset"], plan) as claimed:
        folder = SweepFolder(claimed.path)
        start_sweep(folder, plan)
        _finish_sweep(folder, plan, workers, dask, keep_members)


@app.command()
def resume(
    run_folder: Annotated[Path, typer.Argument(help="Folder of an interrupted run or sweep.", show_default=False)],
    workers: Annotated[
        int | None, typer.Option(min=1, help=r"Processes, for a sweep. \[default: one a core]", show_default=False)
    ] = None,
    dask: Annotated[
        str | None, typer.Option(help="Scheduler of a Dask cluster, for a sweep.", metavar="ADDRESS")
    ] = None,
    keep_members: Annotated[
        bool, typer.Option("--keep-members", help="A run folder for every member of a sweep.")
    ] = False,
) -> None:
    """Continue an interrupted run from its last checkpoint, or a sweep."""
    from sgdphases.sim.cleansing.folder import refuse_study
    from sgdphases.sim.run.run import continued
    from sgdphases.sim.storage.claims import claim
    from sgdphases.sim.sweep.folder import SweepFolder
    from sgdphases.sim.sweep.member import run_at

    refuse_study(run_folder)
    sweep_folder = SweepFolder(run_folder)
    if sweep_folder.plan.is_file():
        with claim(run_folder):
            _finish_sweep(sweep_folder, sweep_folder.read_plan(), workers, dask, keep_members)
        return
    if workers is not None or dask is not None or keep_members:
        raise UsageError(f"{run_folder} is no sweep: --workers, --dask and --keep-members are for one.")
    folder = run_at(run_folder)
    with ExitStack() as stack:
        with console.status("loading data"):
            experiment, start = stack.enter_context(continued(folder))
        _finish(experiment, folder, start)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="Folder of a run, a sweep or a monitor.", show_default=False)],
) -> None:
    """Draw the figures and the page of a run, a sweep or a monitored training."""
    from sgdphases.sim.sweep.folder import SweepFolder
    from sgdphases.sim.sweep.member import run_at

    sweep_folder = SweepFolder(run_folder)
    if sweep_folder.plan.is_file():
        show_sweep(sweep_folder, sweep_folder.read_plan())
    else:
        show_report(run_at(run_folder))


app.command()(compare)
app.command()(cleanse)
app.command()(apply)
app.command()(reproduce)


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
    seed: Annotated[int, typer.Option(min=0, help="Of random directions, states and minibatches.")] = 0,
    theory: Annotated[
        str | None,
        typer.Option(help="Check a theory against examples instead: committee.", show_default=False),
    ] = None,
) -> None:
    """Check every identity, and that the backends agree; exit code 1 if one does not hold."""
    if theory is not None:
        _verify_theory(theory, seed, alone=run_folder is None and backend is None)
        return
    from sgdphases.sim.run.verification import verify_backends
    from sgdphases.sim.sweep.member import run_at

    if run_folder is not None:
        run_at(run_folder)
    with console.status("checking"):
        results = verify_backends(run_folder, backend, dataset, data_dir, samples, seed)
    _judge(results, "backend")


def _verify_theory(name: str, seed: int, *, alone: bool) -> None:
    if name != "committee":
        raise UsageError(f"--theory {name}: choose committee.")
    if not alone:
        raise UsageError("--theory checks no run and no backend: leave them out, or leave out --theory.")
    from sgdphases.sim.solvable.committee_check import check_committee, tolerance

    with console.status("checking"):
        results = check_committee(seed)
    console.print(tolerance(), highlight=False, soft_wrap=True)
    _judge(results, "committee of units")


def _judge(results: dict[str, Any], what: str) -> None:
    """Show the tables; exit code 1 if a check fails."""
    broken = sum(not check.holds for checks in results.values() for check in checks)
    show_checks(results, what)
    console.print("all identities hold" if not broken else f"{broken} identities are violated")
    if broken:
        raise typer.Exit(1)


@app.command()
def datasets() -> None:
    """List the data sets and their options."""
    from sgdphases.sim.data.datasets.registry import describe_datasets

    for entry in describe_datasets():
        console.print(f"[bold]{entry.name}[/bold]  {entry.summary}", highlight=False)
        if entry.takes_folder:
            console.print("    --data-dir FOLDER", highlight=False)
        for each in entry.options:
            choices = f"   one of {', '.join(each.choices)}" if each.choices else ""
            console.print(f"    -o {each}{choices}", highlight=False, markup=False)


@app.command()
def presets() -> None:
    """List ready-made settings, each of which shows its phases in seconds."""
    from sgdphases.sim.run.presets import PRESETS

    for name, entry in PRESETS.items():
        console.print(f"[bold]{name}[/bold]  {entry.summary}", highlight=False, soft_wrap=True)


@app.command()
def backends() -> None:
    """List the registered backends."""
    from sgdphases.estimators.backends.registry import backend_names

    console.print("\n".join(backend_names()))


@app.command()
def doctor() -> None:
    """Show versions, threads, devices and where data is looked for; add it to a bug report."""
    from sgdphases.faces.doctor import sections

    for title, rows in sections().items():
        console.print(f"[bold]{title}[/bold]", highlight=False)
        for name, found in rows:
            console.print(f"    {name}: {found}", highlight=False, markup=False, soft_wrap=True)


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
    write_any_text()
    show_data_warnings()
    try:
        app()
    except UsageError as error:
        _complain(error)
        sys.exit(2)
    except UnicodeEncodeError as error:  # of a path, in a locale that knows no such letter
        _complain(f"{error.object!a} cannot be written in the encoding {error.encoding}: set LC_ALL=C.UTF-8.")
        sys.exit(1)
    except (InputError, TrainingDiverged, OSError, MemoryError) as error:
        _complain(error)
        sys.exit(1)


def _complain(error: BaseException | str) -> None:
    Console(stderr=True).print(
        f"Error: {error}" if str(error) else f"Error: {type(error).__name__}", style="red", markup=False, soft_wrap=True
    )


def _finish(experiment: Any, folder: Any, start: Any) -> None:
    """Train to the end with a progress bar, then draw; Ctrl-C ends in how to continue."""
    from sgdphases.sim.run.training import advance

    with stoppable(f"Continue with: sgdphases resume {folder.path}"):
        with interrupts() as pressed, progress(experiment.n_steps) as show:
            for state in advance(experiment, folder, start):
                show(state)
                if pressed:
                    raise KeyboardInterrupt
        show_report(folder, first=True)


def _finish_sweep(folder: Any, plan: Any, workers: int | None, dask: str | None, keep_members: bool) -> None:
    """Run what is left of a sweep with a progress bar, then draw; Ctrl-C ends in how to continue."""
    from sgdphases.sim.sweep.run import run_sweep

    with stoppable(f"Continue with: sgdphases resume {folder.path}"):
        with interrupts() as pressed, sweep_progress(folder, plan) as show:
            for outcome in run_sweep(folder, plan, workers=workers, dask=dask, keep_members=keep_members):
                show(outcome)
                if pressed:
                    raise KeyboardInterrupt
        show_sweep(folder, plan)
    failures = folder.read_failures()
    if failures:
        for name in list(failures)[:MOST_ROWS]:
            console.print(f"failed: {name}", markup=False, highlight=False, soft_wrap=True, style="red")
        console.print(
            f"{len(failures)} of {len(plan.members())} runs failed. Try again with: sgdphases resume {folder.path}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)


def _with_base(
    given: dict[str, Any], options: dict[str, Any], dataset: str | None, config: Path | None, preset: str | None
) -> dict[str, Any]:
    """Settings from flags, over those of a file or of a preset."""
    if config is not None and preset is not None:
        raise UsageError("--config and --preset: give one of them.")
    from sgdphases.sim.run.settings import read_settings

    values = {} if config is None else read_settings(config)
    if preset is not None:
        from sgdphases.sim.run.presets import preset as known

        values = dict(known(preset).settings)
    values |= given if dataset is None else {**given, "dataset": dataset}
    if options:
        values["dataset_options"] = {**values.get("dataset_options", {}), **options}
    if "dataset" not in values:
        raise UsageError("no data set is named: give one of those that `sgdphases datasets` lists, or --config.")
    return absolute_paths(values)
