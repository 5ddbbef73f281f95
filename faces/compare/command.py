"""`sgdphases compare`: runs held side by side, phase by phase. Arguments in, tables and a page out."""

from pathlib import Path
from typing import Annotated

import typer

from sgdphases.estimators.errors import UsageError
from sgdphases.faces.terminal import console


def compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders of two runs or more.", show_default=False, metavar="RUN...")
    ],
    out: Annotated[Path, typer.Option(help="Folder for page and figures, new or of an earlier comparison.")] = Path(
        "comparison"
    ),
) -> None:
    """Compare runs phase by phase, such as a toy with real data."""
    from sgdphases.estimators.phases.comparison import compare as compare_runs
    from sgdphases.faces.compare.figures import (
        agreement,
        median_rows,
        reading_lines,
        signature_rows,
        start_rows,
        write_comparison,
    )
    from sgdphases.faces.run.page import COLUMNS
    from sgdphases.sim.sweep.member import run_at

    names = run_names(runs)
    check_out(out)
    trajectories = {name: run_at(path).read_trajectory() for name, path in names.items()}
    comparison = compare_runs(trajectories, tuple(COLUMNS))
    with console.status("drawing"):
        page = write_comparison(out, comparison, names)
    for heading, rows in (start_rows(comparison), median_rows(comparison), signature_rows(comparison)):
        _show(heading, rows)
    for line in reading_lines(comparison):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(agreement(comparison), markup=False, highlight=False, soft_wrap=True)
    console.print(f"comparison: {page}", markup=False, highlight=False, soft_wrap=True)


def run_names(paths: list[Path]) -> dict[str, Path]:
    """A short name for each run folder: its last part, and as many before it as distinguish all of them.

    Parameters
    ----------
    paths : list of Path

    Returns
    -------
    dict of Path
        In the order given.

    Raises
    ------
    UsageError
        For fewer than two folders, and for one named twice.
    """
    if len(paths) < 2:
        raise UsageError(f"compare: {len(paths)} run given; name two at least.")
    whole = [path.resolve() for path in paths]
    for path, place in zip(paths, whole, strict=True):
        if whole.count(place) > 1:
            raise UsageError(f"compare: {path} is named twice; name each run once.")
    for length in range(1, max(len(place.parts) for place in whole) + 1):
        names = ["/".join(place.parts[-length:]) for place in whole]
        if len(set(names)) == len(names):
            break
    return dict(zip(names, paths, strict=True))


def check_out(out: Path) -> None:
    """Refuse a place that holds anything but an earlier comparison.

    Raises
    ------
    UsageError
        Naming the place.
    """
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out} is a file: name a folder.")
    if out.is_dir() and any(out.iterdir()) and not (out / "comparison.json").is_file():
        raise UsageError(f"--out {out} holds something that is no comparison: name another folder.")


def _show(heading: list[str], rows: list[list[str]]) -> None:
    from rich.table import Table

    table = Table(box=None, padding=(0, 1, 0, 0))
    for title in heading:
        table.add_column(title, overflow="fold")
    before = None
    for row in rows:
        table.add_row("" if row[0] == before else row[0], *row[1:])
        before = row[0]
    console.print(table)
    console.print()
