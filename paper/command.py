"""`sgdphases reproduce`: the paper's figures from runs of one's own, and its claims judged."""

from pathlib import Path
from typing import Annotated, Any

import typer

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.terminal import console, stoppable, sweep_progress


def reproduce(
    figures: Annotated[
        list[str] | None, typer.Argument(help="fig1, fig2, fig3, fig4, fig5, fig6, or all.", show_default=False)
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder that holds mnist/ and, for parts of figure 1, cifar10/.", show_default=False),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Fewer samples, epochs and seeds: a minute or two, no proof.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help=r"Of runs and figures; continues where it stopped. \[default: reproduction]", show_default=False
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help=r"Runs of each kind that differ in their seed. \[default: 5]", show_default=False)
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help=r"Runs at a time. \[default: one a core]", show_default=False)
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="Compute by PyTorch on this device, such as cuda.", show_default=False)
    ] = None,
) -> None:
    """Repeat the experiments of Feng & Tu 2021, draw its figures, and say which of its claims hold."""
    from sgdphases.paper.experiments import FULL, QUICK, SWEEPS, paper_sweeps
    from sgdphases.sim.storage.claims import claim_new
    from sgdphases.sim.sweep.folder import SweepFolder, check_sweep

    wanted = _chosen(figures, tuple(SWEEPS))
    if workers is not None and workers < 1:
        raise UsageError(f"workers = {workers}: give at least 1.")
    mnist, cifar = _data(data_dir)
    place = out or Path("reproduction-quick" if quick else "reproduction")
    plans = paper_sweeps(wanted, QUICK if quick else FULL, mnist=mnist, cifar=cifar, seeds=seeds, device=device)
    folders = {name: SweepFolder(place / "sweeps" / name) for name in plans}

    def refuse(path: Path) -> None:
        _check_place(path)
        for name, plan in plans.items():
            check_sweep(folders[name], plan)

    with claim_new(place, refuse=refuse):
        if "fig1" in wanted and cifar is None:
            _say_what_is_missing(data_dir)
        if not quick:
            _announce(plans, folders, workers)
        with stoppable("Continue with the same command."):
            failed = _run_all(plans, folders, workers)
            claims = _draw_all(place, wanted, plans, folders, quick)
    _show(claims)
    console.print(f"page: {place / 'reproduction.html'}", markup=False, highlight=False, soft_wrap=True)
    if failed:
        console.print(f"{failed} runs failed: the same command tries them again.", style="red")
        raise typer.Exit(1)


def _data(data_dir: Path | None) -> tuple[Path, Path | None]:
    """The folders of MNIST, which must be there, and of CIFAR-10."""
    from sgdphases.paper.experiments import data_folder
    from sgdphases.sim.data.datasets.folders import FOLDER_FILES

    if data_dir is None:
        raise UsageError("no data are named: give --data-dir, a folder that holds mnist/ (and cifar10/ for figure 1).")
    mnist = data_folder(data_dir, "mnist")
    if mnist is None:
        raise UsageError(
            f"no MNIST files ({FOLDER_FILES['mnist']}) are in {data_dir / 'mnist'} or {data_dir}: see docs/data.md."
        )
    return mnist, data_folder(data_dir, "cifar10")


def _say_what_is_missing(data_dir: Path | None) -> None:
    from sgdphases.sim.data.datasets.folders import FOLDER_FILES

    console.print(
        f"no CIFAR-10 files ({FOLDER_FILES['cifar10']}) are in {data_dir}/cifar10: figure 1 is drawn without its "
        "convolutional and residual networks.",
        soft_wrap=True,
    )


def _run_all(plans: dict[str, Any], folders: dict[str, Any], workers: int | None) -> int:
    """Run what is left of every sweep; how many runs failed."""
    from sgdphases.paper.experiments import job_of
    from sgdphases.sim.storage.claims import claim
    from sgdphases.sim.sweep.folder import start_sweep
    from sgdphases.sim.sweep.run import run_sweep

    failed = 0
    for name, plan in plans.items():
        with claim(folders[name].path):
            start_sweep(folders[name], plan)
            console.print(f"[bold]{name}[/bold]", highlight=False)
            with sweep_progress(folders[name], plan, job_of(name)) as show:
                for outcome in run_sweep(folders[name], plan, workers=workers, job=job_of(name)):
                    failed += outcome.failure is not None
                    show(outcome)
    return failed


def _draw_all(
    place: Path, wanted: tuple[str, ...], plans: dict[str, Any], folders: dict[str, Any], quick: bool
) -> list[Any]:
    """Draw the figures and write the page; the claims, judged."""
    from sgdphases.paper.experiments import SWEEPS, finished, job_of
    from sgdphases.paper.page import write_reproduction

    with console.status("drawing"):
        runs = {name: finished(folders[name], plan, job_of(name)) for name, plan in plans.items()}
        return write_reproduction(place, {name: SWEEPS[name] for name in wanted}, runs, _about(plans, quick))


def _chosen(figures: list[str] | None, known: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the figures wanted, each once and in order."""
    given = [part for text in figures or ["all"] for part in text.split(",")]
    for name in given:
        if name not in (*known, "all"):
            raise UsageError(f"{name!r} is no figure to reproduce: choose among {', '.join(known)}, or all.")
    return tuple(name for name in known if name in given or "all" in given)


def _check_place(place: Path) -> None:
    from sgdphases.sim.storage.folders import holds_anything

    if holds_anything(place) and not (place / "sweeps").is_dir():
        raise UsageError(f"{place} is there and holds no reproduction: choose another folder with --out.")


def _announce(plans: dict[str, Any], folders: dict[str, Any], workers: int | None) -> None:
    """How many runs are to be made, and about how long they take here: from timing one of each kind."""
    from joblib import cpu_count

    from sgdphases.paper.experiments import job_of, seconds_of, waiting

    workers = workers or cpu_count()
    total = 0.0
    for name, plan in plans.items():
        left = waiting(folders[name], plan, job_of(name))
        if left:
            with console.status(f"timing {name}"):
                seconds = seconds_of(name, left) / len(left) * -(-len(left) // workers)
            total += seconds
            console.print(f"{name}: {len(left)} runs, about {_duration(seconds)}", highlight=False)
    if total:
        console.print(f"about {_duration(total)} in all, {workers} at a time", highlight=False)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _about(plans: dict[str, Any], quick: bool) -> str:
    seeds = max((len(plan.axes["seed"]) for plan in plans.values()), default=0)
    size = "A quick pass, with fewer samples and epochs than the figures need" if quick else "The full runs"
    return f"{size}; {seeds} seed{'s' if seeds != 1 else ''}. Medians over seeds; verdicts are on the median."


def _show(claims: list[Any]) -> None:
    from rich.table import Table

    from sgdphases.paper.page import claim_row

    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in ("figure", "the paper", "ours", "verdict"):
        table.add_column(title, no_wrap=title in ("figure", "verdict"))
    for claim in claims:
        style = {True: "green", False: "red", None: "yellow"}[claim.holds]
        *cells, verdict = claim_row(claim)
        table.add_row(*cells, f"[{style}]{verdict}[/{style}]")
    console.print(table)
